//! VLANs: which frames pass from which kind of port to which, and in what form.

use vswitch::frame::{DropReason, Gso, GsoKind, Offload};
use vswitch::io::Caps;
use vswitch::io::mem::{MemDevice, MemFrame};
use vswitch::snapshot::{PortId, VlanMode, VlanSet};

use crate::fixture::{BROADCAST, Lab, P0, P1, P2, P3, Topology, frame, mac, tagged};
use crate::wire_packets::{Spec, assert_finished, payload};

/// Priority 5, drop eligible: the upper four bits of a tag's control field.
const PRIORITY: u16 = 0xb000;

fn trunk(vids: &[u16]) -> VlanMode {
    VlanMode::Trunk(VlanSet::new(vids.iter().copied()))
}

/// Ports with these modes on one bridge.
fn lab(modes: &[VlanMode]) -> Lab {
    lab_with(modes, Caps::ALL)
}

fn lab_with(modes: &[VlanMode], caps: Caps) -> Lab {
    let mut topology = Topology::new(1);
    for mode in modes {
        let port = topology.attach(0, MemDevice::new(caps));
        topology.port(port).vlan = mode.clone();
    }
    Lab::with_topology(topology, 256)
}

/// A frame with or without a tag.
fn form(control: Option<u16>) -> Vec<u8> {
    control.map_or_else(|| frame(BROADCAST, mac(1)), |control| tagged(BROADCAST, mac(1), control))
}

/// What a port sends, and how each other port should get it.
struct Row {
    from: VlanMode,
    sent: Option<u16>,
    /// By mode of the output: access 10, access 20, trunk 10 20, trunk 0 10, transparent. The
    /// frame's control field or no tag; or nothing at all.
    got: [Option<Option<u16>>; 5],
}

#[test]
fn every_mode_towards_every_mode() {
    let access = VlanMode::Access(10);
    let tags = trunk(&[10, 20]);
    let native = trunk(&[0, 10]);
    let outputs = [access.clone(), VlanMode::Access(20), tags.clone(), native.clone(), VlanMode::Transparent];
    let nobody = [None; 5];
    let p = PRIORITY;
    // The frame belongs to VLAN 10, and had the priority `p` or no tag.
    let vlan_10 = |p: u16| [Some(None), None, Some(Some(p | 10)), Some(Some(p | 10)), Some(Some(p | 10))];
    let vlan_20 = [None, Some(None), Some(Some(p | 20)), None, Some(Some(p | 20))];
    let vlan_30 = [None, None, None, None, Some(Some(p | 30))];
    let untagged = [None, None, None, Some(None), Some(None)];
    // VLAN 0 with a priority: no VLAN, so ports that take untagged frames get it as it is.
    let priority = [None, None, None, Some(Some(p)), Some(Some(p))];
    let rows = [
        Row { from: access.clone(), sent: None, got: vlan_10(0) },
        Row { from: access.clone(), sent: Some(p), got: vlan_10(p) },
        Row { from: access.clone(), sent: Some(p | 10), got: nobody },
        Row { from: access.clone(), sent: Some(p | 20), got: nobody },
        Row { from: tags.clone(), sent: None, got: nobody },
        Row { from: tags.clone(), sent: Some(p), got: nobody },
        Row { from: tags.clone(), sent: Some(p | 10), got: vlan_10(p) },
        Row { from: tags.clone(), sent: Some(p | 20), got: vlan_20 },
        Row { from: tags.clone(), sent: Some(p | 30), got: nobody },
        Row { from: native.clone(), sent: None, got: untagged },
        Row { from: native.clone(), sent: Some(p), got: priority },
        Row { from: native.clone(), sent: Some(p | 10), got: vlan_10(p) },
        Row { from: native.clone(), sent: Some(p | 20), got: nobody },
        Row { from: VlanMode::Transparent, sent: None, got: untagged },
        Row { from: VlanMode::Transparent, sent: Some(p), got: priority },
        Row { from: VlanMode::Transparent, sent: Some(p | 10), got: vlan_10(p) },
        Row { from: VlanMode::Transparent, sent: Some(p | 20), got: vlan_20 },
        Row { from: VlanMode::Transparent, sent: Some(p | 30), got: vlan_30 },
    ];
    for Row { from, sent, got } in rows {
        // To each alone, flooded and then, once the destination is known, forwarded.
        for (to, got) in outputs.iter().zip(got) {
            let mut lab = lab(&[from.clone(), to.clone()]);
            lab.receive(P0, form(sent));
            let expected: Vec<_> = got.into_iter().map(form).collect();
            assert_eq!(lab.sent_bytes(P1), expected, "{from:?} {sent:x?} flooded to {to:?}");
            for vlan in [0, 10, 20, 30] {
                assert!(lab.fdb().insert_static([2; 6], vlan, P1, 0));
            }
            let unicast = |mut bytes: Vec<u8>| {
                bytes[..6].fill(2);
                bytes
            };
            for _ in 0..2 {
                lab.receive(P0, unicast(form(sent)));
                let expected: Vec<_> = got.into_iter().map(|control| unicast(form(control))).collect();
                assert_eq!(lab.sent_bytes(P1), expected, "{from:?} {sent:x?} forwarded to {to:?}");
            }
            let (ingress, egress) = (lab.drops(P0), lab.drops(P1));
            assert_eq!(egress, []);
            if got.is_none() {
                let total: u64 = ingress.iter().map(|&(_, count)| count).sum();
                assert_eq!(total, 3, "{ingress:?}");
                let vlan_reasons = [DropReason::VlanIngress, DropReason::NoDestination, DropReason::VlanEgress];
                assert!(ingress.iter().all(|(reason, _)| vlan_reasons.contains(reason)), "{ingress:?}");
                assert_eq!(ingress[0].0 == DropReason::VlanIngress, ingress.len() == 1, "{ingress:?}");
            } else {
                assert_eq!(ingress, []);
            }
        }
        // To all at once: one frame, never copied, brought into each form in turn. Both ways round,
        // so that a tag is removed before it is added and the other way about.
        for reversed in [false, true] {
            let mut modes = outputs.to_vec();
            let mut got = got;
            if reversed {
                modes.reverse();
                got.reverse();
            }
            modes.insert(0, from.clone());
            let mut lab = lab(&modes);
            lab.receive(P0, form(sent));
            for (at, got) in got.into_iter().enumerate() {
                let expected: Vec<_> = got.into_iter().map(form).collect();
                let to = PortId(at as u16 + 1);
                assert_eq!(lab.sent_bytes(to), expected, "{from:?} {sent:x?} flooded to {:?}", modes[at + 1]);
            }
            let outputs = got.iter().flatten().count() as u64;
            assert_eq!(lab.counters(P0).flood_copies, outputs.saturating_sub(1));
        }
    }
}

