//! The values of options, from the text that people write, and what is said of options that there are none of.

use std::fmt::Display;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde_json::Value;

use crate::api::{Carrier, PortType, UplinkSpec};
use crate::control::refusal::{Result, invalid};
use crate::control::uplink::options::UplinkOption;

/// How a gateway treats a family (`gateway_mode_ipv4`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GatewayMode {
    /// What leaves gets an address of the host.
    Nat,
    /// What leaves keeps its address.
    Routed,
    /// There is none.
    Isolated,
}

/// An address that Docker sends with the prefix length of its network, or alone.
pub(super) fn address(what: &str, text: &str) -> Result<IpAddr> {
    let net = text.parse::<IpNet>().map(|net| net.addr());
    net.or_else(|_| text.parse())
        .map_err(|_| invalid(format!("{what}: {text:?} is no address"), "write it as 172.18.0.5"))
}

pub(super) fn unknown(of: &str, key: &str, known: &[&str]) -> crate::api::Error {
    // A name of Docker's is often written without what they all begin with.
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().replace('_', "-");
    let distance = |name: &&&str| edits(&last(key), &last(name)).min(edits(key, name));
    let nearest = known.iter().min_by_key(distance).filter(|name| distance(name) <= 3);
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

/// The value of an option, which is text with `-o`, and may be more in the engine's own requests.
pub(super) fn text(key: &str, value: &Value) -> Result<String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Bool(_) | Value::Number(_) => Ok(value.to_string()),
        _ => Err(invalid(
            format!("the option {key} is {value}, and neither text nor a number"),
            format!("write -o {key}=VALUE"),
        )),
    }
}

fn bad(key: &str, text: &str, expected: impl Display) -> crate::api::Error {
    invalid(format!("the option {key} is {text:?}"), format!("{expected} is needed"))
}

pub(super) fn parse<T: FromStr>(key: &str, text: &str, expected: &str) -> Result<T> {
    text.trim().parse().map_err(|_| bad(key, text, expected))
}

pub(super) fn unit<T>(key: &str, text: &str, parse: impl Fn(&str) -> std::result::Result<T, String>) -> Result<T> {
    parse(text).map_err(|why| invalid(format!("the option {key} is {text:?}: {why}"), "correct it, or leave it out"))
}

/// What is on or off, in the switch's words or in those of Go's `strconv.ParseBool`.
pub(super) fn switch(key: &str, text: &str) -> Result<bool> {
    match text {
        "on" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "off" | "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(bad(key, text, "true or false")),
    }
}

pub(super) fn list(key: &str, text: &str, expected: &str) -> Result<Vec<IpAddr>> {
    text.split(',').map(|one| parse(key, one, expected)).collect()
}

pub(super) fn port_type(key: &str, text: &str) -> Result<PortType> {
    match text {
        "tap" => Ok(PortType::Tap),
        "xdp" => Ok(PortType::Xdp),
        _ => Err(bad(key, text, "tap or xdp")),
    }
}

pub(super) fn carrier(key: &str, text: &str) -> Result<Carrier> {
    match text {
        "socket" => Ok(Carrier::Socket),
        "uplink" => Ok(Carrier::Uplink),
        _ => Err(bad(key, text, "socket or uplink")),
    }
}

pub(super) fn uplink(key: &str, text: &str) -> Result<UplinkSpec> {
    match text.parse() {
        Ok(UplinkOption::Interface { name, carry }) => {
            Ok(UplinkSpec { interface: name, carry, ..UplinkSpec::default() })
        }
        Ok(UplinkOption::Auto | UplinkOption::None) => Err(bad(key, text, "the name of an interface")),
        Err(why) => Err(invalid(
            format!("the option {key} is {text:?}: {why}"),
            "write IFACE, IFACE,xdp=native or IFACE,xdp=generic",
        )),
    }
}

/// Docker puts a number behind it, and interfaces have names of at most 15 bytes.
pub(super) fn prefix(key: &str, text: &str) -> Result<String> {
    let fits = (1..=12).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if fits { Ok(text.to_owned()) } else { Err(bad(key, text, "1 to 12 letters, digits, '-', '_' or '.'")) }
}

pub(super) fn gateway_mode(key: &str, text: &str) -> Result<GatewayMode> {
    match text {
        "" | "nat" => Ok(GatewayMode::Nat),
        "routed" => Ok(GatewayMode::Routed),
        "isolated" => Ok(GatewayMode::Isolated),
        _ => Err(bad(key, text, "nat, routed or isolated")),
    }
}
