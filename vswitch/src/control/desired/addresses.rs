//! Networks of bridges and addresses of ports: what was asked for, checked, and the rest chosen.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::limits::{PORT_ADDRESSES_MAX, RESERVATIONS_MAX};
use super::{BridgeRecord, Desired, DockerEndpoint, HostView, SubnetRecord};
use crate::api::{BridgeSpec, Error, ErrorCode, Reservation};
use crate::control::ipam::{
    Allocator, IpamError, Pools, Subnet, default_gateway, overlaps, validate_gateway, validate_range, validate_subnet,
};
use crate::control::refusal::{Result, conflict, from_sentence, invalid, limit};
use crate::wire::MacAddr;

/// The networks of one family: `true` for IPv6. A bridge has at most one of each.
fn is_ipv6(net: &IpNet) -> bool {
    matches!(net, IpNet::V6(_))
}

fn family(ipv6: bool) -> &'static str {
    if ipv6 { "IPv6" } else { "IPv4" }
}

/// The refusal that an error of the allocation is.
pub(super) fn ipam_refused(why: &IpamError) -> Error {
    let code = match why {
        IpamError::NoFreeSubnet { .. } | IpamError::Exhausted { .. } => ErrorCode::Limit,
        IpamError::Taken { .. } => ErrorCode::Conflict,
        _ => ErrorCode::Invalid,
    };
    from_sentence(code, why)
}

impl Desired {
    /// The networks of a new bridge.
    pub(super) fn networks(&self, spec: &BridgeSpec, host: &HostView) -> Result<Vec<SubnetRecord>> {
        if spec.l2 {
            let given = !spec.subnets.is_empty()
                || !spec.gateways.is_empty()
                || !spec.ip_ranges.is_empty()
                || !spec.reserve.is_empty();
            return if given {
                Err(invalid(
                    format!("the bridge {:?} is to be a bare learning switch (l2), which has no addresses", spec.name),
                    "leave out --l2, or --subnet, --gateway, --ip-range and --reserve",
                ))
            } else {
                Ok(Vec::new())
            };
        }
        let nets = if spec.subnets.is_empty() {
            if let Some(without) = spec
                .gateways
                .first()
                .map(ToString::to_string)
                .or_else(|| spec.ip_ranges.first().map(ToString::to_string))
                .or_else(|| spec.reserve.first().map(|reservation| reservation.ip.to_string()))
            {
                return Err(invalid(
                    format!("{without} was given without a subnet that it belongs to"),
                    "name the subnet with --subnet",
                ));
            }
            vec![self.automatic_network(host)?]
        } else {
            for (i, net) in spec.subnets.iter().enumerate() {
                check_network(*net)?;
                if spec.subnets[..i].iter().any(|other| is_ipv6(other) == is_ipv6(net)) {
                    return Err(invalid(
                        format!("{net} is the second {} subnet", family(is_ipv6(net))),
                        "a bridge has at most one subnet per family: make a second bridge",
                    ));
                }
                self.check_overlap(net, host)?;
            }
            spec.subnets.clone()
        };
        let mut subnets = Vec::with_capacity(nets.len());
        for net in nets {
            let same = |ipv6: bool| ipv6 == is_ipv6(&net);
            let mut gateways = spec.gateways.iter().filter(|ip| same(ip.is_ipv6()));
            let mut ranges = spec.ip_ranges.iter().filter(|range| same(is_ipv6(range)));
            let gateway = match (gateways.next(), gateways.next()) {
                (Some(_), Some(second)) => return Err(second_of("gateway", second, &net)),
                (Some(&gateway), None) => gateway,
                (None, _) => default_gateway(net),
            };
            let ip_range = match (ranges.next(), ranges.next()) {
                (Some(_), Some(second)) => return Err(second_of("address range", second, &net)),
                (range, _) => range.copied(),
            };
            subnets.push(SubnetRecord { net, gateway, ip_range, last: None });
        }
        for ip in spec.gateways.iter().copied().chain(spec.ip_ranges.iter().map(IpNet::addr)) {
            if !subnets.iter().any(|subnet| is_ipv6(&subnet.net) == ip.is_ipv6()) {
                let family = family(ip.is_ipv6());
                return Err(invalid(
                    format!("{ip} was given, but the bridge has no {family} subnet"),
                    format!("name the {family} subnet with --subnet, or leave it out"),
                ));
            }
        }
        Ok(subnets)
    }

    fn automatic_network(&self, host: &HostView) -> Result<IpNet> {
        let own = self.bridges.values().flat_map(|bridge| bridge.subnets.iter().map(|subnet| subnet.net));
        let pools = self.docker_pools.values().map(|pool| pool.net);
        let used = own.chain(pools).chain(host.routes.iter().map(|route| route.dst));
        Pools::docker().first_free(used).map_err(|why| ipam_refused(&why))
    }

