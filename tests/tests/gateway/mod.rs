//! The gateway: what iptables, docker-proxy and conntrack do for docker0, done by the switch.
//!
//! Each crate that includes this runs all of it over ports and an uplink of its own choice, `crate::PORTS` and
//! `crate::CARRY`. The host of every test forwards nothing and has no rule of netfilter, which [`finish`] asserts.

mod errors;
mod firewall;
mod fragments;
mod isolation;
mod nat;
mod path_mtu;
mod persistence;
mod publish;
mod reach;
mod refusals;
mod router;
mod sctp;
mod sizes;
mod spoofing;

use std::net::{IpAddr, SocketAddr};

use vswitch::api::Port;
use vswitch_tests::lab::address;
use vswitch_tests::{Lab, Options};

/// Networks of both families.
const DUAL: &str = "--subnet 10.1.0.0/24 --subnet fd00:1::/64";
/// The same for a second bridge.
const DUAL_SECOND: &str = "--subnet 10.2.0.0/24 --subnet fd00:2::/64";

/// A lab with the world outside and a daemon.
#[track_caller]
fn lab() -> Option<Lab> {
    Lab::with_outside(crate::CARRY, Options { ports: crate::PORTS, ..Options::default() })
}

/// The same with the bridge `br0` of both families and containers.
#[track_caller]
fn lab_with(roles: &[&str]) -> Option<(Lab, Vec<Port>)> {
    let mut lab = lab()?;
    let ports = lab.simple(DUAL, roles);
    Some((lab, ports))
}

/// Ends the lab; see the module's documentation.
#[track_caller]
fn finish(lab: Lab) {
    lab.assert_no_netfilter();
    lab.finish();
}

/// The gateway of `bridge` in one family.
#[track_caller]
fn gateway(lab: &Lab, bridge: &str, ipv6: bool) -> IpAddr {
    let gateways = lab.bridge(bridge).gateways;
    gateways.into_iter().find(|gateway| gateway.is_ipv6() == ipv6).expect("a gateway")
}

/// The endpoint of `port` in one family.
#[track_caller]
fn at(port: &Port, ipv6: bool, number: u16) -> SocketAddr {
    SocketAddr::new(address(port, ipv6), number)
}

/// The loopback address of a family.
fn loopback(ipv6: bool) -> IpAddr {
    if ipv6 { IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]) } else { IpAddr::from([127, 0, 0, 1]) }
}
