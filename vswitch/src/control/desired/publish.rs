//! Publishing ports of containers at the host's addresses.
//!
//! What was asked for, a [`PublishSpec`], leaves things open: the host's address, its port. They are decided here, once;
//! what is kept, a [`PublicationRecord`], leaves nothing open. What is published already is not published again, so
//! that a command may be repeated.

use std::net::IpAddr;
use std::rc::Rc;

use ipnet::IpNet;

use super::endpoints::{Endpoints, Owner};
use super::limits::{PUBLICATIONS_MAX, PUBLISH_NETWORKS_MAX};
use super::publication::{PublicationRecord, difference};
use super::publish_view::PublishView;
use super::{BridgeRecord, Desired, PortRecord};
use crate::api::{ExposeSpec, HostPort, PortRange, PublishSpec, Transport, any_address};
use crate::control::refusal::{Result, conflict, invalid, limit, not_found};

impl Desired {
    /// Publishes `specs` of a port, for whoever has an address of `from`, or for everybody; returns what they come to.
    /// What is published already stays, and gets this allow-list.
    ///
    /// # Errors
    /// There is no such bridge or port; the bridge is `internal` or `l2`; the port has no address that could be reached;
    /// an address is not the host's; a port of the host is taken, by whom is said; a limit is reached.
    /// The state is then unchanged.
    pub fn publish(
        &mut self,
        bridge: &str,
        port: &str,
        specs: &[PublishSpec],
        from: &[IpNet],
        host: &PublishView<'_>,
    ) -> Result<Vec<PublicationRecord>> {
        if specs.is_empty() {
            return Ok(Vec::new());
        }
        let before = self.port_mut(bridge, port)?.publications.clone();
        let published = self.publish_each(bridge, port, specs, from, host);
        if published.is_err() {
            self.port_mut(bridge, port)?.publications = before;
        }
        published
    }

    fn publish_each(
        &mut self,
        bridge: &str,
        port: &str,
        specs: &[PublishSpec],
        from: &[IpNet],
        host: &PublishView<'_>,
    ) -> Result<Vec<PublicationRecord>> {
        self.bridge(bridge)?.check_publishable(bridge)?;
        if from.len() > PUBLISH_NETWORKS_MAX {
            return Err(limit(
                format!("{} networks were named that may use a published port", from.len()),
                format!("name at most {PUBLISH_NETWORKS_MAX} with --from"),
            ));
        }
        let from: Vec<IpNet> = from.iter().map(IpNet::trunc).collect();
        let mut endpoints = Endpoints::of(self);
        let owner = Rc::new(Owner::Port { bridge: bridge.to_owned(), port: port.to_owned() });
        let mut published = Vec::with_capacity(specs.len());
        for spec in specs {
            let record = self.bridge(bridge)?;
            let of = record.ports.get(port).ok_or_else(|| no_port(bridge, port))?;
            let hosts = record.hosts_of((bridge, port), of, spec, host)?;
            let ports = of.published_at(&hosts, spec).map_or_else(|| choose(spec, &hosts, &endpoints, host), Ok)?;
            let of = self.port_mut(bridge, port)?;
            for ip in hosts {
                let one = PublicationRecord {
                    protocol: spec.protocol,
                    host: ip,
                    first: ports.first,
                    last: ports.last,
                    target: spec.container.first,
                    from: from.clone(),
                };
                published.push(one.clone());
                of.place(one, (&mut endpoints, &owner), host)?;
            }
        }
        let count: usize = self.bridges.values().flat_map(|b| b.ports.values()).map(|p| p.publications.len()).sum();
        if count > PUBLICATIONS_MAX {
            return Err(limit(
                format!("there are more than {PUBLICATIONS_MAX} published ports and ranges, which is the limit"),
                "publish a range instead of its ports, or unpublish some first",
            ));
        }
        Ok(published)
    }

