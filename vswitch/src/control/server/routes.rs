//! The handlers: what each route does. They translate between HTTP and [`Switch`] and decide nothing.

use std::net::IpAddr;

use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use axum::response::IntoResponse;
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::Deserialize;
use utoipa::IntoParams;

use super::extract::{Body, Named, Params, Refused};
use super::names::{in_container, names, port_key, port_key_on};
use super::openapi;
use crate::api::{
    API_VERSION, Bridge, BridgeChange, BridgeSpec, ConnectionPage, Error, FdbEntry, FdbStatic, Flushed, Pong, Port,
    PortSpec, Publication, Publish, PublishSpec, RemoteSpec, Shutdown, Stats, Uplink, UplinkSpec, Uplinks, Version,
    Vxlan, VxlanSpec,
};
use crate::control::refusal::{invalid, not_found};
use crate::control::service::{Encoded, Service};
use crate::control::switch::Switch;

type Answer<T> = Result<T, Refused>;

/// The routes of the control protocol.
pub(super) fn router(service: Service) -> Router {
    Router::new()
        .route("/v1/ping", get(ping))
        .route("/v1/version", get(version))
        .route("/v1/openapi.json", get(document))
        .route("/v1/bridges", get(list_bridges).post(add_bridge))
        .route("/v1/bridges/{bridge}", get(show_bridge).patch(change_bridge).delete(remove_bridge))
        .route("/v1/bridges/{bridge}/ports", get(list_bridge_ports).post(add_port))
        .route("/v1/bridges/{bridge}/ports/{port}", delete(remove_port))
        .route("/v1/bridges/{bridge}/ports/{port}/publications", post(publish).delete(unpublish))
        .route("/v1/publications", get(list_publications))
        .route("/v1/bridges/{bridge}/vxlans", get(list_bridge_vxlans).post(add_vxlan))
        .route("/v1/bridges/{bridge}/vxlans/{tunnel}", delete(remove_vxlan))
        .route("/v1/bridges/{bridge}/vxlans/{tunnel}/remotes", post(add_remote))
        .route("/v1/bridges/{bridge}/vxlans/{tunnel}/remotes/{ip}", delete(remove_remote))
        .route("/v1/bridges/{bridge}/fdb", get(list_fdb).post(add_fdb).delete(flush_fdb))
        .route("/v1/bridges/{bridge}/fdb/{mac}", delete(remove_fdb))
        .route("/v1/bridges/{bridge}/uplinks", post(add_uplink))
        .route("/v1/bridges/{bridge}/uplinks/{interface}", delete(remove_uplink))
        .route("/v1/uplinks", get(list_uplinks))
        .route("/v1/ports", get(list_ports))
        .route("/v1/vxlans", get(list_vxlans))
        .route("/v1/conntrack", get(list_connections).delete(flush_connections))
        .route("/v1/stats", get(stats))
        .route("/v1/shutdown", post(shutdown))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .with_state(service)
}

async fn no_route(uri: Uri) -> Refused {
    not_found(format!("there is no {}", uri.path()), "GET /v1/openapi.json lists what there is").into()
}

async fn no_method(method: Method, uri: Uri) -> Refused {
    Refused::with_status(
        StatusCode::METHOD_NOT_ALLOWED,
        invalid(format!("{} does not take {method}", uri.path()), "GET /v1/openapi.json lists what it takes"),
    )
}

/// Whether the daemon is there.
#[utoipa::path(get, path = "/v1/ping", responses((status = 200, body = Pong)))]
pub(super) async fn ping() -> Json<Pong> {
    Json(Pong { pid: std::process::id() })
}

/// What the daemon is.
#[utoipa::path(get, path = "/v1/version", responses((status = 200, body = Version)))]
pub(super) async fn version(State(service): State<Service>) -> Json<Version> {
    Json(Version {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        api: API_VERSION,
        pid: std::process::id(),
        workers: service.workers(),
        uptime_s: service.uptime_s(),
    })
}

/// This document.
#[utoipa::path(get, path = "/v1/openapi.json", responses((status = 200, description = "The OpenAPI document")))]
pub(super) async fn document() -> impl IntoResponse {
    Json(openapi::document())
}

/// All bridges.
#[utoipa::path(get, path = "/v1/bridges", responses((status = 200, body = Vec<Bridge>)))]
pub(super) async fn list_bridges(State(service): State<Service>) -> Answer<Encoded> {
    let names = names(&service).await;
    Ok(service.show(move |switch| Ok(names.label_bridges(switch.bridges()))).await?)
}

