//! Extendible hashing over buckets of one page: a directory, and buckets that are split when they are full.
//!
//! A flow is in the first slot from its *home* on that was empty, and is looked for from there, so that its tag names another
//! flow first only if that has the same tag and lies between the two: one flow of a hundred, in buckets as full as
//! they are on average. To fetch the wrong entry costs as much as a miss of every cache, so such a bucket's tags are
//! made anew, with another *salt*, which is kept with them.

// A slot of a bucket is an entry, or the bucket's tags: a union.
#![allow(unsafe_code)]

use super::memory::{Lazy, Plain};
use super::quick::{Key, Probe};
use crate::bits::Bits;
use crate::prefetch::prefetch;

/// The slots of a bucket, one of which has the tags of the others.
const SLOTS: usize = 64;
/// How many bits of the hash the directory has at most: 512 KB.
const DEPTH_MAX: u32 = 18;
/// How many buckets the directory can tell apart.
const BUCKETS_MAX: usize = 1 << 16;
/// How many salts are tried at a time. Of one more than half of all buckets have no flow that is named second.
const SALTS: u8 = 16;

/// What of a slot's flow its bucket knows; zero of an empty slot.
type Tag = u8;

/// The tags of a bucket, a cache line. In place of one for the slot that they are in themselves is the bucket's salt.
type Tags = [Tag; SLOTS];

#[derive(Clone, Copy)]
#[repr(C)]
union Slot<E: Entry> {
    entry: E,
    tags: Tags,
}

// SAFETY: any bytes are an entry, and tags.
unsafe impl<E: Entry> Plain for Slot<E> {}

/// What the table needs to know of an entry.
pub(super) trait Entry: Plain {
    type Key: Key;
    fn key(&self) -> &Self::Key;
    /// Whether it is worth its place.
    fn is_alive(&self, epoch: u64, now_s: u32) -> bool;
}

/// See the parent module.
#[derive(Debug)]
pub(super) struct Table<E: Entry> {
    /// The buckets' slots, one bucket after another.
    slots: Lazy<Slot<E>>,
    /// Of each bucket, how many low bits of the hash all its flows have in common.
    depths: Vec<u8>,
    /// Which bucket a flow is in, by the low bits of its hash: a power of two.
    directory: Vec<u16>,
    seed: u64,
}

impl<E: Entry> Table<E> {
    /// A table of at most `buckets` buckets.
    pub(super) fn new(buckets: usize, seed: u64) -> std::io::Result<Self> {
        const {
            assert!(size_of::<E>() >= size_of::<Tags>() && size_of::<Slot<E>>() == size_of::<E>(), "tags fit a slot");
        }
        debug_assert!(buckets <= BUCKETS_MAX);
        let slots = Lazy::new(buckets * SLOTS)?;
        slots.prefer_huge_pages();
        Ok(Self { slots, depths: vec![0], directory: vec![0], seed })
    }

    #[inline]
    fn bucket(&self, hash: u64) -> usize {
        self.directory[hash as usize & (self.directory.len() - 1)] as usize
    }

    #[inline]
    fn tags(&self, bucket: usize) -> &Tags {
        let slot = &self.slots[tags_at(bucket)];
        // SAFETY: any bytes are tags.
        unsafe { &slot.tags }
    }

    #[inline]
    fn set_tag(&mut self, number: usize, tag: Tag) {
        debug_assert!(number != tags_at(number / SLOTS), "that slot has the tags");
        let slot = &mut self.slots[tags_at(number / SLOTS)];
        // SAFETY: any bytes are tags.
        unsafe { slot.tags[number % SLOTS] = tag };
    }

    /// Asks for the line of the bucket's tags.
    #[inline]
    pub(super) fn prefetch_tags(&self, hash: u64) {
        prefetch(self.tags(self.bucket(hash)));
    }

    /// Asks for the entry that the tags name first, which is very probably the one, and notes it.
    #[inline]
    pub(super) fn prefetch_entry(&self, probe: &mut Probe<E::Key>) {
        let bucket = self.bucket(probe.hash);
        if let Some(slot) = self.candidates(bucket, probe.hash).next() {
            let number = bucket * SLOTS + slot;
            probe.entry = number as u32;
            prefetch(self.entry(number));
        }
    }

    /// The slots of the bucket with the hash's tag, beginning with its home.
    #[inline]
    fn candidates(&self, bucket: usize, hash: u64) -> impl Iterator<Item = usize> + use<E> {
        around(self.named(bucket, hash), home(hash))
    }

    /// The same as a mask.
    #[inline]
    fn named(&self, bucket: usize, hash: u64) -> u64 {
        let tags = self.tags(bucket);
        matches(tags, tag(hash, salt(tags, bucket))) & entries_mask(bucket)
    }

    /// The bucket's empty slots, beginning with the hash's home.
    #[inline]
    fn empty(&self, bucket: usize, hash: u64) -> impl Iterator<Item = usize> + use<E> {
        around(matches(self.tags(bucket), 0) & entries_mask(bucket), home(hash))
    }