    /// Publishes the exposed ports of a port that are not published yet, at ports of the switch's choice.
    ///
    /// # Errors
    /// As [`Desired::publish`].
    pub fn publish_exposed(
        &mut self,
        bridge: &str,
        port: &str,
        host: &PublishView<'_>,
    ) -> Result<Vec<PublicationRecord>> {
        let of = self.bridge(bridge)?.ports.get(port).ok_or_else(|| no_port(bridge, port))?;
        let mut specs = Vec::new();
        for ExposeSpec { protocol, ports } in &of.exposed {
            let mut open = vec![*ports];
            for published in of.publications.iter().filter(|one| one.protocol == *protocol) {
                open = open.into_iter().flat_map(|range| difference(range, published.container_ports())).collect();
            }
            specs.extend(open.into_iter().map(|container| PublishSpec {
                host_ip: None,
                host: None,
                container,
                protocol: *protocol,
            }));
        }
        self.publish(bridge, port, &specs, &[], host)
    }

    /// Takes back what `specs` mean of what a port publishes.
    ///
    /// # Errors
    /// There is no such bridge or port, or one of `specs` means nothing that it publishes. The state is then unchanged.
    pub fn unpublish(&mut self, bridge: &str, port: &str, specs: &[PublishSpec]) -> Result<()> {
        let of = self.port_mut(bridge, port)?;
        let before = of.publications.clone();
        for spec in specs {
            if !of.take_back(spec) {
                of.publications = before;
                return Err(not_found(
                    format!("the port {port:?} of bridge {bridge:?} does not publish {spec}"),
                    format!("`vswitchctl ports {bridge} {port}` lists what it publishes"),
                ));
            }
        }
        Ok(())
    }

    /// Checks what is published, as it is found in a state file.
    pub(super) fn check_publications(&self) -> Result<()> {
        let mut endpoints = Endpoints::default();
        for (bridge, record) in &self.bridges {
            for (name, port) in record.ports.iter().filter(|(_, port)| !port.publications.is_empty()) {
                record.check_publishable(bridge)?;
                let owner = Rc::new(Owner::Port { bridge: bridge.clone(), port: name.clone() });
                for one in &port.publications {
                    let reaches = |ip: &IpNet| ip.addr().is_ipv4() == one.host.is_ipv4();
                    let bad = one.first == 0
                        || one.target == 0
                        || one.first > one.last
                        || one.target.checked_add(one.last - one.first).is_none()
                        || one.from.len() > PUBLISH_NETWORKS_MAX
                        || !port.ips.iter().any(reaches);
                    if bad {
                        return Err(invalid(
                            format!("port {name:?} of bridge {bridge:?}: a published port is bad"),
                            "",
                        ));
                    }
                    endpoints.check_free(one.protocol, one.host, one.host_ports())?;
                    endpoints.insert(one.protocol, one.host, one.host_ports(), &owner);
                }
            }
        }
        Ok(())
    }

    /// Refuses a UDP port of `local` that is published, to a tunnel that is to receive there.
    pub(super) fn check_unpublished(&self, local: IpAddr, port: u16) -> Result<()> {
        let at = |one: &&PublicationRecord| {
            one.protocol == Transport::Udp
                && (one.host == local || one.host == any_address(local.is_ipv6()))
                && (one.first..=one.last).contains(&port)
        };
        for (bridge, record) in &self.bridges {
            for (name, of) in &record.ports {
                if let Some(one) = of.publications.iter().find(at) {
                    let taken = HostPort { ip: one.host, ports: one.host_ports() };
                    return Err(conflict(
                        format!("port {name:?} of bridge {bridge:?} has published {taken}/udp"),
                        "choose another port with --dst-port, or take that one back first with `vswitchctl unpublish`",
                    ));
                }
            }
        }
        Ok(())
    }

    fn port_mut(&mut self, bridge: &str, port: &str) -> Result<&mut PortRecord> {
        self.bridge_mut(bridge)?.ports.get_mut(port).ok_or_else(|| no_port(bridge, port))
    }
}

