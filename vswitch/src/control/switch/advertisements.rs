//! The host does not listen to routers on its own bridges.
//!
//! The switch is the router of its bridges. To a container's Router Advertisement (RFC 4861 section
//! 6.2) a host with the kernel's defaults would answer with an address and a default route through
//! that container, which then sees the host's traffic (CVE-2020-13401); a Redirect (section 8) does
//! the same for a single destination. So the host's interfaces take neither.
//!
//! The settings are files of the namespace of the thread that opens them, and belong to the
//! interface: they go with it.

use std::fs;
use std::io;
use std::path::Path;

/// The settings of each interface (`Documentation/networking/ip-sysctl.rst`); all are to be 0.
const SETTINGS: [&str; 3] = ["accept_ra", "autoconf", "accept_redirects"];

/// Makes the interface `name` of the calling thread's namespace deaf to routers; says what it changed.
/// An interface without IPv6 is deaf already.
///
/// # Errors
/// A setting is not 0 and cannot be written, for example because `/proc/sys` is read-only.
pub(super) fn ignore_routers(name: &str) -> io::Result<Vec<&'static str>> {
    ignore_in(&Path::new("/proc/sys/net/ipv6/conf").join(name))
}

fn ignore_in(dir: &Path) -> io::Result<Vec<&'static str>> {
    let mut changed = Vec::new();
    for setting in SETTINGS {
        let path = dir.join(setting);
        match fs::read_to_string(&path) {
            Ok(value) if value.trim() == "0" => continue,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        }
        fs::write(&path, "0")
            .map_err(|error| io::Error::new(error.kind(), format!("{} cannot be set to 0: {error}", path.display())))?;
        changed.push(setting);
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_becomes_zero_and_is_said_once() {
        let dir = tempfile::tempdir().expect("a directory");
        for (setting, value) in SETTINGS.iter().zip(["1\n", "0\n", "2\n"]) {
            fs::write(dir.path().join(setting), value).expect("writes");
        }
        assert_eq!(ignore_in(dir.path()).expect("works"), ["accept_ra", "accept_redirects"]);
        for setting in SETTINGS {
            assert_eq!(fs::read_to_string(dir.path().join(setting)).expect("reads").trim(), "0");
        }
        assert!(ignore_in(dir.path()).expect("works").is_empty());
    }

    #[test]
    fn without_ipv6_there_is_nothing_to_set() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(ignore_in(&dir.path().join("br0")).expect("works").is_empty());
    }
}
