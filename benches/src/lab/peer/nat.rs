//! Gateways: a host with one container behind it, and the world outside.
//!
//! The first "container" is the outside, the second one is the container. A veth pair is the wire: `u0` is the
//! host's end, over which its default route goes. Traffic crosses the host in both ways: from outside to a published
//! port ([`super::Way::Published`]), and from the container to the outside ([`super::Way::Egress`]). Everything is as
//! it comes: segmentation offload on, checksums left to the receiver, as veth has it.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use vswitch_tests::daemon::Daemon;
use vswitch_tests::namespace::Namespace;
use vswitch_tests::process::{Background, run_ok};

use super::{Container, FIRST_PORT, Family, PUBLISHED_PORTS, Setup, ours, redirect, relay};

const LIMIT: Duration = Duration::from_secs(20);

/// What stands between the container and the outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gateway {
    /// The kernel's bridge over a veth pair, and the rules that Docker writes, in nftables.
    Kernel,
    /// Docker itself with its bridge, iptables and proxies.
    Docker,
    /// No gateway: the container has the host's address, and between it and the host's interface is a program that
    /// writes to each TAP what it reads from the other ([`crate::lab::relay`]).
    Relay,
    /// No gateway either: the container has the host's address, and the kernel redirects every packet between it and the
    /// host's interface, unseen (`redirect.rs`).
    Redirect,
    /// Not even a host: the container has the host's end of the wire.
    Wire,
    /// Ours.
    Vswitch(Attachment, Option<PathBuf>),
}

/// How packets come to our switch: from the container, and from the outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attachment {
    /// A TAP port, and the uplink at tc.
    Tap,
    /// An AF_XDP port, and the uplink by AF_XDP.
    Xdp,
    /// A TAP port, and the uplink by AF_XDP.
    TapXdp,
}

impl Attachment {
    const ALL: [Self; 3] = [Self::Tap, Self::Xdp, Self::TapXdp];

    fn name(self) -> &'static str {
        match self {
            Self::Tap => "nat-vswitch-tap",
            Self::Xdp => "nat-vswitch-xdp",
            Self::TapXdp => "nat-vswitch-tap-xdp",
        }
    }

    fn port_type(self) -> &'static str {
        match self {
            Self::Tap | Self::TapXdp => "tap",
            Self::Xdp => "xdp",
        }
    }

    fn uplink(self) -> &'static str {
        match self {
            Self::Tap => "u0,tc",
            Self::Xdp | Self::TapXdp => "u0,xdp=native",
        }
    }
}

impl Gateway {
    /// The peers of a comparison: the kernel's, and ours in its two forms.
    #[must_use]
    pub fn usual() -> Vec<Self> {
        vec![Self::Kernel, Self::Vswitch(Attachment::Tap, None), Self::Vswitch(Attachment::Xdp, None)]
    }

    /// The names of all of them.
    #[must_use]
    pub fn names() -> Vec<&'static str> {
        let others = ["nat-kernel", "docker0", "nat-relay", "nat-redirect", "nat-wire"];
        others.into_iter().chain(Attachment::ALL.map(Attachment::name)).collect()
    }

    /// The one of this name; `build` is the directory of the programs where that is not the default.
    #[must_use]
    pub fn from_name(name: &str, build: Option<PathBuf>) -> Option<Self> {
        match (name, build) {
            ("nat-kernel", None) => Some(Self::Kernel),
            ("docker0", None) => Some(Self::Docker),
            ("nat-relay", None) => Some(Self::Relay),
            ("nat-redirect", None) => Some(Self::Redirect),
            ("nat-wire", None) => Some(Self::Wire),
            (_, build) => {
                let attachment = Attachment::ALL.into_iter().find(|attachment| attachment.name() == name)?;
                Some(Self::Vswitch(attachment, build))
            }
        }
    }

    /// Whether it needs our programs where they are by default.
    #[must_use]
    pub fn needs_binaries(&self) -> bool {
        matches!(self, Self::Vswitch(_, None))
    }
}

impl fmt::Display for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel => f.write_str("nat-kernel"),
            Self::Docker => f.write_str("docker0"),
            Self::Relay => f.write_str("nat-relay"),
            Self::Redirect => f.write_str("nat-redirect"),
            Self::Wire => f.write_str("nat-wire"),
            Self::Vswitch(attachment, None) => f.write_str(attachment.name()),
            Self::Vswitch(attachment, Some(build)) => write!(f, "{}@{}", attachment.name(), build.display()),
        }
    }
}

/// The addresses on the wire: the outside's, which is the host's router, and the host's (RFC 2544's network for
/// measurements, and a unique local one).
pub(super) fn wire_addresses(family: Family) -> [IpAddr; 2] {
    match family {
        Family::Ipv4 => [[198, 18, 0, 1].into(), [198, 18, 0, 2].into()],
        Family::Ipv6 => [1, 2].map(|host| [0xfd18, 0, 0, 0, 0, 0, 0, host].into()),
    }
}

/// Connects `outside` and `host`.
pub(super) fn wire(outside: &Container, host: &Namespace, setup: &Setup) -> io::Result<()> {
    let mtu = setup.mtu;
    host.ip(&format!("link add u0 mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}", outside.namespace.name()))?;
    let addresses = wire_addresses(setup.family);
    for (namespace, ifname, address) in [(&outside.namespace, "eth0", addresses[0]), (host, "u0", addresses[1])] {
        let assignment = if address.is_ipv4() { format!("{address}/24") } else { format!("{address}/64 nodad") };
        namespace.ip(&format!("addr add {assignment} dev {ifname}"))?;
        namespace.ip(&format!("link set {ifname} up"))?;
    }
    host.ip(&format!("route add default via {}", addresses[0])).map(drop)
}

