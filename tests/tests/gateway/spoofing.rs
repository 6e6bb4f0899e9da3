//! A container speaks as itself, and neither as another one nor as the gateway.

use std::net::IpAddr;
use std::time::Duration;

use vswitch::api::Port;
use vswitch_tests::Lab;
use vswitch_tests::frame::{BROADCAST, parse_mac, tagged, unpadded};
use vswitch_tests::lab::{address, assert_reaches, must};
use vswitch_tests::packet::{ARP, Header, IPV4, IPV6, arp};
use vswitch_tests::process::{PATIENCE, wait_until};
use vswitch_tests::raw::PacketSocket;

use super::{DUAL, finish, gateway, lab, lab_with};

const MARK: &[u8] = b"it was somebody else";
const QUIET: Duration = Duration::from_millis(250);

fn octets(address: IpAddr) -> [u8; 4] {
    match address {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(_) => panic!("an IPv6 address"),
    }
}

/// A neighbour advertisement: `target` is at `mac`, override.
fn advertisement(source: IpAddr, target: IpAddr, mac: [u8; 6], to: IpAddr) -> Vec<u8> {
    let mut data = match target {
        IpAddr::V6(target) => target.octets().to_vec(),
        IpAddr::V4(_) => panic!("an IPv4 address"),
    };
    data.extend_from_slice(&[2, 1]);
    data.extend_from_slice(&mac);
    Header::new(source, to).ttl(255).icmp(136, 0, [0x20, 0, 0, 0], &data)
}

/// What container `a` may not say, each with the reason under which it is dropped.
fn lies(lab: &Lab, a: &Port, b: &Port) -> Vec<(String, &'static str, Vec<u8>)> {
    let bridge = parse_mac(lab.bridge("br0").mac.as_deref().expect("a MAC"));
    let (own, other) = (parse_mac(&a.mac), parse_mac(&b.mac));
    let to = other;
    let mut lies = Vec::new();
    let mut lie = |what: String, reason, frame: Vec<u8>| {
        lies.push((format!("{what}, tagged"), reason, tagged(5, &frame)));
        lies.push((format!("{what}, tagged 0"), reason, tagged(0, &frame)));
        lies.push((what, reason, frame));
    };
    for ipv6 in [false, true] {
        let kind = if ipv6 { IPV6 } else { IPV4 };
        let (mine, yours, gateway) = (address(a, ipv6), address(b, ipv6), gateway(lab, "br0", ipv6));
        let stranger: IpAddr = if ipv6 { [0xfd00, 1, 0, 0, 0, 0, 0, 0x99].into() } else { [10, 1, 0, 99].into() };
        for source in [yours, gateway, stranger] {
            let packet = Header::new(source, yours).udp(1, 2, MARK);
            lie(format!("IP source {source}"), "spoofed-address", unpadded(to, own, kind, &packet));
        }
        let honest = Header::new(mine, yours).udp(1, 2, MARK);
        for (whose, mac) in [("the neighbour's", other), ("the gateway's", bridge), ("nobody's", [2, 9, 9, 9, 9, 9])] {
            lie(format!("{whose} MAC address, IPv6 {ipv6}"), "spoofed-mac", unpadded(to, mac, kind, &honest));
        }
    }
    for claimed in [address(b, false), gateway(lab, "br0", false)] {
        for operation in [1, 2] {
            let mut packet = arp(operation, (own, octets(claimed)), ([0; 6], octets(address(b, false))));
            packet.extend_from_slice(MARK);
            lie(
                format!("ARP {operation}: {claimed} is here"),
                "spoofed-address",
                unpadded(BROADCAST, own, ARP, &packet),
            );
        }
        // The Ethernet source is right, what is said in ARP is another's.
        let mut packet = arp(2, (other, octets(claimed)), ([0; 6], octets(claimed)));
        packet.extend_from_slice(MARK);
        lie(format!("ARP: {claimed} is at the neighbour's"), "spoofed", unpadded(BROADCAST, own, ARP, &packet));
    }
    for claimed in [address(b, true), gateway(lab, "br0", true)] {
        for source in [address(a, true), claimed] {
            let packet = advertisement(source, claimed, own, address(b, true));
            lie(format!("{source} advertises {claimed}"), "spoofed-address", unpadded(to, own, IPV6, &packet));
        }
    }
    lies
}

