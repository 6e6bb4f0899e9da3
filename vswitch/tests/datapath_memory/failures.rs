//! Devices that refuse frames, and devices that disappear.

use vswitch::datapath::Event;
use vswitch::frame::DropReason;
use vswitch::io::Caps;
use vswitch::io::mem::MemDevice;

use crate::fixture::{BROADCAST, Lab, P0, P1, P2, frame, mac};

#[test]
fn a_refusal_is_counted_where_the_frame_should_have_gone() {
    for reason in [DropReason::PortDown, DropReason::NoBuffer, DropReason::TxError] {
        let mut lab = Lab::new(3);
        lab.topology.device(P1).refuse(Some(reason));
        for _ in 0..5 {
            lab.receive(P0, frame(BROADCAST, mac(1)));
        }
        assert_eq!(lab.sent_counts(), [0, 0, 5], "the others get theirs");
        assert_eq!(lab.drops(P1), [(reason, 5)]);
        assert_eq!((lab.drops(P0), lab.drops(P2)), (vec![], vec![]));
        let counters = lab.counters(P1);
        assert_eq!((counters.tx_frames, counters.tx_bytes), (0, 0));
        lab.topology.device(P1).refuse(None);
        lab.receive(P0, frame(BROADCAST, mac(1)));
        assert_eq!(lab.sent_counts(), [0, 1, 1]);
    }
}

#[test]
fn a_device_that_disappears_is_told_once() {
    let mut lab = Lab::new(3);
    lab.receive(P1, frame(BROADCAST, mac(2)));
    lab.sent_counts();
    lab.topology.device(P1).inject(frame(BROADCAST, mac(2)));
    lab.topology.device(P1).vanish();
    for _ in 0..3 {
        lab.datapath.drain(P1);
    }
    let gone = Event::PortGone { port: P1, incarnation: 2 };
    assert_eq!(lab.events(), [gone]);
    // Until the control plane takes the port away, what is sent to it is dropped for that reason.
    for _ in 0..4 {
        lab.receive(P0, frame(mac(2), mac(1)));
    }
    lab.receive(P0, frame(BROADCAST, mac(1)));
    assert_eq!(lab.drops(P1), [(DropReason::PortGone, 5)]);
    assert_eq!(lab.sent_counts(), [0, 0, 1]);
    // A publication that still has the port does not open it again.
    lab.configure(|topology| topology.port(P0).mtu = 9000);
    lab.datapath.drain(P1);
    assert_eq!(lab.events(), []);
    // Its successor under the same id is another port.
    lab.configure(|topology| topology.replace(P1, 0, MemDevice::new(Caps::ALL)));
    lab.receive(P1, frame(BROADCAST, mac(2)));
    lab.receive(P0, frame(mac(2), mac(1)));
    assert_eq!(lab.sent_counts(), [1, 1, 1]);
    assert_eq!(lab.events(), []);
}
