//! A running container, as `docker inspect` shows it.

use std::io;
use std::net::IpAddr;

use serde_json::Value;

use crate::namespace::Namespace;

/// A container that ran when it was looked at.
///
/// Its namespace is held by this value, so drop it before the end of the sandbox is what matters.
#[derive(Debug)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// Its network namespace.
    pub namespace: Namespace,
    /// `docker inspect`.
    pub inspect: Value,
}

impl Container {
    pub(super) fn new(name: &str, inspect: Value) -> io::Result<Self> {
        let pid = inspect["State"]["Pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0);
        let Some(pid) = pid else {
            return Err(io::Error::other(format!("the container {name} does not run: {}", inspect["State"])));
        };
        Ok(Self { name: name.to_owned(), namespace: Namespace::of_process(name, pid)?, inspect })
    }

    /// What `docker inspect` shows of its endpoint in `network`.
    #[must_use]
    pub fn endpoint(&self, network: &str) -> &Value {
        &self.inspect["NetworkSettings"]["Networks"][network]
    }

    /// Its address in `network`.
    ///
    /// # Errors
    /// It has none of that family.
    pub fn address(&self, network: &str, ipv6: bool) -> io::Result<IpAddr> {
        let key = if ipv6 { "GlobalIPv6Address" } else { "IPAddress" };
        let text = self.endpoint(network)[key].as_str().unwrap_or_default();
        text.parse().map_err(|_| io::Error::other(format!("{}: no {key} in {network}: {text:?}", self.name)))
    }

    /// The MAC address in `network`, as Docker knows it.
    #[must_use]
    pub fn mac(&self, network: &str) -> String {
        self.endpoint(network)["MacAddress"].as_str().unwrap_or_default().to_owned()
    }

    /// The host's ports of a container port such as `80/tcp`, each with its address.
    #[must_use]
    pub fn published(&self, port: &str) -> Vec<(String, u16)> {
        let bindings = self.inspect["NetworkSettings"]["Ports"][port].as_array().cloned().unwrap_or_default();
        let one = |binding: &Value| {
            Some((binding["HostIp"].as_str()?.to_owned(), binding["HostPort"].as_str()?.parse().ok()?))
        };
        bindings.iter().filter_map(one).collect()
    }
}
