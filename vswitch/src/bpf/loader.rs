//! Loads the programs and fills their maps.

use std::collections::BTreeSet;
use std::error::Error;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, XskMap};
use aya::programs::{CgroupSock, ProgramError, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use ipnet::IpNet;
use rustix::process::{Resource, Rlimit};

use super::counters::Counter;
use super::error::ClassifierError;
use super::ports::{PortBits, SharedPorts, TranslatedPorts, bit};
use super::rear::Watch;
use super::service::{self, BlockKey, BlockValue, HostAddresses, Protocol, Services, address_key};
use super::{OBJECT, Result};

/// The programs in the object. The names are how they are recognized as ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// On a shared uplink's ingress.
    Tc,
    /// The same, for AF_XDP.
    Xdp,
    /// On the carry TAP's ingress: what the switch sends.
    Out,
    /// On both ends of an L2 uplink.
    L2,
    /// On the ingress of the host's loopback interface.
    Lo,
    /// On the ingress of the TAP that carries its packets.
    LoOut,
    /// Behind the classifier on a shared uplink: the rear guard.
    Rear,
    /// The same on the host's loopback interface.
    LoRear,
    /// On a cgroup: IPv4 sockets that are bound to a port.
    Bind4,
    /// On a cgroup: IPv6 sockets that are bound to a port.
    Bind6,
}

impl Program {
    /// Those that tc runs while there is a process.
    pub(super) const TC: [Self; 5] = [Self::Tc, Self::Out, Self::L2, Self::Lo, Self::LoOut];
    /// Those that it runs afterwards, too.
    pub(super) const REAR: [Self; 2] = [Self::Rear, Self::LoRear];

    /// Its name, in the object and in the kernel.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tc => "vswitch_tc",
            Self::Xdp => "vswitch_xdp",
            Self::Out => "vswitch_out",
            Self::L2 => "vswitch_l2",
            Self::Lo => "vswitch_lo",
            Self::LoOut => "vswitch_lo_out",
            Self::Rear => "vswitch_rear",
            Self::LoRear => "vswitch_lo_rear",
            Self::Bind4 => "vswitch_bind4",
            Self::Bind6 => "vswitch_bind6",
        }
    }
}

/// Interfaces' indices, and where their packets go.
pub(super) type Targets = Arc<Mutex<HashMap<MapData, u32, u32>>>;

/// The programs, loaded, and their maps.
///
/// One for all uplinks. Nothing is taken until it is attached to an interface, and nothing after it and all of its
/// attachments are dropped.
pub struct Classifier {
    pub(super) ebpf: Ebpf,
    local_addresses: HashMap<MapData, [u8; 16], u32>,
    addresses: BTreeSet<IpAddr>,
    published: Arc<PortBits>,
    published_at_one: Arc<PortBits>,
    bound: Arc<PortBits>,
    services_map: HashMap<MapData, BlockKey, BlockValue>,
    service_ports: Arc<PortBits>,
    services: Services,
    routed_map: LpmTrie<MapData, [u8; 16], u32>,
    routed_count: Array<MapData, u32>,
    routed: BTreeSet<IpNet>,
    translated: TranslatedPorts,
    counters: PerCpuArray<MapData, u64>,
    /// `struct withholding` by the interface's index.
    withholding: HashMap<MapData, u32, [u8; 16]>,
    pub(super) watch: Arc<Watch>,
    pub(super) targets: Targets,
    pub(super) socket_places: Targets,
    pub(super) sockets: Arc<Mutex<SocketMap>>,
    /// Which places of the socket map are given away.
    pub(super) places: Vec<(u32, u32)>,
}

impl std::fmt::Debug for Classifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { addresses, services, routed, places, .. } = self;
        f.debug_struct("Classifier")
            .field("addresses", addresses)
            .field("services", services)
            .field("routed", routed)
            .field("places", places)
            .finish_non_exhaustive()
    }
}

/// The map of AF_XDP sockets; aya's type has no `Debug`.
pub(super) struct SocketMap(pub(super) XskMap<MapData>);

