//! What Docker calls its containers and networks, by what the switch has of them.

use std::collections::{BTreeMap, BTreeSet};

use super::answers::{Listed, Network};
use super::client::{EngineError, Source};
use crate::api::{Bridge, Port, Publication};

/// How much of Docker's ids is in the names of ports and bridges, as in `docker ps`.
const SHORT_ID_BYTES: usize = 12;
/// What the name of a network's bridge begins with, before the short id, where nobody chose one.
const BRIDGE_PREFIX: &str = "vs-";
/// The option by which somebody does.
const BRIDGE_OPTION: &str = "com.docker.network.bridge.name";

/// Docker's names at one moment.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// The containers' names by their endpoints' short ids: the names of ports.
    containers: BTreeMap<String, String>,
    /// The networks' names by their ids, and by their bridges' names.
    networks: BTreeMap<String, String>,
}

impl Names {
    pub(super) fn new(containers: &[Listed], networks: &[Network]) -> Self {
        let mut names = Self::default();
        for container in containers {
            let Some(name) = container.bare_name() else { continue };
            let endpoints = container.network_settings.networks.values().flatten();
            for endpoint in endpoints.filter_map(|endpoint| short(&endpoint.id)) {
                names.containers.insert(endpoint.to_owned(), name.to_owned());
            }
        }
        for network in networks {
            let chosen = network.options.as_ref().and_then(|options| options.get(BRIDGE_OPTION).cloned());
            let bridge = chosen.or_else(|| Some(format!("{BRIDGE_PREFIX}{}", short(&network.id)?)));
            names.networks.insert(network.id.clone(), network.name.clone());
            names.networks.extend(bridge.map(|bridge| (bridge, network.name.clone())));
        }
        names
    }

    /// What Docker calls the network with the id `name`, or that the bridge `name` is.
    #[must_use]
    pub fn network_of(&self, name: &str) -> Option<&str> {
        self.networks.get(name).map(String::as_str)
    }

    /// The same ports, those of Docker's containers with the containers' names.
    #[must_use]
    pub fn label_ports(&self, mut ports: Vec<Port>) -> Vec<Port> {
        for port in ports.iter_mut().filter(|port| port.lent) {
            port.container = self.containers.get(&port.name).cloned().or(port.container.take());
        }
        ports
    }

    /// The same bridges, Docker's networks with their names.
    #[must_use]
    pub fn label_bridges(&self, mut bridges: Vec<Bridge>) -> Vec<Bridge> {
        for bridge in &mut bridges {
            let by_id = bridge.docker_network.as_deref().and_then(|id| self.network_of(id));
            bridge.network = by_id.or_else(|| self.network_of(&bridge.name)).map(str::to_owned);
        }
        bridges
    }

    /// The same publications, those of Docker's containers with the containers' names.
    #[must_use]
    pub fn label_publications(&self, mut publications: Vec<Publication>) -> Vec<Publication> {
        for one in &mut publications {
            one.container_name = self.containers.get(&one.port).cloned().or(one.container_name.take());
        }
        publications
    }

    /// The ports of the container `name`, on all bridges.
    #[must_use]
    pub fn ports_of(&self, name: &str) -> BTreeSet<String> {
        self.containers.iter().filter(|(_, container)| *container == name).map(|(port, _)| port.clone()).collect()
    }
}

fn short(id: &str) -> Option<&str> {
    id.get(..SHORT_ID_BYTES)
}

/// Asks Docker.
pub(super) async fn ask(docker: &Source) -> Result<Names, EngineError> {
    let (containers, networks) = tokio::join!(docker.get("/containers/json"), networks(docker));
    let containers: Vec<Listed> = containers?;
    Ok(Names::new(&containers, &networks?))
}

/// Asks Docker for its networks alone.
pub(super) async fn networks(docker: &Source) -> Result<Vec<Network>, EngineError> {
    docker.get("/networks").await
}
