//! The memory of the connections: a mapped array of fixed-size slots behind a header.
//!
//! Theory of operation. A slot is [`SLOT_BYTES`] of atomics, so that whoever reads it while it changes, and whatever a
//! file says, it is plain numbers and never undefined behaviour. The slot's *tag* says what it holds and in which
//! *generation*, a number that is different each time:
//!
//! - a slot is filled while its tag says free, and becomes valid by one Release store of the tag;
//! - it becomes free by one store of the tag, before anything else in it changes.
//!
//! So a process that is killed at any instruction leaves whole entries in the file. Within the process the index's
//! locks order everything; passes over the whole slab, which take no lock, read the tag before and after.
//!
//! Where the slab is a file, its blocks are allocated before they are touched: the file is on a tmpfs, which may be
//! full, and a store to a page that it cannot provide would be a SIGBUS. Memory that was never used costs nothing.

// A raw mapping.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::FallocateFlags;
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

/// The bytes of a slot: two cache lines.
pub(super) const SLOT_BYTES: usize = 128;
/// The bytes before the first slot.
pub const HEADER_BYTES: usize = 4096;
/// The version of the layout of header and slots.
pub(super) const LAYOUT: u32 = 1;
/// What a file of connections begins with.
pub(super) const MAGIC: [u8; 8] = *b"vswitch\xc7";
/// Slots for which blocks are allocated at once.
const GROW_SLOTS: u32 = 2048;
/// The most slots: a handle is a slot and a direction, in 31 bits because of what workers keep beside it.
pub(super) const SLOTS_MAX: u32 = 1 << 29;

/// No slot.
pub(super) const NIL: u32 = u32::MAX;

/// Where connections are kept.
#[derive(Debug)]
pub enum Storage {
    /// In memory: they end with the process.
    Memory,
    /// In a file, which nobody else may have open: they survive the process, also when it is killed. The identifier of
    /// the host's boot (`/proc/sys/kernel/random/boot_id`) says whether times in it still mean anything.
    File {
        /// The file, open for reading and writing.
        file: File,
        /// The identifier of this boot.
        boot_id: [u8; 16],
    },
}

/// What a slot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Free = 0,
    /// A connection.
    Live = 1,
    /// Only the external port of the last connection of a mapping, kept from others.
    Held = 2,
    /// A connection that is about to be removed.
    Dying = 3,
}

impl Kind {
    fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Live,
            2 => Self::Held,
            3 => Self::Dying,
            _ => Self::Free,
        }
    }
}

/// The first word of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tag {
    pub(super) kind: Kind,
    pub(super) protocol: u8,
    /// See `entry`.
    pub(super) flags: u16,
    pub(super) generation: u32,
}

impl Tag {
    pub(super) fn from_word(word: u64) -> Self {
        Self {
            kind: Kind::from_number(word as u8),
            protocol: (word >> 8) as u8,
            flags: (word >> 16) as u16,
            generation: (word >> 32) as u32,
        }
    }

    pub(super) fn word(self) -> u64 {
        self.kind as u64
            | u64::from(self.protocol) << 8
            | u64::from(self.flags) << 16
            | u64::from(self.generation) << 32
    }
}

/// One connection's memory. All zero bytes are a free slot.
#[derive(Debug)]
#[repr(C, align(128))]
pub(super) struct Slot {
    tag: AtomicU64,
    /// State, low bits of the generation, and the second in which the state was entered: see `progress`.
    pub(super) progress: AtomicU64,
    /// The sequence numbers of the last FIN of each direction; zero if unknown.
    pub(super) fins: [AtomicU32; 2],
    pub(super) last_seen_s: AtomicU32,
    pub(super) bridge: AtomicU32,
    /// Original source and destination, reply source and destination, 16 bits each.
    pub(super) ports: AtomicU64,
    /// In the same order, two words each.
    pub(super) addresses: [AtomicU64; 8],
    pub(super) container: [AtomicU64; 2],
    /// The next free slot and one, in free ones; zero in the last.
    next_free: AtomicU32,
    _unused: AtomicU32,
}

const _: () = assert!(size_of::<Slot>() == SLOT_BYTES);

