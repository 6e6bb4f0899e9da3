//! Attaches the programs to interfaces, and takes them off again.

use std::error::Error;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::PoisonError;

use aya::programs::links::LinkOrder;
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcAttachType, qdisc_add_clsact};
use aya::programs::{MultiProgLink, SchedClassifier};
use aya::util::KernelVersion;
use rustix::io::Errno;

use super::error::ClassifierError;
use super::loader::{Classifier, Program, Targets, wrong_map};
use super::programs::{attached_programs, delete_clsact_if_empty, remove_leftovers};
use super::{Result, sys};
use crate::control::netlink::Netlink;

/// The hook of tc that a program is attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcHook {
    /// A link (kernel 6.6), first in the chain: other programs see what is not ours.
    Tcx,
    /// A filter on the clsact queueing discipline, which outlives the process.
    Clsact,
}

impl TcHook {
    /// The better one that this kernel has.
    #[must_use]
    pub fn of_kernel() -> Self {
        match KernelVersion::current() {
            Ok(version) if version >= KernelVersion::new(6, 6, 0) => Self::Tcx,
            _ => Self::Clsact,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// Where an XDP program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver.
    Native,
    /// In the kernel's stack, for any driver.
    Generic,
}

/// Programs on an uplink and on the TAP that carries its packets. Dropping it takes them off: no packet is taken
/// any more. To be dropped in the namespace where it was made.
#[derive(Debug)]
pub struct Attachment {
    hook: TcHook,
    /// Of the two interfaces.
    indices: [u32; 2],
    links: Vec<Side>,
    targets: Targets,
}

impl Attachment {
    /// The hook that was used.
    #[must_use]
    pub fn hook(&self) -> TcHook {
        self.hook
    }

    /// Whether both programs are still where they were attached: an administrator can detach them, and an interface can
    /// go. In the calling thread's namespace. What is not attached any more is to be dropped, and attached anew.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.links.iter().all(|side| match self.hook {
            // The information about a TCX link begins like that about an XDP link, with the interface's index.
            TcHook::Tcx => side.link.fd().is_ok_and(|link| matches!(sys::xdp_link_ifindex(link), Ok(Some(_)))),
            TcHook::Clsact => Netlink::open()
                .and_then(|mut netlink| netlink.clsact_filters(side.index, true))
                .is_ok_and(|filters| filters.iter().any(|filter| filter.name.as_deref() == Some(side.program.name()))),
        })
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        // First the programs, then where they send: between the two, nothing can be taken and lost. Closing a link takes
        // its program off, too, but not while a child of ours still has it.
        for link in self.links.iter().filter_map(|side| side.link.fd().ok()) {
            let _ = sys::detach_link(link);
        }
        let made_clsact: Vec<_> = self.links.drain(..).filter(|side| side.made_clsact).map(|side| side.index).collect();
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        for index in self.indices {
            // An entry that was never made is none to worry about.
            let _ = targets.remove(&index);
        }
        for index in made_clsact {
            // It may be gone with its interface.
            let _ = Netlink::open().and_then(|mut netlink| delete_clsact_if_empty(&mut netlink, index));
        }
    }
}

/// One interface with a program of ours.
#[derive(Debug)]
struct Side {
    index: u32,
    program: Program,
    made_clsact: bool,
    /// Takes the program off when it is dropped.
    link: SchedClassifierLink,
}

/// An uplink's places in the map of AF_XDP sockets, and the program once it is attached. Dropping it takes the program
/// off.
#[derive(Debug)]
pub struct XdpUplink {
    interface: String,
    index: u32,
    first: u32,
    queues: u32,
    sockets: std::sync::Arc<std::sync::Mutex<super::loader::SocketMap>>,
    places: Targets,
    link: Option<OwnedFd>,
}

impl XdpUplink {
    /// Gives receive queue `queue` its socket. The place empties by itself when the socket is closed.
    ///
    /// # Errors
    /// When there is no such queue, or `socket` is no bound AF_XDP socket.
    pub fn set_socket(&self, queue: u32, socket: BorrowedFd<'_>) -> Result<()> {
        let what = || format!("give queue {queue} of interface {} its AF_XDP socket", self.interface);
        if queue >= self.queues {
            return Err(ClassifierError::refused(what(), &io::Error::other(format!("it has {} queues", self.queues))));
        }
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        sockets
            .0
            .set(self.first + queue, socket.as_raw_fd(), 0)
            .map_err(|error| ClassifierError::refused(what(), &error))
    }

    /// Takes the program off.
    fn take_off(&mut self) {
        if let Some(link) = self.link.take() {
            // What cannot be detached goes when it is closed.
            let _ = sys::detach_link(link.as_fd());
        }
    }

