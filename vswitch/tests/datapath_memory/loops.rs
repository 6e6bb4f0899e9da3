//! An address that flaps between ports: held, told once, and its frames dropped.

use vswitch::datapath::Event;
use vswitch::datapath::fdb::FLAP_MOVES;
use vswitch::frame::DropReason;
use vswitch::snapshot::{BridgeId, VlanMode};

use crate::fixture::{BROADCAST, Lab, P0, P1, P2, frame, mac, tagged};

#[test]
fn a_flapping_address_is_held_where_it_was() {
    let mut lab = Lab::new(3);
    lab.receive(P0, frame(BROADCAST, mac(1)));
    for moves in 1..FLAP_MOVES {
        lab.receive(if moves % 2 == 1 { P1 } else { P0 }, frame(BROADCAST, mac(1)));
    }
    assert_eq!(lab.totals().dropped(), 0, "so many moves are none yet");
    assert_eq!(lab.events(), []);
    lab.sent_counts();

    // The move that makes it a loop goes back to port 0, where the address is now held.
    lab.receive(P0, frame(BROADCAST, mac(1)));
    let told = Event::Loop { bridge: BridgeId(0), mac: mac(1), vlan: 0, ports: [P0, P1] };
    assert_eq!(lab.events(), [told]);
    assert_eq!(lab.drops(P0), [(DropReason::Loop, 1)]);
    for _ in 0..20 {
        lab.receive(P1, frame(BROADCAST, mac(1)));
    }
    assert_eq!(lab.drops(P1), [(DropReason::Loop, 20)]);
    assert_eq!(lab.sent_counts(), [0, 0, 0]);
    assert_eq!(lab.events(), [], "told once");

    // At home it goes on, and other addresses were never concerned.
    lab.receive(P0, frame(BROADCAST, mac(1)));
    lab.receive(P1, frame(mac(1), mac(2)));
    assert_eq!(lab.sent_counts(), [1, 1, 1]);
    assert_eq!(lab.fdb().lookup(mac(1), 0), Some(P0));
}

#[test]
fn a_loop_in_a_vlan_names_the_vlan_and_holds_nothing_else() {
    let mut lab = Lab::new(3);
    // Three ports flap: home is the first, the event names it and the one that went too far.
    for moves in 0..=FLAP_MOVES {
        lab.receive([P0, P1, P2][usize::from(moves) % 3], tagged(BROADCAST, mac(1), 7));
    }
    let told = Event::Loop { bridge: BridgeId(0), mac: mac(1), vlan: 7, ports: [P0, P2] };
    assert_eq!(lab.events(), [told]);
    assert_eq!(lab.drops(P2), [(DropReason::Loop, 1)]);
    lab.sent_counts();
    lab.receive(P2, frame(BROADCAST, mac(1)));
    assert_eq!(lab.sent_counts(), [1, 1, 0], "the same address in another VLAN is another one");
}

#[test]
fn removing_the_address_ends_the_hold() {
    let mut lab = Lab::new(2);
    for moves in 0..=FLAP_MOVES {
        lab.receive(if moves % 2 == 1 { P1 } else { P0 }, frame(BROADCAST, mac(1)));
    }
    assert_eq!(lab.events().len(), 1);
    lab.sent_counts();
    assert_eq!(lab.fdb().remove(mac(1), None), 1);
    lab.receive(P1, frame(BROADCAST, mac(1)));
    assert_eq!(lab.sent_counts(), [1, 0]);
    assert_eq!(lab.fdb().lookup(mac(1), 0), Some(P1));
}

#[test]
fn a_loop_of_access_ports_names_their_vlan() {
    let mut lab = Lab::new(2);
    lab.configure(|topology| [P0, P1].into_iter().for_each(|port| topology.port(port).vlan = VlanMode::Access(30)));
    for moves in 0..=FLAP_MOVES {
        lab.receive(if moves % 2 == 1 { P1 } else { P0 }, frame(BROADCAST, mac(1)));
    }
    assert_eq!(lab.events(), [Event::Loop { bridge: BridgeId(0), mac: mac(1), vlan: 30, ports: [P0, P1] }]);
}
