//! How the packets of an interface get to the switch and back, and how that ends.
//!
//! *tc*: a TAP of ours in the host's namespace, joined to the interface by programs at the tc hook of
//! both. What is redirected to the TAP is read by the switch as super-frames with a header
//! that says what is unfinished; what the switch writes to it goes out of the interface, where the
//! driver cuts it. The TAP is not persistent, and the programs are held by links, so both end with
//! the process, whatever ends it.
//!
//! Behind what is taken from a shared uplink or from `lo` stands a rear guard ([`RearGuard`]), which does not end: for a
//! minute it keeps the switch's packets from a host that would reset their connections.
//!
//! The TAP has no addresses, does not do ARP, and has no IPv6: the host never sends through it. Its
//! MTU is the largest there is, because the kernel would drop what it redirects to a smaller one.
//!
//! *AF_XDP*: sockets on every receive queue of the interface, filled by an XDP program before the
//! kernel has made anything of a packet: the device's own, which takes all, or the classifier. There
//! are no super-frames, and no offloads but what the kernel can do for one packet. With the classifier there is a TAP
//! here too: by it the host is given back what turns out to be its own ([`crate::bpf`]).

use std::io;
use std::sync::Arc;

use super::features::Promiscuous;
use crate::api::UplinkCarry;
use crate::bpf::{self, Attachment, Classifier, ClassifierError, GuardOwner, RearGuard, TcHook, XdpUplink};
use crate::control::desired::{INTERFACE_NAME_BYTES_MAX, MTU_MAX};
use crate::control::netlink::monitor::HostLink;
use crate::control::netlink::{LinkChange, Netlink, NetlinkError};
use crate::datapath::Datapath;
use crate::io::Device;
use crate::io::tap::TapDevice;
use crate::io::uplink::{SharedTx, WayBack};
use crate::io::xdp::{self, BusyPoll, Steering, Umems, XdpConfig, XdpDevice};

/// What the names of our TAPs begin with.
pub const TAP_PREFIX: &str = "vsw-";
/// The transmit queue of a carry TAP in frames: what the interface received and the switch has not
/// read yet. A NIC's ring and the kernel's backlog are of that order, and there is no sender to be
/// held back.
const TX_QUEUE_LEN: u32 = 16_384;

/// Why an interface could not be carried.
#[derive(Debug, thiserror::Error)]
pub enum CarryError {
    /// The TAP could not be made.
    #[error("the carry TAP cannot be made: {0}")]
    Tap(#[source] io::Error),
    /// The TAP could not be set up.
    #[error("the carry TAP cannot be set up: {0}")]
    Netlink(#[from] NetlinkError),
    /// The programs could not be attached.
    #[error(transparent)]
    Classifier(#[from] ClassifierError),
    /// It has no AF_XDP sockets.
    #[error("the interface {interface} cannot be served through AF_XDP: {source}")]
    Xdp {
        /// The interface.
        interface: String,
        /// Why not.
        source: io::Error,
    },
    /// The interface could not be made to take every frame.
    #[error("the interface {interface} cannot be made promiscuous: {source}")]
    Promiscuous {
        /// The interface.
        interface: String,
        /// What the kernel says.
        source: io::Error,
    },
}

/// What interfaces are carried with.
#[derive(Debug)]
pub struct Means<'a> {
    /// The programs for tc, and for the shared uplink by XDP; loaded when they are needed.
    pub classifier: &'a mut Option<Classifier>,
    /// Whose memory AF_XDP sockets receive into.
    pub datapath: &'a Datapath,
    /// The memory that the kernel knows already.
    pub umems: &'a Umems,
    /// Whether workers receive by polling the drivers.
    pub busy_poll: Option<BusyPoll>,
    /// Whose the rear guards are.
    pub owner: GuardOwner,
}

impl Means<'_> {
    /// The classifier, loaded with the first who needs it.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn classifier(&mut self) -> Result<&mut Classifier, CarryError> {
        let classifier = match self.classifier.take() {
            Some(classifier) => classifier,
            None => Classifier::load()?,
        };
        Ok(self.classifier.insert(classifier))
    }

    /// Opens AF_XDP sockets on every receive queue of `link`.
    fn sockets(&self, link: &HostLink, config: XdpConfig) -> Result<Arc<XdpDevice>, CarryError> {
        let config = XdpConfig { busy_poll: self.busy_poll, ..config };
        let refused = |source| CarryError::Xdp { interface: link.name.clone(), source };
        let region =
            self.datapath.region(config.home).ok_or_else(|| refused(io::Error::other("there is no worker")))?;
        XdpDevice::open(&config, &region, self.umems).map(Arc::new).map_err(refused)
    }
}

/// The worker that serves what is carried by AF_XDP: the first, where every port begins.
const XDP_HOME: u16 = 0;

