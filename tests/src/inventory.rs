//! What a namespace looks like from outside, to be compared before and after.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::namespace::Namespace;

/// Links, addresses, routes, rules and offload settings of a namespace, without what changes by itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Inventory {
    parts: BTreeMap<String, Value>,
}

/// Keys whose values change without anybody's doing: timers and lifetimes.
const VOLATILE: [&str; 5] = ["valid_life_time", "preferred_life_time", "expires", "cache", "gc_timer"];

/// Where the settings are that a switch could be tempted to change; of these directories the files themselves.
const SYSCTLS: [&str; 8] = [
    "/proc/sys/net/ipv4",
    "/proc/sys/net/ipv4/conf/all",
    "/proc/sys/net/ipv4/conf/default",
    "/proc/sys/net/ipv4/conf/lo",
    "/proc/sys/net/ipv6",
    "/proc/sys/net/ipv6/conf/all",
    "/proc/sys/net/ipv6/conf/default",
    "/proc/sys/net/ipv6/conf/lo",
];

/// What tests set themselves, so that their interfaces are silent, or have their addresses at once. The switch has no
/// business with what interfaces that are still to come will be.
fn is_the_tests_own(path: &Path) -> bool {
    path.starts_with("/proc/sys/net/ipv6/conf/default")
        && path.file_name().is_some_and(|name| name == "disable_ipv6" || name == "accept_dad")
}

impl Inventory {
    /// Looks at `namespace`.
    ///
    /// # Errors
    /// `ip` or `ethtool` fails.
    pub fn take(namespace: &Namespace) -> io::Result<Self> {
        let mut parts = BTreeMap::new();
        for command in [
            "-d -j link",
            "-j addr",
            "-4 -j route show table all",
            "-6 -j route show table all",
            "-j rule",
            "-6 -j rule",
        ] {
            let mut value: Value = serde_json::from_str(namespace.ip(command)?.trim()).unwrap_or_default();
            strip(&mut value);
            parts.insert(format!("ip {command}"), value);
        }
        let links = parts.get("ip -d -j link").and_then(Value::as_array).cloned().unwrap_or_default();
        for link in links {
            let Some(name) = link["ifname"].as_str() else { continue };
            let features = namespace.run(&format!("ethtool -k {name}"))?;
            parts.insert(format!("ethtool -k {name}"), features.lines().collect());
        }
        for directory in SYSCTLS {
            let settings = namespace.enter(|| settings(Path::new(directory)));
            for (path, value) in settings.into_iter().filter(|(path, _)| !is_the_tests_own(path)) {
                parts.insert(format!("sysctl {}", path.display()), value.trim().into());
            }
        }
        Ok(Self { parts })
    }

    /// What is different in `after`, one line each; empty when nothing is.
    #[must_use]
    pub fn differences(&self, after: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        for key in self.parts.keys().chain(after.parts.keys().filter(|key| !self.parts.contains_key(*key))) {
            let (before, after) = (self.parts.get(key), after.parts.get(key));
            if before != after {
                let text = |value: Option<&Value>| value.map_or_else(|| "nothing".to_owned(), Value::to_string);
                differences.push(format!("{key}: before {}, after {}", text(before), text(after)));
            }
        }
        differences
    }
}

/// The files of `directory` and what is in them; what cannot be read is left out.
fn settings(directory: &Path) -> Vec<(PathBuf, String)> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let files = entries.map(|entry| entry.path()).filter(|path| path.is_file());
    files.filter_map(|path| std::fs::read_to_string(&path).ok().map(|value| (path, value))).collect()
}

fn strip(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(strip),
        Value::Object(fields) => {
            fields.retain(|key, _| !VOLATILE.contains(&key.as_str()) && !key.ends_with("_timer"));
            fields.values_mut().for_each(strip);
        }
        _ => {}
    }
}
