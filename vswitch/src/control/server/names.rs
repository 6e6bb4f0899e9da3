//! What people call things, in requests and in answers: containers by their names, and Docker's names for what is its.
//!
//! Engines are asked here, before the switch is: it knows namespaces and its own names only.

use std::sync::Arc;

use tokio::task::spawn_blocking;

use crate::api::PortSpec;
use crate::control::containers::{Names, container_name, find_room};
use crate::control::refusal::{Result, failed};
use crate::control::service::Service;

/// `spec` with the namespace of the container that it names, and with what a container leaves open.
pub(super) async fn in_container(service: &Service, mut spec: PortSpec) -> Result<PortSpec> {
    let Some(name) = container_name(&spec.netns) else { return Ok(spec) };
    let found = service.containers().find(name).await?;
    spec.netns = found.netns.to_string();
    spec.name = spec.name.or_else(|| Some(found.name.clone()));
    spec.container = Some(found.name);
    let choose = move || {
        find_room(&mut spec, &found.netns);
        spec
    };
    spawn_blocking(choose).await.map_err(|error| failed(error.to_string(), "report it"))
}

/// The names that Docker has for what is shown. Where nothing is Docker's, it is not asked: somebody who asks starts it
/// on hosts that start it on demand.
pub(super) async fn names(service: &Service) -> Arc<Names> {
    match service.with(|switch| Ok(switch.serves_docker())).await {
        Ok(true) => service.containers().names().await,
        _ => Arc::default(),
    }
}

/// How the switch knows the port that `key` names on `bridge`: by its container's namespace for `container:NAME`, and by
/// its own name where `key` is the name of one of Docker's containers.
pub(super) async fn port_key(service: &Service, bridge: &str, key: String) -> Result<String> {
    if let Some(name) = container_name(&key) {
        return Ok(service.containers().find(name).await?.netns.to_string());
    }
    let ports = names(service).await.ports_of(&key);
    if ports.is_empty() {
        return Ok(key);
    }
    let (bridge, asked) = (bridge.to_owned(), key.clone());
    let port = service.with(move |switch| Ok(switch.lent_among(&bridge, &asked, &ports))).await?;
    Ok(port.unwrap_or(key))
}

/// The same, where a port may be named or not.
pub(super) async fn port_key_on(
    service: &Service,
    bridge: Option<&str>,
    key: Option<String>,
) -> Result<Option<String>> {
    match (bridge, key) {
        (Some(bridge), Some(key)) => port_key(service, bridge, key).await.map(Some),
        (_, key) => Ok(key),
    }
}