#[test]
fn a_frame_that_may_not_come_in_is_neither_learned_nor_forwarded() {
    let mut lab = lab(&[VlanMode::Access(10), VlanMode::Access(10), trunk(&[20])]);
    lab.receive(P0, tagged(BROADCAST, mac(1), 10));
    lab.receive(P0, tagged(BROADCAST, mac(1), 11));
    lab.receive(P2, frame(BROADCAST, mac(3)));
    lab.receive(P2, tagged(BROADCAST, mac(3), 21));
    assert_eq!(lab.drops(P0), [(DropReason::VlanIngress, 2)]);
    assert_eq!(lab.drops(P2), [(DropReason::VlanIngress, 2)]);
    assert!(lab.fdb().is_empty());
    assert_eq!(lab.sent_counts(), [0, 0, 0]);
}

#[test]
fn a_known_destination_outside_of_the_vlan_is_an_egress_drop() {
    let mut lab = lab(&[trunk(&[10, 20]), trunk(&[10])]);
    assert!(lab.fdb().insert_static(mac(2), 20, P1, 0));
    lab.receive(P0, tagged(mac(2), mac(1), 20));
    assert_eq!(lab.drops(P0), [(DropReason::VlanEgress, 1)]);
    assert_eq!(lab.sent_counts(), [0, 0]);
}

#[test]
fn the_same_address_in_two_vlans_is_two_stations() {
    let mut lab = lab(&[VlanMode::Access(10), VlanMode::Access(20), trunk(&[10, 20])]);
    lab.receive(P0, frame(BROADCAST, mac(1)));
    lab.receive(P1, frame(BROADCAST, mac(1)));
    assert_eq!(lab.sent(P2).len(), 2);
    lab.receive(P2, tagged(mac(1), mac(9), 10));
    assert_eq!(lab.sent_counts(), [1, 0, 0]);
    lab.receive(P2, tagged(mac(1), mac(9), 20));
    assert_eq!(lab.sent_counts(), [0, 1, 0]);
    assert_eq!(lab.fdb().len(), 4);
}

