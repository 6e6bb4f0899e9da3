//! bpf(2), as far as it is used here: maps, programs, links, and what the kernel says of them.
//!
//! Each call fills the member of `union bpf_attr` (`include/uapi/linux/bpf.h`) that its command reads. The
//! kernel takes a shorter union than its own for one that is zero beyond, so these structures end after the last
//! field in use. They have no implicit padding, which would have to be zero.

// A system call with pointers in its argument: each wrapper pairs one command with its structure.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const MAP_CREATE: c_int = 0;
const MAP_LOOKUP_ELEM: c_int = 1;
const MAP_UPDATE_ELEM: c_int = 2;
const MAP_DELETE_ELEM: c_int = 3;
const PROG_LOAD: c_int = 5;
const PROG_TEST_RUN: c_int = 10;
const PROG_GET_FD_BY_ID: c_int = 13;
const OBJ_GET_INFO_BY_FD: c_int = 15;
const LINK_CREATE: c_int = 28;

/// `BPF_OBJ_NAME_LEN`, the terminating zero included.
const NAME_BYTES: usize = 16;
/// What the verifier may say of a program that it refuses.
const LOG_BYTES: usize = 64 * 1024;
/// `BPF_XDP` of `enum bpf_attach_type`.
const ATTACH_TYPE_XDP: u32 = 37;

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

/// `enum bpf_prog_type`: those in use here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum ProgramKind {
    /// `BPF_PROG_TYPE_SCHED_CLS`: tc and TCX.
    SchedCls = 3,
    /// `BPF_PROG_TYPE_XDP`
    Xdp = 6,
}

/// `BPF_F_XDP_HAS_FRAGS`: the program understands packets in more than one buffer.
pub const XDP_HAS_FRAGS: u32 = 1 << 5;
/// `XDP_FLAGS_SKB_MODE`: run an XDP program in the stack, on the kernel's packet buffers (generic).
pub const XDP_SKB_MODE: u32 = 1 << 1;
/// `XDP_FLAGS_DRV_MODE`: run an XDP program in the driver (native).
pub const XDP_DRV_MODE: u32 = 1 << 2;

/// One instruction (`struct bpf_insn`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// Class, size or operation, mode or source.
    pub code: u8,
    /// The destination register in the lower half, the source register in the upper.
    pub registers: u8,
    /// A signed offset.
    pub offset: i16,
    /// A signed immediate.
    pub immediate: i32,
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

/// Loads a program; `flags` are `BPF_F_*` of `BPF_PROG_LOAD`, `name` is for people, and cut at 15 bytes.
///
/// # Errors
/// `PermissionDenied` without `CAP_BPF` and `CAP_NET_ADMIN`; else the verifier's last words.
pub fn load(
    kind: ProgramKind,
    instructions: &[Instruction],
    license: &CStr,
    flags: u32,
    name: &str,
) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        kind: u32,
        instructions_count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_bytes: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; NAME_BYTES],
        ifindex: u32,
        expected_attach_type: u32,
    }
    let mut attr = Attr {
        kind: kind as u32,
        instructions_count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_bytes: 0,
        log: 0,
        kernel_version: 0,
        flags,
        name: object_name(name),
        ifindex: 0,
        expected_attach_type: if kind == ProgramKind::Xdp { ATTACH_TYPE_XDP } else { 0 },
    };
    // SAFETY: the instructions and the license outlive the call; no log is asked for.
    let error = match unsafe { call_for_fd(PROG_LOAD, &mut attr) } {
        Ok(fd) => return Ok(fd),
        Err(error) => error,
    };
    // Once more, to hear why.
    let mut log = vec![0_u8; LOG_BYTES];
    (attr.log_level, attr.log_bytes, attr.log) = (1, LOG_BYTES as u32, log.as_mut_ptr() as u64);
    // SAFETY: as above, and the kernel writes at most `log_bytes` to the log.
    let again = unsafe { call_for_fd(PROG_LOAD, &mut attr) };
    if let Ok(fd) = again {
        return Ok(fd);
    }
    let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
    let log = String::from_utf8_lossy(&log[..end]);
    let words = log.lines().rev().find(|line| !line.trim().is_empty() && !line.starts_with("processed "));
    Err(match words {
        Some(words) => io::Error::new(error.kind(), format!("{error}; the verifier says: {}", words.trim())),
        None => error,
    })
}

