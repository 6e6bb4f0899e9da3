//! The kernel's bridge over veth pairs, as `docker0` is one.

use std::io;

use vswitch_tests::namespace::Namespace;

use super::{Container, Setup, add_veth};

/// Joins `containers` by a bridge in `host`.
pub(super) fn join(host: &Namespace, containers: &[Container], setup: &Setup) -> io::Result<()> {
    host.ip("link add br0 type bridge")?;
    host.ip("link set br0 up")?;
    for (number, container) in containers.iter().enumerate() {
        add_veth(host, container, number, setup)?;
        host.ip(&format!("link set h{number} master br0"))?;
    }
    Ok(())
}

/// Keeps bridged packets of `host` away from the netfilter hooks. Without the module `br_netfilter`
/// there is nothing to turn off.
pub(super) fn without_netfilter(host: &Namespace) -> io::Result<()> {
    for family in ["iptables", "ip6tables", "arptables"] {
        match host.sysctl(&format!("net.bridge.bridge-nf-call-{family}"), "0") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result?,
        }
    }
    Ok(())
}
