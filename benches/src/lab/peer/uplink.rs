//! The host's own traffic through an interface that a switch shares with it.
//!
//! The two "containers" are the world outside and the host; a veth pair is the wire, `eth0` at both
//! ends. What is compared is the same wire with and without a classifier on the host's end. No
//! packet of these workloads is the switch's: all it does is to look at them and let them pass.
//!
//! An XDP program costs something whatever it does, most of all on veth, where a native program
//! turns the far end's segmentation offload off. So there is an empty one in either mode, too: the
//! difference to it is what our program's instructions cost.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use vswitch::bpf::sys::{self, Instruction, ProgramKind};
use vswitch_tests::daemon::Daemon;

use super::{Container, Setup, ours};

/// What is on the host's end of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uplink {
    /// Nothing.
    Bare,
    /// Our classifier at tc.
    Tc,
    /// Our classifier as a native XDP program.
    Native,
    /// A native XDP program that lets everything pass.
    NativeEmpty,
    /// Our classifier as a generic XDP program.
    Generic,
    /// A generic XDP program that lets everything pass.
    GenericEmpty,
}

impl Uplink {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Bare, Self::Tc, Self::Native, Self::NativeEmpty, Self::Generic, Self::GenericEmpty];

    /// The peer's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bare => "uplink",
            Self::Tc => "uplink-tc",
            Self::Native => "uplink-native",
            Self::NativeEmpty => "uplink-native0",
            Self::Generic => "uplink-generic",
            Self::GenericEmpty => "uplink-generic0",
        }
    }

    /// The reverse of [`Uplink::name`].
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|uplink| uplink.name() == name)
    }

    /// The daemon's option for `interface`, where there is a daemon at all.
    pub(super) fn daemon_option(self, interface: &str) -> Option<String> {
        match self {
            Self::Tc => Some(format!("{interface},tc")),
            Self::Native => Some(format!("{interface},xdp=native")),
            Self::Generic => Some(format!("{interface},xdp=generic")),
            Self::Bare | Self::NativeEmpty | Self::GenericEmpty => None,
        }
    }

    /// Starts a daemon that shares `eth0` of `host`.
    pub(super) fn daemon(self, host: &Container, setup: &Setup, directory: &Path) -> io::Result<Option<Daemon>> {
        let Some(option) = self.daemon_option("eth0") else { return Ok(None) };
        let mut args = setup.vswitch_args.clone();
        args.extend(["--uplink".to_owned(), option]);
        ours::start(&host.namespace, &setup.binaries, args, directory).map(Some)
    }

    /// Attaches the empty program to `eth0` of `host`; it stays until the descriptor is closed.
    pub(super) fn empty_program(self, host: &Container) -> io::Result<Option<OwnedFd>> {
        let mode = match self {
            Self::NativeEmpty => sys::XDP_DRV_MODE,
            Self::GenericEmpty => sys::XDP_SKB_MODE,
            Self::Bare | Self::Tc | Self::Native | Self::Generic => return Ok(None),
        };
        let index = host.ifindex()?;
        // r0 = XDP_PASS; exit (BPF_ALU64 | BPF_MOV | BPF_K, BPF_JMP | BPF_EXIT; linux/bpf.h)
        let pass = Instruction { code: 0xb7, registers: 0, offset: 0, immediate: 2 };
        let exit = Instruction { code: 0x95, registers: 0, offset: 0, immediate: 0 };
        let program = sys::load(ProgramKind::Xdp, &[pass, exit], c"GPL", sys::XDP_HAS_FRAGS, "empty")?;
        host.namespace.enter(|| sys::attach_xdp(program.as_fd(), index, mode)).map(Some)
    }
}

/// Connects `outside` and `host` by a veth pair.
pub(super) fn connect(outside: &Container, host: &Container, setup: &Setup) -> io::Result<()> {
    let Setup { mtu, family, .. } = setup;
    let far = outside.namespace.name();
    host.namespace.ip(&format!("link add eth0 mtu {mtu} type veth peer name eth0 mtu {mtu} netns {far}"))?;
    for end in [outside, host] {
        end.namespace.ip("link set lo up")?;
        end.namespace.ip(&format!("addr add {} dev eth0", family.assignment(end.address)))?;
        end.namespace.ip("link set eth0 up")?;
    }
    if setup.wire {
        // Super-frames do not travel over a network; GRO on veth (kernel 5.13) makes it receive
        // through NAPI, as drivers of hardware do.
        outside.namespace.run("ethtool -K eth0 tso off gso off")?;
        host.namespace.run("ethtool -K eth0 gro on")?;
    }
    Ok(())
}
