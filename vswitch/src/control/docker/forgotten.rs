//! Networks that Docker has forgotten.
//!
//! Theory of operation: the engine forgets a network when it ends it, whatever the driver answers. A call that was cut off
//! by the daemon's end is repeated without its contents (see [`server`](super::server)), and says then that some network
//! has ended and not which. So the engine is asked which ones it knows. A network that the switch had when the call came,
//! that nothing is attached to and that the engine does not know is removed.
//!
//! The engine is never asked from within a call, and it is asked twice: a network that is being made is the
//! switch's a moment before it is the engine's. An engine that does not answer is asked again for a while. After that the
//! network stays until another one has its addresses (see `Desired::stale_docker_networks`), or until the next lost call.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::sleep;

use crate::control::containers::Containers;
use crate::control::refusal::Result;
use crate::control::service::Service;

/// What passes before the engine is asked, each time: it has ended by then what it was about to end.
const PAUSE: Duration = Duration::from_secs(1);
/// How often a silent engine is asked before it is left alone: it may be on its way down, or on its way up.
const ATTEMPTS: u32 = 30;

/// Looks after the networks that are there now, and removes those of which Docker does not know any more.
pub(super) fn look(service: &Service) {
    let service = service.clone();
    tokio::spawn(async move {
        if let Err(error) = collect(&service).await {
            tracing::warn!(error = %error.message, "a network that Docker has forgotten is left behind");
        }
    });
}

async fn collect(service: &Service) -> Result<()> {
    let mut suspects = service.with(|switch| Ok(switch.idle_docker_networks())).await?;
    for _ in 0..2 {
        if suspects.is_empty() {
            return Ok(());
        }
        let Some(known) = known_to(service.containers()).await else {
            tracing::info!(networks = suspects.len(), "Docker does not say whether it has forgotten a network");
            return Ok(());
        };
        suspects.retain(|id| !known.contains(id));
    }
    service.change(move |switch| switch.forget_docker_networks(&suspects)).await
}

/// The networks that the engine knows.
async fn known_to(containers: &Containers) -> Option<BTreeSet<String>> {
    for _ in 0..ATTEMPTS {
        sleep(PAUSE).await;
        if let Some(known) = containers.docker_networks().await {
            return Some(known);
        }
    }
    None
}