/// Attaches an XDP program to an interface of the calling thread's network namespace, until the link's last
/// descriptor is closed. `flags` are [`XDP_DRV_MODE`] or [`XDP_SKB_MODE`].
///
/// # Errors
/// `EBUSY` when there is a program already, `EEXIST` when there is one in the other mode, `EOPNOTSUPP` when the
/// driver runs none, and what the driver says.
pub fn attach_xdp(program: BorrowedFd<'_>, ifindex: u32, flags: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        program: u32,
        ifindex: u32,
        attach_type: u32,
        flags: u32,
    }
    let mut attr = Attr { program: program.as_raw_fd() as u32, ifindex, attach_type: ATTACH_TYPE_XDP, flags };
    // SAFETY: BPF_LINK_CREATE reads these fields and returns a new descriptor.
    unsafe { call_for_fd(LINK_CREATE, &mut attr) }
}

/// The interface that an XDP link is attached to; none once it was detached or the interface is gone.
///
/// # Errors
/// `EINVAL` if the descriptor is not a link's.
pub fn xdp_link_ifindex(link: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    /// The beginning of `struct bpf_link_info`, with the union's member for XDP.
    #[derive(Default)]
    #[repr(C)]
    struct Info {
        kind: u32,
        id: u32,
        program: u32,
        pad: u32,
        ifindex: u32,
        rest: u32,
    }
    let mut info = Info::default();
    // SAFETY: of a link the kernel writes a prefix of `struct bpf_link_info`, at most the size that is passed.
    unsafe { object_info(link, &mut info) }?;
    Ok((info.ifindex != 0).then_some(info.ifindex))
}

/// What the kernel tells people of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramInfo {
    /// Its id, unique until the next boot.
    pub id: u32,
    /// The name that its loader gave it; may be empty.
    pub name: String,
}

impl std::fmt::Display for ProgramInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.name.as_str() {
            "" => write!(f, "id {}", self.id),
            name => write!(f, "{name} (id {})", self.id),
        }
    }
}

/// What the kernel tells of the program with this id.
///
/// # Errors
/// `NotFound` if it is gone, `PermissionDenied` without `CAP_BPF`.
pub fn program_info_by_id(id: u32) -> io::Result<ProgramInfo> {
    #[repr(C)]
    struct Attr {
        id: u32,
        next_id: u32,
        open_flags: u32,
    }
    // SAFETY: BPF_PROG_GET_FD_BY_ID reads these fields and returns a new descriptor.
    let program = unsafe { call_for_fd(PROG_GET_FD_BY_ID, &mut Attr { id, next_id: 0, open_flags: 0 }) }?;
    program_info(program.as_fd())
}

/// What the kernel tells of a program.
///
/// # Errors
/// `EINVAL` if the descriptor is not a program's.
pub fn program_info(program: BorrowedFd<'_>) -> io::Result<ProgramInfo> {
    /// The beginning of `struct bpf_prog_info`. The pointers and lengths stay zero: nothing is asked for.
    #[derive(Default)]
    #[repr(C)]
    struct Info {
        kind: u32,
        id: u32,
        tag: [u8; 8],
        lengths: [u32; 2],
        instructions: [u64; 2],
        load_time: u64,
        created_by_uid: u32,
        map_ids_count: u32,
        map_ids: u64,
        name: [u8; NAME_BYTES],
    }
    let mut info = Info::default();
    // SAFETY: of a program the kernel writes a prefix of `struct bpf_prog_info`, at most the size that is
    // passed, and follows none of its pointers while the lengths beside them are zero.
    unsafe { object_info(program, &mut info) }?;
    let name = info.name.iter().take_while(|&&byte| byte != 0).copied().collect::<Vec<_>>();
    Ok(ProgramInfo { id: info.id, name: String::from_utf8_lossy(&name).into_owned() })
}

