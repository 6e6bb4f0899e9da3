//! The ports of the host, which its own programs and the switch share.
//!
//! Theory of operation. A port of the host belongs to one of four:
//!
//! - *a program of the host* that has bound it or connected from it. The kernel lists its sockets ([`sock_diag`],
//!   [`proc_net`]), which is asked for before a port is published ([`in_use`]) and, while NAT uses ports, every second
//!   ([`HostPorts::refresh`]). In between the kernel notes what is bound ([`crate::bpf::SharedPorts`]);
//! - *the kernel*, which chooses ports for whoever does not name one, from a range of its own ([`ephemeral`]). NAT keeps
//!   off that range, and the kernel off what is published in there ([`reserved`]);
//! - *a container*, to which it is published;
//! - *NAT*, for as long as something is translated to it ([`ExternalPorts`]).
//!
//! The other way round the switch's ports are refused to programs that want to bind them: by a program at the hook
//! behind bind(2), for which a port costs a bit. Where that cannot be attached, and for SCTP, which has no such hook,
//! sockets hold some of them ([`held`]).
//!
//! Ports are counted alike for all of the host's addresses as far as NAT is concerned, and so are protocols' ports for
//! both families of a socket that has both.
//!
//! What outlives the process is the kernel's list of reserved ports; see there how it is put back.

mod cgroup;
mod ephemeral;
mod held;
mod owner;
mod port_set;
mod proc_net;
mod reserved;
mod sock_diag;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicUsize, Ordering, fence};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use self::ephemeral::Division;
pub use self::ephemeral::range as ephemeral_range;
use self::held::HeldPorts;
pub use self::owner::Owner;
use self::port_set::PortSet;
use self::reserved::{ReservedPorts, Whose};
use crate::bpf::{Classifier, Flow, HostAddresses, Protocol, Reservation, SharedPorts};
use crate::control::switch::identity;
use crate::nat::ExternalPorts;

/// How much of a thread's time listing sockets may take: one part of so many.
const REFRESH_SHARE: u32 = 20;

/// A socket with a port.
#[derive(Debug, Clone, PartialEq, Eq)]
struct BoundSocket {
    port: u16,
    address: IpAddr,
    /// Whether it is bound to all addresses of both families.
    both: bool,
    /// Zero when no process has it any more.
    inode: u64,
}

impl BoundSocket {
    /// The families whose packets it receives; `true` is IPv6.
    fn families(&self) -> impl Iterator<Item = bool> {
        let other = self.both.then_some(false);
        [Some(self.address.is_ipv6()), other].into_iter().flatten()
    }

    /// Whether it receives packets to `at`.
    fn receives_at(&self, at: HostAddresses) -> bool {
        match at {
            HostAddresses::All => true,
            HostAddresses::AllIpv4 => self.families().any(|ipv6| !ipv6),
            HostAddresses::AllIpv6 => self.families().any(|ipv6| ipv6),
            HostAddresses::One(address) if self.address.is_unspecified() => {
                self.families().any(|ipv6| ipv6 == address.is_ipv6())
            }
            HostAddresses::One(address) => self.address == address,
        }
    }
}

/// A published range of ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The protocol.
    pub protocol: Protocol,
    /// At which of the host's addresses.
    pub at: HostAddresses,
    /// The host's ports.
    pub ports: RangeInclusive<u16>,
}

/// A port that a program of the host uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// The port.
    pub port: u16,
    /// The address it is used at; unspecified: all.
    pub address: IpAddr,
    /// The program, where that can be known: the kernel has sockets, too, and in a container with the host's network
    /// the host's processes may not be seen.
    pub owner: Option<Owner>,
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.owner, self.address.is_unspecified()) {
            (Some(owner), true) => write!(f, "{owner}"),
            (Some(owner), false) => write!(f, "{owner}, at {}", self.address),
            (None, true) => f.write_str("the kernel or a process that cannot be seen"),
            (None, false) => write!(f, "the kernel or a process that cannot be seen, at {}", self.address),
        }
    }
}

