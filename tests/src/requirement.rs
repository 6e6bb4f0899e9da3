//! What the system tests need of the machine, and the loud note when it is missing.

use std::path::Path;
use std::sync::OnceLock;

use crate::{announce, namespace};

/// Whether system tests can run here. Says so loudly when they cannot, once per process, and fails
/// the test when `VSWITCH_REQUIRE_SYSTEM=1` says that they must.
///
/// # Panics
/// When `VSWITCH_REQUIRE_SYSTEM=1` and something is missing.
pub fn system() -> bool {
    static MISSING: OnceLock<Option<String>> = OnceLock::new();
    let missing = MISSING.get_or_init(|| {
        let missing = missing();
        match &missing {
            Some(what) => announce(&format!("\nNOT RUN: system tests need root and a kernel with TAP: {what}\n")),
            None => match namespace::sweep() {
                Ok(swept) if swept.is_empty() => {}
                Ok(swept) => announce(&format!("removed what killed tests left behind: {}", swept.join(" "))),
                Err(error) => announce(&format!("cannot look for what killed tests left behind: {error}")),
            },
        }
        missing
    });
    if let Some(what) = missing {
        let required = std::env::var_os("VSWITCH_REQUIRE_SYSTEM").is_some_and(|value| value == "1");
        assert!(!required, "NOT RUN although VSWITCH_REQUIRE_SYSTEM=1: {what}");
        return false;
    }
    true
}

/// What is missing, in one sentence.
fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root; run the tests with sudo".to_owned());
    }
    if !Path::new("/dev/net/tun").exists() {
        return Some("/dev/net/tun does not exist; load the kernel module `tun`".to_owned());
    }
    let probe = format!("{}probe", namespace::unique_prefix());
    if let Err(error) = namespace::Namespace::create(&probe) {
        return Some(format!("no network namespace can be made: {error}"));
    }
    None
}

/// Whether the program `name` is installed. Announces loudly which test parts need it otherwise.
///
/// # Panics
/// When `VSWITCH_REQUIRE_SYSTEM=1` and it is missing.
pub fn program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|directory| directory.join(name).is_file());
    if !found {
        let required = std::env::var_os("VSWITCH_REQUIRE_SYSTEM").is_some_and(|value| value == "1");
        assert!(!required, "NOT RUN although VSWITCH_REQUIRE_SYSTEM=1: {name} is not installed");
        announce(&format!("NOT RUN: {name} is not installed"));
    }
    found
}
