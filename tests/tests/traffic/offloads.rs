//! Whatever a container turns off at its interface (`ethtool -K`), content arrives unchanged.

use vswitch_tests::lab::{any_port, ipv4, ipv6, must};
use vswitch_tests::stream::{Plan, Transfer, datagrams};

use super::lab;

#[test]
fn every_combination_of_checksum_segmentation_and_coalescing_works() {
    let Some(mut lab) = lab() else { return };
    let ports = lab.simple("--subnet 10.1.0.0/24 --subnet fd00:1::/64", &["a", "b"]);
    let (a, b) = (lab.container("a"), lab.container("b"));
    for combination in 0..8u8 {
        let word = |bit: u8| if combination & (1 << bit) == 0 { "on" } else { "off" };
        let (csum, tso, gro) = (word(0), word(1), word(2));
        // Both ends: what a turns off concerns what it sends and what it is given. Segmentation
        // offload needs checksum offload, so the kernel turns it off by itself where it must.
        for namespace in [a, b] {
            must(namespace.run(&format!("ethtool -K eth0 tx {csum}")));
            must(namespace.run(&format!("ethtool -K eth0 tso {tso} gso {tso}")));
            must(namespace.run(&format!("ethtool -K eth0 gro {gro}")));
        }
        for (address, family) in [(ipv4(&ports[1]), "IPv4"), (ipv6(&ports[1]), "IPv6")] {
            let what = format!("tx {csum} tso {tso} gro {gro}, {family}");
            let transfer = must(Transfer::start(b, a, any_port(address), Plan::both_ways(4 << 20)));
            transfer.finish().unwrap_or_else(|error| panic!("{what}: {error}"));
            datagrams(b, a, any_port(address), &[0, 1, 64, 1472, 1473, 8000])
                .unwrap_or_else(|error| panic!("{what}: {error}"));
        }
    }
    lab.finish();
}

#[test]
fn one_side_alone_without_offloads() {
    let Some(mut lab) = lab() else { return };
    let ports = lab.simple("--subnet 10.1.0.0/24 --subnet fd00:1::/64", &["a", "b"]);
    must(lab.container("a").run("ethtool -K eth0 tx off tso off gso off gro off sg off"));
    for address in [ipv4(&ports[1]), ipv6(&ports[1])] {
        let plan = Plan::both_ways(8 << 20);
        must(must(Transfer::start(lab.container("b"), lab.container("a"), any_port(address), plan)).finish());
    }
    lab.finish();
}

#[test]
fn a_larger_mtu_on_one_side_does_not_break_streams() {
    let Some(mut lab) = lab() else { return };
    lab.add_bridge("br0", "--subnet 10.1.0.0/24");
    lab.attach("br0", "a", "--mtu 9000");
    let b = lab.attach("br0", "b", "--mtu 1500");
    // TCP agrees on the smaller segment size when the connection is made.
    let plan = Plan::both_ways(8 << 20);
    must(must(Transfer::start(lab.container("b"), lab.container("a"), any_port(ipv4(&b)), plan)).finish());
    lab.finish();
}