impl Slot {
    #[inline]
    pub(super) fn tag(&self) -> Tag {
        Tag::from_word(self.tag.load(Ordering::Acquire))
    }

    /// Makes the slot what `tag` says, after all its other words.
    #[inline]
    pub(super) fn publish(&self, tag: Tag) {
        self.tag.store(tag.word(), Ordering::Release);
    }

    /// Makes the slot free, before any of its other words.
    #[inline]
    pub(super) fn retract(&self) {
        let tag = Tag { kind: Kind::Free, ..self.tag() };
        self.tag.store(tag.word(), Ordering::Relaxed);
        fence(Ordering::Release);
    }

    /// Whether the tag is still the one that the words before this call were read under.
    #[inline]
    pub(super) fn is_still(&self, tag: Tag) -> bool {
        fence(Ordering::Acquire);
        self.tag.load(Ordering::Relaxed) == tag.word()
    }
}

#[derive(Debug)]
struct Free {
    /// The first free slot of those that were used before; [`NIL`] if none.
    head: u32,
    /// Slots that were never used begin here.
    fresh: u32,
    /// Slots that may be touched.
    backed: u32,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Slab {
    base: NonNull<u8>,
    bytes: usize,
    capacity: u32,
    file: Option<File>,
    free: Mutex<Free>,
    /// A copy of [`Free::fresh`]: where passes over the slab end.
    fresh: AtomicU32,
}

// SAFETY: the mapping is shared as atomics only, and lives as long as the slab.
unsafe impl Send for Slab {}
// SAFETY: as above.
unsafe impl Sync for Slab {}

impl Slab {
    /// Maps `capacity` slots. Of a file of this layout and boot all slots are as they were left, and none is free yet
    /// (see `restore`); any other file is emptied. Also returns how many slots hold something old.
    pub(super) fn open(storage: Storage, capacity: u32) -> io::Result<(Self, u32)> {
        let bytes = HEADER_BYTES + capacity as usize * SLOT_BYTES;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let (base, file, used) = match storage {
            Storage::Memory => {
                let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
                // SAFETY: a new anonymous mapping at an address of the kernel's choice aliases nothing.
                (unsafe { mmap_anonymous(std::ptr::null_mut(), bytes, prot, flags) }?, None, 0)
            }
            Storage::File { file, boot_id } => {
                let used = prepare(&file, boot_id, capacity)?;
                // SAFETY: a new mapping at an address of the kernel's choice aliases nothing; what other processes do
                // to the file is seen as changing numbers, because all access is atomic.
                let base = unsafe { mmap(std::ptr::null_mut(), bytes, prot, MapFlags::SHARED, &file, 0) }?;
                (base, Some(file), used)
            }
        };
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let backed = if file.is_some() { used } else { capacity };
        let free = Mutex::new(Free { head: NIL, fresh: used, backed });
        Ok((Self { base, bytes, capacity, file, free, fresh: AtomicU32::new(used) }, used))
    }

    /// The slots that may hold something: all before this one.
    #[inline]
    pub(super) fn fresh(&self) -> u32 {
        self.fresh.load(Ordering::Acquire)
    }

    /// The slot `at`.
    ///
    /// # Panics
    /// If there is no such slot.
    #[inline]
    pub(super) fn slot(&self, at: u32) -> &Slot {
        assert!(at < self.capacity, "slot {at} of {}", self.capacity);
        // SAFETY: the mapping has `capacity` slots behind a header of whole pages, so the pointer is in bounds and
        // aligned; a slot is nothing but atomics, for which any bytes are valid.
        unsafe { self.base.add(HEADER_BYTES).cast::<Slot>().add(at as usize).as_ref() }
    }

    /// As [`Self::slot`]; none if there is no such slot.
    #[inline]
    pub(super) fn get(&self, at: u32) -> Option<&Slot> {
        (at < self.capacity).then(|| self.slot(at))
    }

    /// A slot to fill, and the generation that it shall have; none when all are used or no memory is left.
    pub(super) fn allocate(&self) -> Option<(u32, u32)> {
        let mut free = self.lock_free();
        let at = if free.head != NIL {
            let at = free.head;
            // Wraps zero, the end of the list, to `NIL`.
            free.head = self.slot(at).next_free.load(Ordering::Relaxed).wrapping_sub(1);
            at
        } else {
            if free.fresh == self.capacity || !self.back(&mut free) {
                return None;
            }
            let at = free.fresh;
            free.fresh += 1;
            self.fresh.store(free.fresh, Ordering::Release);
            at
        };
        drop(free);
        Some((at, self.slot(at).tag().generation.wrapping_add(1)))
    }