fn no_port(bridge: &str, port: &str) -> crate::api::Error {
    not_found(
        format!("the bridge {bridge:?} has no port {port:?}"),
        format!("`vswitchctl list-ports {bridge}` lists its ports"),
    )
}

impl BridgeRecord {
    /// Refuses bridges whose ports nobody could reach.
    fn check_publishable(&self, bridge: &str) -> Result<()> {
        if self.l2 {
            return Err(conflict(
                format!(
                    "the bridge {bridge:?} is a bare learning switch (l2), which has no gateway that could publish"
                ),
                "attach the container to a bridge with addresses as well, and publish there",
            ));
        }
        if self.internal {
            return Err(conflict(
                format!("the bridge {bridge:?} is internal: nothing enters but through the bridge"),
                format!("allow it with `vswitchctl set-br {bridge} --internal off`, or publish on another bridge"),
            ));
        }
        Ok(())
    }

    /// The addresses of the host at which `spec` is to be published, one per family at most.
    fn hosts_of(
        &self,
        (bridge, name): (&str, &str),
        port: &PortRecord,
        spec: &PublishSpec,
        host: &PublishView<'_>,
    ) -> Result<Vec<IpAddr>> {
        let has = |ipv6: bool| port.ips.iter().any(|ip| ip.addr().is_ipv6() == ipv6);
        let any = [any_address(false), any_address(true)];
        let wanted: &[IpAddr] = match (&spec.host_ip, self.host_ips.as_slice()) {
            (Some(ip), _) => std::slice::from_ref(ip),
            (None, []) => &any,
            (None, ips) => ips,
        };
        let hosts: Vec<IpAddr> = wanted.iter().copied().filter(|ip| has(ip.is_ipv6())).collect();
        if hosts.is_empty() {
            let family = match wanted {
                [one] if one.is_ipv4() => "IPv4 ",
                [one] if one.is_ipv6() => "IPv6 ",
                _ => "",
            };
            return Err(conflict(
                format!(
                    "{spec} cannot be published: the port {name:?} of bridge {bridge:?} has no {family}address that the switch knows"
                ),
                "publish at an address of a family that it has, or attach it with an --ip that the switch is told",
            ));
        }
        // All of 127.0.0.0/8 is the host's, although only 127.0.0.1 is listed.
        let foreign = |ip: &&IpAddr| !(ip.is_unspecified() || ip.is_loopback() || host.addresses.contains(ip));
        if let Some(ip) = hosts.iter().find(foreign) {
            return Err(invalid(
                format!("{spec} cannot be published: {ip} is no address of the host"),
                "name one that `ip address` lists, or none for all of them",
            ));
        }
        Ok(hosts)
    }
}

impl PortRecord {
    /// Takes back what `spec` means of what is published, if anything.
    pub(super) fn take_back(&mut self, spec: &PublishSpec) -> bool {
        let mut meant = false;
        let published = std::mem::take(&mut self.publications);
        self.publications = published
            .into_iter()
            .flat_map(|one| match one.meant_by(spec) {
                Some(ports) => {
                    meant = true;
                    one.without(ports).collect()
                }
                None => vec![one],
            })
            .collect();
        meant
    }

    /// The ports of the host at which `spec`, which leaves them open, is published already.
    fn published_at(&self, hosts: &[IpAddr], spec: &PublishSpec) -> Option<PortRange> {
        if spec.host.is_some_and(|host| host.count() == spec.container.count()) {
            return spec.host;
        }
        let whole = |one: &&PublicationRecord| one.protocol == spec.protocol && hosts.contains(&one.host);
        let mut ports = self.publications.iter().filter(whole).filter_map(|one| {
            let meant = one.meant_by(&PublishSpec { host_ip: None, ..*spec })?;
            (meant.count() == spec.container.count()).then_some(meant)
        });
        ports.next()
    }