/// Which ports of `ports` programs of the host use at `at`, the lowest first, each once for each address; in the network
/// namespace of the calling thread. A connection's own port counts as well; what a program has closed does not, though
/// the kernel may keep it for a minute.
///
/// # Errors
/// The kernel cannot be asked.
pub fn in_use(protocol: Protocol, at: impl Into<HostAddresses>, ports: RangeInclusive<u16>) -> io::Result<Vec<Use>> {
    let at = at.into();
    let mut sockets = sockets(protocol, &ports)?;
    sockets.retain(|socket| socket.inode != 0 && ports.contains(&socket.port) && socket.receives_at(at));
    sockets.sort_by_key(|socket| (socket.port, socket.address, socket.inode));
    sockets.dedup_by_key(|socket| (socket.port, socket.address));
    let owners = owner::owners(&sockets.iter().map(|socket| socket.inode).collect::<BTreeSet<_>>());
    let describe = |socket: &BoundSocket| Use {
        port: socket.port,
        address: socket.address,
        owner: owners.get(&socket.inode).cloned(),
    };
    Ok(sockets.iter().map(describe).collect())
}

/// All ports for which [`in_use`] would name somebody, in one question to the kernel, and without the look for their
/// owners: for who has many ports to ask about.
///
/// # Errors
/// The kernel cannot be asked.
pub fn ports_in_use(protocol: Protocol, at: impl Into<HostAddresses>) -> io::Result<BTreeSet<u16>> {
    let at = at.into();
    let sockets = sockets(protocol, &(0..=u16::MAX))?;
    let sockets = sockets.iter().filter(|socket| socket.inode != 0 && socket.receives_at(at));
    Ok(sockets.map(|socket| socket.port).collect())
}

/// Who uses a port of the host: the first of [`in_use`] that can be named.
///
/// # Errors
/// The kernel cannot be asked.
pub fn owner_of(protocol: Protocol, at: impl Into<HostAddresses>, port: u16) -> io::Result<Option<Owner>> {
    Ok(in_use(protocol, at, port..=port)?.into_iter().find_map(|one| one.owner))
}

/// The sockets of a protocol with a port of `ports`. A protocol that the kernel does not have has none.
fn sockets(protocol: Protocol, ports: &RangeInclusive<u16>) -> io::Result<Vec<BoundSocket>> {
    if let Some(sockets) = sock_diag::list(protocol.number(), ports)? {
        return Ok(sockets);
    }
    let sockets = match protocol {
        Protocol::Tcp => proc_net::list("tcp")?,
        Protocol::Udp => proc_net::list("udp")?,
        Protocol::Sctp => None,
    };
    Ok(sockets.unwrap_or_default())
}

/// The host's ports as NAT and the commands about published ports see them. For any thread.
///
/// It begins before there is a classifier: connections that outlived the last daemon have ports. What is taken until the
/// ports are shared ([`HostPorts::share`]) is told to the kernel then.
#[derive(Debug)]
pub struct HostPorts {
    shared: OnceLock<SharedPorts>,
    /// A bit for each kind of flow and family, as in [`SharedPorts`]: the sockets that were listed last.
    listed: Box<[AtomicU8]>,
    /// The same: what NAT has.
    taken: Box<[AtomicU8]>,
    /// How many ports that is.
    taken_count: AtomicUsize,
    /// The range that the kernel chooses from and NAT keeps off: the first port in the upper half, the last one below.
    kernel: AtomicU32,
    control: Mutex<Control>,
}

/// What only the control plane uses.
#[derive(Debug)]
struct Control {
    division: Division,
    published: Vec<Published>,
    /// While the ports are shared.
    sharing: Option<Sharing>,
    /// Whether what is published and NAT's is kept from the kernel.
    settled: bool,
    /// When listing sockets is worth its time again.
    not_before: Option<Instant>,
    /// What was said already.
    told: BTreeSet<&'static str>,
}

/// What keeps the host's programs and the kernel off the switch's ports.
#[derive(Debug)]
struct Sharing {
    reserved: ReservedPorts,
    /// None where the kernel has no such hook.
    reservation: Option<Reservation>,
    held: HeldPorts,
}

impl HostPorts {
    /// Looks at the ports of the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel cannot be asked for its ports.
    pub fn new() -> io::Result<Self> {
        let division = ephemeral::divide(ephemeral::range()?);
        let nothing = || (0..=u16::MAX).map(|_| AtomicU8::new(0)).collect();
        let ports = Self {
            shared: OnceLock::new(),
            listed: nothing(),
            taken: nothing(),
            taken_count: AtomicUsize::new(0),
            kernel: AtomicU32::new(packed(&division.kernel)),
            control: Mutex::new(Control {
                division,
                published: Vec::new(),
                sharing: None,
                settled: false,
                not_before: None,
                told: BTreeSet::new(),
            }),
        };
        ports.list()?;
        Ok(ports)
    }

