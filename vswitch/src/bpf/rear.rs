//! The rear guard: keeps the switch's packets from the host while no switch is there to take them.
//!
//! Theory of operation. Links and sockets end with the process, and with them the classifier. From then on the host's
//! stack sees packets of connections that it knows nothing of, and answers them with a reset or with an ICMP error:
//! the connections would be over before the next daemon goes on with them. So a filter stands behind the classifier,
//! on the interface's clsact hook, which outlives the process, and the maps with it. By the same rules it drops what the
//! classifier would have taken, and says nothing: to a peer these packets are lost, and it sends them again.
//!
//! It stands until a *deadline*, in a map, which a living daemon keeps moving on ([`Classifier::stand_until`]). Whatever
//! becomes of the daemon, the host has all of its packets back when that has passed. Before its first deadline a guard
//! is none.
//!
//! *Relief.* A new daemon has new maps, which are filled bit by bit, and its guard stands beside the old one until
//! everything is in place; then it sets its first deadline, and removes the old guard ([`relieve`]). The filters are
//! known by their programs' names and by their numbers, which say whose they are: several daemons may share an
//! interface.
//!
//! While a daemon lives, its classifier marks what it passes, and its guard goes by that: to the host's packets it costs
//! the way through the hook. XDP has no place for a mark; there the guard looks at each packet a second time.

use std::error::Error;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aya::maps::{Array, Map, MapData};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcAttachType, qdisc_add_clsact};
use aya::programs::{Link, ProgramError, SchedClassifier};

use super::error::ClassifierError;
use super::loader::{Classifier, Program, wrong_map};
use super::programs::delete_clsact_if_empty;
use super::{Result, sys};
use crate::control::netlink::{Filter, Netlink};

/// The place of the filter among those of others: before the ones that ask for none (49152 and below), and a number
/// that nobody else has in mind, since what somebody attaches at the same place could replace it. 'vs'.
const PRIORITY: u16 = 0x7673;
/// A filter's number: this bit, its owner's number, and eight bits to tell an owner's filters apart.
const HANDLE: u32 = 1 << 30;
const OWNER_BITS: u32 = 22;

/// Whose guard it is, among the daemons of one host: the lower 22 bits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuardOwner(pub u32);

impl GuardOwner {
    fn first_handle(self) -> u32 {
        HANDLE | (self.0 & ((1 << OWNER_BITS) - 1)) << 8
    }

    fn owns(self, filter: &Filter) -> bool {
        let is_guard = Program::REAR.iter().any(|program| filter.name.as_deref() == Some(program.name()));
        is_guard && filter.handle & !0xff == self.first_handle()
    }
}

/// What the guards of one classifier have in common.
pub(super) struct Watch {
    /// `struct watch`.
    value: Mutex<Array<MapData, [u8; 16]>>,
    /// What the classifier marks packets with.
    mark: u32,
    /// Whether guards stay when they are dropped.
    left: AtomicBool,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { value: _, mark, left } = self;
        f.debug_struct("Watch").field("mark", mark).field("left", left).finish_non_exhaustive()
    }
}

impl Watch {
    pub(super) fn new(map: Map) -> Result<Self> {
        let refused = |error: &(dyn Error + 'static)| ClassifierError::refused("use the map rear_watch", error);
        let mut mark = [0; 4];
        rustix::rand::getrandom(&mut mark, rustix::rand::GetRandomFlags::empty())
            .map_err(|error| refused(&io::Error::from(error)))?;
        let value = Mutex::new(Array::try_from(map).map_err(|error| refused(&error))?);
        let watch = Self { value, mark: u32::from_ne_bytes(mark), left: AtomicBool::new(false) };
        watch.stand_until(Duration::ZERO)?;
        Ok(watch)
    }

    fn stand_until(&self, deadline: Duration) -> Result<()> {
        let mut value = [0; 16];
        value[..8].copy_from_slice(&(deadline.as_nanos() as u64).to_ne_bytes());
        value[8..12].copy_from_slice(&self.mark.to_ne_bytes());
        let mut map = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        map.set(0, value, 0).map_err(|error| ClassifierError::refused("set the rear guard's deadline", &error))
    }
}

/// A rear guard on an interface. Dropping it takes it off, unless [`Classifier::leave_guards`] was said. To be dropped in
/// the namespace where it was made, and after what it stands behind.
#[derive(Debug)]
pub struct RearGuard {
    index: u32,
    made_clsact: bool,
    link: Option<SchedClassifierLink>,
    watch: Arc<Watch>,
}

impl Drop for RearGuard {
    fn drop(&mut self) {
        let Some(link) = self.link.take() else { return };
        if self.watch.left.load(Ordering::Acquire) {
            // It is but the filter's place and number.
            std::mem::forget(link);
            return;
        }
        drop(link);
        if self.made_clsact {
            // It may be gone with its interface.
            let _ = Netlink::open().and_then(|mut netlink| delete_clsact_if_empty(&mut netlink, self.index));
        }
    }
}

impl Classifier {
    /// Sets a rear guard on a shared uplink. To be done before the classifier is attached to it, so that on the clsact
    /// hook that one comes first. In the calling thread's namespace.
    ///
    /// # Errors
    /// There is no such interface, or the kernel has no clsact hook (`CONFIG_NET_SCH_INGRESS`, `CONFIG_NET_CLS_BPF`).
    pub fn guard_uplink(&mut self, interface: &str, owner: GuardOwner) -> Result<RearGuard> {
        self.guard(interface, Program::Rear, owner)
    }

