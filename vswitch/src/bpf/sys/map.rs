//! Maps.

// The commands' structures have pointers; see the parent module.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::{
    MAP_CREATE, MAP_DELETE_ELEM, MAP_LOOKUP_ELEM, MAP_UPDATE_ELEM, NAME_BYTES, call, call_for_fd, object_info,
    object_name,
};

/// `enum bpf_map_type`: those in use here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum MapKind {
    /// `BPF_MAP_TYPE_HASH`
    Hash = 1,
    /// `BPF_MAP_TYPE_ARRAY`
    Array = 2,
    /// `BPF_MAP_TYPE_XSKMAP`: from an index to an AF_XDP socket.
    Xsk = 17,
}

/// A map that this process has a descriptor of, and the sizes of its keys and values.
#[derive(Debug)]
pub struct Map {
    fd: OwnedFd,
    key_bytes: usize,
    value_bytes: usize,
}

impl Map {
    /// Creates a map of `entries` entries. `name` is for people, and cut at 15 bytes.
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_BPF` (and `CAP_NET_ADMIN` for maps of sockets); before kernel 5.11
    /// also when `RLIMIT_MEMLOCK` is used up.
    pub fn create(kind: MapKind, key_bytes: u32, value_bytes: u32, entries: u32, name: &str) -> io::Result<Self> {
        #[repr(C)]
        struct Attr {
            kind: u32,
            key_bytes: u32,
            value_bytes: u32,
            entries: u32,
            flags: u32,
            inner_map: u32,
            numa_node: u32,
            name: [u8; NAME_BYTES],
        }
        let mut attr = Attr {
            kind: kind as u32,
            key_bytes,
            value_bytes,
            entries,
            flags: 0,
            inner_map: 0,
            numa_node: 0,
            name: object_name(name),
        };
        // SAFETY: BPF_MAP_CREATE reads these fields and returns a new descriptor.
        let fd = unsafe { call_for_fd(MAP_CREATE, &mut attr) }?;
        Ok(Self { fd, key_bytes: key_bytes as usize, value_bytes: value_bytes as usize })
    }

    /// Takes over a descriptor of a map that somebody else made; the sizes are asked of the kernel.
    ///
    /// # Errors
    /// `EINVAL` if the descriptor is not a map's.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        /// The beginning of `struct bpf_map_info`.
        #[derive(Default)]
        #[repr(C)]
        struct Info {
            kind: u32,
            id: u32,
            key_bytes: u32,
            value_bytes: u32,
        }
        let mut info = Info::default();
        // A program's or a link's information has other fields in these places.
        if !std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?.ends_with("anon_inode:bpf-map") {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a descriptor of a BPF map"));
        }
        // SAFETY: of a map the kernel writes a prefix of `struct bpf_map_info`, at most the size that is passed.
        unsafe { object_info(fd.as_fd(), &mut info) }?;
        Ok(Self { fd, key_bytes: info.key_bytes as usize, value_bytes: info.value_bytes as usize })
    }

    /// Sets the value of a key.
    ///
    /// # Errors
    /// `E2BIG` when the map is full or has no such index, and what a map of sockets says of the socket.
    ///
    /// # Panics
    /// If the sizes are not the map's.
    pub fn update(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        assert_eq!((key.len(), value.len()), (self.key_bytes, self.value_bytes), "sizes of key and value");
        let mut attr = ElementAttr::new(self.fd.as_fd(), key, value.as_ptr() as u64);
        // SAFETY: the kernel reads `key_bytes` and `value_bytes` bytes, which the slices have.
        unsafe { call(MAP_UPDATE_ELEM, &mut attr) }.map(|_| ())
    }

    /// The value of a key, or nothing if there is none. Not for maps per CPU, whose values are longer.
    ///
    /// # Errors
    /// `EOPNOTSUPP` for maps that cannot be read.
    ///
    /// # Panics
    /// If the sizes are not the map's.
    pub fn lookup(&self, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
        assert_eq!((key.len(), value.len()), (self.key_bytes, self.value_bytes), "sizes of key and value");
        let mut attr = ElementAttr::new(self.fd.as_fd(), key, value.as_mut_ptr() as u64);
        // SAFETY: the kernel reads `key_bytes` bytes and writes `value_bytes`, which the slices have.
        found(unsafe { call(MAP_LOOKUP_ELEM, &mut attr) })
    }

    /// Removes a key; whether it was there.
    ///
    /// # Errors
    /// What the kernel says.
    ///
    /// # Panics
    /// If the size is not the map's.
    pub fn delete(&self, key: &[u8]) -> io::Result<bool> {
        assert_eq!(key.len(), self.key_bytes, "size of key");
        let mut attr = ElementAttr::new(self.fd.as_fd(), key, 0);
        // SAFETY: the kernel reads `key_bytes` bytes, which the slice has.
        found(unsafe { call(MAP_DELETE_ELEM, &mut attr) })
    }
}

impl AsFd for Map {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn found(result: io::Result<c_int>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[repr(C)]
struct ElementAttr {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl ElementAttr {
    fn new(map: BorrowedFd<'_>, key: &[u8], value: u64) -> Self {
        Self { map: map.as_raw_fd() as u32, pad: 0, key: key.as_ptr() as u64, value, flags: 0 }
    }
}