    /// Begins to share the ports, if that has not begun: what the switch has is reserved from now on, and what the
    /// host's programs bind is noted. What the kernel must not choose itself follows with [`HostPorts::set_published`]
    /// or [`HostPorts::settle`]. `state_dir` is where it is written down what is to be put back. There is one
    /// classifier, the same every time.
    ///
    /// # Errors
    /// The kernel cannot be asked, or the state directory not be read.
    pub fn share(&self, classifier: &mut Classifier, state_dir: &Path) -> io::Result<()> {
        let mut control = self.control();
        if control.sharing.is_some() {
            return Ok(());
        }
        let (boot_id, netns_cookie) = identity::of_host()?;
        let reserved = ReservedPorts::open(state_dir, Whose { boot_id, netns_cookie })?;
        let reservation = reserve(classifier, netns_cookie)
            .inspect_err(|why| {
                if control.told.insert("reservation") {
                    let most = held::HELD_MAX;
                    tracing::warn!(
                        %why,
                        "programs of the host can have ports of the switch, but for {most} published ones that are held"
                    );
                }
            })
            .ok();
        control.sharing = Some(Sharing { reserved, reservation, held: HeldPorts::default() });
        control.settled = false;
        drop(control);
        let shared = self.shared.get_or_init(|| classifier.ports());
        self.tell(shared);
        // From here on what is bound is noted; what was bound before is listed.
        self.list()
    }

    /// Tells the kernel what was taken before it could be told.
    fn tell(&self, shared: &SharedPorts) {
        // Whoever takes a port from here on sees that the ports are shared, or is seen here.
        fence(Ordering::SeqCst);
        for (port, taken) in (0..=u16::MAX).zip(&self.taken) {
            if taken.load(Ordering::SeqCst) == 0 {
                continue;
            }
            for (flow, ipv6) in Flow::ALL.into_iter().flat_map(|flow| [(flow, false), (flow, true)]) {
                let is_taken = || taken.load(Ordering::SeqCst) & bit(flow, ipv6) != 0;
                if is_taken() {
                    shared.translated().set(flow, ipv6, port);
                    if !is_taken() {
                        shared.translated().clear(flow, ipv6, port);
                    }
                }
            }
        }
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what is published now, so that it stays so: the classifier, which has been told before, keeps programs from
    /// binding it, and this the kernel from choosing it.
    ///
    /// # Errors
    /// The kernel's list of reserved ports cannot be changed. The rest is done.
    pub fn set_published(&self, published: Vec<Published>) -> io::Result<()> {
        let mut control = self.control();
        if published != control.published {
            control.settled = false;
            control.published = published;
        }
        control.settle()
    }

    /// Does what [`HostPorts::set_published`] does for what it was told last, where that is not done yet: the ports are
    /// shared only now, or something was refused.
    ///
    /// # Errors
    /// As there.
    pub fn settle(&self) -> io::Result<()> {
        self.control().settle()
    }

    /// Whether the ports are shared now.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.control().sharing.is_some()
    }

