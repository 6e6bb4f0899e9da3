//! Entries: the key, the rewrite, and what both families have in common.

// Saying that any bytes are an entry.
#![allow(unsafe_code)]

use super::memory::Plain;
use super::quick::{KeyV4, KeyV6};
use super::table::Entry;
use super::{Action, VALID_S};
use crate::nat::Hops;
use crate::nat::rewrite::{RewriteV4, RewriteV6};

/// Ethernet addresses, way out, MTU, connection: what entries of both families have.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Common {
    /// Zero is nobody's: a zeroed entry is dead.
    epoch: u64,
    /// Destination and source.
    pub(super) link: [u8; 12],
    pub(super) out: u16,
    pub(super) mtu: u16,
    /// The connection, and in the lowest bit whether hops are decremented.
    connection: u32,
    pub(super) stamp_s: u32,
}

/// In place of a connection.
const NO_CONNECTION: u32 = u32::MAX >> 1;

impl Common {
    pub(super) fn new(action: &Action, epoch: u64, now_s: u32) -> Self {
        let mut link = [0; 12];
        link[..6].copy_from_slice(&action.destination);
        link[6..].copy_from_slice(&action.source);
        let connection = action.connection.map_or(NO_CONNECTION, |index| index.min(NO_CONNECTION));
        Self {
            epoch,
            link,
            out: action.out.0,
            mtu: action.mtu,
            connection: connection << 1 | u32::from(action.hops == Hops::Decrement),
            stamp_s: now_s,
        }
    }

    #[inline]
    pub(super) fn is_valid(&self, epoch: u64, now_s: u32) -> bool {
        // A clock that went back by a second between two workers is no reason to forget anything.
        self.epoch == epoch && now_s.wrapping_sub(self.stamp_s) as i32 <= VALID_S as i32
    }

    #[inline]
    pub(super) fn hops(&self) -> Hops {
        if self.connection & 1 == 0 { Hops::Keep } else { Hops::Decrement }
    }

    /// Marks a hit if the last mark is `note_s` seconds old; the connection, if it was marked.
    #[inline]
    pub(super) fn stamp(&mut self, now_s: u32, note_s: u32) -> Option<u32> {
        if now_s.wrapping_sub(self.stamp_s) < note_s {
            return None;
        }
        self.stamp_s = now_s;
        Some(self.connection >> 1).filter(|&index| index != NO_CONNECTION)
    }
}

#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct EntryV4 {
    pub(super) key: KeyV4,
    pub(super) rewrite: RewriteV4,
    pub(super) common: Common,
}

#[derive(Debug, Clone, Copy)]
#[repr(C, align(128))]
pub(super) struct EntryV6 {
    pub(super) key: KeyV6,
    pub(super) rewrite: RewriteV6,
    pub(super) common: Common,
}

const _: () = assert!(size_of::<EntryV4>() == 64, "one cache line");
const _: () = assert!(size_of::<EntryV6>() == 128, "two cache lines");

// SAFETY: integers and arrays of them.
unsafe impl Plain for EntryV4 {}
// SAFETY: integers and arrays of them.
unsafe impl Plain for EntryV6 {}

impl Entry for EntryV4 {
    type Key = KeyV4;

    #[inline]
    fn key(&self) -> &KeyV4 {
        &self.key
    }

    #[inline]
    fn is_alive(&self, epoch: u64, now_s: u32) -> bool {
        self.common.is_valid(epoch, now_s)
    }
}

impl Entry for EntryV6 {
    type Key = KeyV6;

    #[inline]
    fn key(&self) -> &KeyV6 {
        &self.key
    }

    #[inline]
    fn is_alive(&self, epoch: u64, now_s: u32) -> bool {
        self.common.is_valid(epoch, now_s)
    }
}
