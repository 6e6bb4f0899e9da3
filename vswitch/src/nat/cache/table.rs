//! Open addressing in two arrays: an index of cache lines, and the entries one after another.

// Saying that zeros are an empty bucket.
#![allow(unsafe_code)]

use super::memory::{Lazy, Zeroed};
use super::quick::{Key, Probe};
use crate::bits::Bits;
use crate::prefetch::prefetch;

/// The bits of an entry's number in a slot of the index; those above it are a part of the hash.
const NUMBER_BITS: u32 = 21;
const NUMBER_MASK: u32 = (1 << NUMBER_BITS) - 1;
/// The slots of a bucket.
const SLOTS: usize = 16;
/// How many old entries an insertion looks at for one that is dead, before it takes a new one.
const STEPS: usize = 2;
/// How many entries the index has room for at first: 256 KB. Flows are scattered over it, so that a larger one would be
/// resident as a whole with few of them. It is followed by one for all entries, in pages of 2 MB from the first touch
/// on: the kernel makes such pages of smaller ones in the background only, which takes it minutes.
const SMALL_INDEX: usize = 1 << 15;

/// One line of the index. A slot that is zero is empty.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Bucket([u32; SLOTS]);

const _: () = assert!(size_of::<Bucket>() == 64, "a bucket is a cache line");

// SAFETY: integers.
unsafe impl Zeroed for Bucket {}

/// What the table needs to know of an entry.
pub(super) trait Entry: Zeroed {
    type Key: Key;
    fn key(&self) -> &Self::Key;
    /// Whether it is worth its place.
    fn is_alive(&self, epoch: u64, now_s: u32) -> bool;
}

/// See the parent module.
#[derive(Debug)]
pub(super) struct Table<E: Entry> {
    index: Lazy<Bucket>,
    /// Number zero is never used: it is what an empty slot says.
    entries: Lazy<E>,
    /// How many entries were ever used, number zero included.
    grown: usize,
    /// The entry that was looked at last for being dead.
    hand: usize,
    seed: u64,
}

impl<E: Entry> Table<E> {
    /// A table of at most `entries` (a power of two) entries, less one.
    pub(super) fn new(entries: usize, seed: u64) -> std::io::Result<Self> {
        debug_assert!(entries.is_power_of_two() && entries <= 1 << NUMBER_BITS);
        let index = Lazy::new(buckets(entries.min(SMALL_INDEX)))?;
        let entries = Lazy::new(entries)?;
        entries.prefer_huge_pages();
        Ok(Self { index, entries, grown: 1, hand: 0, seed })
    }

    #[inline]
    fn bucket(&self, hash: u64) -> usize {
        hash as usize & (self.index.len() - 1)
    }

    /// The part of the hash that a slot keeps, in its place.
    #[inline]
    fn tag(hash: u64) -> u32 {
        (hash >> 32) as u32 & !NUMBER_MASK
    }

    /// Asks for the line of the index.
    #[inline]
    pub(super) fn prefetch_index(&self, hash: u64) {
        prefetch(&self.index[self.bucket(hash)]);
    }

    /// Asks for the entry that the index names, which is very probably the one, and notes it.
    #[inline]
    pub(super) fn prefetch_entry(&self, probe: &mut Probe<E::Key>) {
        let bucket = &self.index[self.bucket(probe.hash)];
        let matches = matches(bucket, Self::tag(probe.hash));
        let number = bucket.0[matches.trailing_zeros() as usize % SLOTS] & NUMBER_MASK;
        probe.entry = number;
        prefetch(&self.entries[number as usize]);
    }

    /// The number of the key's entry, dead or alive, starting with the one that was prefetched.
    #[inline]
    pub(super) fn find(&self, probe: &Probe<E::Key>) -> Option<usize> {
        let number = probe.entry as usize;
        if number != 0 && *self.entries[number].key() == probe.key {
            return Some(number);
        }
        self.search(probe)
    }

    #[inline(never)]
    fn search(&self, probe: &Probe<E::Key>) -> Option<usize> {
        let bucket = &self.index[self.bucket(probe.hash)];
        Bits(matches(bucket, Self::tag(probe.hash)).into())
            .map(|slot| (bucket.0[slot] & NUMBER_MASK) as usize)
            .find(|&number| number != 0 && *self.entries[number].key() == probe.key)
    }

    #[inline]
    pub(super) fn entry_mut(&mut self, number: usize) -> &mut E {
        &mut self.entries[number]
    }

    /// How many entries have memory.
    pub(super) fn grown(&self) -> usize {
        self.grown - 1
    }

    /// Stores an entry under its key.
    pub(super) fn insert(&mut self, probe: &Probe<E::Key>, entry: E, epoch: u64, now_s: u32) {
        // In place where it is already, so that a flow never has two entries.
        let number = match self.find(probe) {
            Some(number) => number,
            None => {
                let number = self.take(epoch, now_s);
                self.link(probe.hash, number, epoch, now_s);
                number
            }
        };
        self.entries[number] = entry;
    }

