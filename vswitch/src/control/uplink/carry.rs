//! How the packets of an interface get to the switch and back, and how that ends.
//!
//! *tc*: a TAP of ours in the host's namespace, joined to the interface by programs at the tc hook of
//! both. What is redirected to the TAP is read by the switch as super-frames with a header
//! that says what is unfinished; what the switch writes to it goes out of the interface, where the
//! driver cuts it. The TAP is not persistent, and the programs are held by links, so both end with
//! the process, whatever ends it.
//!
//! The TAP has no addresses, does not do ARP, and has no IPv6: the host never sends through it. Its
//! MTU is the largest there is, because the kernel would drop what it redirects to a smaller one.

use std::io;
use std::sync::Arc;

use super::features::Promiscuous;
use crate::api::UplinkCarry;
use crate::bpf::{Attachment, Classifier, ClassifierError, TcHook};
use crate::control::desired::{INTERFACE_NAME_BYTES_MAX, MTU_MAX};
use crate::control::netlink::monitor::HostLink;
use crate::control::netlink::{LinkChange, Netlink, NetlinkError};
use crate::io::Device;
use crate::io::tap::TapDevice;

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
    /// The interface could not be made to take every frame.
    #[error("the interface {interface} cannot be made promiscuous: {source}")]
    Promiscuous {
        /// The interface.
        interface: String,
        /// What the kernel says.
        source: io::Error,
    },
}

/// An interface of the host that is carried to the switch. Dropping it ends that; the device is to be
/// out of the datapath by then.
#[derive(Debug)]
pub struct Carry {
    // First the programs go, then the interface's promiscuity, then the TAP.
    programs: Attachment,
    _promiscuous: Option<Promiscuous>,
    tap: Arc<TapDevice>,
}

impl Carry {
    /// Gives the switch every frame of `link`, and `link` every frame of the switch.
    ///
    /// # Errors
    /// The kernel refuses a part; nothing is left then.
    pub fn whole(classifier: &mut Classifier, link: &HostLink, _how: UplinkCarry) -> Result<Self, CarryError> {
        let tap = Arc::new(make_tap(link)?);
        let promiscuous = Promiscuous::on(link.index)
            .map_err(|source| CarryError::Promiscuous { interface: link.name.clone(), source })?;
        let programs = classifier.attach_l2(&link.name, tap.name(), TcHook::of_kernel())?;
        Ok(Self { programs, _promiscuous: Some(promiscuous), tap })
    }

    /// Gives the switch those packets of `link` that the classifier's maps name.
    ///
    /// # Errors
    /// As [`Carry::whole`].
    pub fn shared(classifier: &mut Classifier, link: &HostLink, _how: UplinkCarry) -> Result<Self, CarryError> {
        let tap = Arc::new(make_tap(link)?);
        let programs = classifier.attach_tc(&link.name, tap.name(), TcHook::of_kernel())?;
        Ok(Self { programs, _promiscuous: None, tap })
    }

    /// Where the switch reads and writes.
    #[must_use]
    pub fn device(&self) -> Arc<dyn Device> {
        Arc::clone(&self.tap) as Arc<dyn Device>
    }

    /// How the programs are attached, for people.
    #[must_use]
    pub fn hook(&self) -> &'static str {
        self.programs.hook().name()
    }

    /// The TAP's name.
    #[must_use]
    pub fn tap(&self) -> Option<&str> {
        Some(self.tap.name())
    }
}

/// A TAP named after the interface, or after its index where that name is too long or taken.
fn make_tap(link: &HostLink) -> Result<TapDevice, CarryError> {
    let by_name = format!("{TAP_PREFIX}{}", link.name);
    let by_index = format!("{TAP_PREFIX}{}", link.index);
    let named = (by_name.len() <= INTERFACE_NAME_BYTES_MAX).then(|| TapDevice::create(&by_name));
    let tap = match named {
        Some(Ok(tap)) => tap,
        Some(Err(error)) if error.kind() != io::ErrorKind::AlreadyExists => return Err(CarryError::Tap(error)),
        _ => TapDevice::create(&by_index).map_err(CarryError::Tap)?,
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
    Ok(tap)
}