/// Makes a bridge.
#[utoipa::path(post, path = "/v1/bridges", request_body = BridgeSpec,
    responses((status = 201, body = Bridge), (status = "4XX", body = Error), (status = "5XX", body = Error)))]
pub(super) async fn add_bridge(
    State(service): State<Service>,
    Body(spec): Body<BridgeSpec>,
) -> Answer<(StatusCode, Json<Bridge>)> {
    Ok((StatusCode::CREATED, Json(service.change(move |switch| switch.add_bridge(&spec)).await?)))
}

/// One bridge.
#[utoipa::path(get, path = "/v1/bridges/{bridge}", params(("bridge" = String, Path, description = "The bridge's name")),
    responses((status = 200, body = Bridge), (status = "4XX", body = Error)))]
pub(super) async fn show_bridge(State(service): State<Service>, Named(bridge): Named<String>) -> Answer<Json<Bridge>> {
    let names = names(&service).await;
    let mut shown = names.label_bridges(vec![service.with(move |switch| switch.bridge(&bridge)).await?]);
    Ok(Json(shown.remove(0)))
}

/// Changes a living bridge.
#[utoipa::path(patch, path = "/v1/bridges/{bridge}", params(("bridge" = String, Path, description = "The bridge's name")),
    request_body = BridgeChange,
    responses((status = 200, body = Bridge), (status = "4XX", body = Error), (status = "5XX", body = Error)))]
pub(super) async fn change_bridge(
    State(service): State<Service>,
    Named(bridge): Named<String>,
    Body(change): Body<BridgeChange>,
) -> Answer<Json<Bridge>> {
    Ok(Json(service.change(move |switch| switch.change_bridge(&bridge, &change)).await?))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Force {
    /// Also remove a bridge that has ports, and detach them; also detach a port that is lent.
    #[serde(default)]
    force: bool,
}

/// Removes a bridge.
#[utoipa::path(delete, path = "/v1/bridges/{bridge}",
    params(("bridge" = String, Path, description = "The bridge's name"), Force),
    responses((status = 204), (status = "4XX", body = Error), (status = "5XX", body = Error)))]
pub(super) async fn remove_bridge(
    State(service): State<Service>,
    Named(bridge): Named<String>,
    Params(Force { force }): Params<Force>,
) -> Answer<StatusCode> {
    service.change(move |switch| switch.remove_bridge(&bridge, force)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The ports of all bridges.
#[utoipa::path(get, path = "/v1/ports", responses((status = 200, body = Vec<Port>)))]
pub(super) async fn list_ports(State(service): State<Service>) -> Answer<Encoded> {
    let names = names(&service).await;
    Ok(service.show(move |switch| Ok(names.label_ports(switch.found_ports(None)?))).await?)
}

/// The ports of one bridge.
#[utoipa::path(get, path = "/v1/bridges/{bridge}/ports",
    params(("bridge" = String, Path, description = "The bridge's name")),
    responses((status = 200, body = Vec<Port>), (status = "4XX", body = Error)))]
pub(super) async fn list_bridge_ports(State(service): State<Service>, Named(bridge): Named<String>) -> Answer<Encoded> {
    let names = names(&service).await;
    Ok(service.show(move |switch| Ok(names.label_ports(switch.found_ports(Some(&bridge))?))).await?)
}

/// Attaches a port.
#[utoipa::path(post, path = "/v1/bridges/{bridge}/ports",
    params(("bridge" = String, Path, description = "The bridge's name")), request_body = PortSpec,
    responses((status = 201, body = Port), (status = "4XX", body = Error), (status = "5XX", body = Error)))]
pub(super) async fn add_port(
    State(service): State<Service>,
    Named(bridge): Named<String>,
    Body(spec): Body<PortSpec>,
) -> Answer<(StatusCode, Json<Port>)> {
    let spec = in_container(&service, spec).await?;
    Ok((StatusCode::CREATED, Json(service.change(move |switch| switch.add_port(&bridge, &spec)).await?)))
}

/// Detaches a port.
#[utoipa::path(delete, path = "/v1/bridges/{bridge}/ports/{port}",
    params(("bridge" = String, Path, description = "The bridge's name"),
        ("port" = String, Path, description = "The port's name, an alias of it, or the namespace that it is in"), Force),
    responses((status = 204), (status = "4XX", body = Error), (status = "5XX", body = Error)))]
