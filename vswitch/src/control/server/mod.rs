//! The control socket: HTTP/1.1 and JSON over a unix socket.
//!
//! Theory of operation: one task per connection on the control plane's single thread; handlers
//! hand what blocks to other threads, so that a ping is answered while a command waits for the
//! disk. Everything that a client can make large or slow is bounded: connections, the time to send
//! a header and a body, the size of both, the time to read an answer (`patience`). Who connects
//! is judged by the kernel's word alone ([`peer`]).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};

use self::extract::Refused;
use self::patience::Patience;
use self::peer::Allowed;
use super::refusal::forbidden;
use super::service::Service;

mod extract;
mod names;
mod openapi;
mod patience;
pub mod peer;
mod routes;
pub mod socket;
#[cfg(test)]
mod tests;

/// Connections that are served at one time; further ones wait in the kernel's queue.
pub const CONNECTIONS_MAX: usize = 128;
/// How long a client may take to send a request's header, and how long an idle connection stays.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest request header, in bytes (what the buffer must hold while a header is read).
const HEADER_BYTES_MAX: usize = 16 * 1024;
/// How long open connections may take to finish when the daemon stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Serves connections until `stop` says so, and then lets those that are open finish.
///
/// # Errors
/// The listener cannot be used at all.
pub async fn serve(
    listener: std::os::unix::net::UnixListener,
    allowed: Allowed,
    service: Service,
    stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let strangers = Router::new().fallback(async || {
        Refused::from(forbidden(
            "only root and the group vswitch may use the control socket",
            "use sudo, or have root add you to the group vswitch",
        ))
    });
    let admits = move |stream: &UnixStream| allowed.admits(stream);
    serve_routes(listener, admits, Served { routes: routes::router(service), strangers, keep_alive: true }, stop).await
}

/// What is served on a socket.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    /// To those who may use it.
    pub(crate) routes: Router,
    /// To everybody else.
    pub(crate) strangers: Router,
    /// Whether a connection is used for several requests.
    pub(crate) keep_alive: bool,
}

/// Serves connections, to whoever `admits` admits, until `stop` says so, and then lets those that are open finish.
///
/// # Errors
/// The listener cannot be used at all.
pub(crate) async fn serve_routes(
    listener: std::os::unix::net::UnixListener,
    admits: impl Fn(&UnixStream) -> io::Result<bool>,
    served: Served,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let listener = UnixListener::from_std(listener)?;
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let permit = tokio::select! {
            permit = Arc::clone(&connections).acquire_owned() => permit.map_err(io::Error::other)?,
            () = stopped(&mut stop) => break,
        };
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // No descriptors left, or the peer went away: neither is a reason to stop.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            () = stopped(&mut stop) => break,
        };
        let admitted = admits(&stream).unwrap_or_else(|error| {
            tracing::warn!(%error, "the credentials of a peer cannot be read");
            false
        });
        let router = if admitted { served.routes.clone() } else { served.strangers.clone() };
        let keep_alive = admitted && served.keep_alive;
        let stop = stop.clone();
        tokio::spawn(async move {
            connection(stream, router, keep_alive, stop).await;
            drop(permit);
        });
    }
    drop(listener);
    let drained = connections.acquire_many(u32::try_from(CONNECTIONS_MAX).unwrap_or(u32::MAX));
    // Who has not finished by then has the connection cut by the process's end.
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, drained).await;
    Ok(())
}

/// Waits until `stop` says so, or nobody is left to say it.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn connection(stream: UnixStream, router: Router, keep_alive: bool, mut stop: watch::Receiver<bool>) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX)
        .keep_alive(keep_alive)
        .serve_connection(TokioIo::new(Patience::new(stream)), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.as_mut().await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}
