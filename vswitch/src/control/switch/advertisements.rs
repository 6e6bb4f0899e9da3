//! The host does not listen to routers on its own bridges.
//!
//! The switch is the router of its bridges. To a container's Router Advertisement (RFC 4861 section
//! 6.2) a host with the kernel's defaults would answer with an address and a default route through
//! that container, which then sees the host's traffic (CVE-2020-13401); a Redirect (section 8) does
//! the same for a single destination. So the host's interfaces take neither.
//!
//! The settings are files of the namespace of the thread that opens them, and belong to the
//! interface: they go with it.

use std::io;
use std::path::Path;

use super::settings::{Setting, set_in};

/// The settings of each interface (`Documentation/networking/ip-sysctl.rst`).
const SETTINGS: [Setting; 3] = [("accept_ra", "0"), ("autoconf", "0"), ("accept_redirects", "0")];

/// Makes the interface `name` of the calling thread's namespace deaf to routers; says what it changed.
/// An interface without IPv6 is deaf already.
///
/// # Errors
/// A setting is not 0 and cannot be written, for example because `/proc/sys` is read-only.
pub(super) fn ignore_routers(name: &str) -> io::Result<Vec<&'static str>> {
    set_in(&Path::new("/proc/sys/net/ipv6/conf").join(name), &SETTINGS)
}
