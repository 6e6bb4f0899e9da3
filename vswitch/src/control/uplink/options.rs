//! The daemon's `--uplink`: which interfaces are shared with the host, and how.

use std::fmt;
use std::str::FromStr;

use crate::api::UplinkCarry;
use crate::control::desired::INTERFACE_NAME_BYTES_MAX;

/// One `--uplink`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UplinkOption {
    /// The interface of the default route, whichever that is.
    Auto,
    /// None.
    None,
    /// This interface.
    Interface {
        /// Its name.
        name: String,
        /// How the switch's packets are carried.
        carry: UplinkCarry,
    },
}

impl FromStr for UplinkOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => return Ok(Self::Auto),
            "none" => return Ok(Self::None),
            _ => {}
        }
        let (name, carry) = match text.split_once(',') {
            None => (text, UplinkCarry::Tc),
            Some((name, "tc")) => (name, UplinkCarry::Tc),
            Some((name, "xdp=native")) => (name, UplinkCarry::XdpNative),
            Some((name, "xdp=generic")) => (name, UplinkCarry::XdpGeneric),
            Some((_, other)) => return Err(format!("{other:?} is not one of tc, xdp=native and xdp=generic")),
        };
        if name.is_empty() || name.len() > INTERFACE_NAME_BYTES_MAX {
            return Err(format!("an interface's name has 1 to {INTERFACE_NAME_BYTES_MAX} bytes"));
        }
        Ok(Self::Interface { name: name.to_owned(), carry })
    }
}

impl fmt::Display for UplinkOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::None => f.write_str("none"),
            Self::Interface { name, carry: UplinkCarry::Tc } => f.write_str(name),
            Self::Interface { name, carry: UplinkCarry::XdpNative } => write!(f, "{name},xdp=native"),
            Self::Interface { name, carry: UplinkCarry::XdpGeneric } => write!(f, "{name},xdp=generic"),
        }
    }
}

/// Checks all `--uplink` options together, and fills in the default.
///
/// # Errors
/// A sentence: `none` beside others, `auto` or an interface twice.
pub fn check(mut options: Vec<UplinkOption>) -> Result<Vec<UplinkOption>, String> {
    if options.is_empty() {
        options.push(UplinkOption::Auto);
    }
    if options.len() > 1 && options.contains(&UplinkOption::None) {
        return Err("--uplink none stands alone; leave the others out".to_owned());
    }
    options.retain(|option| *option != UplinkOption::None);
    for (index, option) in options.iter().enumerate() {
        let same = |other: &&UplinkOption| match (option, other) {
            (UplinkOption::Interface { name, .. }, UplinkOption::Interface { name: other, .. }) => name == other,
            (one, two) => one == *two,
        };
        if options[..index].iter().any(|other| same(&other)) {
            return Err(format!("--uplink {option} is given twice; name every interface once"));
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_read_as_they_are_written() {
        for text in ["auto", "none", "eth0", "eth0,xdp=native", "eth0,xdp=generic"] {
            assert_eq!(text.parse::<UplinkOption>().expect(text).to_string(), text);
        }
        assert_eq!("eth0,tc".parse::<UplinkOption>().expect("parses").to_string(), "eth0");
        for text in ["", ",tc", "eth0,xdp", "eth0,xdp=fast", "sixteen-bytes-xx"] {
            assert!(text.parse::<UplinkOption>().is_err(), "{text}");
        }
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        let parse = |texts: &[&str]| check(texts.iter().map(|text| text.parse().expect("an option")).collect());
        assert_eq!(parse(&[]), Ok(vec![UplinkOption::Auto]));
        assert_eq!(parse(&["none"]), Ok(vec![]));
        assert_eq!(parse(&["auto", "eth1", "eth2,xdp=native"]).map(|all| all.len()), Ok(3));
        for texts in [&["none", "eth0"][..], &["auto", "auto"], &["eth0", "eth0,xdp=native"]] {
            assert!(parse(texts).is_err(), "{texts:?}");
        }
    }
}