    /// Whether NAT has ports, so that [`HostPorts::refresh`] is due every second.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.taken_count.load(Ordering::Relaxed) > 0
    }

    /// Looks again at the host's sockets and at the range of ports that the kernel chooses from. On a host with very
    /// many sockets that is left out now and then, so that it takes a twentieth of the time at most.
    ///
    /// # Errors
    /// The kernel cannot be asked, or its list of reserved ports not be changed. What was known is known still.
    pub fn refresh(&self) -> io::Result<()> {
        let begun = Instant::now();
        let range = ephemeral::range()?;
        let mut control = self.control();
        if control.not_before.is_some_and(|not_before| begun < not_before) {
            return Ok(());
        }
        if range != control.division.range {
            control.division = ephemeral::divide(range);
            self.kernel.store(packed(&control.division.kernel), Ordering::Release);
            control.told.remove("division");
            control.settled = false;
            control.settle()?;
        }
        drop(control);
        self.list()?;
        self.control().not_before = Some(begun + begun.elapsed() * REFRESH_SHARE);
        Ok(())
    }

    /// Lists the sockets of the host.
    fn list(&self) -> io::Result<()> {
        // Whoever binds a port from here on is in the list, or noted by the kernel, or both.
        let noted = self.shared.get().map(|shared| (shared, shared.bound()));
        let mut bits = vec![0u8; 1 << 16];
        let mut note = |flow: Flow, socket: &BoundSocket| {
            for ipv6 in socket.families() {
                bits[usize::from(socket.port)] |= bit(flow, ipv6);
            }
        };
        for protocol in Protocol::ALL {
            for socket in sockets(protocol, &(0..=u16::MAX))? {
                note(protocol.flow(), &socket);
            }
        }
        // In place of a port they have the identifier.
        for socket in proc_net::list("icmp")?.unwrap_or_default() {
            note(Flow::Icmp, &socket);
        }
        for (listed, bits) in self.listed.iter().zip(bits) {
            listed.store(bits, Ordering::Release);
        }
        if let Some((shared, noted)) = noted {
            shared.forget_bound(&noted);
        }
        Ok(())
    }

    /// Leaves all ports to the host again, and puts back what would outlive the process. They can be shared anew.
    ///
    /// # Errors
    /// The kernel's list of reserved ports cannot be put back.
    pub fn give_back(&self) -> io::Result<()> {
        let mut control = self.control();
        control.published.clear();
        match control.sharing.take() {
            Some(mut sharing) => sharing.reserved.set(&PortSet::default()),
            None => Ok(()),
        }
    }
}

impl Control {
    fn settle(&mut self) -> io::Result<()> {
        if self.sharing.is_none() || self.settled {
            return Ok(());
        }
        self.hold();
        self.reserve_ephemeral()?;
        self.settled = true;
        Ok(())
    }

    /// Makes the kernel keep off what is published or NAT's in the range that it chooses from.
    fn reserve_ephemeral(&mut self) -> io::Result<()> {
        let Some(sharing) = &mut self.sharing else { return Ok(()) };
        let range: PortSet = [self.division.range.clone()].into_iter().collect();
        let published: PortSet = self.published.iter().map(|one| one.ports.clone()).collect();
        let mut wanted = published.intersection(&range);
        if let Some(nat) = &self.division.nat {
            wanted.insert(nat.clone());
            if self.told.insert("division") {
                tracing::warn!(
                    range = ?self.division.range,
                    reserved = ?nat,
                    "net.ipv4.ip_local_port_range leaves few ports for NAT, which gets the upper half of it"
                );
            }
        }
        sharing.reserved.set(&wanted)
    }

    /// Holds by sockets what is not reserved otherwise.
    fn hold(&mut self) {
        let Some(sharing) = &mut self.sharing else { return };
        let all = sharing.reservation.is_none();
        let (missing, why) =
            sharing.held.set(self.published.iter().filter(|one| all || one.protocol == Protocol::Sctp));
        match why {
            Some(why) if self.told.insert("held") => {
                tracing::warn!(ports = missing, %why, "published ports are not reserved against programs of the host");
            }
            Some(_) => {}
            None => {
                self.told.remove("held");
            }
        }
    }
}

impl ExternalPorts for HostPorts {
    fn is_free(&self, flow: Flow, ipv6: bool, port: u16) -> bool {
        let kernel = self.kernel.load(Ordering::Relaxed);
        let chosen_from = (kernel >> 16) as u16..=kernel as u16;
        let is_shared = |shared: &SharedPorts| shared.is_bound(flow, ipv6, port) || shared.is_served(flow, ipv6, port);
        port != 0
            && self.listed[usize::from(port)].load(Ordering::Acquire) & bit(flow, ipv6) == 0
            && (flow == Flow::Icmp || !chosen_from.contains(&port))
            && !self.shared.get().is_some_and(is_shared)
    }

