//! What carries a port: the open interface, whatever its kind, and what becomes of it.
//!
//! A [`PortLink`] is to the control plane what a [`Device`] is to the datapath. Both kinds live alike: a
//! new one goes when it is dropped, and stays once it is *persistent*. A TAP's descriptor is all
//! there is to a TAP. An `xdp` port is a veth pair and the AF_XDP sockets at the host's end, which go
//! with the process; the pair stays.
//!
//! All AF_XDP devices of a bridge have one *home*, the worker whose memory they receive into: then
//! a frame goes from one to another without a copy. Two workers are no reason to have two homes,
//! because new ports are all read by the first worker anyway; with more, bridges
//! take turns.

use std::io;
use std::sync::Arc;

use super::interface::veth::VethPair;
use crate::api::{Error, XdpMode, XdpStatus};
use crate::control::desired::HostEnd;
use crate::control::netns::NetnsId;
use crate::control::refusal::{Result, conflict, failed};
use crate::datapath::Datapath;
use crate::io::Device;
use crate::io::tap::TapDevice;
use crate::io::xdp::{self, BusyPoll, Umems, XdpConfig, XdpDevice};

/// An open interface.
#[derive(Debug, Clone)]
pub(super) enum PortLink {
    /// A TAP, and the namespace that its descriptor was opened in and so keeps alive, where that is not the host's.
    Tap(Arc<TapDevice>, Option<NetnsId>),
    /// A veth pair whose host's end is served through AF_XDP.
    Xdp(Arc<XdpPort>),
}

impl PortLink {
    /// As the datapath sees it.
    pub(super) fn device(&self) -> Arc<dyn Device> {
        match self {
            Self::Tap(device, _) => Arc::clone(device) as Arc<dyn Device>,
            Self::Xdp(port) => Arc::clone(&port.device) as Arc<dyn Device>,
        }
    }

    /// Whether the interface, with its addresses and routes, stays when it is closed.
    ///
    /// # Errors
    /// The interface is gone.
    pub(super) fn set_persistent(&self, on: bool) -> io::Result<()> {
        match self {
            Self::Tap(device, _) => device.set_persistent(on),
            Self::Xdp(port) => port.pair.set_persistent(on),
        }
    }

    /// The namespace that it keeps alive, other than the host's; see [`crate::control::watch`].
    pub(super) fn holds_netns(&self) -> Option<NetnsId> {
        match self {
            Self::Tap(_, holds) => *holds,
            Self::Xdp(_) => None,
        }
    }

    /// The host's end of a veth pair.
    pub(super) fn host_end(&self) -> Option<&HostEnd> {
        self.pair().map(VethPair::end)
    }

    /// The veth pair of an `xdp` port.
    pub(super) fn pair(&self) -> Option<&VethPair> {
        match self {
            Self::Tap(..) => None,
            Self::Xdp(port) => Some(&port.pair),
        }
    }

    /// The AF_XDP side of an `xdp` port.
    pub(super) fn xdp(&self) -> Option<&Arc<XdpPort>> {
        match self {
            Self::Tap(..) => None,
            Self::Xdp(port) => Some(port),
        }
    }

    /// How an `xdp` port is served.
    pub(super) fn xdp_status(&self) -> Option<XdpStatus> {
        match self {
            Self::Tap(..) => None,
            Self::Xdp(port) => Some(port.status()),
        }
    }
}

/// The host's end of a veth pair with its AF_XDP sockets.
#[derive(Debug)]
pub(super) struct XdpPort {
    // Declared, and so dropped, before the pair.
    device: Arc<XdpDevice>,
    pair: VethPair,
}

impl XdpPort {
    /// The veth pair.
    pub(super) fn pair(&self) -> &VethPair {
        &self.pair
    }

    /// Attaches the XDP program again if somebody detached it; whether that was so.
    ///
    /// # Errors
    /// Somebody else's program is there now.
    pub(super) fn reattach(&self) -> io::Result<bool> {
        if self.device.is_gone() || self.device.is_attached() {
            return Ok(false);
        }
        self.device.reattach().map(|()| true)
    }

    fn status(&self) -> XdpStatus {
        let mode = match self.device.mode() {
            xdp::XdpMode::ZeroCopy => XdpMode::ZeroCopy,
            xdp::XdpMode::Native => XdpMode::Native,
            xdp::XdpMode::Generic => XdpMode::Generic,
        };
        XdpStatus {
            ifname: self.pair.end().ifname.clone(),
            mode: Some(mode),
            refused: self.device.refused().iter().map(ToString::to_string).collect(),
        }
    }
}

/// What all AF_XDP devices of the daemon have in common.
#[derive(Debug, Clone, Default)]
pub struct XdpContext {
    /// The memory that the kernel knows already.
    pub umems: Arc<Umems>,
    /// Whether workers receive by polling the drivers.
    pub busy_poll: Option<BusyPoll>,
}

/// Opens the AF_XDP devices of one bridge.
#[derive(Debug, Clone)]
pub(super) struct XdpOpener {
    /// Whose memory they receive into.
    pub(super) datapath: Arc<Datapath>,
    /// Their home.
    pub(super) worker: u16,
    pub(super) context: XdpContext,
}

impl XdpOpener {
    /// Opens the host's end of `pair`, which is up.
    ///
    /// # Errors
    /// The kernel has no AF_XDP, or no memory, or somebody else's program is attached there.
    pub(super) fn open(&self, pair: VethPair) -> Result<Arc<XdpPort>> {
        let ifname = &pair.end().ifname;
        let region = self.datapath.region(self.worker).ok_or_else(|| {
            failed(format!("the datapath has no worker {}", self.worker), "restart the daemon and report this")
        })?;
        let config = XdpConfig { busy_poll: self.context.busy_poll, ..XdpConfig::new(ifname, self.worker) };
        let device = XdpDevice::open(&config, &region, &self.context.umems).map_err(|error| xdp_error(&error))?;
        Ok(Arc::new(XdpPort { device: Arc::new(device), pair }))
    }
}

fn xdp_error(error: &io::Error) -> Error {
    let message = format!("the interface cannot be served through AF_XDP: {error}");
    match error.kind() {
        io::ErrorKind::ResourceBusy => conflict(message, "then repeat the command, or attach the port with --type tap"),
        _ => failed(message, "correct that, or attach the port with --type tap"),
    }
}