    pub(super) fn check_overlap(&self, net: &IpNet, host: &HostView) -> Result<()> {
        const REMEDY: &str = "choose another with --subnet, or leave it out to get a free one";
        for (name, bridge) in &self.bridges {
            if let Some(other) = bridge.subnets.iter().find(|other| overlaps(other.net, *net)) {
                return Err(conflict(format!("the subnet {net} overlaps {} of bridge {name:?}", other.net), REMEDY));
            }
        }
        if let Some(route) = host.routes.iter().find(|route| route.dst.prefix_len() > 0 && overlaps(route.dst, *net)) {
            let by = if route.ifname.is_empty() { String::new() } else { format!(" by {}", route.ifname) };
            return Err(conflict(format!("the subnet {net} overlaps the host's route to {}{by}", route.dst), REMEDY));
        }
        Ok(())
    }
}

fn second_of(what: &str, second: &impl std::fmt::Display, net: &IpNet) -> Error {
    invalid(format!("{second} is the second {what} for {net}"), "give at most one per subnet")
}

/// Checks that containers can live in `net`.
pub(super) fn check_network(net: IpNet) -> Result<()> {
    validate_subnet(net).map_err(|why| ipam_refused(&why))
}

/// Checks gateways, ranges and reservations against their networks.
pub(super) fn check_networks(subnets: &[SubnetRecord], reserve: &[Reservation]) -> Result<()> {
    for SubnetRecord { net, gateway, ip_range, .. } in subnets {
        validate_gateway(*net, *gateway).map_err(|why| ipam_refused(&why))?;
        if let Some(range) = ip_range {
            validate_range(*net, *range).map_err(|why| ipam_refused(&why))?;
        }
    }
    if reserve.len() > RESERVATIONS_MAX {
        return Err(limit(format!("there are more than {RESERVATIONS_MAX} reserved addresses"), "use --ip-range"));
    }
    let mut seen = HashSet::new();
    for Reservation { ip, .. } in reserve {
        let Some(subnet) = subnets.iter().find(|subnet| subnet.net.contains(ip)) else {
            return Err(invalid(
                format!("the reserved address {ip} is in no subnet of the bridge"),
                "reserve addresses of the subnet, or leave it out",
            ));
        };
        if *ip == subnet.gateway {
            return Err(conflict(format!("the reserved address {ip} is the gateway"), "leave out the reservation"));
        }
        if !seen.insert(ip) {
            return Err(invalid(format!("the address {ip} is reserved twice"), "reserve it once"));
        }
    }
    Ok(())
}

/// The MAC address of the host's interface.
pub(super) fn host_mac(subnets: &[SubnetRecord], random: [u8; 4]) -> MacAddr {
    let ipv4 = subnets.iter().find_map(|subnet| match subnet.gateway {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    });
    ipv4.map_or_else(|| mac_of_tail(random), MacAddr::from_ipv4)
}

/// A MAC address that no IPv4 address determines, in Docker's range (locally administered).
pub(super) fn mac_of_tail([a, b, c, d]: [u8; 4]) -> MacAddr {
    MacAddr([0x02, 0x42, a, b, c, d])
}

/// What `--ip` asked for.
struct Wanted {
    none: bool,
    explicit: Vec<(IpAddr, Option<u8>)>,
}

fn parse_wanted(texts: &[String]) -> Result<Wanted> {
    let mut wanted = Wanted { none: false, explicit: Vec::new() };
    if texts.len() > PORT_ADDRESSES_MAX {
        return Err(limit(format!("more than {PORT_ADDRESSES_MAX} addresses for one port"), "give fewer"));
    }
    for text in texts {
        if text == "none" {
            wanted.none = true;
        } else if text == "dhcp" {
            return Err(invalid(
                "addresses by DHCP come with uplinks, which this version does not have",
                "leave out --ip for an automatic address, or name one",
            ));
        } else if let Ok(ip) = text.parse::<IpAddr>() {
            wanted.explicit.push((ip, None));
        } else if let Ok(net) = text.parse::<IpNet>() {
            wanted.explicit.push((net.addr(), Some(net.prefix_len())));
        } else {
            return Err(invalid(
                format!("{text:?} is not an address"),
                "write 172.18.0.5, 172.18.0.5/16, fd00::5 or none",
            ));
        }
    }
    Ok(wanted)
}

