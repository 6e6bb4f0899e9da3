//! What a person may ask for.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{IpamError, broadcast_use, default_gateway, network_use};

/// Whether a bridge can have `subnet`; whether it is free is another question
/// ([`super::overlaps`]).
///
/// # Errors
/// [`IpamError::Subnet`] for host bits, for networks in which no container can be, and where there is
/// no room for a gateway and a container.
pub fn validate_subnet(subnet: IpNet) -> Result<(), IpamError> {
    let refuse = |why: String| Err(IpamError::Subnet { subnet, why });
    if subnet.addr() != subnet.network() {
        return refuse(format!(
            "the address has bits beyond the prefix of {}; did you mean {}?",
            subnet.prefix_len(),
            subnet.trunc()
        ));
    }
    if let Some((special, what)) = special_networks().find(|(special, _)| super::overlaps(subnet, *special)) {
        return refuse(format!("it overlaps {special}, {what}; choose a private network such as {}", example(subnet)));
    }
    if subnet.prefix_len() == subnet.max_prefix_len() {
        return refuse(format!(
            "it has a single address, which is the gateway's, and none for a container; choose /{} or shorter",
            subnet.max_prefix_len() - 2
        ));
    }
    Ok(())
}

/// Whether `gateway` can be the gateway of `subnet`.
///
/// # Errors
/// [`IpamError::Gateway`] for an address outside, and for those that no host can have.
pub fn validate_gateway(subnet: IpNet, gateway: IpAddr) -> Result<(), IpamError> {
    let refuse = |why: String| Err(IpamError::Gateway { gateway, why });
    let first = default_gateway(subnet);
    if !subnet.contains(&gateway) {
        return refuse(format!("it is outside of the subnet {subnet}; choose one inside, such as {first}"));
    }
    let use_ = network_use(subnet)
        .filter(|_| gateway == subnet.network())
        .or(broadcast_use(subnet).filter(|_| gateway == subnet.broadcast()));
    match use_ {
        Some(use_) => refuse(format!("it is {use_} ({subnet}); choose another one, such as {first}")),
        None => Ok(()),
    }
}

/// Whether addresses of `subnet` can be given from `range`.
///
/// # Errors
/// [`IpamError::Range`] for host bits and for a range that is not inside of the subnet.
pub fn validate_range(subnet: IpNet, range: IpNet) -> Result<(), IpamError> {
    let refuse = |why: String| Err(IpamError::Range { range, why });
    if range.addr() != range.network() {
        return refuse(format!(
            "the address has bits beyond the prefix of {}; did you mean {}?",
            range.prefix_len(),
            range.trunc()
        ));
    }
    if !subnet.contains(&range) {
        return refuse(format!("it is not inside of the subnet {subnet}; choose a part of that, or leave it out"));
    }
    Ok(())
}

fn example(subnet: IpNet) -> &'static str {
    match subnet {
        IpNet::V4(_) => "10.10.0.0/16",
        IpNet::V6(_) => "fd00:10::/64",
    }
}

/// Networks that are no private or public unicast space (the IANA special-purpose registries,
/// RFC 6890).
fn special_networks() -> impl Iterator<Item = (IpNet, &'static str)> {
    let v4 = |a, prefix, what| (IpNet::V4(Ipv4Net::new_assert([a, 0, 0, 0].into(), prefix)), what);
    let v6 = |a, prefix, what| (IpNet::V6(Ipv6Net::new_assert([a, 0, 0, 0, 0, 0, 0, 0].into(), prefix)), what);
    [
        v4(0, 8, "which means this network"),
        v4(127, 8, "which is the host's loopback"),
        v4(224, 4, "which is multicast"),
        v4(240, 4, "which is reserved"),
        v6(0, 8, "which has the loopback and the mapped IPv4 addresses"),
        v6(0xfe80, 10, "which is link-local"),
        v6(0xff00, 8, "which is multicast"),
    ]
    .into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn subnets_that_no_container_can_be_in_are_refused_with_a_remedy() {
        for (subnet, says) in [
            ("10.0.0.5/24", "did you mean 10.0.0.0/24?"),
            ("fd00::1/64", "did you mean fd00::/64?"),
            ("0.0.0.0/0", "10.10.0.0/16"),
            ("127.1.0.0/16", "loopback"),
            ("224.1.0.0/16", "multicast"),
            ("::/0", "fd00:10::/64"),
            ("fe80::/64", "link-local"),
            ("10.0.0.1/32", "choose /30 or shorter"),
            ("fd00::1/128", "choose /126 or shorter"),
        ] {
            let error = validate_subnet(net(subnet)).unwrap_err().to_string();
            assert!(error.contains(says) && error.contains(subnet), "{error}");
        }
        for subnet in ["10.0.0.0/8", "172.17.0.0/16", "192.0.2.0/31", "169.254.0.0/16", "fd00::/64", "2001:db8::/127"] {
            validate_subnet(net(subnet)).unwrap();
        }
    }

    #[test]
    fn gateways_are_addresses_that_a_host_can_have() {
        let check = |subnet: &str, gateway: &str| {
            validate_gateway(net(subnet), gateway.parse().unwrap()).map_err(|error| error.to_string())
        };
        for (subnet, gateway, says) in [
            ("10.0.0.0/24", "10.0.1.1", "outside of the subnet 10.0.0.0/24; choose one inside, such as 10.0.0.1"),
            ("10.0.0.0/24", "fd00::1", "outside"),
            ("10.0.0.0/24", "10.0.0.0", "network address"),
            ("10.0.0.0/24", "10.0.0.255", "broadcast address"),
            ("fd00::/64", "fd00::", "anycast"),
        ] {
            let error = check(subnet, gateway).unwrap_err();
            assert!(error.contains(says) && error.contains(gateway), "{error}");
        }
        for (subnet, gateway) in [
            ("10.0.0.0/24", "10.0.0.254"),
            ("10.0.0.0/31", "10.0.0.0"),
            ("10.0.0.0/31", "10.0.0.1"),
            ("fd00::/64", "fd00::ffff:ffff:ffff:ffff"),
            ("fd00::/127", "fd00::"),
        ] {
            check(subnet, gateway).unwrap();
        }
    }

    #[test]
    fn ranges_are_parts_of_their_subnet() {
        let check = |subnet, range| validate_range(net(subnet), net(range)).map_err(|error| error.to_string());
        assert!(check("10.0.0.0/16", "10.1.0.0/24").unwrap_err().contains("not inside"));
        assert!(check("10.0.0.0/16", "10.0.0.0/8").unwrap_err().contains("not inside"));
        assert!(check("10.0.0.0/16", "fd00::/64").unwrap_err().contains("not inside"));
        assert!(check("10.0.0.0/16", "10.0.5.1/24").unwrap_err().contains("did you mean 10.0.5.0/24?"));
        check("10.0.0.0/16", "10.0.5.0/24").unwrap();
        check("10.0.0.0/16", "10.0.0.0/16").unwrap();
    }
}
