//! The switch as the control plane sees it: what was asked for, what exists, and how commands
//! change both.
//!
//! Theory of operation: a [`Switch`] is used by one command at a time. A command edits a copy of
//! the desired state, where every refusal happens; does what can fail outside (a TAP that is not
//! yet persistent, made and configured); publishes a snapshot; stores the copy durably; makes the
//! TAP persistent; and only then the copy becomes the state. If a step fails, those before it are
//! undone. Removal runs the other way: no worker may use a descriptor that is closed, so the
//! snapshot without the port is published and seen by all workers before the device goes.
//!
//! All methods block (on netlink, on the disk, on the workers for less than a millisecond); the
//! caller runs them where that is allowed.

use std::sync::Arc;

use crate::api::Error;
use crate::bpf::GuardOwner;
use crate::control::desired::{BridgeRecord, Desired, HostRoute, HostView, Owner, PortRecord};
use crate::control::netlink::{Netlink, NetlinkError};
use crate::control::netns::{Netns, NetnsId};
use crate::control::refusal::{Result, failed, limit};
use crate::control::store::Store;
use crate::datapath::Datapath;
use crate::datapath::fdb::Fdb;
use crate::snapshot::{PORTS_MAX, PortId};

mod advertisements;
mod announce;
mod bridges;
mod carrier;
mod conntrack;
mod describe;
mod describe_uplinks;
mod docker;
mod docker_ipam;
mod fdb;
mod gateway;
mod gateway_entries;
mod gone;
mod host_ends;
mod host_ports;
pub(super) mod identity;
mod interface;
mod lent;
mod live;
mod loopback;
mod overlay;
mod port_link;
mod ports;
mod programs;
mod readers;
mod rear_guards;
mod reconcile;
mod services;
mod settings;
mod shared_uplinks;
mod stats;
mod taken;
mod tunnels;
mod uplinks;

pub use announce::Announcement;
pub use conntrack::ConnectionsPlan;
pub use docker::{DockerEndpointInfo, DockerJoin};
pub use gone::Suspect;
pub use lent::Lent;
pub use loopback::LoopbackCarry;
pub use port_link::XdpContext;
pub use shared_uplinks::SharedCarry;
pub use stats::StatsPlan;

use gateway::GatewayPlane;
use interface::Interface;
use interface::veth::HostSide;
use lent::Unclaimed;
use live::{Attachment, Live, LiveBridge, LivePort};
use port_link::XdpOpener;
use services::ServicePlane;
use shared_uplinks::UplinkPlane;
use tunnels::OverlayWatch;

/// The switch: desired state, live objects, and the means to change them.
#[derive(Debug)]
pub struct Switch {
    desired: Desired,
    live: Live,
    store: Store,
    datapath: Arc<Datapath>,
    /// The namespace that the daemon was started in.
    host: NetnsId,
    /// Whose interfaces are this daemon's, among others' in that namespace.
    owner: Owner,
    /// How AF_XDP devices are opened.
    xdp: XdpContext,
    /// Announcements that are still to be repeated.
    announcements: Vec<Announcement>,
    /// Lent ports that nobody has brought up yet.
    unclaimed: Vec<Unclaimed>,
    /// Whether something changed that the watch of namespaces must know.
    watch_changed: bool,
    overlay_watch: OverlayWatch,
    /// The uplinks' common means, and the shared uplinks.
    uplinks: UplinkPlane,
    /// The ways in and out of the gateway.
    gateway: GatewayPlane,
    /// What the host's side of the switch was told of published ports.
    services: ServicePlane,
    /// What Docker was given and has not used yet.
    docker_leases: docker_ipam::Leases,
}