    /// An entry that may be overwritten, and that no slot names.
    fn take(&mut self, epoch: u64, now_s: u32) -> usize {
        for _ in 0..STEPS {
            if self.grown > 1 {
                self.hand = self.hand % (self.grown - 1) + 1;
                if !self.entries[self.hand].is_alive(epoch, now_s) {
                    self.unlink(self.hand);
                    return self.hand;
                }
            }
        }
        if self.grown < self.entries.len() {
            self.grown += 1;
            if self.grown == SMALL_INDEX {
                self.widen(epoch, now_s);
            }
            return self.grown - 1;
        }
        self.unlink(self.hand);
        self.hand
    }

    /// Replaces the index by one for all entries: 32,768 slots are written anew, which takes a millisecond or two, once.
    #[cold]
    fn widen(&mut self, epoch: u64, now_s: u32) {
        // Without address space for it the small one goes on, which forgets what it has no room for.
        let Ok(index) = Lazy::new(buckets(self.entries.len())) else { return };
        index.prefer_huge_pages();
        let small = std::mem::replace(&mut self.index, index);
        // Entries that no slot names stay forgotten: another one may have their flow by now.
        for slot in small.iter().flat_map(|bucket| bucket.0) {
            let number = (slot & NUMBER_MASK) as usize;
            if number != 0 {
                self.link(self.entries[number].key().hash(self.seed), number, epoch, now_s);
            }
        }
    }

    /// Makes a slot name the entry: an empty one, or that of a dead one, or any.
    fn link(&mut self, hash: u64, number: usize, epoch: u64, now_s: u32) {
        let at = self.bucket(hash);
        let bucket = &self.index[at].0;
        let is_dead = |slot: &u32| {
            let number = (slot & NUMBER_MASK) as usize;
            number == 0 || !self.entries[number].is_alive(epoch, now_s)
        };
        let slot = bucket
            .iter()
            .position(|&slot| slot == 0)
            .or_else(|| bucket.iter().position(is_dead))
            .unwrap_or((hash >> 28) as usize % SLOTS);
        self.index[at].0[slot] = Self::tag(hash) | number as u32;
    }

    /// Makes no slot name the entry any more.
    fn unlink(&mut self, number: usize) {
        let at = self.bucket(self.entries[number].key().hash(self.seed));
        if let Some(slot) = self.index[at].0.iter_mut().find(|slot| (**slot & NUMBER_MASK) as usize == number) {
            *slot = 0;
        }
    }
}

/// The buckets of an index of `entries` entries. With twice as many slots, a bucket of sixteen has room for all but one in
/// a thousand.
fn buckets(entries: usize) -> usize {
    (entries * 2 / SLOTS).max(1)
}

/// The slots with this tag, a bit for each.
#[cfg(target_arch = "x86_64")]
#[inline]
fn matches(bucket: &Bucket, tag: u32) -> u32 {
    use std::arch::x86_64::{
        __m128i, _mm_and_si128, _mm_cmpeq_epi32, _mm_load_si128, _mm_movemask_epi8, _mm_packs_epi16, _mm_packs_epi32,
        _mm_set1_epi32,
    };
    // SAFETY: SSE2 is a part of the architecture, and a bucket is four aligned vectors.
    unsafe {
        let tag = _mm_set1_epi32(tag.cast_signed());
        let mask = _mm_set1_epi32((!NUMBER_MASK).cast_signed());
        let slots: *const __m128i = std::ptr::from_ref(bucket).cast();
        let equal = |part| _mm_cmpeq_epi32(_mm_and_si128(_mm_load_si128(slots.add(part)), mask), tag);
        let low = _mm_packs_epi32(equal(0), equal(1));
        let high = _mm_packs_epi32(equal(2), equal(3));
        _mm_movemask_epi8(_mm_packs_epi16(low, high)).cast_unsigned()
    }
}

/// The slots with this tag, a bit for each.
#[cfg(not(target_arch = "x86_64"))]
fn matches(bucket: &Bucket, tag: u32) -> u32 {
    let is_equal = |slot: &u32| u32::from(slot & !NUMBER_MASK == tag);
    bucket.0.iter().enumerate().fold(0, |matches, (index, slot)| matches | is_equal(slot) << index)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn matches_are_the_slots_with_the_tag(mut slots: [u32; SLOTS], at in 0..SLOTS, twice in 0..SLOTS) {
            slots[twice] = slots[at] & !NUMBER_MASK | 5;
            let tag = slots[at] & !NUMBER_MASK;
            let expected: u32 = (0..SLOTS).map(|slot| u32::from(slots[slot] & !NUMBER_MASK == tag) << slot).sum();
            prop_assert_eq!(matches(&Bucket(slots), tag), expected);
        }
    }
}