/// What a program did with a packet it was tried on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestRun {
    /// What the program returned.
    pub verdict: u32,
    /// The packet afterwards.
    pub packet: Vec<u8>,
}

/// Runs a program once on `packet`, outside of any interface (`BPF_PROG_TEST_RUN`).
///
/// # Errors
/// `EINVAL` for packets that no interface would deliver (shorter than an Ethernet header).
pub fn test_run(program: BorrowedFd<'_>, packet: &[u8]) -> io::Result<TestRun> {
    #[derive(Default)]
    #[repr(C)]
    struct Attr {
        program: u32,
        verdict: u32,
        bytes_in: u32,
        bytes_out: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration: u32,
        context_bytes_in: u32,
        context_bytes_out: u32,
        context_in: u64,
        context_out: u64,
    }
    // The program may prepend headers: room for those.
    let mut after = vec![0_u8; packet.len() + 256];
    let mut attr = Attr {
        program: program.as_raw_fd() as u32,
        bytes_in: packet.len() as u32,
        bytes_out: after.len() as u32,
        data_in: packet.as_ptr() as u64,
        data_out: after.as_mut_ptr() as u64,
        ..Attr::default()
    };
    // SAFETY: the kernel reads `bytes_in` bytes, writes at most `bytes_out`, and no context.
    unsafe { call(PROG_TEST_RUN, &mut attr) }?;
    after.truncate(attr.bytes_out as usize);
    Ok(TestRun { verdict: attr.verdict, packet: after })
}

/// # Safety
/// Every value of `T` is sound, and `T` is a prefix of what the kernel writes for the descriptor's kind.
unsafe fn object_info<T>(object: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    #[repr(C)]
    struct Attr {
        object: u32,
        info_bytes: u32,
        info: u64,
    }
    let mut attr = Attr {
        object: object.as_raw_fd() as u32,
        info_bytes: size_of::<T>() as u32,
        info: std::ptr::from_mut(info) as u64,
    };
    // SAFETY: the kernel writes at most `info_bytes` bytes to `info`; the rest is the caller's promise.
    unsafe { call(OBJ_GET_INFO_BY_FD, &mut attr) }.map(|_| ())
}

/// # Safety
/// `attr` is what `command` reads, its pointers are valid for that, and the command returns a descriptor.
unsafe fn call_for_fd<T>(command: c_int, attr: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise.
    let fd = unsafe { call(command, attr) }?;
    // SAFETY: the kernel just made the descriptor (with O_CLOEXEC), and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// # Safety
/// `attr` is what `command` reads, and its pointers are valid for that.
unsafe fn call<T>(command: c_int, attr: &mut T) -> io::Result<c_int> {
    loop {
        // SAFETY: the kernel reads and writes at most `size_of::<T>()` bytes of `attr`; the rest is the caller's promise.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
        if result >= 0 {
            return Ok(result as c_int);
        }
        let error = io::Error::last_os_error();
        // The verifier gives up when a signal comes.
        if !matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) {
            return Err(error);
        }
    }
}

/// A name as the kernel takes it: letters, digits, `_` and `.`, at most 15.
fn object_name(name: &str) -> [u8; NAME_BYTES] {
    let mut bytes = [0; NAME_BYTES];
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.');
    for (to, from) in bytes[..NAME_BYTES - 1].iter_mut().zip(name.bytes().filter(allowed)) {
        *to = from;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_acceptable() {
        assert_eq!(&object_name("vswitch-port"), b"vswitchport\0\0\0\0\0");
        assert_eq!(&object_name("a_much_too_long_name"), b"a_much_too_long\0");
    }

    #[test]
    fn an_instruction_has_eight_bytes() {
        assert_eq!(size_of::<Instruction>(), 8);
    }
}
