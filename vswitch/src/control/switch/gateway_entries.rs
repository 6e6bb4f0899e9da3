//! What the gateway is to know of bridges, of their ports and of what these publish.
//!
//! All of it follows from the records and from which ports have an interface. A port that has none now (it is *failed*)
//! is no station, and what it publishes leads nowhere: its packets are dropped by name, and neither its address nor
//! its ports of the host are anybody else's meanwhile.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::live::{LiveBridge, LivePort};
use crate::control::desired::{BridgeRecord, PortRecord};
use crate::nat::{Publication, Services};
use crate::snapshot::{GatewayEntry, Guard, PortId, Station};

/// The gateway of a bridge; none of an `l2` bridge.
pub(super) fn gateway(record: &BridgeRecord, live: &LiveBridge) -> Option<Arc<GatewayEntry>> {
    let mac = record.mac?;
    let mut stations = HashMap::new();
    for (id, port) in attached(record, live) {
        let station = Station { port: id, mac: port.mac.0 };
        stations.extend(port.ips.iter().map(|ip| (ip.addr(), station)));
    }
    Some(Arc::new(GatewayEntry {
        mac: mac.0,
        addresses: record.host_addresses().collect(),
        host: live.host.as_ref().and_then(LivePort::entry).map(|entry| entry.id),
        stations,
        neighbours: Arc::clone(&live.stations),
        internal: record.internal,
        masquerade: record.masquerade,
        mss_clamp: record.mss_clamp,
    }))
}

/// What a container's port may send as; none on an `l2` bridge, which has no addresses to go by, and for a port that
/// was told to have none.
pub(super) fn guard(bridge: &BridgeRecord, port: &PortRecord) -> Option<Arc<Guard>> {
    let guarded = !bridge.l2 && !port.unguarded;
    guarded.then(|| Arc::new(Guard { mac: port.mac.0, addresses: port.ips.iter().map(IpNet::addr).collect() }))
}

/// What all ports that have an interface publish.
pub(super) fn services(
    records: &BTreeMap<String, BridgeRecord>,
    bridges: &BTreeMap<String, LiveBridge>,
) -> Arc<Services> {
    let everybody: Arc<[IpNet]> = Arc::default();
    let mut publications = Vec::new();
    for (name, live) in bridges {
        let Some(record) = records.get(name).filter(|record| !record.internal) else { continue };
        for (_, port) in attached(record, live) {
            publications.extend(port.publications.iter().filter_map(|one| {
                Some(Publication {
                    protocol: one.protocol.number(),
                    host: Some(one.host).filter(|ip| !ip.is_unspecified()),
                    first: one.first,
                    last: one.last,
                    bridge: live.id,
                    target: target(port, one.host.is_ipv6())?,
                    target_first: one.target,
                    from: if one.from.is_empty() { Arc::clone(&everybody) } else { one.from.as_slice().into() },
                })
            }));
        }
    }
    Arc::new(Services::new(publications))
}

/// The address of a container that what it publishes leads to: its first one of the family.
pub(super) fn target(port: &PortRecord, ipv6: bool) -> Option<IpAddr> {
    port.ips.iter().map(IpNet::addr).find(|ip| ip.is_ipv6() == ipv6)
}

/// The ports of a bridge that have an interface.
fn attached<'a>(record: &'a BridgeRecord, live: &'a LiveBridge) -> impl Iterator<Item = (PortId, &'a PortRecord)> {
    live.ports.iter().filter_map(|(name, live)| Some((live.entry()?.id, record.ports.get(name)?)))
}
