//! The outputs of a burst: which frame goes to which port, in order.
//!
//! One list per port, all in one vector, linked by index: appending is a few stores, no list is
//! allocated, and a flooded frame is appended to many lists without being copied. The lists of a
//! burst are emptied by taking them.

use super::flow::TagOp;
use crate::snapshot::{PORTS_MAX, PortId};

const NIL: u32 = u32::MAX;

/// A frame on its way to one port.
#[derive(Debug, Clone, Copy)]
pub struct Item {
    /// The frame's index in the burst.
    pub frame: u16,
    /// The tag it must leave with.
    pub tag: TagOp,
    /// Whether the frame is on this list only, so that its bytes may be changed for this port.
    pub sole: bool,
    next: u32,
}

#[derive(Debug, Clone, Copy)]
struct List {
    head: u32,
    tail: u32,
}

const EMPTY: List = List { head: NIL, tail: NIL };

/// See the module's documentation.
#[derive(Debug)]
pub struct Scatter {
    lists: Box<[List]>,
    items: Vec<Item>,
    /// The ports whose lists are not empty, in order of their first frame.
    outputs: Vec<PortId>,
}

impl Default for Scatter {
    fn default() -> Self {
        Self {
            lists: vec![EMPTY; PORTS_MAX].into_boxed_slice(),
            items: Vec::with_capacity(1024),
            outputs: Vec::with_capacity(64),
        }
    }
}

impl Scatter {
    /// Appends a frame to a port's list.
    #[inline]
    pub fn push(&mut self, port: PortId, frame: u16, tag: TagOp, sole: bool) {
        let at = self.items.len() as u32;
        let Some(list) = self.lists.get_mut(port.index()) else { return };
        if list.head == NIL {
            *list = List { head: at, tail: at };
            self.outputs.push(port);
        } else {
            self.items[list.tail as usize].next = at;
            list.tail = at;
        }
        self.items.push(Item { frame, tag, sole, next: NIL });
    }

    /// The ports that have something.
    #[must_use]
    pub fn outputs(&self) -> &[PortId] {
        &self.outputs
    }

    /// The items for a port, in order.
    pub fn items(&self, port: PortId) -> impl Iterator<Item = Item> + '_ {
        let mut at = self.lists[port.index()].head;
        std::iter::from_fn(move || {
            let item = *self.items.get(at as usize)?;
            at = item.next;
            Some(item)
        })
    }

    /// Empties all lists.
    #[inline]
    pub fn clear(&mut self) {
        for port in self.outputs.drain(..) {
            self.lists[port.index()] = EMPTY;
        }
        self.items.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_keep_order_and_empty_cheaply() {
        let mut scatter = Scatter::default();
        for round in 0..2 {
            for frame in 0..10 {
                scatter.push(PortId(frame % 3), frame, TagOp::Keep, true);
            }
            scatter.push(PortId(8191), 3, TagOp::Untag, false);
            assert_eq!(scatter.outputs(), [PortId(0), PortId(1), PortId(2), PortId(8191)], "round {round}");
            assert!(scatter.items(PortId(1)).map(|item| item.frame).eq([1, 4, 7]));
            assert!(scatter.items(PortId(8191)).map(|item| item.tag).eq([TagOp::Untag]));
            assert_eq!(scatter.items(PortId(5)).count(), 0);
            scatter.clear();
            assert_eq!(scatter.outputs(), []);
        }
    }
}
