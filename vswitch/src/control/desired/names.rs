//! What bridges, ports and interfaces may be called.

use crate::control::refusal::{Result, invalid};

/// The longest interface name, in bytes: `IFNAMSIZ` of `linux/if.h` less the terminating zero.
pub const INTERFACE_NAME_BYTES_MAX: usize = 15;
/// The longest port name, alias or label key, in bytes.
pub const NAME_BYTES_MAX: usize = 128;

/// Checks `name` as the kernel's `dev_valid_name` does, and refuses two things more: `%`, which
/// the kernel takes for a pattern, and what does not print.
pub(super) fn check_interface_name(what: &str, name: &str) -> Result<()> {
    let why = if name.is_empty() {
        "is empty"
    } else if name.len() > INTERFACE_NAME_BYTES_MAX {
        "is longer than 15 bytes"
    } else if name == "." || name == ".." {
        "is not a name for an interface"
    } else if name == "lo" || name == "all" || name == "default" {
        // `all` and `default` are directories of /proc/sys/net/ipv4/conf.
        "is reserved by the kernel"
    } else if name.bytes().any(|b| !b.is_ascii_graphic() || b"/:%".contains(&b)) {
        "has a character that is not allowed (no whitespace, '/', ':', '%', printable ASCII only)"
    } else {
        return Ok(());
    };
    Err(invalid(format!("the {what} {name:?} {why}"), "choose a name of 1 to 15 letters, digits, '-', '_' or '.'"))
}

/// Checks the name or alias of a port: it appears in paths of the control protocol and in logs.
pub(super) fn check_port_name(what: &str, name: &str) -> Result<()> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.@+".contains(&b);
    let why = if name.is_empty() {
        "is empty"
    } else if name.len() > NAME_BYTES_MAX {
        "is longer than 128 bytes"
    } else if name.starts_with(['-', '.']) {
        "starts with '-' or '.'"
    } else if !name.bytes().all(allowed) {
        "has a character that is not allowed"
    } else {
        return Ok(());
    };
    Err(invalid(
        format!("the {what} {name:?} {why}"),
        "choose one of letters, digits, '-', '_', '.', '@', '+' with --name",
    ))
}
