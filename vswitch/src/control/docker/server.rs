//! The driver's socket: one POST per call, JSON both ways.
//!
//! A refusal is answered with status 200 and a sentence under the key that the engine looks at, `Err` for the network
//! driver and `Error` for the address management: the engine prints it as it is, where another status would put
//! the call's name in front of it. Only a call that there is none of has the status 404, which the engine takes for "not
//! supported" where it can do without.

use std::io;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, any, post};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::message::{Activation, Done, EndpointName};
use super::{driver, forgotten, ipam};
use crate::api;
use crate::control::refusal::{Result, failed, forbidden, invalid, not_found, too_large};
use crate::control::server::{Served, serve_routes};
use crate::control::service::Service;
use crate::control::switch::Switch;

/// The protocol's media type, for answers.
const MEDIA_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";
/// The largest request, in bytes: a container that publishes every port of every protocol has one of 22 MB.
const REQUEST_BYTES_MAX: usize = 32 * 1024 * 1024;
/// How long a request may take to come.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Serves the driver until `stop` says so, and then lets calls that are under way finish.
///
/// # Errors
/// The listener cannot be used at all.
pub async fn serve(
    listener: std::os::unix::net::UnixListener,
    service: Service,
    stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let strangers = Router::new().fallback(async || {
        refused("Err", StatusCode::OK, &forbidden("only root may use the network driver's socket", ""))
    });
    // A connection that is kept alive might be closed while the engine sends on it, and then comes its repetition empty.
    serve_routes(listener, is_root, Served { routes: router(service), strangers, keep_alive: false }, stop).await
}

/// The engine runs as root; whoever else can make it do things asks the engine.
fn is_root(stream: &UnixStream) -> io::Result<bool> {
    let peer = stream.peer_cred()?;
    Ok(peer.uid() == 0 || peer.uid() == rustix::process::geteuid().as_raw())
}

/// The calls.
pub(super) fn router(service: Service) -> Router {
    Router::new()
        .route(
            "/Plugin.Activate",
            any(async || answer("Err", Ok(Activation { implements: ["NetworkDriver", "IpamDriver"] }))),
        )
        .route("/NetworkDriver.GetCapabilities", any(async || answer("Err", Ok(driver::capabilities()))))
        .route("/NetworkDriver.GwAllocCheck", post(|body| ask("Err", body, |request| driver::check_gateway(&request))))
        .route(
            "/NetworkDriver.AllocateNetwork",
            post(|body| ask("Err", body, |request| driver::allocate_network(&request))),
        )
        // There is nothing to free of what is refused, and nothing to discover on one host.
        .route("/NetworkDriver.FreeNetwork", any(done))
        .route("/NetworkDriver.DiscoverNew", any(done))
        .route("/NetworkDriver.DiscoverDelete", any(done))
        .route("/NetworkDriver.CreateNetwork", changing_call("Err", driver::create_network))
        .route("/NetworkDriver.DeleteNetwork", ending_call("Err", driver::delete_network))
        .route("/NetworkDriver.CreateEndpoint", changing_call("Err", driver::create_endpoint))
        .route("/NetworkDriver.EndpointOperInfo", post(endpoint_info))
        .route("/NetworkDriver.DeleteEndpoint", ending_call("Err", driver::delete_endpoint))
        .route("/NetworkDriver.Join", changing_call("Err", driver::join))
        .route("/NetworkDriver.Leave", ending_call("Err", driver::leave))
        .route("/NetworkDriver.ProgramExternalConnectivity", changing_call("Err", driver::program_connectivity))
        .route("/NetworkDriver.RevokeExternalConnectivity", ending_call("Err", driver::revoke_connectivity))
        .route("/IpamDriver.GetCapabilities", any(async || answer("Error", Ok(ipam::capabilities()))))
        .route("/IpamDriver.GetDefaultAddressSpaces", any(async || answer("Error", Ok(ipam::address_spaces()))))
        .route("/IpamDriver.RequestPool", changing_call("Error", ipam::request_pool))
        .route("/IpamDriver.ReleasePool", ending_call("Error", ipam::release_pool))
        .route("/IpamDriver.RequestAddress", changing_call("Error", ipam::request_address))
        .route("/IpamDriver.ReleaseAddress", ending_call("Error", ipam::release_address))
        .fallback(no_call)
        .with_state(service)
}

async fn no_call(uri: Uri) -> Response {
    let error = not_found(format!("there is no call {}", uri.path()), "this switch may be older than Docker");
    refused("Err", StatusCode::NOT_FOUND, &error)
}

async fn done() -> Response {
    answer("Err", Ok(Done {}))
}

