//! The addresses of one subnet.
//!
//! What is taken is kept as maximal runs of neighbouring addresses. The next free address is the
//! end of one run, wherever the cursor is, so that giving one out costs the same in an empty
//! subnet and in a full /16, and a /64 costs nothing for being large.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{IpamError, address, broadcast_use, network_use, number, validate_gateway, validate_range};

/// What a bridge's subnet is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subnet {
    /// The network.
    pub net: IpNet,
    /// The gateway's address, if it has one.
    pub gateway: Option<IpAddr>,
    /// The part that addresses are given from, if it is not all; any other may still be asked for.
    pub range: Option<IpNet>,
    /// Addresses that no port gets, with the names under which they were reserved.
    pub reserved: Vec<(Option<String>, IpAddr)>,
}

/// Gives out the addresses of one subnet.
#[derive(Debug, Clone)]
pub struct Allocator {
    net: IpNet,
    range: IpNet,
    /// Addresses that are never a port's, and what they are instead.
    fixed: BTreeMap<u128, String>,
    /// Runs of addresses that are not free, first to last, no two of them adjacent.
    runs: BTreeMap<u128, u128>,
    /// The number of addresses that ports have.
    taken: usize,
    /// The address that was given out last.
    last: Option<u128>,
}

impl Allocator {
    /// An allocator that has given out nothing yet.
    ///
    /// # Errors
    /// A gateway, range or reservation that the subnet cannot have. The subnet itself is not
    /// looked at: see [`super::validate_subnet`].
    pub fn new(subnet: &Subnet) -> Result<Self, IpamError> {
        let net = subnet.net.trunc();
        let range = subnet.range.unwrap_or(net);
        validate_range(net, range)?;
        let mut fixed = BTreeMap::new();
        fixed.extend(network_use(net).map(|use_| (number(net.network()), use_.to_owned())));
        fixed.extend(broadcast_use(net).map(|use_| (number(net.broadcast()), use_.to_owned())));
        if let Some(gateway) = subnet.gateway {
            validate_gateway(net, gateway)?;
            fixed.insert(number(gateway), "the gateway's".to_owned());
        }
        for (name, ip) in &subnet.reserved {
            let refuse = |why: String| Err(IpamError::Reservation { ip: *ip, why });
            if !net.contains(ip) {
                return refuse(format!("it is outside of the subnet {net}; choose one inside"));
            }
            let use_ = name.as_ref().map_or("reserved".to_owned(), |name| format!("reserved for {name}"));
            if let Some(other) = fixed.insert(number(*ip), use_) {
                return refuse(format!("it is {other} already; leave the reservation out"));
            }
        }
        let mut allocator = Self { net, range, fixed, runs: BTreeMap::new(), taken: 0, last: None };
        let fixed: Vec<_> = allocator.fixed.keys().copied().collect();
        for address in fixed {
            allocator.insert(address);
        }
        Ok(allocator)
    }

    /// An allocator in the state that the records of ports tell: `taken` are their addresses, and
    /// `last` is the one that was given out last. Addresses of other subnets are ignored.
    ///
    /// # Errors
    /// As [`Allocator::new`].
    pub fn restore(
        subnet: &Subnet,
        taken: impl IntoIterator<Item = IpAddr>,
        last: Option<IpAddr>,
    ) -> Result<Self, IpamError> {
        let mut allocator = Self::new(subnet)?;
        for ip in taken {
            // Refused is only what is not ours to give, or twice there.
            let _ = allocator.take(ip);
        }
        allocator.last = last.filter(|ip| allocator.net.contains(ip)).map(number);
        Ok(allocator)
    }

    /// The network.
    #[must_use]
    pub fn net(&self) -> IpNet {
        self.net
    }