#[test]
fn no_lie_leaves_a_guarded_port() {
    let Some((lab, ports)) = lab_with(&["a", "b"]) else { return };
    let (a, b) = (&ports[0], &ports[1]);
    for ipv6 in [false, true] {
        assert_reaches(lab.container("b"), gateway(&lab, "br0", ipv6));
    }
    let neighbours =
        || must(lab.container("b").ip("neigh show")).lines().filter(|line| line.contains("lladdr")).count();
    let known = neighbours();
    let socket = must(PacketSocket::open_sender(lab.container("a"), "eth0"));
    let fdb = lab.fdb("br0");
    let ear = must(PacketSocket::open(lab.container("b"), "eth0"));
    let lies = lies(&lab, a, b);
    for (what, reason, frame) in &lies {
        let count = || {
            lab.stats().drops.iter().filter(|(name, _)| name.starts_with(reason)).map(|(_, count)| count).sum::<u64>()
        };
        let before = count();
        must(socket.send(frame));
        let dropped = wait_until("the drop", PATIENCE, || (count() > before).then_some(()));
        assert!(dropped.is_ok(), "{what}: not dropped as {reason}: {:?}", lab.stats().drops);
    }
    let is_lie = |heard: &[u8]| {
        let same = lies.iter().any(|(_, _, frame)| heard == frame.as_slice());
        same || heard.windows(MARK.len()).any(|bytes| bytes == MARK)
    };
    let heard = must(ear.recv_all(QUIET, is_lie));
    assert!(heard.is_empty(), "the neighbour heard {heard:02x?}");
    // Nobody believes anything: not the forwarding database, not the neighbour, not the host.
    let places = |fdb: Vec<vswitch::api::FdbEntry>| {
        fdb.into_iter().map(|entry| (entry.mac, entry.vlan, entry.port)).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(places(lab.fdb("br0")), places(fdb));
    assert_eq!(neighbours(), known);
    for ipv6 in [false, true] {
        let gateway = gateway(&lab, "br0", ipv6);
        let line = must(lab.container("b").ip(&format!("neigh show {gateway}")));
        assert!(line.contains(lab.bridge("br0").mac.as_deref().expect("a MAC")), "{line}");
        assert_reaches(lab.container("b"), gateway);
        assert_reaches(lab.host(), address(b, ipv6));
    }
    finish(lab);
}

#[test]
fn what_an_honest_container_says_passes() {
    let Some((lab, ports)) = lab_with(&["a", "b"]) else { return };
    let (a, b) = (&ports[0], &ports[1]);
    // Link-local addresses are made by the container itself (RFC 4862), of its MAC address or at random.
    let link_local = |role: &str| {
        // Nobody answers for it until it is known to be nobody else's.
        let text = must(wait_until("the link-local address", PATIENCE, || {
            let text = lab.container(role).ip("-6 -o addr show dev eth0 scope link").ok()?;
            (text.contains("inet6") && !text.contains("tentative")).then_some(text)
        }));
        text.split_whitespace()
            .skip_while(|word| *word != "inet6")
            .nth(1)
            .and_then(|word| word.split('/').next())
            .map(str::to_owned)
    };
    let [_own, target] = ["a", "b"].map(|role| link_local(role).expect("a link-local address"));
    must(lab.container("a").run(&format!("ping -n -q -c 2 -i 0.1 -W 2 {target}%eth0")));
    // Duplicate address detection and its IPv4 sister ask from the unspecified address (RFC 4862, RFC 5227).
    must(lab.container("a").sysctl("net.ipv6.conf.eth0.accept_dad", "1"));
    let ear = must(PacketSocket::open(lab.container("b"), "eth0"));
    let mouth = must(PacketSocket::open_sender(lab.container("a"), "eth0"));
    let own = parse_mac(&a.mac);
    let probe = arp(1, (own, [0; 4]), ([0; 6], octets(address(a, false))));
    must(mouth.send(&unpadded(BROADCAST, own, ARP, &probe)));
    let heard =
        must(ear.recv_expected(1, QUIET, |frame| {
            frame[12..14] == [8, 6] && frame[6..12] == own && frame[28..32] == [0; 4]
        }));
    assert_eq!(heard.len(), 1, "an ARP probe");
    // A gratuitous ARP of its own address, too.
    let own_ip = octets(address(a, false));
    // Marked, because the switch says the same for the container when it joins.
    let announcement = [arp(2, (own, own_ip), (own, own_ip)).as_slice(), MARK].concat();
    must(mouth.send(&unpadded(BROADCAST, own, ARP, &announcement)));
    let heard = must(ear.recv_expected(1, QUIET, |frame| frame[12..14] == [8, 6] && frame.ends_with(MARK)));
    assert_eq!(heard.len(), 1, "a gratuitous ARP");
    for ipv6 in [false, true] {
        assert_reaches(lab.container("a"), address(b, ipv6));
    }
    assert_eq!((lab.dropped("spoofed-mac"), lab.dropped("spoofed-address")), (0, 0));
    finish(lab);
}

#[test]
fn without_a_guard_a_laboratory_may_say_anything() {
    let Some(mut lab) = lab() else { return };
    lab.add_bridge("br0", DUAL);
    lab.attach("br0", "a", "--no-guard");
    let b = lab.attach("br0", "b", "");
    let mouth = must(PacketSocket::open_sender(lab.container("a"), "eth0"));
    let ear = must(PacketSocket::open(lab.container("b"), "eth0"));
    let packet = Header::new([10, 1, 0, 99].into(), address(&b, false)).udp(1, 2, MARK);
    must(mouth.send(&unpadded(parse_mac(&b.mac), [2, 9, 9, 9, 9, 9], IPV4, &packet)));
    let heard = must(ear.recv_expected(1, QUIET, |frame| frame.windows(MARK.len()).any(|bytes| bytes == MARK)));
    assert_eq!(heard.len(), 1);
    // Addresses of its own choice, such as those of a nested bridge.
    must(lab.container("a").ip("addr add 10.1.0.200/24 dev eth0"));
    must(lab.container("b").run("ping -n -q -c 2 -i 0.1 -W 2 10.1.0.200"));
    // Also through the gateway.
    must(
        lab.container("a")
            .run(&format!("ping -n -q -c 2 -i 0.1 -W 2 -I 10.1.0.200 {}", vswitch_tests::outside::far(false))),
    );
    assert!(lab.ctl(&["show", "br0"]).contains("no guard"));
    finish(lab);
}

#[test]
fn what_a_container_is_given_later_is_its_own() {
    let Some(mut lab) = lab() else { return };
    lab.add_bridge("br0", DUAL);
    // A port without configured addresses may have any that is not another's.
    let free = lab.attach("br0", "free", "--ip none");
    let b = lab.attach("br0", "b", "");
    must(lab.container("free").ip("addr add 10.1.0.123/24 dev eth0"));
    assert_reaches(lab.container("free"), address(&b, false));
    assert_reaches(lab.container("free"), gateway(&lab, "br0", false));
    let mouth = must(PacketSocket::open_sender(lab.container("free"), "eth0"));
    let ear = must(PacketSocket::open(lab.container("b"), "eth0"));
    let own = parse_mac(&free.mac);
    for stolen in [address(&b, false), gateway(&lab, "br0", false)] {
        let packet = Header::new(stolen, address(&b, false)).udp(1, 2, MARK);
        must(mouth.send(&unpadded(parse_mac(&b.mac), own, IPV4, &packet)));
    }
    let heard = must(ear.recv_all(QUIET, |frame| frame.windows(MARK.len()).any(|bytes| bytes == MARK)));
    assert!(heard.is_empty(), "another's address");
    finish(lab);
}