    /// The number of the key's entry, dead or alive, starting with the one that was prefetched.
    #[inline]
    pub(super) fn find(&self, probe: &Probe<E::Key>) -> Option<usize> {
        let number = probe.entry as usize;
        if number != 0 && *self.entry(number).key() == probe.key {
            return Some(number);
        }
        self.search(probe)
    }

    #[inline(never)]
    fn search(&self, probe: &Probe<E::Key>) -> Option<usize> {
        let bucket = self.bucket(probe.hash);
        self.candidates(bucket, probe.hash)
            .map(|slot| bucket * SLOTS + slot)
            .find(|&number| *self.entry(number).key() == probe.key)
    }

    #[inline]
    fn entry(&self, number: usize) -> &E {
        // SAFETY: any bytes are an entry.
        unsafe { &self.slots[number].entry }
    }

    #[inline]
    pub(super) fn entry_mut(&mut self, number: usize) -> &mut E {
        debug_assert!(number != tags_at(number / SLOTS), "that slot has the tags");
        // SAFETY: any bytes are an entry.
        unsafe { &mut self.slots[number].entry }
    }

    /// How many buckets have memory.
    pub(super) fn buckets(&self) -> usize {
        self.depths.len()
    }

    /// How many entries there are, dead or alive.
    pub(super) fn entries(&self) -> usize {
        (0..self.buckets()).map(|bucket| self.used(bucket).count_ones() as usize).sum()
    }

    /// Stores an entry under its key.
    pub(super) fn insert(&mut self, probe: &Probe<E::Key>, entry: E, epoch: u64, now_s: u32) {
        // In place where it is already, so that a flow never has two entries.
        let number = match self.find(probe) {
            Some(number) => number,
            None => self.take(probe.hash, epoch, now_s),
        };
        self.store(number, probe.hash, entry);
        let bucket = number / SLOTS;
        let same = self.named(bucket, probe.hash);
        if same.count_ones() > 1 && self.has_misnamed(bucket, same) {
            self.resalt(bucket);
        }
    }

    /// Puts an entry into a slot.
    fn store(&mut self, number: usize, hash: u64, entry: E) {
        let bucket = number / SLOTS;
        self.set_tag(number, tag(hash, salt(self.tags(bucket), bucket)));
        *self.entry_mut(number) = entry;
    }

    /// The bucket's slots that are in use.
    fn used(&self, bucket: usize) -> u64 {
        !matches(self.tags(bucket), 0) & entries_mask(bucket)
    }

    fn hash(&self, bucket: usize, slot: usize) -> u64 {
        self.entry(bucket * SLOTS + slot).key().hash(self.seed)
    }

    /// Whether the bucket names another flow first for one in `slots`.
    fn has_misnamed(&self, bucket: usize, slots: u64) -> bool {
        Bits(slots).any(|slot| self.candidates(bucket, self.hash(bucket, slot)).next() != Some(slot))
    }

    /// Makes the bucket's tags anew, with the first salt of the next few under which every flow is named first, or the one
    /// under which the most are.
    #[cold]
    fn resalt(&mut self, bucket: usize) {
        let used = self.used(bucket);
        let hashes: [u64; SLOTS] = std::array::from_fn(|slot| self.hash(bucket, slot));
        let old = salt(self.tags(bucket), bucket);
        let mut best = None;
        for salt in (1..=SALTS).map(|step| old.wrapping_add(step)) {
            let mut tags = [0; SLOTS];
            for slot in Bits(used) {
                tags[slot] = tag(hashes[slot], salt);
            }
            let is_second = |&slot: &usize| around(matches(&tags, tags[slot]), home(hashes[slot])).next() != Some(slot);
            let seconds = Bits(used).filter(is_second).count();
            if best.is_none_or(|(fewest, _)| seconds < fewest) {
                tags[tags_at(bucket) % SLOTS] = salt;
                best = Some((seconds, tags));
            }
            if seconds == 0 {
                break;
            }
        }
        if let Some((_, tags)) = best {
            self.slots[tags_at(bucket)] = Slot { tags };
        }
    }

    /// A slot for a flow: an empty one, that of a dead entry, one of a bucket that was split, or any.
    fn take(&mut self, hash: u64, epoch: u64, now_s: u32) -> usize {
        loop {
            let bucket = self.bucket(hash);
            if let Some(slot) = self.empty(bucket, hash).next() {
                return bucket * SLOTS + slot;
            }
            if !self.sweep(bucket, epoch, now_s) && !self.split(bucket, hash) {
                let slot = if bucket * SLOTS + home(hash) == tags_at(bucket) { home(hash) ^ 1 } else { home(hash) };
                return bucket * SLOTS + slot;
            }
        }
    }