#[test]
fn only_the_outer_tag_is_the_switchs() {
    // 802.1ad: an outer service tag is payload to a customer bridge; an inner tag stays.
    let mut lab = lab(&[trunk(&[10]), VlanMode::Access(10)]);
    let mut double = tagged(BROADCAST, mac(1), 10);
    double.splice(16..16, [0x81, 0x00, 0x00, 0x63]);
    lab.receive(P0, double);
    assert_eq!(lab.sent_bytes(P1), [tagged(BROADCAST, mac(1), 0x63)]);
}

#[test]
fn checksum_offsets_follow_the_tag() {
    let spec = Spec { payload: payload(300), ..Spec::default() };
    let untagged = spec.build();
    let tag = |control: u16| Spec { tags: vec![control], ..spec.clone() };
    let offload = |spec: &Spec| Offload { csum: spec.partial(), gso: None };
    let modes = [VlanMode::Access(10), trunk(&[10]), VlanMode::Access(10), VlanMode::Transparent];
    let mut lab = lab(&modes);
    lab.receive(P0, MemFrame { bytes: untagged.clone(), offload: offload(&spec) });
    for (port, spec) in [(P1, &tag(10)), (P2, &spec), (P3, &tag(10))] {
        assert_eq!(lab.sent(port), [MemFrame { bytes: spec.build(), offload: offload(spec) }], "port {port}");
    }
    // The way back, flooded again: this time the tag goes, and its priority with it.
    let sent = tag(PRIORITY | 10);
    let mut back = MemFrame { bytes: sent.build(), offload: offload(&sent) };
    back.bytes[..12].rotate_left(6);
    back.bytes[..6].copy_from_slice(&mac(9));
    lab.receive(P1, back.clone());
    assert_eq!(lab.sent(P3), [back.clone()]);
    back.bytes.drain(12..16);
    back.offload = offload(&spec);
    assert_eq!(lab.sent(P0), [back.clone()]);
    assert_eq!(lab.sent(P2), [back]);
}

#[test]
fn a_super_frame_is_cut_with_the_tag_that_it_leaves_with() {
    let modes = [VlanMode::Access(10), trunk(&[10]), VlanMode::Access(10), trunk(&[10])];
    let mut lab = lab_with(&modes, Caps::NONE);
    let spec = Spec { payload: payload(3 * 1000), ..Spec::default() };
    let gso = Some(Gso { kind: GsoKind::Tcp4, ecn: false, size: 1000 });
    lab.receive(P0, MemFrame { bytes: spec.build(), offload: Offload { csum: spec.partial(), gso } });
    for (port, tags) in [(P1, vec![10]), (P2, vec![]), (P3, vec![10])] {
        let sent = lab.sent(port);
        assert_eq!(sent.len(), 3, "port {port}");
        for (index, segment) in sent.iter().enumerate() {
            let at = index * 1000;
            let expected = Spec {
                tags: tags.clone(),
                sequence: spec.sequence + at as u32,
                id: spec.id + index as u16,
                payload: spec.payload[at..at + 1000].to_vec(),
                ..spec.clone()
            };
            assert_finished(&segment.bytes, &expected);
            assert_eq!(segment.bytes, expected.build());
            assert_eq!(segment.offload.gso, None);
        }
        assert_eq!(lab.counters(port).segments, 2);
    }
}

#[test]
fn changing_a_mode_holds_for_the_next_frame() {
    let mut lab = lab(&[VlanMode::Access(10), VlanMode::Access(10)]);
    lab.receive(P1, frame(BROADCAST, mac(2)));
    for _ in 0..2 {
        lab.receive(P0, frame(mac(2), mac(1)));
    }
    assert_eq!(lab.sent_counts(), [1, 2]);
    lab.configure(|topology| topology.port(P1).vlan = trunk(&[10]));
    lab.receive(P0, frame(mac(2), mac(1)));
    assert_eq!(lab.sent_bytes(P1), [tagged(mac(2), mac(1), 10)]);
    lab.configure(|topology| topology.port(P1).vlan = trunk(&[20]));
    lab.receive(P0, frame(mac(2), mac(1)));
    assert_eq!(lab.drops(P0), [(DropReason::VlanEgress, 1)]);
    lab.configure(|topology| topology.port(P0).vlan = VlanMode::Access(20));
    lab.receive(P0, frame(mac(2), mac(1)));
    assert_eq!(lab.sent_bytes(P1), [tagged(mac(2), mac(1), 20)]);
}