    /// The interface.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Whether the program is attached: an administrator can detach it, and the interface can go. It can be attached
    /// again.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.link.as_ref().is_some_and(|link| matches!(sys::xdp_link_ifindex(link.as_fd()), Ok(Some(_))))
    }
}

impl Drop for XdpUplink {
    fn drop(&mut self) {
        self.take_off();
        // It may be gone with its interface.
        let _ = self.places.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.index);
    }
}

impl Classifier {
    /// Shares `uplink`: what is the switch's is redirected to the TAP `tap`, and what is written to that goes out
    /// through `uplink`. In the calling thread's namespace.
    ///
    /// Programs of others stay. Ours is the first of a TCX chain, because one that ends the chain (`TCX_PASS`) would
    /// take the switch's packets from it.
    ///
    /// # Errors
    /// When there is no such interface, or the kernel refuses. Nothing is attached then.
    pub fn attach_tc(&mut self, uplink: &str, tap: &str, hook: TcHook) -> Result<Attachment> {
        self.attach_pair([(uplink, Program::Tc), (tap, Program::Out)], hook)
    }

    /// Takes what is the switch's from what the host sends to itself: it is redirected from `lo`, the host's loopback
    /// interface, to the TAP `tap`, and what is written to that reaches the host's programs by `lo`.
    ///
    /// # Errors
    /// As [`Classifier::attach_tc`].
    pub fn attach_lo(&mut self, lo: &str, tap: &str, hook: TcHook) -> Result<Attachment> {
        self.attach_pair([(lo, Program::Lo), (tap, Program::LoOut)], hook)
    }

    /// Has what is written to the TAP `tap`, and is marked as the host's, reach the host as though `uplink` had received
    /// it. For a shared uplink that is not carried by a TAP.
    ///
    /// # Errors
    /// As [`Classifier::attach_tc`].
    pub fn attach_way_back(&mut self, uplink: &str, tap: &str, hook: TcHook) -> Result<Attachment> {
        let (program, indices) = (Program::Out, [index_of(uplink)?, index_of(tap)?]);
        self.load_program(program)?;
        let mut attachment = Attachment { hook, indices, links: Vec::new(), targets: self.targets.clone() };
        let [uplink_index, index] = indices;
        self.join((tap, index), (uplink, uplink_index))?;
        let (link, made_clsact) = self.attach_one(tap, index, program, hook)?;
        attachment.links.push(Side { index, program, made_clsact, link });
        Ok(attachment)
    }

    /// Joins `physical` and the TAP `tap`: every frame that one receives, the other sends, unchanged.
    ///
    /// # Errors
    /// As [`Classifier::attach_tc`].
    pub fn attach_l2(&mut self, physical: &str, tap: &str, hook: TcHook) -> Result<Attachment> {
        self.attach_pair([(physical, Program::L2), (tap, Program::L2)], hook)
    }

    fn attach_pair(&mut self, ends: [(&str, Program); 2], hook: TcHook) -> Result<Attachment> {
        let [(here, _), (there, _)] = ends;
        let indices = [index_of(here)?, index_of(there)?];
        for (name, program) in ends {
            remove_leftovers(name)?;
            self.load_program(program)?;
        }
        let mut attachment = Attachment { hook, indices, links: Vec::new(), targets: self.targets.clone() };
        for (from, to) in [(0, 1), (1, 0)] {
            // Before the program runs: it would drop what it takes.
            self.join((ends[from].0, indices[from]), (ends[to].0, indices[to]))?;
        }
        // The way out first, so that no answer is late.
        for (index, (name, program)) in indices.into_iter().zip(ends).rev() {
            let (link, made_clsact) = self.attach_one(name, index, program, hook)?;
            attachment.links.push(Side { index, program, made_clsact, link });
        }
        Ok(attachment)
    }

    /// Has what a program takes at one interface go to the other.
    fn join(&self, (from, from_index): (&str, u32), (to, to_index): (&str, u32)) -> Result<()> {
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        targets
            .insert(from_index, to_index, 0)
            .map_err(|error| ClassifierError::refused(format!("join interfaces {from} and {to}"), &error))
    }

