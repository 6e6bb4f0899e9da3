use super::*;
use crate::frame::Pool;
use crate::snapshot::{PortId, Station};

const OWN: [u8; 6] = [0x02, 0x42, 10, 0, 0, 2];
const OTHER: [u8; 6] = [0x02, 0x42, 10, 0, 0, 3];
const GATEWAY: [u8; 6] = [0x02, 0x42, 10, 0, 0, 1];

fn guard() -> Guard {
    Guard { mac: OWN, addresses: vec![IpAddr::from([10, 0, 0, 2]), "fd00::2".parse().unwrap()] }
}

fn gateway() -> GatewayEntry {
    let station = Station { port: PortId(2), mac: OTHER };
    GatewayEntry {
        mac: GATEWAY,
        addresses: vec!["10.0.0.1/24".parse().unwrap(), "fd00::1/64".parse().unwrap()],
        host: Some(PortId(0)),
        stations: [(IpAddr::from([10, 0, 0, 3]), station)].into(),
        neighbours: std::sync::Arc::default(),
        internal: false,
        masquerade: true,
        mss_clamp: false,
    }
}

fn verdict_of(guard: &Guard, bytes: &[u8]) -> Result<(), DropReason> {
    let mut pool = Pool::new(1).unwrap();
    let mut frame = pool.alloc().unwrap();
    frame.copy_from(bytes);
    let key = FlowKey::parse(&mut frame, PortId(1)).unwrap();
    let verdict = check(guard, Some(&gateway()), key, frame.data());
    pool.free(frame);
    verdict
}

fn ethernet(source: [u8; 6], tags: &[u16], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [[0xff; 6], source].concat();
    for tag in tags {
        frame.extend([0x81, 0x00]);
        frame.extend(tag.to_be_bytes());
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

fn v4(source: [u8; 4]) -> Vec<u8> {
    let mut header = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0];
    header.extend(source);
    header.extend([10, 0, 0, 9]);
    header.extend([0; 8]);
    header
}

fn v6(source: &str, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0, 0, payload.len() as u8, next, 255];
    header.extend(source.parse::<Ipv6Addr>().unwrap().octets());
    header.extend("ff02::1".parse::<Ipv6Addr>().unwrap().octets());
    header.extend(payload);
    header
}

fn advertisement(target: &str) -> Vec<u8> {
    let mut message = vec![NEIGHBOR_ADVERTISEMENT, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(target.parse::<Ipv6Addr>().unwrap().octets());
    message
}

fn arp(mac: [u8; 6], ip: [u8; 4]) -> Vec<u8> {
    [&[0, 1, 8, 0, 6, 4, 0, 2][..], &mac, &ip, &[0; 6], &[10, 0, 0, 9]].concat()
}

#[test]
fn a_container_speaks_as_itself_and_as_nobody_else() {
    let (own, spoofed) = (Ok(()), Err(DropReason::SpoofedAddress));
    for (ethertype, payload, expected) in [
        (0x0800, v4([10, 0, 0, 2]), own),
        (0x0800, v4([0, 0, 0, 0]), own),
        (0x0800, v4([10, 0, 0, 3]), spoofed),
        (0x0800, v4([10, 0, 0, 1]), spoofed),
        (0x0806, arp(OWN, [10, 0, 0, 2]), own),
        (0x0806, arp(OWN, [0, 0, 0, 0]), own),
        (0x0806, arp(OWN, [10, 0, 0, 1]), spoofed),
        (0x0806, arp(OTHER, [10, 0, 0, 2]), Err(DropReason::SpoofedMac)),
        (0x86dd, v6("fd00::2", 17, &[0; 8]), own),
        (0x86dd, v6("::", 58, &[135, 0, 0, 0]), own),
        (0x86dd, v6("fd00::3", 17, &[0; 8]), spoofed),
        // Link-local: made of its own Ethernet address, or of none (RFC 7217); not of the gateway's.
        (0x86dd, v6("fe80::42:aff:fe00:2", 17, &[0; 8]), own),
        (0x86dd, v6("fe80::1234:5678:9abc:def0", 17, &[0; 8]), own),
        (0x86dd, v6("fe80::42:aff:fe00:1", 17, &[0; 8]), spoofed),
        (0x86dd, v6("fd00::2", 58, &advertisement("fd00::2")), own),
        (0x86dd, v6("fd00::2", 58, &advertisement("fd00::1")), spoofed),
        (0x86dd, v6("fd00::2", 58, &[ROUTER_ADVERTISEMENT, 0, 0, 0]), spoofed),
        (0x86dd, v6("fd00::2", 58, &[REDIRECT, 0, 0, 0]), spoofed),
        // The same behind destination options.
        (0x86dd, v6("fd00::2", 60, &[&[58, 0, 1, 4, 0, 0, 0, 0][..], &advertisement("fd00::1")].concat()), spoofed),
        (0x88b5, vec![1, 2, 3], own),
    ] {
        for tags in [&[][..], &[7], &[7, 8]] {
            let frame = ethernet(OWN, tags, ethertype, &payload);
            assert_eq!(verdict_of(&guard(), &frame), expected, "{ethertype:04x} {tags:?} {payload:02x?}");
        }
        let frame = ethernet(OTHER, &[], ethertype, &payload);
        assert_eq!(verdict_of(&guard(), &frame), Err(DropReason::SpoofedMac));
    }
}

#[test]
fn a_container_without_addresses_may_have_any_that_is_nobodys() {
    let guard = Guard { mac: OWN, addresses: Vec::new() };
    let verdict = |source| verdict_of(&guard, &ethernet(OWN, &[], 0x0800, &v4(source)));
    assert_eq!(verdict([10, 0, 0, 77]), Ok(()));
    assert_eq!(verdict([10, 0, 0, 3]), Err(DropReason::SpoofedAddress), "another container's");
    assert_eq!(verdict([10, 0, 0, 1]), Err(DropReason::SpoofedAddress), "the gateway's");
}

#[test]
fn truncated_frames_prove_nothing_and_break_nothing() {
    for frame in [
        ethernet(OWN, &[], 0x0800, &v4([10, 0, 0, 3])),
        ethernet(OWN, &[], 0x0806, &arp(OWN, [10, 0, 0, 1])),
        ethernet(OWN, &[5], 0x86dd, &v6("fd00::2", 58, &advertisement("fd00::1"))),
    ] {
        for bytes in 18..frame.len() {
            let _ = verdict_of(&guard(), &frame[..bytes]);
        }
    }
}

#[test]
fn the_host_sends_as_itself_and_forwards_nothing() {
    let own = HashSet::from([IpAddr::from([192, 0, 2, 1])]);
    let verdict = |source| check_host(&gateway(), &own, &ethernet(GATEWAY, &[], 0x0800, &v4(source)));
    assert_eq!(verdict([10, 0, 0, 1]), Ok(()));
    assert_eq!(verdict([192, 0, 2, 1]), Ok(()));
    assert_eq!(verdict([192, 0, 2, 77]), Err(DropReason::NotPublished), "forwarded");
    let verdict = |source| check_host(&gateway(), &own, &ethernet(GATEWAY, &[], 0x86dd, &v6(source, 17, &[0; 8])));
    assert_eq!(verdict("fe80::1"), Ok(()));
    assert_eq!(verdict("2001:db8::1"), Err(DropReason::NotPublished));
}
