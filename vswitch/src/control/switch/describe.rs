//! Bridges and ports as the protocol describes them.

use std::time::{Duration, Instant};

use super::Switch;
use super::live::{LiveBridge, LivePort, LiveUplink};
use super::overlay::Overlay;
use super::port_link::PortLink;
use crate::api::{Bridge, Port, PortState, Publication, XdpStatus};
use crate::control::desired::{BridgeRecord, HostEnd, PortRecord, PublicationRecord};
use crate::control::refusal::{Result, not_found};

/// How long a loop is worth a warning after it was last noticed.
const LOOP_WARNING: Duration = Duration::from_secs(60);

impl Switch {
    /// All bridges, by name.
    #[must_use]
    pub fn bridges(&self) -> Vec<Bridge> {
        self.desired
            .bridges
            .iter()
            .filter_map(|(name, record)| {
                Some(describe_bridge(name, record, self.live.bridges.get(name)?, &self.live.overlay))
            })
            .collect()
    }

    /// One bridge.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn bridge(&self, name: &str) -> Result<Bridge> {
        self.describe_bridge(name)
    }

    /// The ports of one bridge, or of all.
    ///
    /// # Errors
    /// There is no such bridge.
    pub fn ports(&self, bridge: Option<&str>) -> Result<Vec<Port>> {
        if let Some(bridge) = bridge {
            self.desired.bridge(bridge)?;
        }
        let bridges = self.desired.bridges.iter().filter(|(name, _)| bridge.is_none_or(|bridge| bridge == *name));
        Ok(bridges
            .flat_map(|(bridge, record)| record.ports.keys().map(move |port| (bridge, port)))
            .filter_map(|(bridge, port)| self.describe_port(bridge, port).ok())
            .collect())
    }

    pub(super) fn describe_bridge(&self, name: &str) -> Result<Bridge> {
        Ok(describe_bridge(name, self.desired.bridge(name)?, self.live_bridge(name)?, &self.live.overlay))
    }

    pub(super) fn describe_port(&self, bridge: &str, name: &str) -> Result<Port> {
        let missing = || not_found(format!("the bridge {bridge:?} has no port {name:?}"), "");
        let (record, port) = self.record(bridge, name).ok_or_else(missing)?;
        let live = self.live_bridge(bridge)?.ports.get(name).ok_or_else(missing)?;
        Ok(describe_port(bridge, name, record, port, live))
    }
}

fn describe_bridge(name: &str, record: &BridgeRecord, live: &LiveBridge, overlay: &Overlay) -> Bridge {
    let mut warnings = Vec::new();
    if let Some((text, at)) = &live.last_loop
        && at.elapsed() < LOOP_WARNING
    {
        warnings.push(text.clone());
    }
    if let Some(LivePort { attachment: Err(why), .. }) = &live.host {
        warnings.push(format!("the host's interface is down: {why}"));
    }
    for (port, LivePort { attachment, .. }) in &live.ports {
        if let Err(why) = attachment {
            warnings.push(format!("port {port} is down: {why}"));
        }
    }
    for (tunnel, live) in overlay.of_bridge(name) {
        if let Some(why) = &live.failure {
            warnings.push(format!("tunnel {tunnel} is down: {why}"));
        }
    }
    for (uplink, LiveUplink { attachment }) in &live.uplinks {
        if let Err(why) = attachment {
            warnings.push(format!("uplink {uplink} is not attached: {why}"));
        }
    }
    Bridge {
        name: name.to_owned(),
        subnets: record.subnets.iter().map(|subnet| subnet.net).collect(),
        gateways: record.subnets.iter().map(|subnet| subnet.gateway).collect(),
        ip_ranges: record.subnets.iter().filter_map(|subnet| subnet.ip_range).collect(),
        reserve: record.reserve.clone(),
        mtu: record.mtu,
        icc: record.icc,
        l2: record.l2,
        internal: record.internal,
        masquerade: record.masquerade && !record.l2,
        host_ips: record.host_ips.clone(),
        mss_clamp: record.mss_clamp,
        mac: record.mac.map(|mac| mac.to_string()),
        ageing_s: record.ageing_s,
        mac_limit: record.mac_limit,
        port_mac_limit: record.port_mac_limit,
        storm_limit: record.storm_limit,
        labels: record.labels.clone(),
        docker_network: record.docker.as_ref().map(|network| network.spec.id.clone()),
        network: None,
        ports: record.ports.len(),
        tunnels: record.tunnels.len(),
        macs: live.fdb.len(),
        warnings,
    }
}

fn describe_port(bridge: &str, name: &str, record: &BridgeRecord, port: &PortRecord, live: &LivePort) -> Port {
    let caps = live.entry().map(|entry| entry.device.caps()).unwrap_or_default();
    Port {
        name: name.to_owned(),
        bridge: bridge.to_owned(),
        netns: port.netns.to_string(),
        ifname: port.ifname.clone(),
        lent: port.lent.is_some(),
        container: port.container.clone(),
        port_type: port.port_type,
        xdp: xdp_status(port, live),
        state: if live.attachment.is_ok() { PortState::Up } else { PortState::Failed },
        ips: port.ips.clone(),
        mac: port.mac.to_string(),
        mtu: record.port_mtu(port),
        default_route: port.default_route,
        vlan: port.vlan,
        trunk: port.trunk.clone(),
        aliases: port.aliases.clone(),
        publications: describe_publications(bridge, name, port),
        exposed: port.exposed.clone(),
        guard: !record.l2 && !port.unguarded,
        ingress_rate_bps: port.ingress_rate_bps,
        egress_rate_bps: port.egress_rate_bps,
        offloads: caps.names().into_iter().map(str::to_owned).collect(),
        worker: live.entry().and_then(|entry| entry.reader).map(usize::from),
    }
}

/// What a port publishes, by the container's ports.
pub(super) fn describe_publications(bridge: &str, name: &str, port: &PortRecord) -> Vec<Publication> {
    let of_container =
        |one| Publication { container_name: port.container.clone(), ..describe_publication(bridge, name, one) };
    let mut publications: Vec<_> = port.publications.iter().map(of_container).collect();
    publications.sort_by_key(|one| (one.container.first, one.protocol, one.host_ip, one.host.first));
    publications
}

pub(super) fn describe_publication(bridge: &str, name: &str, one: &PublicationRecord) -> Publication {
    Publication {
        bridge: bridge.to_owned(),
        port: name.to_owned(),
        container_name: None,
        protocol: one.protocol,
        host_ip: one.host,
        host: one.host_ports(),
        container: one.container_ports(),
        from: one.from.clone(),
    }
}

/// How an `xdp` port is served; of one that is not open no more is known than where it would be.
fn xdp_status(port: &PortRecord, live: &LivePort) -> Option<XdpStatus> {
    let closed = |end: &HostEnd| XdpStatus { ifname: end.ifname.clone(), mode: None, refused: Vec::new() };
    live.link().and_then(PortLink::xdp_status).or_else(|| port.host_end.as_ref().map(closed))
}

impl LiveBridge {
    /// Notes a loop, for the bridge's warnings.
    pub(super) fn note_loop(&mut self, text: String) {
        self.last_loop = Some((text, Instant::now()));
    }
}
