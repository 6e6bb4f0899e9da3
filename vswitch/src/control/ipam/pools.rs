//! The subnets that bridges get which name none.

use ipnet::{IpNet, Ipv4Net};

use super::IpamError;

/// Private networks, each cut into subnets of one size (`localAddressPools` of Docker).
const DOCKER: [(&str, u8); 2] = [("172.16.0.0/12", 16), ("192.168.0.0/16", 20)];

/// The first subnet of the first pool is not Docker's: its bridge starts with 172.17.0.0/16.
const DOCKER_SKIPPED: usize = 1;

/// Subnets in the order in which they are tried.
#[derive(Debug, Clone)]
pub struct Pools {
    subnets: Vec<Ipv4Net>,
}

impl Pools {
    /// Docker's: 172.17.0.0/16 to 172.31.0.0/16, then 192.168.0.0/20 to 192.168.240.0/20.
    #[must_use]
    pub fn docker() -> Self {
        let cut = |(pool, prefix): (&str, u8)| {
            // Constants, which the test below reads too.
            let pool: Ipv4Net = pool.parse().expect("a network");
            pool.subnets(prefix).expect("a longer prefix")
        };
        Self { subnets: DOCKER.into_iter().flat_map(cut).skip(DOCKER_SKIPPED).collect() }
    }

    /// The first subnet that overlaps none of the networks in `used`.
    ///
    /// # Errors
    /// [`IpamError::NoFreeSubnet`].
    pub fn first_free(&self, used: impl IntoIterator<Item = IpNet>) -> Result<IpNet, IpamError> {
        let used: Vec<_> = used.into_iter().collect();
        self.subnets
            .iter()
            .map(|&subnet| IpNet::V4(subnet))
            .find(|&subnet| !used.iter().any(|&used| overlaps(subnet, used)))
            .ok_or(IpamError::NoFreeSubnet { count: self.subnets.len() })
    }
}

/// Whether two networks have addresses in common: then one contains the other.
#[must_use]
pub fn overlaps(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn the_pools_are_dockers_in_dockers_order() {
        let pools = Pools::docker();
        assert_eq!(pools.subnets.len(), 15 + 16);
        let shown: Vec<_> = pools.subnets.iter().map(ToString::to_string).collect();
        assert_eq!(shown[0], "172.17.0.0/16");
        assert_eq!(shown[14], "172.31.0.0/16");
        assert_eq!(shown[15], "192.168.0.0/20");
        assert_eq!(shown[30], "192.168.240.0/20");
    }

    #[test]
    fn what_is_in_use_is_skipped_whether_larger_or_smaller() {
        let pools = Pools::docker();
        let free = |used: &[&str]| pools.first_free(used.iter().map(|text| net(text))).map(|net| net.to_string());
        assert_eq!(free(&[]).unwrap(), "172.17.0.0/16");
        assert_eq!(free(&["172.17.5.0/24", "172.18.255.255/32"]).unwrap(), "172.19.0.0/16");
        assert_eq!(free(&["172.16.0.0/12", "192.168.1.0/24"]).unwrap(), "192.168.16.0/20");
        assert_eq!(free(&["10.0.0.0/8", "fd00::/8"]).unwrap(), "172.17.0.0/16");
        let error = free(&["172.16.0.0/12", "192.168.0.0/16"]).unwrap_err();
        assert_eq!(error, IpamError::NoFreeSubnet { count: 31 });
        assert!(error.to_string().contains("--subnet"));
    }

    #[test]
    fn every_subnet_is_given_once() {
        let pools = Pools::docker();
        let mut used = Vec::new();
        while let Ok(subnet) = pools.first_free(used.iter().copied()) {
            used.push(subnet);
        }
        assert_eq!(used.len(), 31);
    }

    #[test]
    fn networks_of_different_families_never_overlap() {
        assert!(!overlaps(net("0.0.0.0/0"), net("::/0")));
        assert!(overlaps(net("10.0.0.0/8"), net("10.255.0.0/16")));
        assert!(!overlaps(net("10.0.0.0/9"), net("10.128.0.0/9")));
    }
}
