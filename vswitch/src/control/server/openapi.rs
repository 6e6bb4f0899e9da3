//! The OpenAPI document, generated from the protocol's types and the handlers.

use utoipa::OpenApi;

use super::routes;
use crate::api;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "vswitch",
        description = "The control protocol of the vswitch daemon: HTTP/1.1 and JSON over a unix socket."
    ),
    paths(
        routes::ping,
        routes::version,
        routes::document,
        routes::list_bridges,
        routes::add_bridge,
        routes::show_bridge,
        routes::change_bridge,
        routes::remove_bridge,
        routes::list_ports,
        routes::list_bridge_ports,
        routes::add_port,
        routes::remove_port,
        routes::list_publications,
        routes::publish,
        routes::unpublish,
        routes::list_vxlans,
        routes::list_bridge_vxlans,
        routes::add_vxlan,
        routes::remove_vxlan,
        routes::add_remote,
        routes::remove_remote,
        routes::add_uplink,
        routes::remove_uplink,
        routes::list_uplinks,
        routes::list_fdb,
        routes::add_fdb,
        routes::remove_fdb,
        routes::flush_fdb,
        routes::list_connections,
        routes::flush_connections,
        routes::stats,
        routes::shutdown,
    ),
    components(schemas(api::Error, api::ErrorCode))
)]
struct Document;

/// The document.
pub(super) fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_route_of_the_protocol_and_its_types_are_described() {
        let document = serde_json::to_value(super::document()).expect("serialises");
        let count: usize = document["paths"]
            .as_object()
            .expect("paths")
            .values()
            .filter_map(|p| p.as_object())
            .map(serde_json::Map::len)
            .sum();
        assert_eq!(count, 32);
        for schema in ["BridgeSpec", "PortSpec", "Port", "Publication", "Connection", "Stats", "Error"] {
            assert!(document["components"]["schemas"][schema].is_object(), "{schema}");
        }
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    }
}
