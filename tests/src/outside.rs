//! A host with the world outside, for tests of the gateway.
//!
//! ```text
//! containers == switch == host  u0 ------ eth0  near  eth1 ------ eth0  far
//!                               .2        .1          .1          .2
//!                               198.18.0.0/24         203.0.113.0/24
//!                               fd18::/64             2001:db8:113::/64
//! ```
//!
//! `u0` is the interface that the host shares with the switch, and its default route goes to `near`: another machine on
//! the same wire, and the router to everything else (its `ip_forward` is 1; that of the host is 0, as it was found).
//! `far` is a machine beyond it. Both have a second address, the last byte 10 higher.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use vswitch::api::Stats;

use crate::lab::must;
use crate::namespace::Namespace;
use crate::process::{PATIENCE, wait_until};
use crate::{Lab, Options};

/// The interface of the host that is shared.
pub const UPLINK: &str = "u0";
type Address = fn(bool) -> IpAddr;

const LIMIT: Duration = PATIENCE;

/// The host's address on the wire.
#[must_use]
pub fn host(ipv6: bool) -> IpAddr {
    wire(ipv6, 2)
}

/// The neighbour's address on the wire.
#[must_use]
pub fn near(ipv6: bool) -> IpAddr {
    wire(ipv6, 1)
}

/// Another address of the same machine.
#[must_use]
pub fn near_second(ipv6: bool) -> IpAddr {
    wire(ipv6, 11)
}

/// The address of the machine that is two hops away.
#[must_use]
pub fn far(ipv6: bool) -> IpAddr {
    beyond(ipv6, 2)
}

/// Another address of the same machine.
#[must_use]
pub fn far_second(ipv6: bool) -> IpAddr {
    beyond(ipv6, 12)
}

/// The router's address towards `far`.
#[must_use]
pub fn near_behind(ipv6: bool) -> IpAddr {
    beyond(ipv6, 1)
}

fn wire(ipv6: bool, last: u8) -> IpAddr {
    if ipv6 {
        Ipv6Addr::new(0xfd18, 0, 0, 0, 0, 0, 0, last.into()).into()
    } else {
        Ipv4Addr::new(198, 18, 0, last).into()
    }
}

fn beyond(ipv6: bool, last: u8) -> IpAddr {
    if ipv6 {
        Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, last.into()).into()
    } else {
        Ipv4Addr::new(203, 0, 113, last).into()
    }
}

impl Lab {
    /// A lab whose host shares `u0` by `carry` (`tc`, `xdp=native`, `xdp=generic`), with all that is outside. None,
    /// loudly, where system tests cannot run.
    #[must_use]
    #[track_caller]
    pub fn with_outside(carry: &str, options: Options) -> Option<Self> {
        let mut lab = Self::outside_without_daemon(carry, options)?;
        lab.start_daemon();
        Some(lab)
    }

