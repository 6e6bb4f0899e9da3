//! A host with an uplink (one end of a veth pair), a peer at the other end, and a container behind the switch which answers
//! at the host's own address: what needs no translation shows the way there and back alone.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use rustix::event::PollFlags;
use vswitch::bpf::Classifier;
use vswitch::control::netlink::Link;
use vswitch::frame::{Burst, Pool};
use vswitch::io::tap::TapDevice;
use vswitch::io::{Device, RxReport, TxReport};

use super::lab::{Namespace, Wire, add_port, wait_readable, whole};
use super::namespaces::run;

pub(crate) const HOST4: &str = "192.0.2.1";
pub(crate) const HOST6: &str = "2001:db8::1";
pub(crate) const PEER4: &str = "192.0.2.2";
pub(crate) const PEER6: &str = "2001:db8::2";
const MAC: &str = "02:00:00:00:02:01";
const PEER_MAC: &str = "02:00:00:00:02:02";

pub(crate) struct Lab {
    pub(crate) host: Namespace,
    pub(crate) peer: Namespace,
    pub(crate) container: Namespace,
    pub(crate) carry: TapDevice,
    pub(crate) eth0: TapDevice,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let (host, peer, container) = (Namespace::new(), Namespace::new(), Namespace::new());
        let veth = ["link", "add", "up0", "address", MAC, "type", "veth"];
        let other = ["peer", "name", "eth0", "netns", &peer.name, "address", PEER_MAC];
        run("ip", &[&["-n", &host.name][..], &veth, &other].concat());
        for (namespace, interface, v4, v6) in [(&host, "up0", HOST4, HOST6), (&peer, "eth0", PEER4, PEER6)] {
            let (v4, v6) = (format!("{v4}/24"), format!("{v6}/64"));
            // No link-local address, whose state would change in the middle of a test.
            namespace.exec(&["ip", "link", "set", interface, "addrgenmode", "none"]);
            namespace.exec(&["ip", "address", "add", &v4, "dev", interface]);
            namespace.exec(&["ip", "address", "add", &v6, "dev", interface, "nodad"]);
            namespace.exec(&["ip", "link", "set", interface, "up"]);
            namespace.exec(&["ip", "link", "set", "lo", "up"]);
        }
        let carry = carry_tap(&host);
        let eth0 = add_port(&container, &["192.0.2.1/24"], None);
        container.exec(&["ip", "link", "set", "eth0", "address", MAC]);
        container.exec(&["ip", "address", "add", "2001:db8::1/64", "dev", "eth0", "nodad"]);
        // The next hop is the host's affair: whatever the frame says is replaced.
        for peer in [PEER4, PEER6] {
            let entry =
                ["ip", "neighbour", "add", peer, "lladdr", "02:00:00:00:0d:0d", "nud", "permanent", "dev", "eth0"];
            container.exec(&entry);
        }
        // The peer knows the host, as it would after a moment of traffic.
        run("ip", &["netns", "exec", &host.name, "ping", "-q", "-c", "1", "-W", "5", PEER4]);
        run("ip", &["netns", "exec", &host.name, "ping", "-q", "-c", "1", "-W", "5", PEER6]);
        Self { host, peer, container, carry, eth0 }
    }

    /// A classifier that knows the host's addresses.
    pub(crate) fn classifier() -> Classifier {
        let mut classifier = Classifier::load().unwrap();
        classifier.set_local_addresses([HOST4, HOST6].map(|address| address.parse::<IpAddr>().unwrap())).unwrap();
        classifier
    }

    /// What the switch does here: what comes from the uplink goes to the container, and the other way round.
    pub(crate) fn switch(&self) -> Wire {
        Wire::between(&self.carry, &self.eth0)
    }

    /// An interface of a namespace, with its counters.
    pub(crate) fn link(namespace: &Namespace, name: &str) -> Link {
        namespace.netlink().link_by_name(name).unwrap().unwrap()
    }

    /// Everything about the host that the classifier could change.
    pub(crate) fn host_state(&self) -> Vec<String> {
        let tc = self.host.exec(&["tc", "qdisc", "show"]);
        let filters = self.host.exec(&["tc", "filter", "show", "dev", "up0", "ingress"]);
        let features = self.host.exec(&["ethtool", "-k", "up0"]) + &self.peer.exec(&["ethtool", "-k", "eth0"]);
        let mut state = self.host.state();
        // Neighbours age while a test runs.
        for aged in ["REACHABLE", "DELAY", "PROBE"] {
            state = state.replace(aged, "STALE");
        }
        (state + &tc + &filters + &features).lines().map(str::to_owned).collect()
    }

    /// The host is as it was.
    pub(crate) fn assert_untouched(&self, before: &[String]) {
        let after = self.host_state();
        let gone: Vec<_> = before.iter().filter(|line| !after.contains(line)).collect();
        let new: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
        assert!(gone.is_empty() && new.is_empty(), "gone: {gone:#?}\nnew: {new:#?}");
    }
}

/// A TAP without addresses, which says nothing of its own accord.
pub(crate) fn carry_tap(namespace: &Namespace) -> TapDevice {
    let tap = namespace.inside(|| TapDevice::create("carry").unwrap());
    namespace.exec(&["ip", "link", "set", "carry", "addrgenmode", "none", "txqueuelen", "4096"]);
    namespace.exec(&["ip", "link", "set", "carry", "up"]);
    tap
}

/// Writes one frame to a TAP.
pub(crate) fn send(tap: &TapDevice, bytes: &[u8]) {
    let mut pool = Pool::new(1).unwrap();
    let mut tx = tap.open_tx(&mut pool).unwrap();
    let mut burst = Burst::new();
    let mut frame = pool.alloc().unwrap();
    frame.copy_from(bytes);
    burst.push(frame);
    let mut report = TxReport::default();
    let units = [whole(0, &burst)];
    tx.send(&mut pool, &mut burst, &units, &[], &mut report);
    assert_eq!(report.sent, 1);
    pool.free_all(burst);
}

/// What comes from a TAP until nothing has come for a moment, as far as its source address is `from`.
pub(crate) fn receive(tap: &TapDevice, from: [u8; 6]) -> Vec<Vec<u8>> {
    let mut pool = Pool::new(64).unwrap();
    let mut rx = tap.open_rx(&mut pool).unwrap();
    let mut frames = Vec::new();
    while wait_readable([rx.as_ref()].into_iter(), Duration::from_millis(200))[0].contains(PollFlags::IN) {
        let mut burst = Burst::new();
        rx.recv(&mut pool, &mut burst, 64, usize::MAX, &mut RxReport::default());
        frames.extend(burst.iter().map(|frame| frame.data().to_vec()).filter(|bytes| bytes[6..12] == from));
        pool.free_all(burst);
    }
    frames
}

/// Sends a datagram from one namespace to another and gives what arrives within `limit`.
pub(crate) fn datagram(
    from: &UdpSocket,
    to: (IpAddr, u16),
    at: &UdpSocket,
    data: &[u8],
    limit: Duration,
) -> Option<Vec<u8>> {
    from.send_to(data, to).unwrap();
    at.set_read_timeout(Some(limit)).unwrap();
    let mut received = vec![0; 65536];
    let bytes = at.recv(&mut received).ok()?;
    received.truncate(bytes);
    Some(received)
}
