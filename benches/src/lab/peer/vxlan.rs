//! Overlays: two hosts, each with half of the containers, and VXLAN between them over a veth pair.
//!
//! The underlay is the same for all: `u0` in both hosts. A veth pair carries super-frames whole, which flatters
//! whoever makes some: the kernel's tunnels hand theirs over with all headers in front of 64 KB, ours a train
//! of datagrams. With [`Setup::wire`] the interfaces have no segmentation offload, so that all is cut before
//! it crosses, and merge what they receive (GRO), as a plain network card's driver does.

use std::io;
use std::path::Path;

use vswitch_tests::daemon::Daemon;
use vswitch_tests::namespace::Namespace;

use super::{Container, Family, Setup, add_veth, ours};

/// The network identifier.
const VNI: &str = "42";
/// What VXLAN over IPv4 takes of the underlay's MTU.
const OVERHEAD: u32 = 50;

/// Puts an interface `u0` into each of two hosts, the two ends of a wire.
fn wire(hosts: [&Namespace; 2], setup: &Setup) -> io::Result<()> {
    let mtu = setup.mtu;
    hosts[0].ip(&format!("link add u0 mtu {mtu} type veth peer name u0 mtu {mtu} netns {}", hosts[1].name()))?;
    for (host, address) in hosts.into_iter().zip(ADDRESSES) {
        if setup.wire {
            host.run("ethtool -K u0 tso off gso off tx-udp-segmentation off tx-udp_tnl-segmentation off gro on")?;
        }
        host.ip(&format!("addr add {address}/24 dev u0"))?;
        host.ip("link set u0 up")?;
    }
    Ok(())
}

/// RFC 2544's network for measurements.
const ADDRESSES: [&str; 2] = ["198.18.0.1", "198.18.0.2"];

/// The containers of host `index`: every other one, so that the first two are on different hosts.
fn of_host(containers: &[Container], index: usize) -> impl Iterator<Item = (usize, &Container)> {
    containers.iter().enumerate().skip(index).step_by(2)
}

/// Our switch on both hosts.
pub(super) fn join(
    hosts: [&Namespace; 2],
    containers: &[Container],
    binaries: &Path,
    setup: &Setup,
    directory: &Path,
) -> io::Result<Vec<Daemon>> {
    wire(hosts, setup)?;
    let mut daemons = Vec::new();
    for (index, host) in hosts.into_iter().enumerate() {
        let directory = directory.join(format!("host{index}"));
        std::fs::create_dir(&directory)?;
        // Each host has a gateway of its own in the network that they share.
        let gateway = match setup.family {
            Family::Ipv4 => format!("10.77.255.{}", index + 1),
            Family::Ipv6 => format!("fd77::ffff:{}", index + 1),
        };
        let mtu = (setup.mtu - OVERHEAD).to_string();
        let subnet = setup.family.subnet();
        let daemon = ours::start(host, binaries, setup.vswitch_args.clone(), &directory)?;
        ours::ctl(host, &daemon, &["add-br", "br0", "--subnet", subnet, "--gateway", &gateway, "--mtu", &mtu])?;
        ours::ctl(host, &daemon, &["add-vxlan", "br0", "--vni", VNI, "--remote", ADDRESSES[1 - index]])?;
        for (_, container) in of_host(containers, index) {
            let address = container.address.to_string();
            ours::ctl(host, &daemon, &["add-port", "br0", container.namespace.name(), "--ip", &address])?;
        }
        daemons.push(daemon);
    }
    Ok(daemons)
}

/// The kernel's bridge and `vxlan` device on both hosts.
pub(super) fn join_kernel(hosts: [&Namespace; 2], containers: &[Container], setup: &Setup) -> io::Result<()> {
    wire(hosts, setup)?;
    let mtu = setup.mtu - OVERHEAD;
    for (index, host) in hosts.into_iter().enumerate() {
        let (local, remote) = (ADDRESSES[index], ADDRESSES[1 - index]);
        host.ip("link add br0 type bridge")?;
        host.ip("link set br0 up")?;
        host.ip(&format!("link add vx0 type vxlan id {VNI} local {local} remote {remote} dstport 4789 dev u0"))?;
        host.ip("link set vx0 master br0 up")?;
        for (number, container) in of_host(containers, index) {
            add_veth(host, container, number, setup)?;
            container.namespace.ip(&format!("link set eth0 mtu {mtu}"))?;
            host.ip(&format!("link set h{number} mtu {mtu} master br0"))?;
        }
    }
    Ok(())
}