    /// The same, and the daemon is not started yet.
    #[must_use]
    #[track_caller]
    pub fn outside_without_daemon(carry: &str, mut options: Options) -> Option<Self> {
        options.args.extend(["--uplink".to_owned(), format!("{UPLINK},{carry}")]);
        let mut lab = Self::without_daemon(options)?;
        for role in ["near", "far"] {
            lab.add_container(role);
            lab.expect_changes(role);
            must(lab.container(role).sysctl("net.ipv6.conf.default.accept_dad", "0"));
        }
        must(lab.host().sysctl("net.ipv6.conf.default.accept_dad", "0"));
        let (near_name, far_name) = (lab.netns("near"), lab.netns("far"));
        must(lab.host().ip(&format!("link add {UPLINK} type veth peer name eth0 netns {near_name}")));
        must(lab.near().ip(&format!("link add eth1 type veth peer name eth0 netns {far_name}")));
        let ends: [(&Namespace, &str, &[Address]); 4] = [
            (lab.host(), UPLINK, &[host]),
            (lab.near(), "eth0", &[near, near_second]),
            (lab.near(), "eth1", &[near_behind]),
            (lab.far(), "eth0", &[far, far_second]),
        ];
        for (namespace, ifname, addresses) in ends {
            for (at, address) in addresses.iter().enumerate() {
                // What is sent comes from the first one.
                let deprecated = if at > 0 { "preferred_lft 0" } else { "" };
                must(namespace.ip(&format!("addr add {}/24 dev {ifname}", address(false))));
                must(namespace.ip(&format!("addr add {}/64 dev {ifname} nodad {deprecated}", address(true))));
            }
            must(namespace.ip(&format!("link set {ifname} up")));
        }
        for ipv6 in [false, true] {
            must(lab.host().ip(&format!("route add default via {}", near(ipv6))));
            must(lab.far().ip(&format!("route add default via {}", near_behind(ipv6))));
        }
        must(lab.near().sysctl("net.ipv4.ip_forward", "1"));
        must(lab.near().sysctl("net.ipv6.conf.all.forwarding", "1"));
        // Answers of routers are limited to one a second for each neighbour: tests ask more often.
        for namespace in [lab.near(), lab.far()] {
            // Not the rate itself: a rate of zero leaves nothing of the peer's allowance for other errors.
            must(namespace.sysctl("net.ipv4.icmp_ratemask", "0"));
            must(namespace.sysctl("net.ipv6.icmp.ratelimit", "0"));
        }
        // Until the link has settled, the host is not what it will be found to be.
        must(wait_until("the link", LIMIT, || {
            let text = lab.host().ip(&format!("addr show dev {UPLINK}")).ok()?;
            (text.contains("state UP") && text.contains("inet6 fe80:") && !text.contains("tentative")).then_some(())
        }));
        lab.found_now("host");
        Some(lab)
    }

    /// The machine on the host's wire.
    #[must_use]
    #[track_caller]
    pub fn near(&self) -> &Namespace {
        self.container("near")
    }

    /// The machine two hops away.
    #[must_use]
    #[track_caller]
    pub fn far(&self) -> &Namespace {
        self.container("far")
    }

    /// Gives the network of `far` another MTU, which only `near` and `far` know.
    #[track_caller]
    pub fn set_far_mtu(&self, mtu: u32) {
        must(self.near().ip(&format!("link set eth1 mtu {mtu}")));
        must(self.far().ip(&format!("link set eth0 mtu {mtu}")));
    }

    /// Gives the wire between host and `near` another MTU.
    #[track_caller]
    pub fn set_wire_mtu(&self, mtu: u32) {
        must(self.near().ip(&format!("link set eth0 mtu {mtu}")));
        must(self.host().ip(&format!("link set {UPLINK} mtu {mtu}")));
    }

    /// How often the switch has dropped something for `reason`, wherever it came from.
    #[track_caller]
    pub fn dropped(&self, reason: &str) -> u64 {
        let stats: Stats = self.stats();
        stats.drops.get(reason).copied().unwrap_or(0)
    }

    /// Waits until more was dropped for `reason` than `before`.
    #[track_caller]
    pub fn await_dropped(&self, reason: &str, before: u64) {
        let counted = wait_until(reason, PATIENCE, || (self.dropped(reason) > before).then_some(()));
        assert!(counted.is_ok(), "nothing more was dropped as {reason}: {:?}", self.stats().drops);
    }

    /// Asserts that the host forwards nothing and has no rule: what the containers have is the switch's doing.
    #[track_caller]
    pub fn assert_no_netfilter(&self) {
        let rules = must(self.host().run("nft list ruleset"));
        assert!(rules.trim().is_empty(), "the host has rules:\n{rules}");
        for sysctl in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            let value = must(self.host().enter(|| std::fs::read_to_string(format!("/proc/sys/{sysctl}"))));
            assert_eq!(value.trim(), "0", "{sysctl}");
        }
    }
}
