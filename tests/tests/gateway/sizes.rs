//! Datagrams of every order of size, from one byte to 65,000, over every way that the gateway has, between bridges and
//! an uplink of different MTUs: none is a black hole, and echoes come back to the byte.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use vswitch_tests::contact::{hear_within, udp};
use vswitch_tests::lab::{address, must};
use vswitch_tests::outside::{far, host, near};
use vswitch_tests::stream::fill;
use vswitch_tests::{Lab, Namespace};

use super::{DUAL, DUAL_SECOND, finish, lab, loopback};

/// Around the MTUs in use, where fragments begin, and up to what UDP can carry.
const SIZES: [usize; 24] = [
    1, 7, 512, 1200, 1232, 1233, 1252, 1253, 1400, 1432, 1452, 1453, 1472, 1473, 2000, 2952, 4096, 8952, 8953, 8972,
    8973, 20_000, 40_000, 65_000,
];

/// How often a datagram may be sent: its sender may have to learn the path's MTU first, which an error tells.
const ATTEMPTS: usize = 15;
/// How long one of them is waited for.
const WAIT: Duration = Duration::from_millis(500);

/// Sends a datagram of each size from `client` to `target`, behind which is the port 7000 of `server`, and back.
#[track_caller]
fn assert_all_sizes(server: &Namespace, client: &Namespace, target: SocketAddr, label: &str) {
    let echo = must(udp(server, target.is_ipv6(), 7000));
    let socket = must(udp(client, target.is_ipv6(), 0));
    must(socket.connect(target));
    for size in SIZES {
        let mut sent = vec![0; size];
        fill(size as u64, 0, &mut sent);
        let came_back = (0..ATTEMPTS).any(|_| {
            let _ = socket.send(&sent);
            let Ok((heard, from)) = hear_within(&echo, WAIT) else { return false };
            if heard.len() < size {
                // One before this, which was given up too early.
                return false;
            }
            assert!(heard == sent, "{label}: {size} bytes to {target} arrive as {}", heard.len());
            (0..ATTEMPTS).any(|_| {
                let _ = echo.send_to(&heard, from);
                hear_within(&socket, WAIT).is_ok_and(|(back, _)| back == sent)
            })
        });
        assert!(came_back, "{label}: {size} bytes to {target} do not arrive and come back");
    }
}

/// Two bridges of these MTUs, with the containers `a`, which publishes port 7000, and `b`.
fn two_bridges(mtus: [u32; 2]) -> Option<Lab> {
    let mut lab = lab()?;
    for ((bridge, subnets), (role, mtu)) in
        [("br0", DUAL), ("br1", DUAL_SECOND)].into_iter().zip(["a", "b"].into_iter().zip(mtus))
    {
        lab.add_bridge(bridge, &format!("{subnets} --mtu {mtu}"));
        lab.attach(bridge, role, "");
    }
    lab.ctl(&["publish", "br0", "a", "7000:7000/udp"]);
    Some(lab)
}

fn over_every_way(mtus: [u32; 2]) {
    let Some(lab) = two_bridges(mtus) else { return };
    let port = &lab.ports("br0")[0];
    let a = lab.container("a");
    for ipv6 in [false, true] {
        let published = |at: IpAddr| SocketAddr::new(at, 7000);
        let ways: [(&Namespace, IpAddr, &str); 6] = [
            (lab.host(), address(port, ipv6), "the host to the container"),
            (lab.host(), host(ipv6), "the host to its own address"),
            (lab.host(), loopback(ipv6), "the host to its loopback address"),
            (lab.near(), host(ipv6), "outside to a published port"),
            (lab.far(), host(ipv6), "further outside to a published port"),
            (lab.container("b"), host(ipv6), "a container on another bridge"),
        ];
        for (client, at, label) in ways {
            assert_all_sizes(a, client, published(at), &format!("{mtus:?}: {label}"));
        }
        for (server, at) in [(lab.near(), near(ipv6)), (lab.far(), far(ipv6))] {
            assert_all_sizes(server, a, published(at), &format!("{mtus:?}: a container to the outside"));
        }
    }
    finish(lab);
}

#[test]
fn datagrams_of_any_size_over_every_way() {
    over_every_way([1500, 1500]);
}

#[test]
fn datagrams_of_any_size_over_every_way_between_wide_and_narrow() {
    over_every_way([9000, 1280]);
}

#[test]
fn datagrams_of_any_size_over_every_way_between_narrow_and_wide() {
    over_every_way([1280, 9000]);
}