/// A call that changes the switch, or what the address management has given.
fn changing_call<T, A>(key: &'static str, call: fn(&mut Switch, &T) -> Result<A>) -> MethodRouter<Service>
where
    T: DeserializeOwned + Send + 'static,
    A: Serialize + Send + 'static,
{
    post(move |State(service): State<Service>, request: Request| change(key, service, request, call))
}

/// A call that ends something. Without contents it is one that was cut off and is repeated: it may have been done, and if
/// not, what it was about is collected: leases and endpoints that nobody uses are, in time, and networks are when the
/// engine has been asked. It would keep for ever some of what it was refused to end.
fn ending_call<T>(key: &'static str, call: fn(&mut Switch, &T) -> Result<Done>) -> MethodRouter<Service>
where
    T: DeserializeOwned + Send + 'static,
{
    post(move |State(service): State<Service>, request: Request| async move {
        let path = request.uri().path().to_owned();
        match contents(request).await {
            Ok(bytes) if is_blank(&bytes) => {
                tracing::info!(call = path, "Docker repeated a call without its contents");
                forgotten::look(&service);
                answer(key, Ok(Done {}))
            }
            Ok(bytes) => change_by(key, service, &path, parse(bytes).await, call).await,
            Err(error) => change_by(key, service, &path, Err(error), call).await,
        }
    })
}

/// What is known of an endpoint: the one answer that may be large.
async fn endpoint_info(State(service): State<Service>, request: Request) -> Response {
    let known = async {
        let name: EndpointName = read(request).await?;
        service.show(move |switch| driver::endpoint_info(switch, &name)).await
    };
    match known.await {
        Ok(encoded) => ([(header::CONTENT_TYPE, MEDIA_TYPE)], encoded.0).into_response(),
        Err(error) => refused("Err", StatusCode::OK, &error),
    }
}

async fn change<T, A>(
    key: &'static str,
    service: Service,
    request: Request,
    call: fn(&mut Switch, &T) -> Result<A>,
) -> Response
where
    T: DeserializeOwned + Send + 'static,
    A: Serialize + Send + 'static,
{
    let path = request.uri().path().to_owned();
    change_by(key, service, &path, read(request).await, call).await
}

/// Answers the call `path` with what `call` makes of a request that was read.
async fn change_by<T, A>(
    key: &'static str,
    service: Service,
    path: &str,
    request: Result<T>,
    call: fn(&mut Switch, &T) -> Result<A>,
) -> Response
where
    T: Send + 'static,
    A: Serialize + Send + 'static,
{
    let outcome = match request {
        Ok(request) => service.change(move |switch| call(switch, &request)).await,
        Err(error) => Err(error),
    };
    match &outcome {
        Ok(_) => tracing::debug!(call = path, "done"),
        Err(error) => tracing::info!(call = path, error = %error.message, "refused"),
    }
    answer(key, outcome)
}

/// A call that the switch is not needed for.
async fn ask<T: DeserializeOwned + Send + 'static, A: Serialize>(
    key: &'static str,
    request: Request,
    call: impl FnOnce(T) -> Result<A>,
) -> Response {
    answer(key, read(request).await.and_then(call))
}

/// A request that says what it is about.
async fn read<T: DeserializeOwned + Send + 'static>(request: Request<Body>) -> Result<T> {
    let bytes = contents(request).await?;
    if is_blank(&bytes) {
        return Err(invalid(
            "the request came without its contents, as Docker's do that it repeats after vswitch was restarted",
            "repeat the command",
        ));
    }
    parse(bytes).await
}

/// The request's contents. Media types are not looked at, as the engine does not look at ours.
async fn contents(request: Request<Body>) -> Result<Bytes> {
    match tokio::time::timeout(BODY_TIMEOUT, to_bytes(request.into_body(), REQUEST_BYTES_MAX)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => Err(too_large(
            format!("the request cannot be read: {error}"),
            format!("requests have at most {REQUEST_BYTES_MAX} bytes"),
        )),
        Err(_) => Err(invalid("the request did not come within 30 seconds", "repeat the command")),
    }
}

fn is_blank(bytes: &[u8]) -> bool {
    bytes.iter().all(u8::is_ascii_whitespace)
}

async fn parse<T: DeserializeOwned + Send + 'static>(bytes: Bytes) -> Result<T> {
    // A large one takes a while, and the thread is everybody's.
    let parsed = spawn_blocking(move || serde_json::from_slice(&bytes)).await;
    parsed
        .map_err(|error| {
            failed(format!("the request could not be read: {error}"), "see the daemon's log, and report it")
        })?
        .map_err(|why| {
            invalid(
                format!("the request is not what Docker is known to send: {why}"),
                "report it with Docker's version",
            )
        })
}

fn answer<A: Serialize>(key: &'static str, outcome: Result<A>) -> Response {
    let encoded = outcome.and_then(|answer| {
        serde_json::to_vec(&answer)
            .map_err(|error| failed(format!("the answer cannot be written: {error}"), "report it"))
    });
    match encoded {
        Ok(bytes) => ([(header::CONTENT_TYPE, MEDIA_TYPE)], bytes).into_response(),
        Err(error) => refused(key, StatusCode::OK, &error),
    }
}

/// A refusal in one sentence.
fn refused(key: &'static str, status: StatusCode, error: &api::Error) -> Response {
    let sentence = match error.remedy.as_str() {
        "" => error.message.clone(),
        remedy => format!("{}; {remedy}", error.message),
    };
    let body = serde_json::json!({ key: sentence }).to_string();
    (status, [(header::CONTENT_TYPE, MEDIA_TYPE)], body).into_response()
}