pub(super) async fn remove_port(
    State(service): State<Service>,
    Named((bridge, port)): Named<(String, String)>,
    Params(Force { force }): Params<Force>,
) -> Answer<StatusCode> {
    let port = port_key(&service, &bridge, port).await?;
    service.change(move |switch| switch.detach_port(&bridge, &port, force)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Publishes ports of a container at the host's addresses, and tells which they are.
#[utoipa::path(post, path = "/v1/bridges/{bridge}/ports/{port}/publications",
    params(("bridge" = String, Path, description = "The bridge's name"),
        ("port" = String, Path, description = "The port's name, an alias of it, or the namespace that it is in")),
    request_body = Publish,
    responses((status = 201, body = Vec<Publication>), (status = "4XX", body = Error), (status = "5XX", body = Error)))]
pub(super) async fn publish(
    State(service): State<Service>,
    Named((bridge, port)): Named<(String, String)>,
    Body(request): Body<Publish>,
) -> Answer<(StatusCode, Json<Vec<Publication>>)> {
    let port = port_key(&service, &bridge, port).await?;
    let published = service.change(move |switch| switch.publish_ports(&bridge, &port, &request)).await?;
    Ok((StatusCode::CREATED, Json(published)))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Specs {
    /// What to take back, each as it is published: `8080:80,53/udp`.
    specs: String,
}

/// Takes back published ports, and tells how many they were.
#[utoipa::path(delete, path = "/v1/bridges/{bridge}/ports/{port}/publications",
    params(("bridge" = String, Path, description = "The bridge's name"),
        ("port" = String, Path, description = "The port's name, an alias of it, or the namespace that it is in"), Specs),
    responses((status = 200, body = Flushed), (status = "4XX", body = Error), (status = "5XX", body = Error)))]
pub(super) async fn unpublish(
    State(service): State<Service>,
    Named((bridge, port)): Named<(String, String)>,
    Params(Specs { specs }): Params<Specs>,
) -> Answer<Json<Flushed>> {
    let specs = specs.split(',').map(str::parse).collect::<Result<Vec<PublishSpec>, _>>();
    let specs = specs.map_err(|error| invalid(error.to_string(), "write 8080:80, several with commas between"))?;
    let port = port_key(&service, &bridge, port).await?;
    Ok(Json(service.change(move |switch| switch.unpublish_ports(&bridge, &port, &specs)).await?))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PublicationsOf {
    /// Only those of this bridge.
    bridge: Option<String>,
    /// Only those of this port (the bridge must be named, too).
    port: Option<String>,
}

/// The published ports.
#[utoipa::path(get, path = "/v1/publications", params(PublicationsOf),
    responses((status = 200, body = Vec<Publication>), (status = "4XX", body = Error)))]
pub(super) async fn list_publications(
    State(service): State<Service>,
    Params(PublicationsOf { bridge, port }): Params<PublicationsOf>,
) -> Answer<Encoded> {
    let port = port_key_on(&service, bridge.as_deref(), port).await?;
    let names = names(&service).await;
    let show = move |switch: &mut Switch| {
        Ok(names.label_publications(switch.publications(bridge.as_deref(), port.as_deref())?))
    };
    Ok(service.show(show).await?)
}

/// The tunnels of all bridges.
#[utoipa::path(get, path = "/v1/vxlans", responses((status = 200, body = Vec<Vxlan>)))]
pub(super) async fn list_vxlans(State(service): State<Service>) -> Answer<Encoded> {
    Ok(service.show(|switch| switch.vxlans(None)).await?)
}

/// The tunnels of one bridge.
#[utoipa::path(get, path = "/v1/bridges/{bridge}/vxlans",
    params(("bridge" = String, Path, description = "The bridge's name")),
    responses((status = 200, body = Vec<Vxlan>), (status = "4XX", body = Error)))]
pub(super) async fn list_bridge_vxlans(
    State(service): State<Service>,
    Named(bridge): Named<String>,
) -> Answer<Encoded> {
    Ok(service.show(move |switch| switch.vxlans(Some(&bridge))).await?)
}

/// Makes a VXLAN tunnel.
#[utoipa::path(post, path = "/v1/bridges/{bridge}/vxlans",
    params(("bridge" = String, Path, description = "The bridge's name")), request_body = VxlanSpec,
    responses((status = 201, body = Vxlan), (status = "4XX", body = Error), (status = "5XX", body = Error)))]
pub(super) async fn add_vxlan(
    State(service): State<Service>,
    Named(bridge): Named<String>,
    Body(spec): Body<VxlanSpec>,
) -> Answer<(StatusCode, Json<Vxlan>)> {
    Ok((StatusCode::CREATED, Json(service.change(move |switch| switch.add_vxlan(&bridge, &spec)).await?)))
}