    /// Sets a rear guard on `lo`, the host's loopback interface.
    ///
    /// # Errors
    /// As [`Classifier::guard_uplink`].
    pub fn guard_lo(&mut self, lo: &str, owner: GuardOwner) -> Result<RearGuard> {
        self.guard(lo, Program::LoRear, owner)
    }

    /// Makes the guards stand until `deadline`, in the time of `CLOCK_MONOTONIC`. From the first time on they do.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn stand_until(&self, deadline: Duration) -> Result<()> {
        self.watch.stand_until(deadline)
    }

    /// From now on guards stay where they are when they are dropped, until their deadline has passed and longer.
    pub fn leave_guards(&self) {
        self.watch.left.store(true, Ordering::Release);
    }

    fn guard(&mut self, interface: &str, program: Program, owner: GuardOwner) -> Result<RearGuard> {
        let what = || format!("attach the program {} to interface {interface} (clsact)", program.name());
        let refused = |error: &(dyn Error + 'static)| ClassifierError::refused(what(), error);
        self.load_program(program)?;
        let mut netlink = Netlink::open().map_err(|error| refused(&error))?;
        let link = netlink.link_by_name(interface).map_err(|error| refused(&error))?;
        let index = link.ok_or_else(|| refused(&io::Error::other("there is no such interface")))?.index;
        let filters = netlink.clsact_filters(index, true).map_err(|error| refused(&error))?;
        let earlier: Vec<_> = filters.iter().filter(|filter| owner.owns(filter)).map(|filter| filter.handle).collect();
        let mut handles = owner.first_handle()..=owner.first_handle() | 0xff;
        let handle = handles.find(|handle| !earlier.contains(handle));
        let handle = handle.ok_or_else(|| refused(&io::Error::other("it has too many of them already")))?;
        // An earlier guard's hook is ours, too.
        let mut made_clsact = !earlier.is_empty();
        if !netlink.has_clsact(index).map_err(|error| refused(&error))? {
            qdisc_add_clsact(interface).map_err(|error| refused(&error))?;
            made_clsact = true;
        }
        let mut guard = RearGuard { index, made_clsact, link: None, watch: Arc::clone(&self.watch) };
        let found = self.ebpf.program_mut(program.name()).ok_or_else(|| wrong_map(program.name()))?;
        let attach = || -> std::result::Result<_, ProgramError> {
            let found = <&mut SchedClassifier>::try_from(found)?;
            let options = TcAttachOptions::Netlink(NlOptions { priority: PRIORITY, handle });
            let id = found.attach_with_options(interface, TcAttachType::Ingress, options)?;
            found.take_link(id)
        };
        match attach() {
            Ok(link) => {
                guard.link = Some(link);
                Ok(guard)
            }
            Err(error) => {
                if made_clsact {
                    let _ = delete_clsact_if_empty(&mut netlink, index);
                }
                Err(refused(&error))
            }
        }
    }

    /// The ids of the guards' programs, as far as they are loaded.
    fn guards(&self) -> Result<Vec<u32>> {
        let loaded = Program::REAR.iter().filter_map(|program| self.ebpf.program(program.name())?.fd().ok());
        let id = |program: &aya::programs::ProgramFd| sys::program_info(program.as_fd()).map(|info| info.id);
        let ids: io::Result<_> = loaded.map(id).collect();
        ids.map_err(|error| ClassifierError::refused("ask for the rear guard's programs", &error))
    }
}

/// Removes the rear guards of `owner` from all interfaces, but for those of `classifier`; says how many there were. In
/// the calling thread's namespace.
///
/// # Errors
/// When the kernel refuses; not when an interface goes meanwhile.
pub fn relieve(owner: GuardOwner, classifier: Option<&Classifier>) -> Result<usize> {
    let refused =
        |error: &(dyn Error + 'static)| ClassifierError::refused("remove the rear guard of an earlier start", error);
    let ours = classifier.map(Classifier::guards).transpose()?.unwrap_or_default();
    let mut netlink = Netlink::open().map_err(|error| refused(&error))?;
    let mut removed = 0;
    for index in netlink.interfaces_with_clsact().map_err(|error| refused(&error))? {
        let filters = netlink.clsact_filters(index, true).map_err(|error| refused(&error))?;
        let is_old =
            |filter: &&Filter| owner.owns(filter) && !filter.program.is_some_and(|program| ours.contains(&program));
        let old: Vec<_> = filters.iter().filter(is_old).collect();
        let Some(link) = netlink.link_by_index(index).map_err(|error| refused(&error))?.filter(|_| !old.is_empty())
        else {
            continue;
        };
        for filter in &old {
            let at = SchedClassifierLink::attached(&link.name, TcAttachType::Ingress, filter.priority, filter.handle);
            at.map_err(|error| refused(&error))?.detach().map_err(|error| refused(&error))?;
        }
        removed += old.len();
        delete_clsact_if_empty(&mut netlink, index).map_err(|error| refused(&error))?;
    }
    Ok(removed)
}