/// An interface of the host that is carried to the switch. Dropping it ends that; the device is to be
/// out of the datapath by then.
#[derive(Debug)]
pub struct Carry {
    // Fields go in this order: first nothing is taken any more, then the interface is as it was, and
    // what carried it goes last.
    programs: Programs,
    _promiscuous: Option<Promiscuous>,
    ends: Ends,
    /// None behind an uplink of a bridge, or why there is none.
    guard: Option<Result<RearGuard, ClassifierError>>,
}

/// What takes packets from the interface.
#[derive(Debug)]
enum Programs {
    Tc(Attachment),
    /// The classifier as an XDP program, and the way back to the host.
    Xdp(
        #[expect(dead_code, reason = "held for their ends")] XdpUplink,
        #[expect(dead_code, reason = "as above")] Attachment,
    ),
    /// The device's own XDP program.
    Device,
}

/// Where the packets come from and go to.
#[derive(Debug)]
enum Ends {
    Tap {
        device: Arc<TapDevice>,
        /// Its index in the host's namespace.
        index: u32,
    },
    Xdp {
        device: Arc<XdpDevice>,
        /// The same, for the datapath: of a shared uplink with a sending side for many.
        port: Arc<dyn Device>,
    },
}

impl Carry {
    /// Gives the switch every frame of `link`, and `link` every frame of the switch.
    ///
    /// # Errors
    /// The kernel refuses a part; nothing is left then.
    pub fn whole(means: &mut Means<'_>, link: &HostLink, how: UplinkCarry) -> Result<Self, CarryError> {
        let promiscuous = Promiscuous::on(link.index)
            .map_err(|source| CarryError::Promiscuous { interface: link.name.clone(), source })?;
        let (programs, ends) = match how {
            UplinkCarry::Tc => {
                let (tap, index) = make_tap(link, false)?;
                let programs = means.classifier()?.attach_l2(&link.name, tap.name(), TcHook::of_kernel())?;
                (Programs::Tc(programs), Ends::Tap { device: Arc::new(tap), index })
            }
            UplinkCarry::XdpNative | UplinkCarry::XdpGeneric => {
                let steering = if how == UplinkCarry::XdpNative { Steering::NATIVE } else { Steering::GENERIC };
                let config = XdpConfig { steering, ..XdpConfig::new(&link.name, XDP_HOME) };
                let device = means.sockets(link, config)?;
                let port = Arc::clone(&device) as Arc<dyn Device>;
                (Programs::Device, Ends::Xdp { device, port })
            }
        };
        Ok(Self { programs, _promiscuous: Some(promiscuous), ends, guard: None })
    }

    /// Gives the switch those packets of `link` that the classifier's maps name.
    ///
    /// With XDP the frames are copied, although a driver may know better: with zero-copy the host's own
    /// packets would be received into the switch's memory and copied from there.
    ///
    /// # Errors
    /// As [`Carry::whole`].
    pub fn shared(means: &mut Means<'_>, link: &HostLink, how: UplinkCarry) -> Result<Self, CarryError> {
        let owner = means.owner;
        let guard = means.classifier()?.guard_uplink(&link.name, owner);
        let (programs, ends) = match how {
            UplinkCarry::Tc => {
                let (tap, index) = make_tap(link, true)?;
                let programs = means.classifier()?.attach_tc(&link.name, tap.name(), TcHook::of_kernel())?;
                (Programs::Tc(programs), Ends::Tap { device: Arc::new(tap), index })
            }
            UplinkCarry::XdpNative | UplinkCarry::XdpGeneric => {
                let (classified, socketed) = match how {
                    UplinkCarry::XdpNative => (bpf::XdpMode::Native, xdp::XdpMode::Native),
                    _ => (bpf::XdpMode::Generic, xdp::XdpMode::Generic),
                };
                let refused = |source| CarryError::Xdp { interface: link.name.clone(), source };
                let queues = xdp::receive_queues(&link.name).map_err(refused)?;
                let mut program = means.classifier()?.reserve_xdp(&link.name, queues)?;
                let steering = Steering::Elsewhere { mode: socketed };
                let config = XdpConfig { steering, zero_copy: false, ..XdpConfig::new(&link.name, XDP_HOME) };
                let device = means.sockets(link, config)?;
                for (queue, socket) in (0..).zip(device.sockets()) {
                    program.set_socket(queue, socket)?;
                }
                let (tap, _) = make_tap(link, false)?;
                let way_back = means.classifier()?.attach_way_back(&link.name, tap.name(), TcHook::of_kernel())?;
                means.classifier()?.attach_xdp(&mut program, classified)?;
                let port = SharedTx::new(Arc::clone(&device) as Arc<dyn Device>);
                let port = Arc::new(WayBack::new(Arc::new(port), Arc::new(tap)));
                (Programs::Xdp(program, way_back), Ends::Xdp { device, port })
            }
        };
        Ok(Self { programs, _promiscuous: None, ends, guard: Some(guard) })
    }

