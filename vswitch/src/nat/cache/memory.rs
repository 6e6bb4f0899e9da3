//! Arrays that cost memory only where they are touched, and may have pages of 2 MB.

// A raw mapping: the standard library's allocator gives no say in the size of pages.
#![allow(unsafe_code)]

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// Types for which any bytes are a value, and which need no drop.
///
/// # Safety
/// They are: integers, arrays and structures of them without padding, unions of such.
pub(super) unsafe trait Plain: Copy {
    /// All bytes zero.
    fn zeroed() -> Self {
        // SAFETY: any bytes are a value.
        unsafe { std::mem::zeroed() }
    }
}

/// An array of zeros that is mapped when it is touched.
pub(super) struct Lazy<T: Plain> {
    base: NonNull<T>,
    len: usize,
}

// SAFETY: the array owns its memory as a `Box<[T]>` would.
unsafe impl<T: Plain + Send> Send for Lazy<T> {}

impl<T: Plain> Lazy<T> {
    pub(super) fn new(len: usize) -> std::io::Result<Self> {
        const { assert!(size_of::<T>() != 0 && align_of::<T>() <= 4096, "a mapping is aligned to pages") };
        let bytes = len * size_of::<T>();
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice aliases nothing.
        let base = unsafe { mmap_anonymous(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, flags) }?;
        let base = NonNull::new(base.cast()).ok_or(std::io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, len })
    }

    /// Asks for huge pages: at once for what is not touched yet, in the background for what is.
    pub(super) fn prefer_huge_pages(&self) {
        // SAFETY: the mapping is ours, and its content stays. A kernel without huge pages refuses, which costs misses
        // of the TLB and nothing else.
        let _ = unsafe { madvise(self.base.as_ptr().cast(), self.len * size_of::<T>(), Advice::LinuxHugepage) };
    }
}

impl<T: Plain> fmt::Debug for Lazy<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lazy").field("len", &self.len).finish_non_exhaustive()
    }
}

impl<T: Plain> Drop for Lazy<T> {
    fn drop(&mut self) {
        // SAFETY: `new` made the mapping with this length, and nothing of it is borrowed any more.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len * size_of::<T>()) };
    }
}

impl<T: Plain> Deref for Lazy<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: the mapping has `len` values, for which any bytes will do.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }
}

impl<T: Plain> DerefMut for Lazy<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }
}