    /// Publishes `new`, unless it is published already.
    fn place(
        &mut self,
        new: PublicationRecord,
        (endpoints, owner): (&mut Endpoints, &Rc<Owner>),
        host: &PublishView<'_>,
    ) -> Result<()> {
        let (protocol, ip, ports) = (new.protocol, new.host, new.host_ports());
        // Nearly always nobody has any of them, which the index says without a look at each record.
        if endpoints.taken(protocol, ip, ports).is_some() {
            if !self.make_room(&new, endpoints, owner) {
                return Ok(());
            }
            endpoints.check_free(protocol, ip, ports)?;
        }
        check_unused(protocol, ip, ports, host)?;
        endpoints.insert(protocol, ip, ports, owner);
        self.publications.push(new);
        Ok(())
    }

    /// Takes out what leads where `new` is to lead, from the same ports: they are only given another allow-list.
    /// Whether there is anything to be changed.
    fn make_room(&mut self, new: &PublicationRecord, endpoints: &mut Endpoints, owner: &Rc<Owner>) -> bool {
        let ports = new.host_ports();
        let same = PublishSpec {
            host_ip: Some(new.host),
            host: Some(ports),
            container: new.container_ports(),
            protocol: new.protocol,
        };
        let covers = |one: &PublicationRecord| one.from == new.from && one.meant_by(&same) == Some(ports);
        if self.publications.iter().any(covers) {
            return false;
        }
        for one in std::mem::take(&mut self.publications) {
            let Some(meant) = one.meant_by(&same) else {
                self.publications.push(one);
                continue;
            };
            endpoints.remove(new.protocol, new.host, one.first);
            for rest in one.without(meant) {
                endpoints.insert(new.protocol, new.host, rest.host_ports(), owner);
                self.publications.push(rest);
            }
        }
        true
    }
}

/// Refuses ports that a program of the host has.
fn check_unused(protocol: Transport, ip: IpAddr, ports: PortRange, host: &PublishView<'_>) -> Result<()> {
    let Some(taken) = (host.in_use)(protocol, ip, ports)? else { return Ok(()) };
    Err(conflict(
        format!("{}/{protocol} cannot be published: {}", HostPort { ip, ports }, taken.describe(protocol)),
        "choose another port of the host, leave it out to get a free one, or stop the program",
    ))
}

/// The lowest ports of the host that `spec` may have and that are free at all of `hosts`.
fn choose(spec: &PublishSpec, hosts: &[IpAddr], endpoints: &Endpoints, host: &PublishView<'_>) -> Result<PortRange> {
    let range = spec.host.unwrap_or(host.ephemeral);
    let further = u16::try_from(spec.container.count() - 1).unwrap_or(u16::MAX);
    let mut first = range.first;
    let mut reason = None;
    while let Some(last) = first.checked_add(further).filter(|last| *last <= range.last) {
        let ports = PortRange { first, last };
        // The highest port that stands in the way: what overlaps it need not be tried.
        let mut obstacle = None;
        for &ip in hosts {
            if let Some((taken, owner)) = endpoints.taken(spec.protocol, ip, ports) {
                reason.get_or_insert_with(|| format!("{owner} has {taken}/{}", spec.protocol));
                obstacle = obstacle.max(Some(taken.ports.last));
            } else if let Some(taken) = (host.in_use)(spec.protocol, ip, ports)? {
                reason.get_or_insert_with(|| taken.describe(spec.protocol));
                obstacle = obstacle.max(Some(taken.port));
            }
        }
        let Some(obstacle) = obstacle else { return Ok(ports) };
        let Some(next) = obstacle.checked_add(1) else { break };
        first = next;
    }
    let reason = reason.map(|reason| format!(": {reason}, for one")).unwrap_or_default();
    let ports = if further == 0 { "port".to_owned() } else { format!("row of {} ports", spec.container.count()) };
    Err(limit(
        format!("{spec} cannot be published: no {ports} of {range}/{} is free{reason}", spec.protocol),
        "name other ports of the host, or unpublish some first",
    ))
}
