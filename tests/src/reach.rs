//! Who reaches whom, and at which address.

use std::net::{IpAddr, SocketAddr};

use vswitch::api::Port;

use crate::namespace::Namespace;

/// Asserts that `from` reaches `address`.
#[track_caller]
pub fn assert_reaches(from: &Namespace, address: IpAddr) {
    let ping = |interval| from.run(&format!("ping -n -q -c 2 -i {interval} -W 2 {address}"));
    // The very first packets on a way may go while it is found out, and a busy machine may take its time for that.
    if let Err(error) = ping(0.05).or_else(|_| ping(0.5)).or_else(|_| ping(3.0)) {
        panic!("{} does not reach {address}: {error}", from.name());
    }
}

/// Asserts that nothing comes back from `address` to `from`.
#[track_caller]
pub fn assert_no_reach(from: &Namespace, address: IpAddr) {
    assert!(from.run(&format!("ping -n -q -c 2 -i 0.05 -W 1 {address}")).is_err(), "{} reaches {address}", from.name());
}

/// The address of `port` in the family of IPv4 (or IPv6), without its prefix length.
#[must_use]
#[track_caller]
pub fn address(port: &Port, ipv6: bool) -> IpAddr {
    port.ips
        .iter()
        .map(ipnet::IpNet::addr)
        .find(|address| address.is_ipv6() == ipv6)
        .unwrap_or_else(|| panic!("{} has no such address: {:?}", port.name, port.ips))
}

/// The IPv4 address of `port`.
#[must_use]
#[track_caller]
pub fn ipv4(port: &Port) -> IpAddr {
    address(port, false)
}

/// The IPv6 address of `port`.
#[must_use]
#[track_caller]
pub fn ipv6(port: &Port) -> IpAddr {
    address(port, true)
}

/// `address` with any free port.
#[must_use]
pub fn any_port(address: IpAddr) -> SocketAddr {
    SocketAddr::new(address, 0)
}