/// Our switch as `container`'s gateway.
pub(super) fn join_ours(
    (attachment, build): (Attachment, Option<&PathBuf>),
    host: &Namespace,
    container: &Container,
    setup: &Setup,
    directory: &Path,
) -> io::Result<Daemon> {
    let mut args = setup.vswitch_args.clone();
    args.extend(["--uplink".to_owned(), attachment.uplink().to_owned()]);
    let daemon = ours::start(host, build.unwrap_or(&setup.binaries), args, directory)?;
    let (mtu, address) = (setup.mtu.to_string(), container.address.to_string());
    ours::ctl(host, &daemon, &["add-br", "br0", "--subnet", setup.family.subnet(), "--mtu", &mtu])?;
    let inside = container.namespace.name();
    let port = ["add-port", "br0", inside, "--name", "c", "--ip", &address, "--type", attachment.port_type()];
    ours::ctl(host, &daemon, &port)?;
    let range = published_range();
    let specs = ["tcp", "udp"].map(|protocol| format!("{range}:{range}/{protocol}"));
    ours::ctl(host, &daemon, &["publish", "br0", "c", &specs[0], &specs[1]])?;
    Ok(daemon)
}

/// Leaves the host without an address; the container has it.
fn give_address(host: &Namespace, container: &mut Container, setup: &Setup) -> io::Result<()> {
    container.address = wire_addresses(setup.family)[1];
    host.ip("addr flush dev u0").map(drop)
}

/// A relay instead of a gateway.
pub(super) fn join_relay(
    host: &Namespace,
    container: &mut Container,
    setup: &Setup,
    directory: &Path,
) -> io::Result<Background> {
    give_address(host, container, setup)?;
    relay::join_uplink(host, "u0", container, setup, directory)
}

/// Programs that redirect everything, instead of a gateway; they run as long as the descriptors are there.
pub(super) fn join_redirect(host: &Namespace, container: &mut Container, setup: &Setup) -> io::Result<[OwnedFd; 2]> {
    give_address(host, container, setup)?;
    super::add_veth(host, container, 1, setup)?;
    redirect::join(host, ["u0", "h1"], container)
}

/// The wire instead of a gateway.
pub(super) fn join_wire(host: &Namespace, container: &mut Container, setup: &Setup) -> io::Result<()> {
    give_address(host, container, setup)?;
    host.ip(&format!("link set u0 netns {} name eth0", container.namespace.name()))?;
    super::raise(container, setup.family)
}

/// The published ports, as both command lines and nftables write a range.
pub(super) fn published_range() -> String {
    format!("{FIRST_PORT}-{}", FIRST_PORT + PUBLISHED_PORTS - 1)
}

/// The kernel's bridge as `container`'s gateway.
pub(super) fn join_kernel(host: &Namespace, container: &Container, setup: &Setup) -> io::Result<()> {
    let gateway = setup.family.gateway();
    host.ip("link add br0 type bridge")?;
    host.ip(&format!("addr add {} dev br0", setup.family.assignment(gateway)))?;
    host.ip("link set br0 up")?;
    super::add_veth(host, container, 1, setup)?;
    host.ip("link set h1 master br0")?;
    container.namespace.ip(&format!("route add default via {gateway}"))?;
    let forwarding = match setup.family {
        Family::Ipv4 => "net.ipv4.ip_forward",
        Family::Ipv6 => "net.ipv6.conf.all.forwarding",
    };
    host.sysctl(forwarding, "1")?;
    let rules = setup.directory.join(format!("{}.nft", host.name()));
    std::fs::write(&rules, ruleset(setup.family, container.address))?;
    run_ok(host.command("nft").arg("-f").arg(&rules), LIMIT).map(drop)
}

/// What Docker writes with iptables for a bridge and its published ports: translation of what is for an address of the
/// host, also of the host's own packets, masquerading of what leaves, also of a container's way to itself; nothing else
/// is forwarded to containers.
fn ruleset(family: Family, container: IpAddr) -> String {
    let ip = match family {
        Family::Ipv4 => "ip",
        Family::Ipv6 => "ip6",
    };
    let (subnet, loopback) = match family {
        Family::Ipv4 => (family.subnet(), "127.0.0.0/8"),
        Family::Ipv6 => (family.subnet(), "::1"),
    };
    let target = if container.is_ipv4() { container.to_string() } else { format!("[{container}]") };
    let ports = published_range();
    format!(
        r#"table {ip} nat {{
    chain prerouting {{
        type nat hook prerouting priority dstnat;
        fib daddr type local jump docker
    }}
    chain output {{
        type nat hook output priority -100;
        {ip} daddr != {loopback} fib daddr type local jump docker
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat;
        {ip} saddr {subnet} oifname != "br0" masquerade
        {ip} saddr {container} {ip} daddr {container} tcp dport {ports} masquerade
        {ip} saddr {container} {ip} daddr {container} udp dport {ports} masquerade
    }}
    chain docker {{
        iifname "br0" return
        tcp dport {ports} dnat to {target}
        udp dport {ports} dnat to {target}
    }}
}}
table {ip} filter {{
    chain forward {{
        type filter hook forward priority filter; policy drop;
        oifname "br0" ct state related,established accept
        oifname "br0" jump docker
        iifname "br0" accept
    }}
    chain docker {{
        {ip} daddr {container} iifname != "br0" tcp dport {ports} accept
        {ip} daddr {container} iifname != "br0" udp dport {ports} accept
    }}
}}
"#
    )
}