impl std::fmt::Debug for SocketMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SocketMap").field(&self.0.len()).finish()
    }
}

impl Classifier {
    /// Loads the maps into the kernel; programs follow when they are attached.
    ///
    /// # Errors
    /// Without `CAP_BPF`, or where the kernel is too old: arrays shared with user space need 5.5.
    pub fn load() -> Result<Self> {
        raise_memlock();
        let refused = |what: &str, error: &(dyn Error + 'static)| ClassifierError::refused(what, error);
        let mut ebpf = EbpfLoader::new()
            // Asked for only after a refusal; the way to the instruction that is refused is enough.
            .verifier_log_level(VerifierLogLevel::DEBUG)
            .load(OBJECT)
            .map_err(|error| refused("load the uplink classifier", &error))?;
        let bits = |ebpf: &mut Ebpf, name: &str| {
            let Map::Array(data) = take(ebpf, name)? else { return Err(wrong_map(name)) };
            let what = || format!("map the array {name} of the uplink classifier");
            PortBits::map(data).map(Arc::new).map_err(|error| ClassifierError::refused(what(), &error))
        };
        let map_error = |name: &str, error: &(dyn Error + 'static)| refused(&format!("use the map {name}"), error);
        Ok(Self {
            local_addresses: HashMap::try_from(take(&mut ebpf, "local_addresses")?)
                .map_err(|error| map_error("local_addresses", &error))?,
            addresses: BTreeSet::new(),
            published: bits(&mut ebpf, "published")?,
            published_at_one: bits(&mut ebpf, "published_at_one")?,
            bound: bits(&mut ebpf, "bound")?,
            services_map: HashMap::try_from(take(&mut ebpf, "services")?)
                .map_err(|error| map_error("services", &error))?,
            service_ports: bits(&mut ebpf, "service_ports")?,
            services: Services::default(),
            routed_map: LpmTrie::try_from(take(&mut ebpf, "routed")?).map_err(|error| map_error("routed", &error))?,
            routed_count: Array::try_from(take(&mut ebpf, "routed_count")?)
                .map_err(|error| map_error("routed_count", &error))?,
            routed: BTreeSet::new(),
            translated: TranslatedPorts(bits(&mut ebpf, "translated")?),
            counters: PerCpuArray::try_from(take(&mut ebpf, "counters")?)
                .map_err(|error| map_error("counters", &error))?,
            withholding: HashMap::try_from(take(&mut ebpf, "withholding")?)
                .map_err(|error| map_error("withholding", &error))?,
            watch: Arc::new(Watch::new(take(&mut ebpf, "rear_watch")?)?),
            targets: Arc::new(Mutex::new(
                HashMap::try_from(take(&mut ebpf, "targets")?).map_err(|error| map_error("targets", &error))?,
            )),
            socket_places: Arc::new(Mutex::new(
                HashMap::try_from(take(&mut ebpf, "socket_places")?)
                    .map_err(|error| map_error("socket_places", &error))?,
            )),
            sockets: Arc::new(Mutex::new(SocketMap(
                XskMap::try_from(take(&mut ebpf, "sockets")?).map_err(|error| map_error("sockets", &error))?,
            ))),
            places: Vec::new(),
            ebpf,
        })
    }

    /// Says which addresses the host has now. Nothing that goes elsewhere is ever taken.
    ///
    /// # Errors
    /// When the kernel has no room; then those that fit are in place.
    pub fn set_local_addresses(&mut self, addresses: impl IntoIterator<Item = IpAddr>) -> Result<()> {
        let wanted: BTreeSet<IpAddr> = addresses.into_iter().collect();
        let refused = |error: &(dyn Error + 'static)| ClassifierError::refused("set the host's addresses", error);
        for gone in self.addresses.difference(&wanted) {
            self.local_addresses.remove(&address_key(*gone)).map_err(|error| refused(&error))?;
        }
        self.addresses.retain(|address| wanted.contains(address));
        for new in wanted {
            if !self.addresses.contains(&new) {
                self.local_addresses.insert(address_key(new), 1, 0).map_err(|error| refused(&error))?;
                self.addresses.insert(new);
            }
        }
        Ok(())
    }

    /// Takes packets to `port` of the host from now on. Doing it twice changes nothing.
    ///
    /// # Errors
    /// [`ClassifierError::PortTaken`] if a tunnel has the port.
    pub fn publish(&mut self, protocol: Protocol, at: impl Into<HostAddresses>, port: u16) -> Result<()> {
        self.publish_range(protocol, at, port..=port)
    }

    /// Leaves them to the host again. What was not published stays as it is.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn unpublish(&mut self, protocol: Protocol, at: impl Into<HostAddresses>, port: u16) -> Result<()> {
        self.unpublish_range(protocol, at, port..=port)
    }

    /// The same as [`Classifier::publish`] for all `ports`, or for none of them.
    ///
    /// # Errors
    /// [`ClassifierError::PortTaken`] if a tunnel has one of them.
    pub fn publish_range(
        &mut self,
        protocol: Protocol,
        at: impl Into<HostAddresses>,
        ports: RangeInclusive<u16>,
    ) -> Result<()> {
        let at = at.into();
        if let HostAddresses::One(address) = at {
            if let Some(port) = self.services.other_rule(protocol, address, &ports, Counter::Published) {
                return Err(service::taken(protocol, address, port));
            }
            return self.serve(protocol, address, &ports, Counter::Published, true);
        }
        for &ipv6 in at.families() {
            if let Some(port) = self.services.other_rule_at_all(protocol, ipv6, &ports, Counter::Published) {
                return Err(service::taken_at_all(protocol, ipv6, port));
            }
        }
        let bits = bits_at(protocol, at);
        ports.for_each(|port| self.published.set(port, bits));
        Ok(())
    }

    /// Takes [`Classifier::publish_range`] back.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn unpublish_range(
        &mut self,
        protocol: Protocol,
        at: impl Into<HostAddresses>,
        ports: RangeInclusive<u16>,
    ) -> Result<()> {
        let at = at.into();
        if let HostAddresses::One(address) = at {
            return self.serve(protocol, address, &ports, Counter::Published, false);
        }
        let bits = bits_at(protocol, at);
        ports.for_each(|port| self.published.clear(port, bits));
        Ok(())
    }

    /// Says at which UDP ports, of which address (`None`: any of the host's), tunnels receive now.
    ///
    /// # Errors
    /// [`ClassifierError::PortTaken`] if one of them is published; then nothing changes.
    pub fn set_vxlan_ports(&mut self, ports: impl IntoIterator<Item = (Option<IpAddr>, u16)>) -> Result<()> {
        let each = |(address, port)| Services::each(address).map(move |address| (Protocol::Udp, address, port));
        let wanted: BTreeSet<(Protocol, IpAddr, u16)> = ports.into_iter().flat_map(each).collect();
        for &(protocol, address, port) in &wanted {
            let published =
                address.is_unspecified() && self.published.get(port) & bit(protocol.flow(), address.is_ipv6()) != 0;
            let other = self.services.other_rule(protocol, address, &(port..=port), Counter::Vxlan);
            if published || other.is_some() {
                return Err(service::taken(protocol, address, port));
            }
        }
        for &(protocol, address, port) in &wanted {
            self.serve(protocol, address, &(port..=port), Counter::Vxlan, true)?;
        }
        for gone in self.services.with_rule(Counter::Vxlan) {
            if !wanted.contains(&gone) {
                let (protocol, address, port) = gone;
                self.serve(protocol, address, &(port..=port), Counter::Vxlan, false)?;
            }
        }
        Ok(())
    }

    /// Gives ports of one address a rule, all of them or none, or takes it from them.
    fn serve(
        &mut self,
        protocol: Protocol,
        address: IpAddr,
        ports: &RangeInclusive<u16>,
        rule: Counter,
        on: bool,
    ) -> Result<()> {
        let change = self.services.set(protocol, address, ports, rule, on);
        if let Err(error) = self.write_blocks(&change.blocks) {
            let before = self.services.undo(&change);
            // Those that were not reached are what they were already.
            let _ = self.write_blocks(&before);
            let what = format!("{} ports {ports:?}/{protocol} of {address}", if on { "take" } else { "give back" });
            return Err(ClassifierError::refused(what, &error));
        }
        for (filter, changed) in [(&self.service_ports, change.filter), (&self.published_at_one, change.published)] {
            for (port, bits, on) in changed {
                if on {
                    filter.set(port, bits);
                } else {
                    filter.clear(port, bits);
                }
            }
        }
        Ok(())
    }

    fn write_blocks(&mut self, blocks: &[(BlockKey, Option<BlockValue>)]) -> std::result::Result<(), MapError> {
        blocks.iter().try_for_each(|(key, value)| match value {
            Some(value) => self.services_map.insert(key, value, 0),
            None => self.services_map.remove(key),
        })
    }

    /// Says which networks are behind the switch and routed to by others, with their containers' own addresses. What
    /// comes for an address in there, other than the host's own, is taken whatever it is.
    ///
    /// # Errors
    /// When the kernel has no room; then those that fit are in place.
    pub fn set_routed_networks(&mut self, networks: impl IntoIterator<Item = IpNet>) -> Result<()> {
        let refused =
            |error: &(dyn Error + 'static)| ClassifierError::refused("set the networks behind the switch", error);
        let wanted: BTreeSet<IpNet> = networks.into_iter().map(|network| network.trunc()).collect();
        for gone in self.routed.difference(&wanted) {
            self.routed_map.remove(&network_key(gone)).map_err(|error| refused(&error))?;
        }
        self.routed.retain(|network| wanted.contains(network));
        for new in wanted {
            if !self.routed.contains(&new) {
                self.routed_map.insert(&network_key(&new), 1, 0).map_err(|error| refused(&error))?;
                self.routed.insert(new);
            }
        }
        self.routed_count.set(0, self.routed.len() as u32, 0).map_err(|error| refused(&error))
    }

    /// Has the switch wait, from now on, for the first fragment of packets of which later ones overtake it at a shared
    /// uplink, with as many fragments in a 32nd of a second at most; the others are left to the host. Whoever reads them marks those
    /// that are the host's as they were marked ([`has_group_source`](crate::wire::ethernet::has_group_source)), and writes
    /// them to the TAP that is joined to the interface.
    ///
    /// # Errors
    /// When the kernel has no room.
    pub fn withhold_fragments(&mut self, interface_index: u32, per_window: u32) -> Result<()> {
        let mut value = [0; 16];
        value[12..].copy_from_slice(&per_window.to_ne_bytes());
        self.withholding.insert(interface_index, value, 0).map_err(|error| {
            ClassifierError::refused(format!("withhold fragments at interface {interface_index}"), &error)
        })
    }

    /// Takes [`Classifier::withhold_fragments`] back. What the interface has of it is forgotten.
    pub fn pass_fragments(&mut self, interface_index: u32) {
        // There may be none.
        let _ = self.withholding.remove(&interface_index);
    }

    /// The ports and identifiers of translated flows, for whoever translates.
    #[must_use]
    pub fn translated(&self) -> TranslatedPorts {
        self.translated.clone()
    }

    /// The ports that are the switch's, and those that the host's programs have bound.
    #[must_use]
    pub fn ports(&self) -> SharedPorts {
        SharedPorts {
            published: Arc::clone(&self.published),
            services: Arc::clone(&self.service_ports),
            bound: Arc::clone(&self.bound),
            translated: self.translated(),
        }
    }

    /// What the programs have counted since they were loaded, over all CPUs and interfaces.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn counters(&self) -> Result<Vec<(Counter, u64)>> {
        let read = |counter: Counter| {
            let values = self.counters.get(&(counter as u32), 0);
            let values = values.map_err(|error| ClassifierError::refused("read the uplink's counters", &error))?;
            Ok((counter, values.iter().sum()))
        };
        Counter::ALL.iter().copied().map(read).collect()
    }

    /// Makes all that is known of fragments older by `by`, for tests that cannot wait for time to pass.
    ///
    /// # Errors
    /// When the kernel refuses.
    #[doc(hidden)]
    pub fn age_fragments(&mut self, by: std::time::Duration) -> Result<()> {
        let refused = |error: &(dyn Error + 'static)| ClassifierError::refused("age the fragments", error);
        let older = |time: u64| time.saturating_sub(by.as_nanos() as u64);
        let map = self.ebpf.map_mut("fragments").ok_or_else(|| wrong_map("fragments"))?;
        let mut map: HashMap<_, [u8; 40], u64> = HashMap::try_from(map).map_err(|error| refused(&error))?;
        let entries: Vec<_> = map.iter().flatten().collect();
        for (key, taken) in entries {
            map.insert(key, older(taken), 0).map_err(|error| refused(&error))?;
        }
        let map = self.ebpf.map_mut("host_fragments").ok_or_else(|| wrong_map("host_fragments"))?;
        let mut map: HashMap<_, [u8; 40], [u64; 2]> = HashMap::try_from(map).map_err(|error| refused(&error))?;
        let entries: Vec<_> = map.iter().flatten().collect();
        for (key, [since, is_hosts]) in entries {
            map.insert(key, [older(since), is_hosts], 0).map_err(|error| refused(&error))?;
        }
        Ok(())
    }

    /// Loads `program`, unless it is loaded.
    ///
    /// # Errors
    /// When the verifier refuses, or the kernel is too old.
    pub fn load_program(&mut self, program: Program) -> Result<()> {
        let found = self.ebpf.program_mut(program.name()).ok_or_else(|| wrong_map(program.name()))?;
        if found.fd().is_ok() {
            return Ok(());
        }
        load_into_kernel(found, program).map_err(|error| {
            let what = format!("load the program {}", program.name());
            ClassifierError::refused(what, &error)
        })
    }

    /// The descriptor of a loaded program, to run it by hand (`BPF_PROG_TEST_RUN`).
    ///
    /// # Errors
    /// As [`Classifier::load_program`].
    pub fn program_fd(&mut self, program: Program) -> Result<BorrowedFd<'_>> {
        self.load_program(program)?;
        let found = self.ebpf.program(program.name()).ok_or_else(|| wrong_map(program.name()))?;
        let fd = found.fd().map_err(|error| ClassifierError::refused("find a loaded program", &error))?;
        Ok(fd.as_fd())
    }
}

fn load_into_kernel(found: &mut aya::programs::Program, program: Program) -> std::result::Result<(), ProgramError> {
    match program {
        Program::Xdp => <&mut Xdp>::try_from(found)?.load(),
        Program::Bind4 | Program::Bind6 => <&mut CgroupSock>::try_from(found)?.load(),
        // tc's.
        _ => <&mut SchedClassifier>::try_from(found)?.load(),
    }
}

/// `struct network`.
fn network_key(network: &IpNet) -> Key<[u8; 16]> {
    let mapped = if network.addr().is_ipv4() { 96 } else { 0 };
    Key::new(mapped + u32::from(network.prefix_len()), address_key(network.addr()))
}

fn take(ebpf: &mut Ebpf, name: &str) -> Result<Map> {
    ebpf.take_map(name).ok_or_else(|| wrong_map(name))
}

/// What cannot be: the object and this file belong together.
pub(super) fn wrong_map(name: &str) -> ClassifierError {
    ClassifierError::refused(
        format!("find {name} in the compiled classifier"),
        &std::io::Error::other("it is not there"),
    )
}

/// Kernels before 5.11 count maps as locked memory, of which a process may have 64 KB.
fn raise_memlock() {
    // A refusal shows when a map is made.
    let _ = rustix::process::setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None });
}

/// The bits of a port that is published at all addresses of a family, or of both.
fn bits_at(protocol: Protocol, at: HostAddresses) -> u8 {
    at.families().iter().fold(0, |bits, &ipv6| bits | bit(protocol.flow(), ipv6))
}
