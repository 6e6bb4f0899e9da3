//! Hosts as namespaces, an underlay between them, and a switch of one container and one remote.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vswitch::frame::{Burst, DropReason, Pool};
use vswitch::io::tap::TapDevice;
use vswitch::io::udp::UdpUnderlay;
use vswitch::io::{Arrivals, Device, RxReport, TxReport, Underlay, UnderlayReport, Unit};
use vswitch::snapshot::PortId;
use vswitch::tunnel::{RemoteConfig, TunnelEntry, TunnelTable};

pub(crate) use crate::namespaces::{Namespace, PATIENCE, can_run, words};

/// The tunnels' network identifier.
pub(crate) const VNI: u32 = 42;
/// The port that stands for the remote.
const REMOTE: PortId = PortId(7);

/// Two hosts with a veth pair between them, `under0` on both: 198.18.0.1 and .2, 2001:db8::1 and ::2.
pub(crate) fn two_hosts(mtu: u32) -> (Namespace, Namespace) {
    let (a, b) = (Namespace::with_loopback(), Namespace::with_loopback());
    a.ip(&words(&format!("link add under0 mtu {mtu} type veth peer name under0 netns {} mtu {mtu}", b.name)));
    for (host, n) in [(&a, 1), (&b, 2)] {
        host.ip(&words(&format!("addr add 198.18.0.{n}/24 dev under0")));
        host.ip(&words(&format!("addr add 2001:db8::{n}/64 dev under0 nodad")));
        host.ip(&words("link set under0 up"));
    }
    (a, b)
}

/// The kernel's VXLAN interface on host `host`: 10.42.0.2 and fd42::2, towards the other host.
pub(crate) fn kernel_vxlan(host: &Namespace, local: &str, remote: &str, mtu: u32, options: &str) {
    host.ip(&words(&format!("link add vx0 type vxlan id {VNI} local {local} remote {remote} dstport 4789 {options}")));
    host.ip(&words(&format!("link set vx0 address 02:42:0a:2a:00:02 mtu {mtu}")));
    host.ip(&words("addr add 10.42.0.2/24 dev vx0"));
    // IPv6 needs links of 1280 bytes (RFC 8200, section 5).
    if mtu >= 1280 {
        host.ip(&words("addr add fd42::2/64 dev vx0 nodad"));
    }
    host.ip(&words("link set vx0 up"));
}

/// A container on a host of ours, with one tunnel to one remote: a thread moves frames between the two.
pub(crate) struct Host {
    pub(crate) container: Namespace,
    pub(crate) underlay: Arc<UdpUnderlay>,
    pub(crate) remote: Arc<dyn Device>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<Totals>>,
}

/// What the thread saw.
#[derive(Debug, Default, Clone)]
pub(crate) struct Totals {
    pub(crate) sent: u64,
    pub(crate) arrived: u64,
    /// The longest frame that arrived.
    pub(crate) longest: usize,
    pub(crate) dropped: Vec<(DropReason, u32)>,
    pub(crate) outstanding: usize,
}

impl Host {
    /// `n` gives the container's addresses: 10.42.0.n, fd42::n.
    pub(crate) fn start(host: &Namespace, n: u8, mtu: u32, local: &str, config: RemoteConfig) -> Self {
        let container = Namespace::with_loopback();
        let tap = container.inside(|| TapDevice::create("eth0").expect("create"));
        container.ip(&words(&format!("link set eth0 address 02:42:0a:2a:00:{n:02x} mtu {mtu} txqueuelen 4096")));
        container.ip(&words(&format!("addr add 10.42.0.{n}/24 dev eth0")));
        container.ip(&words(&format!("addr add fd42::{n}/64 dev eth0 nodad")));
        container.ip(&words("link set eth0 up"));
        let local: IpAddr = local.parse().unwrap();
        let (underlay, remote) = host.inside(|| {
            let underlay = UdpUnderlay::bind(local, 4789).unwrap();
            let remote = underlay.remote(config).unwrap();
            (underlay, remote)
        });
        let entry = TunnelEntry { vni: VNI, inner_tags: config.inner_tags, remotes: vec![(config.remote, REMOTE)] };
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (stop, underlay, remote) = (Arc::clone(&stop), Arc::clone(&underlay), Arc::clone(&remote));
            std::thread::spawn(move || {
                switch(&stop, &tap, underlay.as_ref(), remote.as_ref(), &TunnelTable::new(&[entry]))
            })
        };
        Self { container, underlay, remote, stop, thread: Some(thread) }
    }

    pub(crate) fn stop(mut self) -> Totals {
        self.stop.store(true, Ordering::Relaxed);
        let totals = self.thread.take().unwrap().join().unwrap();
        assert_eq!(totals.outstanding, 0, "frames are lost");
        totals
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn units_of(burst: &Burst) -> Vec<Unit> {
    let unit = |(at, frame): (usize, &vswitch::frame::Frame)| Unit {
        frame: at as u16,
        first_piece: 0,
        pieces_count: 0,
        offload: frame.offload,
        sole: true,
    };
    burst.iter().enumerate().map(unit).collect()
}

fn switch(
    stop: &AtomicBool,
    tap: &TapDevice,
    underlay: &dyn Underlay,
    remote: &dyn Device,
    tunnels: &TunnelTable,
) -> Totals {
    let mut pool = Pool::new(256).unwrap();
    let (mut tap_rx, mut tap_tx) = (tap.open_rx(&mut pool).unwrap(), tap.open_tx(&mut pool).unwrap());
    let (mut under_rx, mut remote_tx) = (underlay.open_rx(&mut pool).unwrap(), remote.open_tx(&mut pool).unwrap());
    let mut totals = Totals::default();
    let mut arrivals = Arrivals::default();
    while !stop.load(Ordering::Relaxed) {
        let mut fds = [tap_rx.event_fd().unwrap(), under_rx.event_fd().unwrap()]
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        poll(&mut fds, Some(&Timespec::try_from(Duration::from_millis(20)).unwrap())).unwrap();

        let mut burst = Burst::new();
        tap_rx.recv(&mut pool, &mut burst, 64, 65536, &mut RxReport::default());
        let (units, mut report) = (units_of(&burst), TxReport::default());
        remote_tx.send(&mut pool, &mut burst, &units, &[], &mut report);
        assert_eq!(report.sent + report.drops().map(|(_, count)| count).sum::<u32>(), burst.len() as u32);
        totals.sent += u64::from(report.sent);
        totals.dropped.extend(report.drops());
        pool.free_all(burst);

        let mut report = UnderlayReport::default();
        under_rx.recv(&mut pool, tunnels, &mut arrivals, 64, 65536, &mut report);
        let drops = DropReason::ALL.iter().zip(report.drops).filter(|(_, count)| *count > 0);
        totals.dropped.extend(drops.map(|(&reason, count)| (reason, count)));
        let mut burst = Burst::new();
        for (port, frame) in arrivals.drain() {
            assert_eq!(port, REMOTE);
            totals.longest = totals.longest.max(frame.len());
            burst.push(frame);
        }
        totals.arrived += burst.len() as u64;
        let (units, mut report) = (units_of(&burst), TxReport::default());
        tap_tx.send(&mut pool, &mut burst, &units, &[], &mut report);
        pool.free_all(burst);
    }
    under_rx.close(&mut pool);
    totals.outstanding = pool.outstanding();
    totals
}
