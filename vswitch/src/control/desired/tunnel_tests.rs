//! Tunnels in the desired state.

use std::net::IpAddr;

use super::tests::{bridge, dual, host, ip, port, refused, target};
use super::*;
use crate::api::{BridgeChange, ErrorCode, FdbStatic, VxlanSpec};

/// The host has 198.18.0.1 and fd18::1, and a route to everywhere.
pub(super) fn view() -> UnderlayView {
    UnderlayView { addresses: [ip("198.18.0.1"), ip("fd18::1")].into(), source: Some(ip("198.18.0.1")) }
}

fn view6() -> UnderlayView {
    UnderlayView { source: Some(ip("fd18::1")), ..view() }
}

fn remotes(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| ip(text)).collect()
}

fn vxlan(vni: u32, to: &[&str]) -> VxlanSpec {
    VxlanSpec { vni, remotes: remotes(to), ..VxlanSpec::default() }
}

fn entry(port: &str, remote: Option<&str>, ips: &[&str]) -> FdbStatic {
    FdbStatic {
        mac: "02:42:0a:00:00:63".into(),
        port: port.into(),
        remote: remote.map(ip),
        ips: ips.iter().map(|text| ip(text)).collect(),
        ..FdbStatic::default()
    }
}

#[test]
fn a_tunnel_has_the_defaults_of_the_standard() {
    let mut desired = dual();
    assert_eq!(
        desired.add_tunnel("br0", &vxlan(42, &["198.18.0.2", "198.18.0.3"]), &view()).expect("works"),
        "vxlan42"
    );
    let tunnel = &desired.bridges["br0"].tunnels["vxlan42"];
    assert_eq!((tunnel.underlay(), tunnel.ttl), (Some((ip("198.18.0.1"), 4789)), 64));
    assert_eq!((tunnel.learning, tunnel.dscp, tunnel.mtu), (true, Dscp::Fixed(0), None));
    // A host port, two remotes and their socket.
    assert_eq!(desired.ports_count(), 4);
    desired.check().expect("valid");
    let text = serde_json::to_string(&desired).expect("text");
    assert_eq!(serde_json::from_str::<Desired>(&text).expect("understood"), desired);
}

#[test]
fn without_a_remote_the_local_address_waits_for_the_first() {
    let mut desired = dual();
    desired.add_tunnel("br0", &vxlan(0, &[]), &UnderlayView::default()).expect("works");
    assert_eq!(desired.bridges["br0"].tunnels["vxlan0"].underlay(), None);
    refused(&desired, ErrorCode::Invalid, "no route", |desired| {
        desired.add_remote("br0", "vxlan0", ip("198.18.0.2"), &UnderlayView::default())
    });
    desired.add_remote("br0", "vxlan0", ip("fd18::2"), &view6()).expect("works");
    assert_eq!(desired.bridges["br0"].tunnels["vxlan0"].local, Some(ip("fd18::1")));
    refused(&desired, ErrorCode::Invalid, "famil", |desired| {
        desired.add_remote("br0", "vxlan0", ip("198.18.0.2"), &view())
    });
    refused(&desired, ErrorCode::Conflict, "already", |desired| {
        desired.add_remote("br0", "vxlan0", ip("fd18::2"), &view())
    });
    refused(&desired, ErrorCode::NotFound, "fd18::3", |desired| desired.remove_remote("br0", "vxlan0", ip("fd18::3")));
    desired.remove_remote("br0", "vxlan0", ip("fd18::2")).expect("works");
    desired.check().expect("valid");
}

#[test]
fn what_no_vtep_can_be_is_refused_with_its_reason() {
    let desired = dual();
    for (remote, says) in [
        ("239.1.1.1", "multicast"),
        ("ff05::1", "multicast"),
        ("198.18.0.1", "this host"),
        ("fd18::1", "this host"),
        ("0.0.0.0", "nobody"),
        ("255.255.255.255", "broadcast"),
        ("fe80::1", "link-local"),
        ("::ffff:198.18.0.2", "disguise"),
    ] {
        refused(&desired, ErrorCode::Invalid, says, |desired| desired.add_tunnel("br0", &vxlan(1, &[remote]), &view()));
    }
    let base = || vxlan(1, &["198.18.0.2"]);
    for (spec, code, says) in [
        (VxlanSpec { vni: 1 << 24, ..base() }, ErrorCode::Invalid, "16777216"),
        (VxlanSpec { dst_port: Some(0), ..base() }, ErrorCode::Invalid, "UDP port"),
        (VxlanSpec { ttl: Some(0), ..base() }, ErrorCode::Invalid, "time to live"),
        (VxlanSpec { dscp: Some(Dscp::Fixed(64)), ..base() }, ErrorCode::Invalid, "DSCP"),
        (VxlanSpec { mtu: Some(67), ..base() }, ErrorCode::Invalid, "MTU"),
        (VxlanSpec { local: Some(ip("198.18.0.9")), ..base() }, ErrorCode::Invalid, "not an address of this host"),
        (VxlanSpec { local: Some(ip("fd18::1")), ..base() }, ErrorCode::Invalid, "famil"),
        (VxlanSpec { name: Some("a b".into()), ..base() }, ErrorCode::Invalid, "name"),
        (VxlanSpec { name: Some("br0".into()), ..base() }, ErrorCode::Conflict, "br0"),
        (vxlan(1, &["198.18.0.2", "198.18.0.2"]), ErrorCode::Conflict, "already"),
        (vxlan(1, &["198.18.0.2", "fd18::2"]), ErrorCode::Invalid, "famil"),
    ] {
        refused(&desired, code, says, |desired| desired.add_tunnel("br0", &spec, &view()));
    }
    refused(&desired, ErrorCode::NotFound, "vxlan9", |desired| desired.remove_tunnel("br0", "vxlan9"));
    refused(&desired, ErrorCode::NotFound, "br9", |desired| desired.add_tunnel("br9", &base(), &view()));
}