impl BridgeRecord {
    /// The addresses of a new port, and for each subnet the address that was then given last.
    pub(super) fn port_addresses(
        &self,
        (bridge, name): (&str, &str),
        texts: &[String],
    ) -> Result<(Vec<IpNet>, Vec<Option<IpAddr>>)> {
        let wanted = parse_wanted(texts)?;
        let taken: HashSet<IpAddr> = self.ports.values().flat_map(|port| port.ips.iter().map(IpNet::addr)).collect();
        let mut ips: Vec<IpNet> = Vec::new();
        for (ip, prefix) in wanted.explicit {
            let net = self.explicit_address(bridge, ip, prefix)?;
            if taken.contains(&ip) {
                let owner = self.ports.iter().find(|(_, port)| port.ips.iter().any(|other| other.addr() == ip));
                let owner = owner.map(|(name, _)| format!(" by port {name:?}")).unwrap_or_default();
                return Err(conflict(
                    format!("the address {ip} is taken on bridge {bridge:?}{owner}"),
                    "choose another with --ip, or leave it out to get a free one",
                ));
            }
            let has = |endpoint: &DockerEndpoint| endpoint.ips.iter().any(|other| other.addr() == ip);
            if let Some(owner) = self.docker_endpoint_with(name, has) {
                return Err(conflict(
                    format!("the address {ip} is taken on bridge {bridge:?} by {owner}"),
                    "choose another with --ip",
                ));
            }
            if ips.iter().any(|other| other.addr() == ip) {
                return Err(invalid(format!("the address {ip} is given twice"), "give it once"));
            }
            ips.push(net);
        }
        let mut cursors: Vec<Option<IpAddr>> = self.subnets.iter().map(|subnet| subnet.last).collect();
        if !wanted.none {
            for (subnet, cursor) in self.subnets.iter().zip(&mut cursors) {
                if ips.iter().any(|ip| is_ipv6(ip) == is_ipv6(&subnet.net)) {
                    continue;
                }
                self.check_addresses_ours(bridge)?;
                let ip = self.automatic_address(subnet, &taken)?;
                *cursor = Some(ip);
                ips.push(with_prefix(ip, &subnet.net));
            }
        }
        Ok((ips, cursors))
    }

    fn automatic_address(&self, subnet: &SubnetRecord, taken: &HashSet<IpAddr>) -> Result<IpAddr> {
        let reserved = self.reserve.iter().filter(|reservation| subnet.net.contains(&reservation.ip));
        let reserved = reserved.map(|reservation| (reservation.name.clone(), reservation.ip)).collect();
        let config = Subnet { reserved, ..allocation(subnet) };
        Allocator::restore(&config, taken.iter().copied(), subnet.last)
            .and_then(|mut allocator| allocator.allocate())
            .map_err(|why| ipam_refused(&why))
    }

    /// Checks an address that was asked for by name, and gives it its prefix length.
    pub(super) fn explicit_address(&self, bridge: &str, ip: IpAddr, prefix: Option<u8>) -> Result<IpNet> {
        if self.l2 {
            return l2_address(bridge, ip, prefix);
        }
        let Some(subnet) = self.subnets.iter().find(|subnet| is_ipv6(&subnet.net) == ip.is_ipv6()) else {
            let family = family(ip.is_ipv6());
            return Err(invalid(
                format!("the bridge {bridge:?} has no {family} subnet for {ip}"),
                format!("leave it out, or make a bridge with an {family} --subnet"),
            ));
        };
        if ip == subnet.gateway {
            return Err(conflict(
                format!("the address {ip} is the gateway of bridge {bridge:?}"),
                "choose another with --ip, or leave it out to get a free one",
            ));
        }
        if let Some(prefix) = prefix
            && prefix != subnet.net.prefix_len()
        {
            return Err(invalid(
                format!("the prefix of {ip}/{prefix} is not that of the subnet {}", subnet.net),
                format!("write {ip}, or {ip}/{}", subnet.net.prefix_len()),
            ));
        }
        // Reserved addresses can be had by name: they are there for somebody.
        Allocator::new(&allocation(subnet))
            .and_then(|allocator| allocator.check(ip))
            .map_err(|why| ipam_refused(&why))?;
        Ok(with_prefix(ip, &subnet.net))
    }
}

fn l2_address(bridge: &str, ip: IpAddr, prefix: Option<u8>) -> Result<IpNet> {
    if ip.is_multicast() || ip.is_unspecified() || ip.is_loopback() {
        return Err(invalid(format!("no interface may have the address {ip}"), "choose a unicast address"));
    }
    prefix.and_then(|prefix| IpNet::new(ip, prefix).ok()).ok_or_else(|| {
        invalid(
            format!("the bridge {bridge:?} has no subnet that would give {ip} its prefix length"),
            format!("write it with one, such as {ip}/{}", if ip.is_ipv4() { 24 } else { 64 }),
        )
    })
}

/// A subnet as the allocator wants it, without reservations.
fn allocation(subnet: &SubnetRecord) -> Subnet {
    Subnet { net: subnet.net, gateway: Some(subnet.gateway), range: subnet.ip_range, reserved: Vec::new() }
}

fn with_prefix(ip: IpAddr, net: &IpNet) -> IpNet {
    // The address is of the network's family, so its prefix length fits.
    IpNet::new(ip, net.prefix_len()).unwrap_or_else(|_| ip.into())
}