impl Switch {
    /// A switch with the configuration `desired`, none of which exists yet: see [`Switch::reconcile`].
    ///
    /// # Errors
    /// The own namespace or the state directory cannot be looked at.
    pub fn new(desired: Desired, store: Store, datapath: Arc<Datapath>, xdp: XdpContext) -> std::io::Result<Self> {
        let host = Netns::current()?.id();
        let owner = store.owner()?;
        Ok(Self {
            desired,
            live: Live::default(),
            store,
            datapath,
            host,
            owner,
            xdp,
            announcements: Vec::new(),
            unclaimed: Vec::new(),
            watch_changed: false,
            overlay_watch: OverlayWatch::default(),
            uplinks: UplinkPlane::new(GuardOwner(owner.number())),
            gateway: GatewayPlane::default(),
            services: ServicePlane::default(),
            docker_leases: docker_ipam::Leases::default(),
        })
    }

    /// Publishes what exists, described by `desired`, and waits until no worker uses anything older.
    fn publish(&self, desired: &Desired) {
        let mut snapshot = self.live.snapshot(&desired.bridges);
        self.gateway.complete(&mut snapshot, &self.live.overlay, self.datapath.workers());
        let generation = self.datapath.publish(snapshot);
        self.datapath.wait_seen(generation);
    }

    /// Stores `next` durably and makes it the state.
    fn commit(&mut self, next: Desired) -> Result<()> {
        self.store.save(&next).map_err(|error| {
            failed(
                format!("the configuration cannot be stored: {error}"),
                "make room or correct the permissions of the state directory, and repeat the command",
            )
        })?;
        self.desired = next;
        Ok(())
    }

    /// Makes `before` the state again after what followed a commit failed. What exists is put back
    /// in any case, so that the state follows it even where it cannot be stored: the file is corrected
    /// by the next command that can.
    fn revert(&mut self, before: Desired) {
        if let Err(error) = self.commit(before.clone()) {
            tracing::error!(error = %error.message, "a command that failed stays in the state file for now");
            self.desired = before;
        }
    }

    /// An id and an incarnation for a new port.
    fn new_port_id(&mut self) -> Result<(PortId, u64)> {
        let id = self.live.port_ids.allocate(PORTS_MAX);
        let id = id.ok_or_else(|| limit(format!("there are {PORTS_MAX} ports, which is the limit"), "detach one"))?;
        Ok((PortId(id), self.live.next_incarnation()))
    }

    /// Forgets ports that no worker uses any more: their interfaces go unless they are persistent,
    /// their ids become free, and the databases that are named lose their entries.
    fn forget(&mut self, ports: impl IntoIterator<Item = (Option<Arc<Fdb>>, LivePort)>) {
        let mut devices = Vec::new();
        for (fdb, port) in ports {
            if let Some(fdb) = fdb {
                fdb.remove_port(port.id);
            }
            self.datapath.retire_port_counters(port.id);
            self.live.port_ids.release(port.id.0);
            devices.extend(port.attachment);
        }
        close(devices);
    }

    fn live_bridge(&self, name: &str) -> Result<&LiveBridge> {
        self.live.bridges.get(name).ok_or_else(|| {
            // Every bridge of the state is live from the start on.
            failed(format!("the bridge {name:?} does not exist in the datapath"), "restart the daemon and report this")
        })
    }

    fn live_bridge_mut(&mut self, name: &str) -> Result<&mut LiveBridge> {
        self.live.bridges.get_mut(name).ok_or_else(|| {
            failed(format!("the bridge {name:?} does not exist in the datapath"), "restart the daemon and report this")
        })
    }

    fn record(&self, bridge: &str, port: &str) -> Option<(&BridgeRecord, &PortRecord)> {
        let record = self.desired.bridges.get(bridge)?;
        Some((record, record.ports.get(port)?))
    }

    fn live_port(&self, bridge: &str, port: &str) -> Option<&LivePort> {
        self.live.bridges.get(bridge)?.ports.get(port)
    }

    /// What opens the AF_XDP devices of a bridge.
    fn xdp_opener(&self, bridge: &str) -> Result<XdpOpener> {
        let worker = self.live_bridge(bridge)?.home;
        Ok(XdpOpener { datapath: Arc::clone(&self.datapath), worker, context: self.xdp.clone() })
    }

