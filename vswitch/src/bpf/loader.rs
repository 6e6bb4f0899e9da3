//! Loads the programs and fills their maps.

use std::collections::BTreeSet;
use std::error::Error;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex};

use aya::maps::{HashMap, Map, MapData, PerCpuArray, XskMap};
use aya::programs::{ProgramError, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use rustix::process::{Resource, Rlimit};

use super::counters::Counter;
use super::error::ClassifierError;
use super::ports::{PortBits, TranslatedPorts};
use super::service::{Protocol, Service, ServiceKey, Services, address_key};
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
}

impl Program {
    /// Those that tc runs.
    pub(super) const TC: [Self; 3] = [Self::Tc, Self::Out, Self::L2];

    /// Its name, in the object and in the kernel.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tc => "vswitch_tc",
            Self::Xdp => "vswitch_xdp",
            Self::Out => "vswitch_out",
            Self::L2 => "vswitch_l2",
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
    services_map: HashMap<MapData, ServiceKey, u32>,
    service_ports: PortBits,
    services: Services,
    translated: TranslatedPorts,
    counters: PerCpuArray<MapData, u64>,
    pub(super) targets: Targets,
    pub(super) socket_places: Targets,
    pub(super) sockets: Arc<Mutex<SocketMap>>,
    /// Which places of the socket map are given away.
    pub(super) places: Vec<(u32, u32)>,
}

impl std::fmt::Debug for Classifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { addresses, services, places, .. } = self;
        f.debug_struct("Classifier")
            .field("addresses", addresses)
            .field("services", services)
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
            PortBits::map(data).map_err(|error| ClassifierError::refused(what(), &error))
        };
        let map_error = |name: &str, error: &(dyn Error + 'static)| refused(&format!("use the map {name}"), error);
        Ok(Self {
            local_addresses: HashMap::try_from(take(&mut ebpf, "local_addresses")?)
                .map_err(|error| map_error("local_addresses", &error))?,
            addresses: BTreeSet::new(),
            services_map: HashMap::try_from(take(&mut ebpf, "services")?)
                .map_err(|error| map_error("services", &error))?,
            service_ports: bits(&mut ebpf, "service_ports")?,
            services: Services::default(),
            translated: TranslatedPorts(Arc::new(bits(&mut ebpf, "translated")?)),
            counters: PerCpuArray::try_from(take(&mut ebpf, "counters")?)
                .map_err(|error| map_error("counters", &error))?,
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

    /// Takes packets to `port` of `address` (`None`: any of the host's) from now on. Doing it twice changes nothing.
    ///
    /// # Errors
    /// [`ClassifierError::PortTaken`] if a tunnel has the port.
    pub fn publish(&mut self, protocol: Protocol, address: Option<IpAddr>, port: u16) -> Result<()> {
        self.serve(protocol, address, port, Counter::Published)
    }

    /// Leaves them to the host again. What was not published stays as it is.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn unpublish(&mut self, protocol: Protocol, address: Option<IpAddr>, port: u16) -> Result<()> {
        self.withdraw(Service::each(protocol, address, port), Counter::Published)
    }

    /// Says at which UDP ports, of which address (`None`: any of the host's), tunnels receive now.
    ///
    /// # Errors
    /// [`ClassifierError::PortTaken`] if one of them is published; then nothing changes.
    pub fn set_vxlan_ports(&mut self, ports: impl IntoIterator<Item = (Option<IpAddr>, u16)>) -> Result<()> {
        let wanted: Vec<(Option<IpAddr>, u16)> = ports.into_iter().collect();
        let keep: BTreeSet<Service> =
            wanted.iter().flat_map(|(address, port)| Service::each(Protocol::Udp, *address, *port)).collect();
        for service in &keep {
            self.services.is_new(service, Counter::Vxlan)?;
        }
        for &(address, port) in &wanted {
            self.serve(Protocol::Udp, address, port, Counter::Vxlan)?;
        }
        let gone = self.services.with_rule(Counter::Vxlan).into_iter().filter(|service| !keep.contains(service));
        self.withdraw(gone.collect::<Vec<_>>(), Counter::Vxlan)
    }

    fn serve(&mut self, protocol: Protocol, address: Option<IpAddr>, port: u16, rule: Counter) -> Result<()> {
        let mut new = Vec::new();
        for service in Service::each(protocol, address, port) {
            if self.services.is_new(&service, rule)? {
                new.push(service);
            }
        }
        for service in new {
            self.services_map
                .insert(service.key(), rule as u32, 0)
                .map_err(|error| ClassifierError::refused(format!("take {service}"), &error))?;
            self.services.insert(service, rule);
            let (port, bits) = service.filter();
            self.service_ports.set(port, bits);
        }
        Ok(())
    }

    fn withdraw(&mut self, services: impl IntoIterator<Item = Service>, rule: Counter) -> Result<()> {
        for service in services {
            if !self.services.has(&service, rule) {
                continue;
            }
            self.services_map
                .remove(&service.key())
                .map_err(|error| ClassifierError::refused(format!("give back {service}"), &error))?;
            if self.services.remove(&service) {
                let (port, bits) = service.filter();
                self.service_ports.clear(port, bits);
            }
        }
        Ok(())
    }

    /// The ports and identifiers of translated flows, for whoever translates.
    #[must_use]
    pub fn translated(&self) -> TranslatedPorts {
        self.translated.clone()
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

    /// Makes all fragments that were taken older by `by`, for tests that cannot wait for time to pass.
    ///
    /// # Errors
    /// When the kernel refuses.
    #[doc(hidden)]
    pub fn age_fragments(&mut self, by: std::time::Duration) -> Result<()> {
        let refused = |error: &(dyn Error + 'static)| ClassifierError::refused("age the taken fragments", error);
        let map = self.ebpf.map_mut("fragments").ok_or_else(|| wrong_map("fragments"))?;
        let mut map: HashMap<_, [u8; 40], u64> = HashMap::try_from(map).map_err(|error| refused(&error))?;
        let entries: Vec<_> = map.iter().flatten().collect();
        for (key, taken) in entries {
            map.insert(key, taken.saturating_sub(by.as_nanos() as u64), 0).map_err(|error| refused(&error))?;
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
        Program::Tc | Program::Out | Program::L2 => <&mut SchedClassifier>::try_from(found)?.load(),
    }
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
