//! Container engines: which namespace a container of that name has, and what people call what Docker made here.
//!
//! Theory of operation: Docker and Podman serve one and the same API on a unix socket each (`client`, `answers`), and
//! it is asked for three things. A command that names `container:web` has the container looked up, before the switch
//! is asked for anything ([`Containers::find`]); what it is told is where the namespace is, so that everything behind it
//! knows namespaces only. And what shows ports and networks shows the engine's names beside the switch's, which it
//! has of the engine's ids ([`Containers::names`]). And where a call of Docker's was lost, its networks tell what it was
//! about ([`Containers::docker_networks`]).
//!
//! An engine may be calling us at the moment that we ask, and hold what its answer needs until we have answered. So every
//! question has an end in time, none is asked while the switch is held, and names are never waited for long:
//! what was known last is shown, and the answer is for the next time.
//!
//! Podman has a service only where somebody started one; without, the program itself is asked, which prints the same.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use self::answers::Inspected;
use self::client::{EngineError, Source};
pub use self::find::{Found, container_name};
pub use self::names::Names;
pub use self::room::find_room;

mod answers;
mod client;
mod find;
mod names;
mod room;

/// How long an engine may take to answer a command's question.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long what shows names waits for newer ones.
const NAMES_WAIT: Duration = Duration::from_millis(300);
/// How long names are as good as new: one command asks for several things.
const NAMES_FRESH: Duration = Duration::from_millis(500);

/// Where the engines are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineSockets {
    /// Docker's.
    pub docker: PathBuf,
    /// Podman's.
    pub podman: PathBuf,
}

impl Default for EngineSockets {
    fn default() -> Self {
        Self { docker: "/var/run/docker.sock".into(), podman: "/run/podman/podman.sock".into() }
    }
}

impl EngineSockets {
    /// The usual ones, or those that the environment names as it does to the engines' own clients: `DOCKER_HOST` and
    /// `CONTAINER_HOST`, where they name a unix socket.
    #[must_use]
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Self {
        let usual = Self::default();
        let named = |name: &str| variable(name).and_then(|text| unix_socket(&text));
        Self {
            docker: named("DOCKER_HOST").unwrap_or(usual.docker),
            podman: named("CONTAINER_HOST").unwrap_or(usual.podman),
        }
    }
}

/// The path of a unix socket, written as `unix:///run/docker.sock` or as itself.
#[must_use]
pub fn unix_socket(text: &str) -> Option<PathBuf> {
    let path = text.strip_prefix("unix://").unwrap_or(text);
    path.starts_with('/').then(|| PathBuf::from(path))
}

/// The engines of this host; cheap to clone.
#[derive(Debug, Clone)]
pub struct Containers {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    docker: Source,
    podman: Source,
    /// What is known now.
    names: RwLock<Arc<Names>>,
    /// When that was asked for; held while somebody asks.
    asked: Mutex<Option<Instant>>,
}

impl Containers {
    /// The engines at `sockets`, none of which is asked yet.
    #[must_use]
    pub fn new(sockets: EngineSockets) -> Self {
        let docker = Source { engine: "Docker", socket: sockets.docker, program: None };
        let podman = Source { engine: "Podman", socket: sockets.podman, program: Some("podman") };
        let shared = Shared { docker, podman, names: RwLock::default(), asked: Mutex::default() };
        Self { shared: Arc::new(shared) }
    }

    /// The names that Docker has for its containers and networks. Waits a moment for newer ones, and takes what there is
    /// if they do not come.
    pub async fn names(&self) -> Arc<Names> {
        let this = self.clone();
        // It goes on when nobody waits any more.
        let _ = timeout(NAMES_WAIT, tokio::spawn(async move { this.refresh().await })).await;
        Arc::clone(&self.shared.names.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The ids of the networks that Docker has; `None`: it does not say.
    pub async fn docker_networks(&self) -> Option<BTreeSet<String>> {
        match timeout(ANSWER_TIMEOUT, names::networks(&self.shared.docker)).await {
            Ok(Ok(networks)) => Some(networks.into_iter().map(|network| network.id).collect()),
            Ok(Err(error)) => {
                tracing::debug!(%error, "Docker does not list its networks");
                None
            }
            Err(_) => {
                tracing::debug!("Docker does not list its networks in time");
                None
            }
        }
    }

    async fn refresh(&self) {
        // Who comes while somebody asks waits for that answer, and finds it fresh.
        let mut asked = self.shared.asked.lock().await;
        if asked.is_some_and(|asked| asked.elapsed() < NAMES_FRESH) {
            return;
        }
        match timeout(ANSWER_TIMEOUT, names::ask(&self.shared.docker)).await {
            Ok(Ok(names)) => {
                *self.shared.names.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(names);
            }
            Ok(Err(EngineError::Absent { .. })) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the names of containers stay as they were"),
            Err(_) => tracing::debug!("the names of containers stay as they were: no answer in time"),
        }
        *asked = Some(Instant::now());
    }
}

impl Default for Containers {
    fn default() -> Self {
        Self::new(EngineSockets::default())
    }
}

#[cfg(test)]
mod tests;