    /// The interface of a container's port that `record`, the bridge's, has.
    fn port_interface<'a>(&self, bridge_name: &str, bridge: &'a BridgeRecord, name: &str) -> Interface<'a> {
        let port = &bridge.ports[name];
        // Of a lent port, addresses and routes are the borrower's affair.
        let is_ours = port.lent.is_none();
        let has = |gateway: &std::net::IpAddr| port.ips.iter().any(|ip| ip.addr().is_ipv4() == gateway.is_ipv4());
        Interface {
            name: &port.ifname,
            index: port.ifindex,
            mac: port.mac,
            mtu: bridge.port_mtu(port),
            gso_max_size: tunnels::gso_max_size(bridge, port),
            ips: if is_ours { port.ips.clone() } else { Vec::new() },
            gateways: bridge
                .subnets
                .iter()
                .map(|subnet| subnet.gateway)
                .filter(|gateway| is_ours && port.default_route && has(gateway))
                .collect(),
            is_host: false,
            ipv6: has_ipv6(bridge),
            host_side: port.host_end.as_ref().map(|end| HostSide { end, alias: self.owner.alias(bridge_name, name) }),
            lent: port.lent.as_ref(),
        }
    }

    /// Whether the watch of namespaces has to be brought up to date; asking resets the answer.
    pub fn take_watch_changed(&mut self) -> bool {
        std::mem::take(&mut self.watch_changed)
    }
}

/// Closes interfaces, which waits for the kernel to remove those that are not persistent. It removes
/// several at a time in little more time than one, because what it waits for are grace periods.
fn close(attachments: Vec<Attachment>) {
    const AT_A_TIME: usize = 32;
    let per_thread = attachments.len().div_ceil(AT_A_TIME);
    if attachments.len() <= 1 {
        return;
    }
    let mut rest = attachments.into_iter();
    std::thread::scope(|scope| {
        loop {
            let part: Vec<_> = rest.by_ref().take(per_thread).collect();
            if part.is_empty() {
                break;
            }
            // Where there is no thread, the closure and the part in it are dropped here instead.
            let _ = std::thread::Builder::new().name("close".to_owned()).spawn_scoped(scope, move || drop(part));
        }
    });
}

/// The host's own interface on a bridge; none on an `l2` bridge.
fn host_interface<'a>(name: &'a str, bridge: &BridgeRecord) -> Option<Interface<'a>> {
    Some(Interface {
        name,
        index: None,
        mac: bridge.mac?,
        mtu: bridge.mtu,
        gso_max_size: None,
        ips: bridge.host_addresses().collect(),
        gateways: Vec::new(),
        is_host: true,
        ipv6: has_ipv6(bridge),
        host_side: None,
        lent: None,
    })
}

/// Whether interfaces of the bridge speak IPv6: a bare learning switch does not judge.
fn has_ipv6(bridge: &BridgeRecord) -> bool {
    bridge.l2 || bridge.subnets.iter().any(|subnet| subnet.gateway.is_ipv6())
}

/// What decisions need to know of the host.
fn host_view() -> Result<HostView> {
    let refused = |error: NetlinkError| failed(format!("the host's routes cannot be read: {error}"), "");
    let mut netlink = Netlink::open().map_err(refused)?;
    let links = netlink.links().map_err(refused)?;
    let name = |index: Option<u32>| links.iter().find(|link| Some(link.index) == index).map(|link| link.name.clone());
    let routes = netlink.routes().map_err(refused)?;
    Ok(HostView {
        routes: routes
            .iter()
            .filter(|route| route.reserves())
            .map(|route| HostRoute { dst: route.dst, ifname: name(route.oif).unwrap_or_default(), via: route.gateway })
            .collect(),
        interfaces: links.iter().map(|link| link.name.clone()).collect(),
        random: random_tail()?,
    })
}

fn random_tail() -> Result<[u8; 4]> {
    let mut bytes = [0; 4];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| failed(format!("the kernel gives no random numbers: {error}"), ""))?;
    Ok(bytes)
}

/// A netlink failure outside of any interface's set-up.
fn netlink_failed(what: &str, error: &NetlinkError) -> Error {
    failed(format!("{what}: {error}"), "see the daemon's log")
}