/// Removes a tunnel.
#[utoipa::path(delete, path = "/v1/bridges/{bridge}/vxlans/{tunnel}",
    params(("bridge" = String, Path, description = "The bridge's name"),
        ("tunnel" = String, Path, description = "The tunnel's name")),
    responses((status = 204), (status = "4XX", body = Error), (status = "5XX", body = Error)))]
pub(super) async fn remove_vxlan(
    State(service): State<Service>,
    Named((bridge, tunnel)): Named<(String, String)>,
) -> Answer<StatusCode> {
    service.change(move |switch| switch.remove_vxlan(&bridge, &tunnel)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Adds a VTEP that flooded frames are replicated to.
#[utoipa::path(post, path = "/v1/bridges/{bridge}/vxlans/{tunnel}/remotes",
    params(("bridge" = String, Path, description = "The bridge's name"),
        ("tunnel" = String, Path, description = "The tunnel's name")), request_body = RemoteSpec,
    responses((status = 201, body = Vxlan), (status = "4XX", body = Error), (status = "5XX", body = Error)))]
pub(super) async fn add_remote(
    State(service): State<Service>,
    Named((bridge, tunnel)): Named<(String, String)>,
    Body(RemoteSpec { ip }): Body<RemoteSpec>,
) -> Answer<(StatusCode, Json<Vxlan>)> {
    Ok((StatusCode::CREATED, Json(service.change(move |switch| switch.add_remote(&bridge, &tunnel, ip)).await?)))
}

/// Removes a VTEP from those that flooded frames are replicated to.
#[utoipa::path(delete, path = "/v1/bridges/{bridge}/vxlans/{tunnel}/remotes/{ip}",
    params(("bridge" = String, Path, description = "The bridge's name"),
        ("tunnel" = String, Path, description = "The tunnel's name"),
        ("ip" = String, Path, description = "The VTEP's address")),
    responses((status = 200, body = Vxlan), (status = "4XX", body = Error), (status = "5XX", body = Error)))]
pub(super) async fn remove_remote(
    State(service): State<Service>,
    Named((bridge, tunnel, ip)): Named<(String, String, IpAddr)>,
) -> Answer<Json<Vxlan>> {
    Ok(Json(service.change(move |switch| switch.remove_remote(&bridge, &tunnel, ip)).await?))
}

/// Makes a physical interface a port of a bridge.
#[utoipa::path(post, path = "/v1/bridges/{bridge}/uplinks",
    params(("bridge" = String, Path, description = "The bridge's name")), request_body = UplinkSpec,
    responses((status = 201, body = Uplink), (status = "4XX", body = Error), (status = "5XX", body = Error)))]
pub(super) async fn add_uplink(
    State(service): State<Service>,
    Named(bridge): Named<String>,
    Body(spec): Body<UplinkSpec>,
) -> Answer<(StatusCode, Json<Uplink>)> {
    Ok((StatusCode::CREATED, Json(service.change(move |switch| switch.add_uplink(&bridge, &spec)).await?)))
}

/// Gives a physical interface back to the host.
#[utoipa::path(delete, path = "/v1/bridges/{bridge}/uplinks/{interface}",
    params(("bridge" = String, Path, description = "The bridge's name"),
        ("interface" = String, Path, description = "The interface's name when it was added")),
    responses((status = 204), (status = "4XX", body = Error), (status = "5XX", body = Error)))]
pub(super) async fn remove_uplink(
    State(service): State<Service>,
    Named((bridge, interface)): Named<(String, String)>,
) -> Answer<StatusCode> {
    service.change(move |switch| switch.remove_uplink(&bridge, &interface)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The uplinks: interfaces that are ports of bridges, and those that are shared with the host.
#[utoipa::path(get, path = "/v1/uplinks", responses((status = 200, body = Uplinks),
    (status = "4XX", body = Error), (status = "5XX", body = Error)))]
pub(super) async fn list_uplinks(State(service): State<Service>) -> Answer<Encoded> {
    Ok(service.show(|switch| switch.list_uplinks()).await?)
}

/// The forwarding database of a bridge.
#[utoipa::path(get, path = "/v1/bridges/{bridge}/fdb",
    params(("bridge" = String, Path, description = "The bridge's name")),
    responses((status = 200, body = Vec<FdbEntry>), (status = "4XX", body = Error)))]
pub(super) async fn list_fdb(State(service): State<Service>, Named(bridge): Named<String>) -> Answer<Encoded> {
    Ok(service.show(move |switch| switch.fdb(&bridge)).await?)
}

/// Adds a static entry to the forwarding database.
#[utoipa::path(post, path = "/v1/bridges/{bridge}/fdb",
    params(("bridge" = String, Path, description = "The bridge's name")), request_body = FdbStatic,
    responses((status = 201, body = FdbEntry), (status = "4XX", body = Error), (status = "5XX", body = Error)))]
