//! Which ports of the host's addresses NAT may use.

use std::fmt;

use crate::bpf::Flow;

/// The ports of the host, shared between its own programs and the switch.
///
/// Ports are the same for all addresses of the host, as they are for a program that binds to the wildcard address.
pub trait ExternalPorts: Send + Sync + fmt::Debug {
    /// Whether neither a program of the host, nor a published port, nor the kernel's own choice of ports
    /// (`net.ipv4.ip_local_port_range`) has it.
    fn is_free(&self, flow: Flow, ipv6: bool, port: u16) -> bool;

    /// NAT uses the port from now on: what arrives for it is the switch's.
    fn take(&self, flow: Flow, ipv6: bool, port: u16);

    /// NAT does not use it any more.
    fn release(&self, flow: Flow, ipv6: bool, port: u16);
}

/// The ports of a host that has no programs: every one is free, and nobody has to be told.
#[derive(Debug, Clone, Copy, Default)]
pub struct NobodysPorts;

impl ExternalPorts for NobodysPorts {
    fn is_free(&self, _flow: Flow, _ipv6: bool, port: u16) -> bool {
        port != 0
    }

    fn take(&self, _flow: Flow, _ipv6: bool, _port: u16) {}

    fn release(&self, _flow: Flow, _ipv6: bool, _port: u16) {}
}