#[test]
fn a_vni_has_one_tunnel_on_one_socket() {
    let mut desired = dual();
    desired.add_bridge(&bridge("br1", &["10.1.0.0/24"]), &host()).expect("a bridge");
    desired.add_tunnel("br0", &vxlan(7, &["198.18.0.2"]), &view()).expect("works");
    refused(&desired, ErrorCode::Conflict, "\"vxlan7\" of bridge \"br0\"", |desired| {
        desired.add_tunnel("br1", &vxlan(7, &["198.18.0.3"]), &view())
    });
    let elsewhere = VxlanSpec { dst_port: Some(8472), ..vxlan(7, &["198.18.0.3"]) };
    desired.add_tunnel("br1", &elsewhere, &view()).expect("on another port");
    let named = VxlanSpec { name: Some("six".into()), ..vxlan(7, &["fd18::2"]) };
    desired.add_tunnel("br1", &named, &view6()).expect("on another address");
    // One that waits for its first remote meets the rule when it comes.
    let waiting = VxlanSpec { name: Some("waiting".into()), ..vxlan(7, &[]) };
    desired.add_tunnel("br1", &waiting, &view()).expect("works");
    refused(&desired, ErrorCode::Conflict, "VNI 7", |desired| {
        desired.add_remote("br1", "waiting", ip("198.18.0.4"), &view())
    });
    desired.check().expect("valid");
}

#[test]
fn tunnels_share_the_names_of_ports() {
    let mut desired = dual();
    desired.add_tunnel("br0", &vxlan(7, &[]), &view()).expect("works");
    let spec = crate::api::PortSpec { name: Some("vxlan7".into()), ..port() };
    refused(&desired, ErrorCode::Conflict, "tunnel \"vxlan7\"", |desired| desired.add_port("br0", &spec, &target(1)));
    refused(&desired, ErrorCode::NotFound, "is a tunnel", |desired| desired.remove_port("br0", "vxlan7"));
    desired.add_port("br0", &port(), &target(1)).expect("a port");
    let spec = VxlanSpec { name: Some("ns1".into()), ..vxlan(8, &[]) };
    refused(&desired, ErrorCode::Conflict, "port \"ns1\"", |desired| desired.add_tunnel("br0", &spec, &view()));
    refused(&desired, ErrorCode::Conflict, "1 port and 1 tunnel", |desired| desired.remove_bridge("br0", false));
    desired.remove_port("br0", "ns1").expect("works");
    refused(&desired, ErrorCode::Conflict, "1 tunnel", |desired| desired.remove_bridge("br0", false));
    desired.remove_bridge("br0", true).expect("works");
}