pub(super) async fn add_fdb(
    State(service): State<Service>,
    Named(bridge): Named<String>,
    Body(mut entry): Body<FdbStatic>,
) -> Answer<(StatusCode, Json<FdbEntry>)> {
    entry.port = port_key(&service, &bridge, entry.port).await?;
    Ok((StatusCode::CREATED, Json(service.change(move |switch| switch.add_fdb(&bridge, &entry)).await?)))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct InVlan {
    /// Only the entry in this VLAN (0 for untagged); all of the address's entries without it.
    vlan: Option<u16>,
}

/// Removes the entries of a MAC address, static and learned ones.
#[utoipa::path(delete, path = "/v1/bridges/{bridge}/fdb/{mac}",
    params(("bridge" = String, Path, description = "The bridge's name"),
        ("mac" = String, Path, description = "The MAC address"), InVlan),
    responses((status = 200, body = Flushed), (status = "4XX", body = Error), (status = "5XX", body = Error)))]
pub(super) async fn remove_fdb(
    State(service): State<Service>,
    Named((bridge, mac)): Named<(String, String)>,
    Params(InVlan { vlan }): Params<InVlan>,
) -> Answer<Json<Flushed>> {
    Ok(Json(service.change(move |switch| switch.remove_fdb(&bridge, &mac, vlan)).await?))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct OfPort {
    /// Only the entries of this port; all learned entries without it.
    port: Option<String>,
}

/// Forgets learned entries.
#[utoipa::path(delete, path = "/v1/bridges/{bridge}/fdb",
    params(("bridge" = String, Path, description = "The bridge's name"), OfPort),
    responses((status = 200, body = Flushed), (status = "4XX", body = Error)))]
pub(super) async fn flush_fdb(
    State(service): State<Service>,
    Named(bridge): Named<String>,
    Params(OfPort { port }): Params<OfPort>,
) -> Answer<Json<Flushed>> {
    let port = port_key_on(&service, Some(&bridge), port).await?;
    Ok(Json(service.change(move |switch| switch.flush_fdb(&bridge, port.as_deref())).await?))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ConnectionsOf {
    /// Only those of this bridge's containers.
    bridge: Option<String>,
    /// Where the page begins: `next` of the page before it.
    #[serde(default)]
    cursor: u32,
}

/// The connections that pass the gateway, a page at a time.
#[utoipa::path(get, path = "/v1/conntrack", params(ConnectionsOf),
    responses((status = 200, body = ConnectionPage), (status = "4XX", body = Error)))]
pub(super) async fn list_connections(
    State(service): State<Service>,
    Params(ConnectionsOf { bridge, cursor }): Params<ConnectionsOf>,
) -> Answer<Encoded> {
    Ok(service.connections(bridge, cursor).await?)
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct OfBridge {
    /// Only those of this bridge's containers.
    bridge: Option<String>,
}

/// Forgets connections, and tells how many they were.
#[utoipa::path(delete, path = "/v1/conntrack", params(OfBridge),
    responses((status = 200, body = Flushed), (status = "4XX", body = Error)))]
pub(super) async fn flush_connections(
    State(service): State<Service>,
    Params(OfBridge { bridge }): Params<OfBridge>,
) -> Answer<Json<Flushed>> {
    Ok(Json(Flushed { removed: service.flush_connections(bridge).await? }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct StatsOf {
    /// Only the ports of this bridge.
    bridge: Option<String>,
    /// Only this port (the bridge must be named, too).
    port: Option<String>,
}

/// Counters.
#[utoipa::path(get, path = "/v1/stats", params(StatsOf),
    responses((status = 200, body = Stats), (status = "4XX", body = Error)))]
pub(super) async fn stats(
    State(service): State<Service>,
    Params(StatsOf { bridge, port }): Params<StatsOf>,
) -> Answer<Encoded> {
    let port = port_key_on(&service, bridge.as_deref(), port).await?;
    Ok(service.stats(bridge, port).await?)
}

/// Stops the daemon.
#[utoipa::path(post, path = "/v1/shutdown", request_body = Shutdown,
    responses((status = 202, description = "The daemon is stopping"), (status = "4XX", body = Error)))]
pub(super) async fn shutdown(
    State(service): State<Service>,
    Body(Shutdown { cleanup }): Body<Shutdown>,
) -> Answer<StatusCode> {
    service.request_stop(cleanup);
    Ok(StatusCode::ACCEPTED)
}
