//! What engines answer: the few keys that matter of Docker's Engine API (`ContainerInspect`, `ContainerList`,
//! `NetworkList`, versions 1.40 to 1.51), which Podman's compatible API and `podman container inspect` have, too.
//!
//! All of them are optional here: engines differ, and leave out what does not apply.

use std::collections::BTreeMap;

use serde::Deserialize;

/// A container, as `GET /containers/{name}/json` describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Inspected {
    pub(super) id: String,
    /// Docker puts a slash in front.
    pub(super) name: String,
    pub(super) state: State,
    pub(super) host_config: HostConfig,
    pub(super) network_settings: NetworkSettings,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct State {
    pub(super) running: bool,
    /// `created`, `running`, `paused`, `exited`, `dead`, …
    pub(super) status: String,
    /// 0 where it does not run.
    pub(super) pid: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct HostConfig {
    /// `host`, `none`, `container:ID`, or a network.
    pub(super) network_mode: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct NetworkSettings {
    /// Where the namespace is mounted; empty where the container shares another one's.
    pub(super) sandbox_key: String,
}

/// A container, as `GET /containers/json` lists it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Listed {
    pub(super) id: String,
    /// Its name, and those that links give it, which have a second slash.
    pub(super) names: Vec<String>,
    pub(super) network_settings: ListedNetworks,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct ListedNetworks {
    /// By the networks' names.
    pub(super) networks: BTreeMap<String, Option<ListedEndpoint>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct ListedEndpoint {
    #[serde(rename = "EndpointID")]
    pub(super) id: String,
}

/// A network, as `GET /networks` lists it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Network {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) options: Option<BTreeMap<String, String>>,
}

/// What an engine says instead.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Complaint {
    pub(super) message: String,
}

impl Inspected {
    /// The name without the slash.
    pub(super) fn bare_name(&self) -> &str {
        self.name.strip_prefix('/').unwrap_or(&self.name)
    }
}

impl Listed {
    /// The name that people know, without the slash.
    pub(super) fn bare_name(&self) -> Option<&str> {
        let bare = self.names.iter().map(|name| name.strip_prefix('/').unwrap_or(name));
        bare.min_by_key(|name| name.contains('/'))
    }
}