    fn attach_one(
        &mut self,
        name: &str,
        index: u32,
        program: Program,
        hook: TcHook,
    ) -> Result<(SchedClassifierLink, bool)> {
        let what = || format!("attach the program {} to interface {name} ({})", program.name(), hook.name());
        let refused = |error: &(dyn Error + 'static)| ClassifierError::refused(what(), error);
        let found = self.ebpf.program_mut(program.name()).ok_or_else(|| wrong_map(program.name()))?;
        let found = <&mut SchedClassifier>::try_from(found).map_err(|error| refused(&error))?;
        let mut made_clsact = false;
        let options = match hook {
            TcHook::Tcx => TcAttachOptions::TcxOrder(LinkOrder::first()),
            TcHook::Clsact => {
                let mut netlink = Netlink::open().map_err(|error| refused(&error))?;
                if !netlink.has_clsact(index).map_err(|error| refused(&error))? {
                    qdisc_add_clsact(name).map_err(|error| refused(&error))?;
                    made_clsact = true;
                }
                TcAttachOptions::Netlink(NlOptions::default())
            }
        };
        let attach = || -> std::result::Result<_, aya::programs::ProgramError> {
            let id = found.attach_with_options(name, TcAttachType::Ingress, options)?;
            found.take_link(id)
        };
        attach().map(|link| (link, made_clsact)).map_err(|error| {
            if made_clsact && let Ok(mut netlink) = Netlink::open() {
                let _ = delete_clsact_if_empty(&mut netlink, index);
            }
            refused(&error)
        })
    }

    /// Reserves places for the sockets of `interface`'s `queues` receive queues. The sockets are to be in place
    /// ([`XdpUplink::set_socket`]) before the program is attached ([`Classifier::attach_xdp`]).
    ///
    /// # Errors
    /// When there is no such interface or no room for so many queues.
    pub fn reserve_xdp(&mut self, interface: &str, queues: u32) -> Result<XdpUplink> {
        let what = || format!("reserve {queues} places for AF_XDP sockets of interface {interface}");
        let index = index_of(interface)?;
        let mut places = self.socket_places.lock().unwrap_or_else(PoisonError::into_inner);
        // Those of uplinks that are gone are free again.
        self.places.retain(|&(first, _)| places.iter().flatten().any(|(_, place)| place == first));
        self.places.sort_unstable();
        let mut first = 0;
        for &(taken, count) in &self.places {
            if taken - first >= queues {
                break;
            }
            first = taken + count;
        }
        let room = self.sockets.lock().unwrap_or_else(PoisonError::into_inner).0.len();
        if queues == 0 || queues > room - first {
            let why = io::Error::other(format!("{room} are there for all uplinks, and each needs at least one"));
            return Err(ClassifierError::refused(what(), &why));
        }
        places.insert(index, first, 0).map_err(|error| ClassifierError::refused(what(), &error))?;
        drop(places);
        self.places.push((first, queues));
        Ok(XdpUplink {
            interface: interface.to_owned(),
            index,
            first,
            queues,
            sockets: self.sockets.clone(),
            places: self.socket_places.clone(),
            link: None,
        })
    }

    /// Attaches the classifier to an interface as an XDP program.
    ///
    /// # Errors
    /// [`ClassifierError::Foreign`] with the name of the program that is there: an interface has one. What the kernel
    /// refuses otherwise: a driver without native XDP, an MTU too large for it, too few receive queues (veth).
    pub fn attach_xdp(&mut self, uplink: &mut XdpUplink, mode: XdpMode) -> Result<()> {
        let interface = uplink.interface.clone();
        let mode_name = match mode {
            XdpMode::Native => "native",
            XdpMode::Generic => "generic",
        };
        let what = || format!("attach the program {} to interface {interface} (xdp {mode_name})", Program::Xdp.name());
        uplink.take_off();
        refuse_foreign(&interface)?;
        let flags = match mode {
            XdpMode::Native => sys::XDP_DRV_MODE,
            XdpMode::Generic => sys::XDP_SKB_MODE,
        };
        match sys::attach_xdp(self.program_fd(Program::Xdp)?, uplink.index, flags) {
            Ok(link) => {
                uplink.link = Some(link);
                Ok(())
            }
            Err(error) => {
                let error = ClassifierError::refused(what(), &error);
                if matches!(error.errno(), Some(Errno::BUSY | Errno::EXIST)) {
                    // Somebody else was faster.
                    refuse_foreign(&interface)?;
                }
                Err(error)
            }
        }
    }
}

fn refuse_foreign(interface: &str) -> Result<()> {
    let mut programs = attached_programs(interface)?;
    programs.retain(|program| program.hook.starts_with("xdp"));
    if programs.is_empty() {
        Ok(())
    } else {
        Err(ClassifierError::Foreign { interface: interface.to_owned(), programs })
    }
}

fn index_of(interface: &str) -> Result<u32> {
    let what = || format!("find interface {interface}");
    let mut netlink = Netlink::open().map_err(|error| ClassifierError::refused(what(), &error))?;
    match netlink.link_by_name(interface) {
        Ok(Some(link)) => Ok(link.index),
        Ok(None) => Err(ClassifierError::refused(what(), &io::Error::other("there is none of that name"))),
        Err(error) => Err(ClassifierError::refused(what(), &error)),
    }
}