#[test]
fn static_entries_make_unicast_remotes() {
    let mut desired = dual();
    desired.add_port("br0", &port(), &target(1)).expect("a port");
    desired.add_tunnel("br0", &vxlan(7, &["198.18.0.2"]), &view()).expect("works");
    let only = desired.add_static("br0", &entry("vxlan7", None, &[]), &view()).expect("its only remote");
    assert_eq!((only.remote, desired.bridges["br0"].unicast_remotes("vxlan7").len()), (Some(ip("198.18.0.2")), 0));
    let mac = only.mac;
    desired.remove_static("br0", mac, None).expect("works");

    let made = entry("vxlan7", Some("198.18.0.9"), &["10.0.0.99", "fd00::99"]);
    desired.add_static("br0", &made, &view()).expect("behind another");
    let vteps = desired.bridges["br0"].vteps("vxlan7");
    assert_eq!(vteps, [(ip("198.18.0.2"), true), (ip("198.18.0.9"), false)]);
    desired.check().expect("valid");
    // A remote that is no longer flooded to stays for what is pinned behind it, and goes with that.
    desired.add_remote("br0", "vxlan7", ip("198.18.0.9"), &view()).expect("works");
    assert_eq!(desired.bridges["br0"].vteps("vxlan7").len(), 2);
    desired.remove_remote("br0", "vxlan7", ip("198.18.0.9")).expect("works");
    assert_eq!(desired.bridges["br0"].unicast_remotes("vxlan7"), [ip("198.18.0.9")].into());
    desired.remove_static("br0", mac, None).expect("works");
    assert!(desired.bridges["br0"].unicast_remotes("vxlan7").is_empty());

    desired.add_remote("br0", "vxlan7", ip("198.18.0.3"), &view()).expect("works");
    for (bad, code, says) in [
        (entry("vxlan7", None, &[]), ErrorCode::Invalid, "2 remotes"),
        (entry("vxlan7", Some("198.18.0.1"), &[]), ErrorCode::Invalid, "this host"),
        (entry("vxlan7", Some("fd18::2"), &[]), ErrorCode::Invalid, "famil"),
        (entry("vxlan7", Some("224.0.0.1"), &[]), ErrorCode::Invalid, "multicast"),
        (entry("vxlan7", Some("198.18.0.2"), &["10.0.0.9", "10.0.0.9"]), ErrorCode::Invalid, "twice"),
        (entry("vxlan7", Some("198.18.0.2"), &["127.0.0.1"]), ErrorCode::Invalid, "station"),
        (entry("ns1", Some("198.18.0.2"), &[]), ErrorCode::Invalid, "not a tunnel"),
        (entry("ns1", None, &["10.0.0.9"]), ErrorCode::Invalid, "not behind a tunnel"),
    ] {
        refused(&desired, code, says, |desired| desired.add_static("br0", &bad, &view()));
    }
    desired.add_static("br0", &made, &view()).expect("works");
    let other = FdbStatic { mac: "02:42:0a:00:00:64".into(), ..entry("vxlan7", Some("198.18.0.2"), &["10.0.0.99"]) };
    refused(&desired, ErrorCode::Conflict, "02:42:0a:00:00:63", |desired| desired.add_static("br0", &other, &view()));
    desired.remove_tunnel("br0", "vxlan7").expect("works");
    assert!(desired.bridges["br0"].statics.is_empty());
}

#[test]
fn the_bridges_mtu_follows_its_tunnels_unless_it_was_chosen() {
    let mut desired = dual();
    assert!(desired.follow_tunnels("br0", Some(1450)));
    assert_eq!(desired.bridges["br0"].mtu, 1450);
    assert!(!desired.follow_tunnels("br0", Some(1450)));
    // IPv6 needs 1280, and a large underlay is no reason to differ from Docker's default.
    assert!(desired.follow_tunnels("br0", Some(1000)));
    assert_eq!(desired.bridges["br0"].mtu, 1280);
    assert!(desired.follow_tunnels("br0", Some(8950)));
    assert_eq!(desired.bridges["br0"].mtu, 1500);
    desired.change_bridge("br0", &BridgeChange { mtu: Some(9000), ..BridgeChange::default() }).expect("works");
    assert!(!desired.follow_tunnels("br0", Some(1450)));
    assert_eq!(desired.bridges["br0"].mtu, 9000);
    assert_eq!((overhead(false), overhead(true)), (50, 70));
}

#[test]
fn a_state_file_cannot_have_what_commands_refuse() {
    let mut good = dual();
    good.add_tunnel("br0", &vxlan(7, &["198.18.0.2"]), &view()).expect("works");
    good.add_static("br0", &entry("vxlan7", Some("198.18.0.9"), &[]), &view()).expect("works");
    good.check().expect("valid");
    let edits: [fn(&mut BridgeRecord); 6] = [
        |br0| br0.tunnels.get_mut("vxlan7").expect("there").vni = 1 << 24,
        |br0| br0.tunnels.get_mut("vxlan7").expect("there").remotes.push(ip("239.1.1.1")),
        |br0| br0.tunnels.get_mut("vxlan7").expect("there").remotes.push(ip("198.18.0.2")),
        |br0| br0.statics[0].remote = None,
        |br0| br0.statics[0].remote = Some(ip("fd18::9")),
        |br0| {
            let again = br0.tunnels["vxlan7"].clone();
            br0.tunnels.insert("again".into(), again);
        },
    ];
    for (at, edit) in edits.iter().enumerate() {
        let mut bad = good.clone();
        edit(bad.bridges.get_mut("br0").expect("there"));
        assert!(bad.check().is_err(), "edit {at}");
    }
}
