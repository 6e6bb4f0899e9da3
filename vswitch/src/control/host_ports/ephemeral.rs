//! The ports that the kernel chooses from for whoever does not name one: `net.ipv4.ip_local_port_range`, of this network
//! namespace and for both families.

use std::io;
use std::ops::RangeInclusive;

const SETTING: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// The first port that is not of a well-known service (RFC 6335 section 6).
const UNPRIVILEGED: u16 = 1024;
/// With fewer ports than that for all connections to one server, a busy bridge would run out of them.
const NAT_PORTS_MIN: usize = 4096;

/// How the ports are divided between the kernel and NAT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Division {
    /// What the setting says.
    pub(super) range: RangeInclusive<u16>,
    /// The part of it that NAT must keep off.
    pub(super) kernel: RangeInclusive<u16>,
    /// The part of it that the kernel must keep off, so that NAT has enough.
    pub(super) nat: Option<RangeInclusive<u16>>,
}

/// Where the range leaves too few ports, NAT gets its upper half.
pub(super) fn divide(range: RangeInclusive<u16>) -> Division {
    let (first, last) = (*range.start(), *range.end());
    let outside = (UNPRIVILEGED..=u16::MAX).filter(|port| !range.contains(port)).count();
    if outside >= NAT_PORTS_MIN || first >= last {
        return Division { kernel: range.clone(), range, nat: None };
    }
    let middle = first + (last - first) / 2;
    Division { range, kernel: first..=middle, nat: Some(middle + 1..=last) }
}

/// What the setting says now.
///
/// # Errors
/// `/proc` cannot be read.
pub fn range() -> io::Result<RangeInclusive<u16>> {
    let text = std::fs::read_to_string(SETTING)?;
    parse(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{SETTING} says {text:?}")))
}

fn parse(text: &str) -> Option<RangeInclusive<u16>> {
    let mut numbers = text.split_ascii_whitespace().map(str::parse);
    match (numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last)), None) if first <= last => Some(first..=last),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_range_is_the_kernels_alone() {
        let range = parse("32768\t60999\n").expect("as the kernel writes it");
        assert_eq!(divide(range), Division { range: 32768..=60999, kernel: 32768..=60999, nat: None });
        for text in ["", "1", "2 1", "1 2 3", "x 1", "1 65536"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn nat_gets_the_upper_half_where_nothing_is_left() {
        let all = divide(1024..=65535);
        assert_eq!((all.kernel, all.nat), (1024..=33279, Some(33280..=65535)));
        let enough = divide(1024 + 4096..=65535);
        assert_eq!(enough.nat, None);
        let one_too_few = divide(1024 + 4095..=65535);
        assert_eq!(one_too_few.nat, Some(35328..=65535));
        assert_eq!(divide(1..=1).nat, None);
    }
}
