//! Programs.

// The commands' structures have pointers; see the parent module.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::{
    ATTACH_TYPE_XDP, NAME_BYTES, PROG_GET_FD_BY_ID, PROG_LOAD, PROG_TEST_RUN, call, call_for_fd, object_info,
    object_name,
};

/// What the verifier may say of a program that it refuses.
const LOG_BYTES: usize = 64 * 1024;

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