    /// Makes sure that the next fresh slot may be touched.
    fn back(&self, free: &mut Free) -> bool {
        if free.fresh < free.backed {
            return true;
        }
        let Some(file) = &self.file else { return false };
        let more = GROW_SLOTS.min(self.capacity - free.backed);
        let offset = HEADER_BYTES + free.backed as usize * SLOT_BYTES;
        let bytes = more as usize * SLOT_BYTES;
        if allocate_blocks(file, offset, bytes).is_err() {
            return false;
        }
        free.backed += more;
        true
    }

    /// Gives a slot back, whatever it holds.
    pub(super) fn release(&self, at: u32) {
        let slot = self.slot(at);
        slot.retract();
        let mut free = self.lock_free();
        slot.next_free.store(free.head.wrapping_add(1), Ordering::Relaxed);
        free.head = at;
    }

    /// Gives the last slot back to those that were never used; for a slab that nobody else uses yet.
    pub(super) fn trim(&self) {
        let mut free = self.lock_free();
        if let Some(last) = free.fresh.checked_sub(1) {
            self.slot(last).retract();
            free.fresh = last;
            self.fresh.store(last, Ordering::Release);
        }
    }

    fn lock_free(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        // SAFETY: the mapping is this slab's own, and slots are borrowed from the slab.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// The header that a file must have for its slots to mean anything.
fn header(boot_id: [u8; 16]) -> [u8; 32] {
    let mut header = [0; 32];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&LAYOUT.to_le_bytes());
    header[12..16].copy_from_slice(&(SLOT_BYTES as u32).to_le_bytes());
    header[16..].copy_from_slice(&boot_id);
    header
}

/// Has the file system provide for what will be touched.
fn allocate_blocks(file: &File, offset: usize, bytes: usize) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), offset as u64, bytes as u64) {
        // Not a tmpfs then; there is no other way to ask for it.
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Gives a file the size of `capacity` slots; returns how many of them the file had.
fn prepare(file: &File, boot_id: [u8; 16], capacity: u32) -> io::Result<u32> {
    use std::os::unix::fs::FileExt;

    let (expected, mut found) = (header(boot_id), [0; 32]);
    let had_bytes = file.metadata()?.len();
    let known = file.read_exact_at(&mut found, 0).is_ok() && found == expected;
    let used = if known {
        let slots = had_bytes.saturating_sub(HEADER_BYTES as u64) / SLOT_BYTES as u64;
        last_used(file, slots.min(u64::from(capacity)) as u32)?
    } else {
        file.set_len(0)?;
        0
    };
    file.set_len((HEADER_BYTES + capacity as usize * SLOT_BYTES) as u64)?;
    // What was sparse becomes real before it is touched: see the module's documentation.
    let bytes = HEADER_BYTES + used as usize * SLOT_BYTES;
    allocate_blocks(file, 0, bytes)?;
    if !known {
        file.write_all_at(&expected, 0)?;
    }
    Ok(used)
}

/// How many slots there are up to the last one that is not all zero, holes skipped.
fn last_used(file: &File, slots: u32) -> io::Result<u32> {
    use rustix::fs::{SeekFrom, seek};

    let end = HEADER_BYTES as u64 + u64::from(slots) * SLOT_BYTES as u64;
    let (mut at, mut data_end) = (HEADER_BYTES as u64, HEADER_BYTES as u64);
    while at < end {
        match seek(file, SeekFrom::Data(at)) {
            Ok(data) if data < end => {
                data_end = seek(file, SeekFrom::Hole(data))?.min(end);
                at = data_end;
            }
            Ok(_) | Err(rustix::io::Errno::NXIO) => break,
            // A file system that knows no holes: all of it is data.
            Err(rustix::io::Errno::INVAL) => return Ok(slots),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(((data_end - HEADER_BYTES as u64).div_ceil(SLOT_BYTES as u64)) as u32)
}