    fn take(&self, flow: Flow, ipv6: bool, port: u16) {
        let bit = bit(flow, ipv6);
        if self.taken[usize::from(port)].fetch_or(bit, Ordering::SeqCst) & bit == 0 {
            self.taken_count.fetch_add(1, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
        if let Some(shared) = self.shared.get() {
            shared.translated().set(flow, ipv6, port);
        }
    }

    fn release(&self, flow: Flow, ipv6: bool, port: u16) {
        let bit = bit(flow, ipv6);
        if self.taken[usize::from(port)].fetch_and(!bit, Ordering::SeqCst) & bit != 0 {
            self.taken_count.fetch_sub(1, Ordering::Relaxed);
        }
        if let Some(shared) = self.shared.get() {
            shared.translated().clear(flow, ipv6, port);
        }
    }
}

fn reserve(classifier: &mut Classifier, netns: Option<u64>) -> Result<Reservation, String> {
    let netns = netns.ok_or("this kernel has no cookies for network namespaces (5.14 is needed)")?;
    let root = cgroup::open_root().map_err(|error| error.to_string())?;
    let reservation = classifier.reserve_ports(root.as_fd(), netns).map_err(|error| error.to_string())?;
    if cgroup::sees_only_a_part() {
        tracing::info!("ports are reserved only against programs in this cgroup namespace");
    }
    Ok(reservation)
}

/// Puts back what an earlier process, which was killed, has left of its reserved ports; for a start that needs none.
///
/// # Errors
/// The state directory cannot be read, or the kernel's list of reserved ports not be changed.
pub fn put_back(state_dir: &Path) -> io::Result<()> {
    let (boot_id, netns_cookie) = identity::of_host()?;
    ReservedPorts::open(state_dir, Whose { boot_id, netns_cookie })?.set(&PortSet::default())
}

/// The order is that of [`Flow`], IPv6 in the upper half.
fn bit(flow: Flow, ipv6: bool) -> u8 {
    1 << (flow as u8 + if ipv6 { 4 } else { 0 })
}

fn packed(range: &RangeInclusive<u16>) -> u32 {
    u32::from(*range.start()) << 16 | u32::from(*range.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(address: &str, both: bool) -> BoundSocket {
        BoundSocket { port: 80, address: address.parse().expect("an address"), both, inode: 1 }
    }

    #[test]
    fn wildcards_of_both_kinds_meet_everything_of_their_families() {
        use HostAddresses::{All, AllIpv4, AllIpv6, One};
        let one = |text: &str| One(text.parse().expect("an address"));
        let at = [All, AllIpv4, AllIpv6, one("192.0.2.1"), one("127.0.0.1"), one("2001:db8::1")];
        for (address, both, expected) in [
            ("0.0.0.0", false, [true, true, false, true, true, false]),
            ("::", true, [true, true, true, true, true, true]),
            ("::", false, [true, false, true, false, false, true]),
            ("192.0.2.1", false, [true, true, false, true, false, false]),
            ("127.0.0.1", false, [true, true, false, false, true, false]),
            ("2001:db8::1", false, [true, false, true, false, false, true]),
        ] {
            assert_eq!(at.map(|at| socket(address, both).receives_at(at)), expected, "{address} {both}");
        }
    }

    #[test]
    fn a_listener_is_found_with_its_owner() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let ports = address.port()..=address.port();
        let us = std::process::id();
        let owner = owner_of(Protocol::Tcp, Some(address.ip()), address.port()).expect("the kernel answers");
        assert_eq!(owner.map(|owner| owner.pid), Some(us));
        for at in [HostAddresses::All, HostAddresses::AllIpv4, HostAddresses::One(address.ip())] {
            let found = in_use(Protocol::Tcp, at, ports.clone()).expect("the kernel answers");
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(ports_in_use(Protocol::Tcp, at).expect("the kernel answers").contains(&address.port()));
            assert!(found[0].to_string().ends_with(&format!("(process {us}), at 127.0.0.1")), "{}", found[0]);
        }
        for at in [HostAddresses::AllIpv6, HostAddresses::One("127.0.0.2".parse().expect("an address"))] {
            assert_eq!(in_use(Protocol::Tcp, at, ports.clone()).expect("the kernel answers"), []);
            assert!(!ports_in_use(Protocol::Tcp, at).expect("the kernel answers").contains(&address.port()));
        }
        assert_eq!(in_use(Protocol::Udp, None, ports.clone()).expect("the kernel answers"), []);
        drop(listener);
        assert_eq!(in_use(Protocol::Tcp, None, ports).expect("the kernel answers"), []);
    }

    #[test]
    fn a_range_is_packed_and_unpacked() {
        for range in [32768..=60999, 0..=0, 1..=65535] {
            let packed = packed(&range);
            assert_eq!((packed >> 16) as u16..=packed as u16, range);
        }
    }
}