    /// The number of addresses that are given out.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.taken
    }

    /// The address that was given out last; to be stored, and given to [`Allocator::restore`].
    #[must_use]
    pub fn last(&self) -> Option<IpAddr> {
        self.last.map(|last| address(last, self.net))
    }

    /// Gives out the next free address of the range, after the one given out last.
    ///
    /// # Errors
    /// [`IpamError::Exhausted`].
    pub fn allocate(&mut self) -> Result<IpAddr, IpamError> {
        let (first, end) = (number(self.range.network()), number(self.range.broadcast()));
        let from = match self.last {
            Some(last) if (first..end).contains(&last) => last + 1,
            _ => first,
        };
        let free = self.free_from(from, end).or_else(|| self.free_from(first, end));
        let free = free.ok_or(IpamError::Exhausted { range: self.range })?;
        self.insert(free);
        self.taken += 1;
        self.last = Some(free);
        Ok(address(free, self.net))
    }

    /// Gives out `ip`, which may be outside of the range.
    ///
    /// # Errors
    /// [`IpamError::Outside`], [`IpamError::Unusable`] or [`IpamError::Taken`].
    pub fn take(&mut self, ip: IpAddr) -> Result<(), IpamError> {
        self.check(ip)?;
        self.insert(number(ip));
        self.taken += 1;
        Ok(())
    }

    /// Whether `ip` could be taken now.
    ///
    /// # Errors
    /// As [`Allocator::take`].
    pub fn check(&self, ip: IpAddr) -> Result<(), IpamError> {
        if !self.net.contains(&ip) {
            return Err(IpamError::Outside { ip, subnet: self.net });
        }
        if let Some(use_) = self.fixed.get(&number(ip)) {
            return Err(IpamError::Unusable { ip, use_: use_.clone() });
        }
        match self.run_of(number(ip)) {
            Some(_) => Err(IpamError::Taken { ip }),
            None => Ok(()),
        }
    }

    /// Takes `ip` back.
    ///
    /// # Errors
    /// [`IpamError::NotTaken`].
    pub fn release(&mut self, ip: IpAddr) -> Result<(), IpamError> {
        let n = number(ip);
        let run = self.run_of(n).filter(|_| self.net.contains(&ip) && !self.fixed.contains_key(&n));
        let (first, last) = run.ok_or(IpamError::NotTaken { ip })?;
        self.runs.remove(&first);
        if first < n {
            self.runs.insert(first, n - 1);
        }
        if n < last {
            self.runs.insert(n + 1, last);
        }
        self.taken -= 1;
        Ok(())
    }

    /// The run that `n` is in.
    fn run_of(&self, n: u128) -> Option<(u128, u128)> {
        self.runs.range(..=n).next_back().map(|(&first, &last)| (first, last)).filter(|&(_, last)| n <= last)
    }

    /// The first free address from `from` to `end`.
    fn free_from(&self, from: u128, end: u128) -> Option<u128> {
        let free = match self.run_of(from) {
            // Runs are maximal: what follows one is free.
            Some((_, last)) => last.checked_add(1)?,
            None => from,
        };
        (free <= end).then_some(free)
    }

    /// Adds `n`, which is free, to the runs.
    fn insert(&mut self, n: u128) {
        let before = n.checked_sub(1).and_then(|before| self.run_of(before));
        let after = n.checked_add(1).and_then(|after| self.runs.remove(&after));
        let first = before.map_or(n, |(first, _)| first);
        self.runs.insert(first, after.unwrap_or(n));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn subnet(net: &str) -> Subnet {
        Subnet { net: net.parse().unwrap(), gateway: None, range: None, reserved: Vec::new() }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn all(allocator: &mut Allocator) -> Vec<String> {
        std::iter::from_fn(|| allocator.allocate().ok()).map(|ip| ip.to_string()).collect()
    }

    #[test]
    fn addresses_come_one_after_the_other_and_not_back_at_once() {
        let mut allocator = Allocator::new(&Subnet { gateway: Some(ip("10.0.0.1")), ..subnet("10.0.0.0/24") }).unwrap();
        assert_eq!(allocator.allocate().unwrap(), ip("10.0.0.2"));
        assert_eq!(allocator.allocate().unwrap(), ip("10.0.0.3"));
        allocator.release(ip("10.0.0.3")).unwrap();
        assert_eq!(allocator.allocate().unwrap(), ip("10.0.0.4"));
        allocator.take(ip("10.0.0.200")).unwrap();
        assert_eq!(allocator.allocate().unwrap(), ip("10.0.0.5"), "what was asked for does not move the cursor");
        assert_eq!(allocator.taken(), 4);
        let taken = ["10.0.0.2", "10.0.0.4", "10.0.0.200", "10.0.0.6", "10.9.9.9", "fd00::7"].map(ip);
        let mut again = Allocator::restore(&subnet("10.0.0.0/24"), taken, allocator.last()).unwrap();
        assert_eq!(again.taken(), 4);
        assert_eq!(again.allocate().unwrap(), ip("10.0.0.7"));
    }

    #[test]
    fn network_broadcast_gateway_and_reserved_are_never_given() {
        let config = Subnet {
            gateway: Some(ip("10.0.0.2")),
            reserved: vec![(Some("router".into()), ip("10.0.0.4")), (None, ip("10.0.0.5"))],
            ..subnet("10.0.0.0/29")
        };
        let mut allocator = Allocator::new(&config).unwrap();
        for (address, says) in [
            ("10.0.0.0", "the subnet's network address"),
            ("10.0.0.7", "the subnet's broadcast address"),
            ("10.0.0.2", "the gateway's"),
            ("10.0.0.4", "reserved for router"),
            ("10.0.0.5", "it is reserved"),
            ("10.0.0.8", "outside of the subnet 10.0.0.0/29"),
            ("fd00::1", "outside"),
        ] {
            let error = allocator.take(ip(address)).unwrap_err().to_string();
            assert!(error.contains(says) && error.contains(address), "{error}");
            assert!(allocator.release(ip(address)).is_err());
        }
        assert_eq!(all(&mut allocator), ["10.0.0.1", "10.0.0.3", "10.0.0.6"]);
        let error = allocator.allocate().unwrap_err().to_string();
        assert!(error.contains("no free address in 10.0.0.0/29"), "{error}");
        assert_eq!(allocator.take(ip("10.0.0.1")), Err(IpamError::Taken { ip: ip("10.0.0.1") }));
    }

    #[test]
    fn the_smallest_subnets_and_ipv6_follow_their_rfcs() {
        assert_eq!(all(&mut Allocator::new(&subnet("10.0.0.2/31")).unwrap()), ["10.0.0.2", "10.0.0.3"]);
        assert_eq!(all(&mut Allocator::new(&subnet("10.0.0.2/32")).unwrap()), ["10.0.0.2"]);
        assert_eq!(all(&mut Allocator::new(&subnet("255.255.255.254/31")).unwrap()).len(), 2);
        assert_eq!(all(&mut Allocator::new(&subnet("fd00::/126")).unwrap()), ["fd00::1", "fd00::2", "fd00::3"]);
        assert_eq!(all(&mut Allocator::new(&subnet("fd00::/127")).unwrap()), ["fd00::", "fd00::1"]);
        let top = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127";
        assert_eq!(all(&mut Allocator::new(&subnet(top)).unwrap()).len(), 2, "no overflow at the end of the space");
        let mut large = Allocator::new(&subnet("fd00::/8")).unwrap();
        assert_eq!(large.allocate().unwrap(), ip("fd00::1"));
    }

    #[test]
    fn a_range_limits_what_is_given_and_not_what_may_be_asked_for() {
        let config = Subnet { range: Some("10.0.1.0/30".parse().unwrap()), ..subnet("10.0.0.0/16") };
        let mut allocator = Allocator::new(&config).unwrap();
        allocator.take(ip("10.0.9.9")).unwrap();
        assert_eq!(all(&mut allocator), ["10.0.1.0", "10.0.1.1", "10.0.1.2", "10.0.1.3"]);
        assert!(Allocator::new(&Subnet { range: Some("10.1.0.0/24".parse().unwrap()), ..config }).is_err());
    }

    #[test]
    fn impossible_reservations_are_refused() {
        let with = |reserved: &[&str]| Subnet {
            gateway: Some(ip("10.0.0.1")),
            reserved: reserved.iter().map(|text| (None, ip(text))).collect(),
            ..subnet("10.0.0.0/24")
        };
        for (reserved, says) in [
            (&["10.0.1.1"][..], "outside"),
            (&["10.0.0.1"], "the gateway's already"),
            (&["10.0.0.0"], "network address"),
            (&["10.0.0.9", "10.0.0.9"], "reserved already"),
        ] {
            let error = Allocator::new(&with(reserved)).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_full_16_is_as_quick_as_an_empty_one() {
        let mut allocator = Allocator::new(&subnet("10.0.0.0/16")).unwrap();
        assert_eq!(all(&mut allocator).len(), 65534);
        let start = std::time::Instant::now();
        for i in 0..50_000u32 {
            let address = IpAddr::from((0x0a00_0001 + (i * 7919) % 65534).to_be_bytes());
            allocator.release(address).unwrap();
            assert_eq!(allocator.allocate().unwrap(), address);
        }
        // A scan of the subnet for each would take minutes.
        assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
    }

    #[derive(Debug, Clone)]
    enum Op {
        Allocate,
        Take(u8),
        Release(u8),
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let op = prop_oneof![
            3 => Just(Op::Allocate),
            2 => (0..20u8).prop_map(Op::Take),
            3 => (0..20u8).prop_map(Op::Release),
        ];
        proptest::collection::vec(op, 0..200)
    }

    /// The same in the simplest words: a set, and a walk around the range.
    struct Model {
        usable: HashSet<u8>,
        range: std::ops::Range<u8>,
        taken: HashSet<u8>,
        last: Option<u8>,
    }

    impl Model {
        fn allocate(&mut self) -> Option<u8> {
            let range: Vec<u8> = self.range.clone().collect();
            let start = self.last.and_then(|last| range.iter().position(|&n| n == last)).map_or(0, |at| at + 1);
            let found = (0..range.len())
                .map(|i| range[(start + i) % range.len()])
                .find(|n| self.usable.contains(n) && !self.taken.contains(n))?;
            self.taken.insert(found);
            self.last = Some(found);
            Some(found)
        }
    }

    proptest! {
        #[test]
        fn it_does_what_a_set_and_a_walk_do(ops in ops(), prefix in 28..=32u8, part in 0..=2u8, v6: bool) {
            let base = if v6 { "fd00::" } else { "10.0.0.0" };
            let prefix_of = |prefix: u8| if v6 { prefix + 96 } else { prefix };
            let net = IpNet::new(ip(base), prefix_of(prefix)).unwrap();
            let range = IpNet::new(ip(base), prefix_of((prefix + part).min(32))).unwrap();
            let size = 1u8 << (32 - prefix);
            let mut usable: HashSet<u8> = (0..size).collect();
            if size > 2 {
                usable.remove(&0);
                if !v6 {
                    usable.remove(&(size - 1));
                }
            }
            let reserved = (size > 4).then(|| {
                usable.remove(&2);
                (None, address(number(net.network()) + 2, net))
            });
            let config = Subnet { net, gateway: None, range: Some(range), reserved: reserved.into_iter().collect() };
            let mut allocator = Allocator::new(&config).unwrap();
            let range = 0..1u8 << (32 - (prefix + part).min(32));
            let mut model = Model { usable, range, taken: HashSet::new(), last: None };

            let at = |n: u8| address(number(net.network()) + u128::from(n), net);
            for op in ops {
                match op {
                    Op::Allocate => prop_assert_eq!(allocator.allocate().ok(), model.allocate().map(at)),
                    Op::Take(n) => {
                        let ok = model.usable.contains(&n) && model.taken.insert(n);
                        prop_assert_eq!(allocator.take(at(n)).is_ok(), ok);
                    }
                    Op::Release(n) => prop_assert_eq!(allocator.release(at(n)).is_ok(), model.taken.remove(&n)),
                }
                prop_assert_eq!(allocator.taken(), model.taken.len());
            }
        }
    }
}
