//! How a person names a namespace.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::NetnsError;

/// Where `ip netns` keeps its names (`NETNS_RUN_DIR` of iproute2).
const NAMES_DIR: &str = "/run/netns";

/// A namespace by name, process or path. Parsed from and shown as `web`, `pid:1234` (or a bare
/// number) and `/proc/1234/ns/net`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum NetnsRef {
    /// A name that `ip netns` knows.
    Name(String),
    /// The namespace that a process lives in.
    Pid(u32),
    /// An nsfs file, by its absolute path.
    Path(PathBuf),
}

impl NetnsRef {
    /// The nsfs file that it stands for.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Name(name) => Path::new(NAMES_DIR).join(name),
            Self::Pid(pid) => PathBuf::from(format!("/proc/{pid}/ns/net")),
            Self::Path(path) => path.clone(),
        }
    }

    /// Whether it may mean the same to people after the machine was started anew: names do, the
    /// numbers of processes and what is made of them do not.
    #[must_use]
    pub fn outlives_boot(&self) -> bool {
        match self {
            Self::Name(_) => true,
            Self::Pid(_) => false,
            // `/var/run` leads to `/run`, see file-hierarchy(7).
            Self::Path(path) => {
                path.parent().is_some_and(|dir| [NAMES_DIR, "/var/run/netns"].map(Path::new).contains(&dir))
            }
        }
    }

    /// The name that a port gets that was given none: the namespace's name, `pid-N`, or the last
    /// component of the path.
    #[must_use]
    pub fn default_port_name(&self) -> String {
        match self {
            Self::Name(name) => name.clone(),
            Self::Pid(pid) => format!("pid-{pid}"),
            Self::Path(path) => {
                let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
                match parts.as_slice() {
                    // /proc/N/ns/net and /proc/N/task/N/ns/net: every process's file is called "net".
                    [root, proc, pid, .., ns, net]
                        if root == "/"
                            && proc == "proc"
                            && ns == "ns"
                            && net == "net"
                            && pid.bytes().all(|b| b.is_ascii_digit()) =>
                    {
                        format!("pid-{pid}")
                    }
                    [.., last] => last.to_string(),
                    [] => String::new(),
                }
            }
        }
    }
}

impl FromStr for NetnsRef {
    type Err = NetnsError;

    fn from_str(input: &str) -> Result<Self, NetnsError> {
        let invalid = |why: &str| NetnsError::Invalid { input: input.to_owned(), why: why.to_owned() };
        if input.is_empty() {
            return Err(invalid("it is empty; give a name known to `ip netns`, pid:N or a path"));
        }
        if input.bytes().any(|b| b.is_ascii_control()) {
            return Err(invalid("it contains control characters"));
        }
        if input.starts_with("container:") {
            return Err(invalid(
                "a container's name is looked up where a command gives it; here it takes pid:N or a path",
            ));
        }
        let is_number = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        if let Some(pid) = input.strip_prefix("pid:").or(is_number(input).then_some(input)) {
            // `u32::from_str` alone would also take a sign.
            return match pid.parse() {
                Ok(number) if number > 0 && is_number(pid) => Ok(Self::Pid(number)),
                _ => Err(invalid("a process id is a whole number from 1 on")),
            };
        }
        if input.starts_with('/') {
            return Ok(Self::Path(PathBuf::from(input)));
        }
        if input.contains('/') {
            return Err(invalid("a path must be absolute, because the switch runs in another directory than you"));
        }
        if input == "." || input == ".." {
            return Err(invalid("give a name known to `ip netns`, pid:N or a path"));
        }
        Ok(Self::Name(input.to_owned()))
    }
}

impl TryFrom<String> for NetnsRef {
    type Error = NetnsError;

    fn try_from(input: String) -> Result<Self, NetnsError> {
        input.parse()
    }
}

impl From<NetnsRef> for String {
    fn from(reference: NetnsRef) -> Self {
        reference.to_string()
    }
}

impl fmt::Display for NetnsRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Pid(pid) => write!(f, "pid:{pid}"),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(input: &str) -> NetnsRef {
        input.parse().unwrap()
    }

    #[test]
    fn every_form_is_understood_and_given_back() {
        assert_eq!(parse("web"), NetnsRef::Name("web".into()));
        assert_eq!(parse("pid:1234"), NetnsRef::Pid(1234));
        assert_eq!(parse("1234"), NetnsRef::Pid(1234));
        assert_eq!(parse("1234b"), NetnsRef::Name("1234b".into()));
        assert_eq!(parse("/proc/1/ns/net"), NetnsRef::Path("/proc/1/ns/net".into()));
        for form in ["web", "pid:1234", "/run/docker/netns/1-abc"] {
            assert_eq!(parse(form).to_string(), form);
            let json = serde_json::to_string(&parse(form)).unwrap();
            assert_eq!(json, format!("{form:?}"));
            assert_eq!(serde_json::from_str::<NetnsRef>(&json).unwrap(), parse(form));
        }
    }

    #[test]
    fn names_outlive_a_boot_and_processes_do_not() {
        for (form, outlives) in [
            ("web", true),
            ("/run/netns/web", true),
            ("/var/run/netns/web", true),
            ("77", false),
            ("/proc/77/ns/net", false),
            ("/run/docker/netns/1-abc", false),
        ] {
            assert_eq!(parse(form).outlives_boot(), outlives, "{form}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for input in ["", "pid:", "pid:0", "pid:+1", "pid:x", "0", "99999999999", "a/b", "..", "a\nb", "container:web"]
        {
            let error = input.parse::<NetnsRef>().unwrap_err();
            assert!(matches!(error, NetnsError::Invalid { .. }), "{input}: {error}");
        }
    }

    #[test]
    fn ports_are_named_after_what_a_person_would_call_the_namespace() {
        for (form, name) in [
            ("web", "web"),
            ("77", "pid-77"),
            ("/proc/77/ns/net", "pid-77"),
            ("/proc/77/task/78/ns/net", "pid-77"),
            ("/run/netns/web", "web"),
            ("/run/docker/netns/1-abc", "1-abc"),
        ] {
            assert_eq!(parse(form).default_port_name(), name);
        }
    }
}