    /// Removes the bucket's dead entries; whether there were any.
    fn sweep(&mut self, bucket: usize, epoch: u64, now_s: u32) -> bool {
        let mut any = false;
        for number in entries_of(bucket) {
            if !self.entry(number).is_alive(epoch, now_s) {
                self.remove(number);
                any = true;
            }
        }
        any
    }

    fn remove(&mut self, number: usize) {
        self.set_tag(number, 0);
        // A frame of the burst may have its number already.
        *self.entry_mut(number) = E::zeroed();
    }

    /// Moves those of a full bucket's flows that have the next bit of the hash into a new one; whether there was room
    /// for that. Half a page is copied. `hash` is that of any flow of the bucket.
    #[cold]
    fn split(&mut self, bucket: usize, hash: u64) -> bool {
        let (new, depth) = (self.buckets(), u32::from(self.depths[bucket]));
        if new == self.slots.len() / SLOTS || depth == DEPTH_MAX {
            return false;
        }
        let bit = 1 << depth;
        if self.directory.len() == bit {
            self.directory.extend_from_within(..);
        }
        self.depths[bucket] += 1;
        self.depths.push(self.depths[bucket]);
        let first = hash as usize & (bit - 1) | bit;
        for at in (first..self.directory.len()).step_by(bit * 2) {
            self.directory[at] = new as u16;
        }
        for number in entries_of(bucket) {
            let entry = *self.entry(number);
            let hash = entry.key().hash(self.seed);
            if hash as usize & bit != 0 {
                self.remove(number);
                let Some(slot) = self.empty(new, hash).next() else { continue };
                self.store(new * SLOTS + slot, hash, entry);
            }
        }
        if self.has_misnamed(new, self.used(new)) {
            self.resalt(new);
        }
        true
    }
}

/// The number of the slot that has the bucket's tags: another one in each bucket, because lines at the same place of
/// their pages compete for the same few places of a cache.
#[inline]
fn tags_at(bucket: usize) -> usize {
    bucket * SLOTS + bucket % SLOTS
}

/// The numbers of the other slots.
fn entries_of(bucket: usize) -> impl Iterator<Item = usize> {
    (bucket * SLOTS..(bucket + 1) * SLOTS).filter(move |&number| number != tags_at(bucket))
}

/// All slots but that of the tags.
#[inline]
fn entries_mask(bucket: usize) -> u64 {
    !(1 << (bucket % SLOTS))
}

/// What the bucket's tags are made with.
#[inline]
fn salt(tags: &Tags, bucket: usize) -> u8 {
    tags[bucket % SLOTS]
}

/// A flow's tag in a bucket with this salt.
#[inline]
fn tag(hash: u64, salt: u8) -> Tag {
    let multiplier = u32::from(salt) << 1 | 1;
    ((((hash >> 32) as u32).wrapping_mul(multiplier) >> 24) as Tag).max(1)
}

/// The slot that a flow is in, or the next one that was empty: what has the same tag is told apart by where it is.
#[inline]
fn home(hash: u64) -> usize {
    (hash >> 40) as usize % SLOTS
}

/// The slots of a mask, from `home` on and around.
#[inline]
fn around(mask: u64, home: usize) -> impl Iterator<Item = usize> {
    Bits(mask.rotate_right(home as u32)).map(move |slot| (slot + home) % SLOTS)
}

/// The slots with this tag, a bit for each.
#[cfg(target_arch = "x86_64")]
#[inline]
fn matches(tags: &Tags, tag: Tag) -> u64 {
    use std::arch::x86_64::{__m128i, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_set1_epi8};
    // SAFETY: SSE2 is a part of the architecture, and tags are four vectors.
    unsafe {
        let tag = _mm_set1_epi8(tag.cast_signed());
        let slots: *const __m128i = tags.as_ptr().cast();
        let equal = |part: usize| {
            let equal = _mm_cmpeq_epi8(_mm_loadu_si128(slots.add(part)), tag);
            u64::from(_mm_movemask_epi8(equal).cast_unsigned()) << (part * 16)
        };
        equal(0) | equal(1) | equal(2) | equal(3)
    }
}

/// The slots with this tag, a bit for each.
#[cfg(not(target_arch = "x86_64"))]
fn matches(tags: &Tags, tag: Tag) -> u64 {
    tags.iter().enumerate().fold(0, |matches, (slot, &one)| matches | u64::from(one == tag) << slot)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn matches_are_the_slots_with_the_tag(mut tags: [Tag; SLOTS], at in 0..SLOTS, twice in 0..SLOTS) {
            tags[twice] = tags[at];
            let tag = tags[at];
            let expected: u64 = (0..SLOTS).map(|slot| u64::from(tags[slot] == tag) << slot).sum();
            prop_assert_eq!(matches(&tags, tag), expected);
        }

        #[test]
        fn slots_are_gone_through_from_home_on(mask: u64, home in 0..SLOTS) {
            let expected = (0..SLOTS).map(|step| (home + step) % SLOTS).filter(|slot| mask >> slot & 1 != 0);
            prop_assert!(around(mask, home).eq(expected));
        }
    }
}
