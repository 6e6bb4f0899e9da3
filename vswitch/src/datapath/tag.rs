//! 802.1Q tags, added and removed in place at the front of a frame.

use super::flow::{ETHERTYPE_VLAN, TAG_BYTES, TagOp};
use crate::frame::Frame;

/// The bytes of the two addresses, behind which the tag stands.
const ADDRESSES_BYTES: usize = 12;

/// Brings the frame's outermost tag into the wanted state. Idempotent and absolute, so that a
/// flooded frame can be brought into one state after the other.
#[inline]
pub(super) fn apply(frame: &mut Frame, tag: TagOp) {
    match tag {
        TagOp::Keep => {}
        TagOp::Untag => {
            if frame.tagged {
                frame.priority = frame.data()[ADDRESSES_BYTES + 2] & 0xf0;
                frame.data_mut().copy_within(..ADDRESSES_BYTES, TAG_BYTES);
                frame.pull_front(TAG_BYTES);
                frame.tagged = false;
            }
        }
        TagOp::Tag(vid) => {
            if frame.tagged {
                // The priority in the upper four bits stays.
                let control = &mut frame.data_mut()[ADDRESSES_BYTES + 2..][..2];
                control[0] = control[0] & 0xf0 | (vid >> 8) as u8 & 0x0f;
                control[1] = vid as u8;
            } else {
                let control = u16::from(frame.priority) << 8 | vid & 0xfff;
                frame.push_front(TAG_BYTES);
                let data = frame.data_mut();
                data.copy_within(TAG_BYTES..TAG_BYTES + ADDRESSES_BYTES, 0);
                data[ADDRESSES_BYTES..][..2].copy_from_slice(&ETHERTYPE_VLAN.to_be_bytes());
                data[ADDRESSES_BYTES + 2..][..2].copy_from_slice(&control.to_be_bytes());
                frame.tagged = true;
            }
        }
    }
}

/// The VLAN id of the frame's outermost tag, if it has one.
pub(super) fn id(frame: &Frame) -> Option<u16> {
    let control = frame.data().get(ADDRESSES_BYTES + 2..)?.first_chunk()?;
    frame.tagged.then(|| u16::from_be_bytes(*control) & 0xfff)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::flow::FlowKey;
    use crate::frame::{Csum, Pool};
    use crate::snapshot::PortId;

    #[test]
    fn tags_come_and_go_and_offsets_follow() {
        let mut pool = Pool::new(1).unwrap();
        let mut frame = pool.alloc().unwrap();
        let plain = *b"destinsource\x08\x00payload";
        frame.copy_from(&plain);
        frame.offload.csum = Csum::Partial { start: 34, offset: 16 };
        FlowKey::parse(&mut frame, PortId(0)).unwrap();
        apply(&mut frame, TagOp::Untag);
        assert_eq!(frame.data(), plain);
        apply(&mut frame, TagOp::Tag(0x123));
        assert_eq!(frame.data(), b"destinsource\x81\x00\x01\x23\x08\x00payload");
        assert_eq!(frame.offload.csum, Csum::Partial { start: 38, offset: 16 });
        frame.data_mut()[14] |= 0xe0;
        apply(&mut frame, TagOp::Tag(0xfed));
        assert_eq!(&frame.data()[12..18], b"\x81\x00\xef\xed\x08\x00");
        apply(&mut frame, TagOp::Keep);
        apply(&mut frame, TagOp::Untag);
        apply(&mut frame, TagOp::Untag);
        assert_eq!(frame.data(), plain);
        assert_eq!(frame.offload.csum, Csum::Partial { start: 34, offset: 16 });
        // A flooded frame may get a tag again, with the priority that it came with.
        apply(&mut frame, TagOp::Tag(5));
        assert_eq!(&frame.data()[12..18], b"\x81\x00\xe0\x05\x08\x00");
        pool.free(frame);
    }
}
