//! Sets of ports, and how the kernel writes them.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::bits::Bits;

const WORDS: usize = (1 << 16) / 64;

/// A set of ports, 8 KB. As text it is what the kernel has in `ip_local_reserved_ports`: `8080,9148-9150`.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct PortSet(Box<[u64; WORDS]>);

impl PortSet {
    pub(super) fn insert(&mut self, ports: RangeInclusive<u16>) {
        for port in ports {
            self.0[usize::from(port) / 64] |= 1 << (port % 64);
        }
    }

    #[cfg(test)]
    pub(super) fn contains(&self, port: u16) -> bool {
        self.0[usize::from(port) / 64] >> (port % 64) & 1 == 1
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    fn combined(&self, other: &Self, f: impl Fn(u64, u64) -> u64) -> Self {
        let mut all = self.clone();
        for (one, two) in all.0.iter_mut().zip(other.0.iter()) {
            *one = f(*one, *two);
        }
        all
    }

    pub(super) fn union(&self, other: &Self) -> Self {
        self.combined(other, |one, two| one | two)
    }

    pub(super) fn minus(&self, other: &Self) -> Self {
        self.combined(other, |one, two| one & !two)
    }

    pub(super) fn intersection(&self, other: &Self) -> Self {
        self.combined(other, |one, two| one & two)
    }

    /// The ports as few ranges, in order.
    pub(super) fn ranges(&self) -> Vec<RangeInclusive<u16>> {
        let mut ranges: Vec<RangeInclusive<u16>> = Vec::new();
        for (index, word) in self.0.iter().enumerate() {
            for bit in Bits(*word) {
                let port = (index * 64 + bit) as u16;
                match ranges.last_mut() {
                    Some(last) if u32::from(*last.end()) + 1 == u32::from(port) => *last = *last.start()..=port,
                    _ => ranges.push(port..=port),
                }
            }
        }
        ranges
    }
}

impl Default for PortSet {
    fn default() -> Self {
        Self(Box::new([0; WORDS]))
    }
}

impl FromIterator<RangeInclusive<u16>> for PortSet {
    fn from_iter<I: IntoIterator<Item = RangeInclusive<u16>>>(ranges: I) -> Self {
        let mut set = Self::default();
        ranges.into_iter().for_each(|range| set.insert(range));
        set
    }
}

impl FromStr for PortSet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            match (first.trim().parse::<u16>(), last.trim().parse::<u16>()) {
                (Ok(first), Ok(last)) if first <= last => Ok(first..=last),
                _ => Err(format!("{part:?} is neither a port nor a range of ports")),
            }
        };
        text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(range).collect()
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (count, range) in self.ranges().into_iter().enumerate() {
            let comma = if count > 0 { "," } else { "" };
            if range.start() == range.end() {
                write!(f, "{comma}{}", range.start())?;
            } else {
                write!(f, "{comma}{}-{}", range.start(), range.end())?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_is_written_as_the_kernel_writes_it() {
        for text in ["", "0", "8080,9148-9150", "0-65535", "63-64,65535", "1,3,5"] {
            assert_eq!(text.parse::<PortSet>().expect(text).to_string(), text);
        }
        assert_eq!("9,7-8,\n".parse::<PortSet>().expect("parses").to_string(), "7-9");
        for text in ["x", "1-", "65536", "9-8", "1-2-3", "-1"] {
            assert!(text.parse::<PortSet>().is_err(), "{text}");
        }
        assert!(PortSet::default().is_empty() && !"0".parse::<PortSet>().expect("parses").is_empty());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(ranges in proptest::collection::vec((any::<u16>(), any::<u16>()), 0..20)) {
            let ranges = ranges.into_iter().map(|(one, two)| one.min(two)..=one.max(two));
            let (half, rest): (Vec<_>, Vec<_>) = ranges.enumerate().partition(|(at, _)| at % 2 == 0);
            let set = |ranges: Vec<(usize, RangeInclusive<u16>)>| ranges.into_iter().map(|(_, range)| range).collect();
            let (one, two): (PortSet, PortSet) = (set(half), set(rest));
            prop_assert_eq!(&one.to_string().parse::<PortSet>().expect("our own"), &one);
            for port in (0..=u16::MAX).step_by(97).chain([u16::MAX]) {
                let (in_one, in_two) = (one.contains(port), two.contains(port));
                prop_assert_eq!(one.union(&two).contains(port), in_one || in_two);
                prop_assert_eq!(one.minus(&two).contains(port), in_one && !in_two);
                prop_assert_eq!(one.intersection(&two).contains(port), in_one && in_two);
            }
        }
    }
}