    /// Gives the switch what programs of the host send to what is published at the host's own addresses, and them the
    /// answers. `lo` is the host's loopback interface, by which all such packets come, and which no uplink sees.
    ///
    /// # Errors
    /// As [`Carry::whole`].
    pub fn loopback(means: &mut Means<'_>, lo: &HostLink) -> Result<Self, CarryError> {
        let owner = means.owner;
        let guard = means.classifier()?.guard_lo(&lo.name, owner);
        let (tap, index) = make_tap(lo, false)?;
        let programs = means.classifier()?.attach_lo(&lo.name, tap.name(), TcHook::of_kernel())?;
        let ends = Ends::Tap { device: Arc::new(tap), index };
        Ok(Self { programs: Programs::Tc(programs), _promiscuous: None, ends, guard: Some(guard) })
    }

    /// Why there is no rear guard where one should be.
    #[must_use]
    pub fn unguarded(&self) -> Option<&ClassifierError> {
        self.guard.as_ref()?.as_ref().err()
    }

    /// Takes the rear guard off, for good.
    pub fn dismiss_guard(&mut self) {
        self.guard = None;
    }

    /// Where the switch reads and writes.
    #[must_use]
    pub fn device(&self) -> Arc<dyn Device> {
        match &self.ends {
            Ends::Tap { device, .. } => Arc::clone(device) as Arc<dyn Device>,
            Ends::Xdp { port, .. } => Arc::clone(port),
        }
    }

    /// How the packets are taken, for people.
    #[must_use]
    pub fn hook(&self) -> String {
        match (&self.programs, &self.ends) {
            (Programs::Tc(programs), _) => programs.hook().name().to_owned(),
            (_, Ends::Xdp { device, .. }) => {
                let copy = if device.mode() == xdp::XdpMode::ZeroCopy { "zero-copy" } else { "copy" };
                format!("{copy}, {} queue{}", device.queues(), if device.queues() == 1 { "" } else { "s" })
            }
            (_, Ends::Tap { .. }) => String::new(),
        }
    }

    /// What would be faster, and why it is not so.
    #[must_use]
    pub fn refused(&self) -> Vec<String> {
        match &self.ends {
            Ends::Tap { .. } => Vec::new(),
            Ends::Xdp { device, .. } => device.refused().iter().map(|refused| format!("not {refused}")).collect(),
        }
    }

    /// The TAP's name, where there is one.
    #[must_use]
    pub fn tap(&self) -> Option<&str> {
        match &self.ends {
            Ends::Tap { device, .. } => Some(device.name()),
            Ends::Xdp { .. } => None,
        }
    }

    /// What the interface received and the switch did not take in time, where only the sockets know it.
    #[must_use]
    pub fn dropped(&self) -> Option<u64> {
        match &self.ends {
            Ends::Tap { .. } => None,
            Ends::Xdp { device, .. } => {
                let statistics = device.statistics();
                Some(statistics.rx_no_chunk + statistics.rx_ring_full)
            }
        }
    }

    /// Whether what carries the packets is still there: somebody may have removed the TAP.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        match &self.ends {
            // Where the kernel cannot be asked, it is left as it is.
            Ends::Tap { index, .. } => Netlink::open()
                .and_then(|mut netlink| netlink.link_by_index(*index))
                .map_or(true, |link| link.is_some()),
            Ends::Xdp { device, .. } => !device.is_gone(),
        }
    }

    /// Attaches the device's own XDP program again if somebody detached it; whether that was so.
    ///
    /// # Errors
    /// Somebody else's program is there now.
    pub fn mend(&self) -> io::Result<bool> {
        match (&self.programs, &self.ends) {
            (Programs::Device, Ends::Xdp { device, .. }) if !device.is_gone() && !device.is_attached() => {
                device.reattach().map(|()| true)
            }
            _ => Ok(false),
        }
    }
}

/// A TAP named after the interface, or after its index where that name is too long or taken; and the
/// TAP's own index. With `tunnels` it carries super-frames inside of tunnels.
fn make_tap(link: &HostLink, tunnels: bool) -> Result<(TapDevice, u32), CarryError> {
    let by_name = format!("{TAP_PREFIX}{}", link.name);
    let by_index = format!("{TAP_PREFIX}{}", link.index);
    let create = |name: &str| if tunnels { TapDevice::create_for_tunnels(name) } else { TapDevice::create(name) };
    let named = (by_name.len() <= INTERFACE_NAME_BYTES_MAX).then(|| create(&by_name));
    let tap = match named {
        Some(Ok(tap)) => tap,
        Some(Err(error)) if error.kind() != io::ErrorKind::AlreadyExists => return Err(CarryError::Tap(error)),
        _ => create(&by_index).map_err(CarryError::Tap)?,
    };
    let mut netlink = Netlink::open()?;
    let vanished = || CarryError::Tap(io::Error::from(io::ErrorKind::NotFound));
    let made = netlink.link_by_name(tap.name())?.ok_or_else(vanished)?;
    let change = LinkChange {
        mtu: Some(MTU_MAX),
        txqlen: Some(TX_QUEUE_LEN),
        arp: Some(false),
        ipv6_link_local: Some(false),
        up: Some(true),
        ..LinkChange::default()
    };
    netlink.change_link(made.index, &change)?;
    Ok((tap, made.index))
}
