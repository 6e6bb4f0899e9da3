//! Which options there are, and what is said of others.

use crate::control::refusal::{Result, invalid};

/// Every option there is, for suggestions.
pub(super) const NETWORK_OPTIONS: &[&str] = &[
    "name",
    "mtu",
    "icc",
    "masquerade",
    "host-ip",
    "mss-clamp",
    "l2",
    "type",
    "guard",
    "vlan",
    "uplink",
    "vxlan-vni",
    "vxlan-remotes",
    "vxlan-local",
    "vxlan-port",
    "vxlan-learning",
    "vxlan-carrier",
    "ageing",
    "mac-limit",
    "port-mac-limit",
    "storm-limit",
    "ingress-rate",
    "egress-rate",
    "com.docker.network.bridge.name",
    "com.docker.network.bridge.enable_icc",
    "com.docker.network.bridge.enable_ip_masquerade",
    "com.docker.network.bridge.host_binding_ipv4",
    "com.docker.network.bridge.gateway_mode_ipv4",
    "com.docker.network.bridge.gateway_mode_ipv6",
    "com.docker.network.bridge.inhibit_ipv4",
    "com.docker.network.bridge.default_bridge",
    "com.docker.network.driver.mtu",
    "com.docker.network.container_iface_prefix",
];

/// Every option of an endpoint (`--network name=NET,driver-opt=KEY=VALUE`).
pub(super) const ENDPOINT_OPTIONS: &[&str] = &["type", "guard", "vlan", "ingress-rate", "egress-rate"];

/// Options that Docker sees to itself, whatever the driver is.
pub(super) const DOCKERS_OWN: &[&str] =
    &["com.docker.network.advertise_addr_nmsgs", "com.docker.network.advertise_addr_ms"];

/// Options of Docker's bridge driver that ask for what the switch does not do, and why.
const REFUSED: &[(&str, &str)] = &[
    ("com.docker.network.host_ipv4", "what leaves has the address of the interface that it leaves by; leave it out"),
    ("com.docker.network.host_ipv6", "what leaves has the address of the interface that it leaves by; leave it out"),
    (
        "com.docker.network.bridge.trusted_host_interfaces",
        "containers are reached from outside at published ports alone; publish what is to be reached",
    ),
    ("com.docker.network.endpoint.sysctls", "Docker does not let other drivers set them; use `docker run --sysctl`"),
    (
        "com.docker.network.endpoint.ifname",
        "Docker does not let other drivers choose it; use the network's com.docker.network.container_iface_prefix",
    ),
];

/// Refuses an option that asks for what the switch does not do.
pub(super) fn refuse_known(key: &str) -> Result<()> {
    match REFUSED.iter().find(|(name, _)| *name == key) {
        None => Ok(()),
        Some((_, why)) => {
            let (why, remedy) = why.split_once("; ").unwrap_or((why, ""));
            Err(invalid(format!("the option {key} cannot be had: {why}"), remedy))
        }
    }
}

/// The refusal of an option that there is none of, with the nearest that there is.
pub(super) fn unknown(of: &str, key: &str, known: &[&str]) -> crate::api::Error {
    // A name of Docker's is often written without what they all begin with.
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().replace('_', "-");
    let distance = |name: &&&str| edits(&last(key), &last(name)).min(edits(key, name));
    // Of a short name nothing may be left that the two have in common.
    let is_near = |name: &&&str| distance(name) <= 3 && distance(name) < last(key).len();
    let nearest = known.iter().min_by_key(distance).filter(is_near);
    let remedy = match nearest {
        Some(name) => format!("did you mean {name}?"),
        None => format!("there are {}", known.join(", ")),
    };
    invalid(format!("the {of} option {key} is unknown"), remedy)
}

/// The number of letters that have to be added, left out or replaced to get from `a` to `b` (Levenshtein).
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(from != *to)).min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row[b.len()]
}
