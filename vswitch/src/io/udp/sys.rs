//! What the kernel's sockets want in C's shapes: options, control messages, calls for many messages.

// `sendmmsg`, `recvmmsg` and socket options take pointers.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

/// `UDP_NO_CHECK6_RX` (`include/uapi/linux/udp.h`), which libc does not have.
pub(super) const UDP_NO_CHECK6_RX: c_int = 102;

/// Sets an option whose value is an `int`.
pub(super) fn set_option(fd: BorrowedFd<'_>, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    set(fd, level, name, &value)
}

fn set<T>(fd: BorrowedFd<'_>, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    let (pointer, bytes) = (std::ptr::from_ref(value).cast::<c_void>(), size_of::<T>() as libc::socklen_t);
    // SAFETY: the pointer is to `bytes` readable bytes, and the kernel only reads them.
    match unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, pointer, bytes) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The value of an option that is an `int`.
pub(super) fn option(fd: BorrowedFd<'_>, level: c_int, name: c_int) -> io::Result<c_int> {
    let mut value: c_int = 0;
    let mut bytes = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: both pointers are to live variables, and `bytes` is the size of the first.
    match unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut bytes) } {
        0 => Ok(value),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has the kernel drop whatever arrives on the socket, before it is queued.
pub(super) fn drop_everything_received(fd: BorrowedFd<'_>) -> io::Result<()> {
    // BPF_RET | BPF_K: keep no byte.
    let mut program = [libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0 }];
    let filter = libc::sock_fprog { len: 1, filter: program.as_mut_ptr() };
    set(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter)
}

/// A socket address as the kernel takes it.
#[derive(Clone, Copy)]
pub(super) union Address {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl Address {
    /// No address yet.
    pub(super) fn empty() -> Self {
        // SAFETY: all zeros are a valid value of this plain structure.
        Self { v6: unsafe { std::mem::zeroed() } }
    }

    /// `address`, and its length in bytes.
    pub(super) fn new(address: SocketAddr) -> (Self, libc::socklen_t) {
        let mut this = Self::empty();
        match address {
            SocketAddr::V4(address) => {
                this.v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: address.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
                    sin_zero: [0; 8],
                };
                (this, size_of::<libc::sockaddr_in>() as libc::socklen_t)
            }
            SocketAddr::V6(address) => {
                this.v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: address.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                    sin6_scope_id: address.scope_id(),
                };
                (this, size_of::<libc::sockaddr_in6>() as libc::socklen_t)
            }
        }
    }

    /// The IP address; an IPv4 address in its own form.
    pub(super) fn ip(&self) -> Option<IpAddr> {
        // SAFETY: both variants start with the family, and every bit pattern is a valid value of each.
        unsafe {
            match c_int::from(self.v4.sin_family) {
                libc::AF_INET => Some(IpAddr::from(self.v4.sin_addr.s_addr.to_ne_bytes())),
                libc::AF_INET6 => Some(IpAddr::from(self.v6.sin6_addr.s6_addr).to_canonical()),
                _ => None,
            }
        }
    }
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.ip().fmt(f)
    }
}

/// Words of a [`Control`]: four messages of one number each.
const CONTROL_WORDS: usize = 16;
const WORD_BYTES: usize = size_of::<usize>();
const CMSG_BYTES: usize = size_of::<libc::cmsghdr>();

/// Ancillary data of a message (`struct cmsghdr`, one behind the other, aligned).
#[derive(Debug, Clone, Copy)]
pub(super) struct Control {
    words: [usize; CONTROL_WORDS],
    bytes: usize,
}

impl Control {
    pub(super) const BYTES_MAX: usize = CONTROL_WORDS * WORD_BYTES;

    pub(super) const fn new() -> Self {
        Self { words: [0; CONTROL_WORDS], bytes: 0 }
    }

    /// Appends a message. What does not fit would be a mistake in this module, which has at most three.
    pub(super) fn push(&mut self, level: c_int, kind: c_int, data: &[u8]) {
        let space = CMSG_BYTES + data.len().next_multiple_of(WORD_BYTES);
        let at = self.bytes;
        debug_assert!(at + space <= Self::BYTES_MAX, "more ancillary data than expected");
        let area = self.area();
        let Some(message) = area.get_mut(at..at + space) else { return };
        let (header, body) = message.split_at_mut(CMSG_BYTES);
        header[..WORD_BYTES].copy_from_slice(&(CMSG_BYTES + data.len()).to_ne_bytes());
        header[WORD_BYTES..WORD_BYTES + 4].copy_from_slice(&level.to_ne_bytes());
        header[WORD_BYTES + 4..WORD_BYTES + 8].copy_from_slice(&kind.to_ne_bytes());
        body[..data.len()].copy_from_slice(data);
        self.bytes = at + space;
    }

    pub(super) fn pointer(&mut self) -> *mut c_void {
        self.words.as_mut_ptr().cast()
    }

    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    fn area(&mut self) -> &mut [u8] {
        // SAFETY: an array of words is as many times as many initialised bytes.
        unsafe { std::slice::from_raw_parts_mut(self.words.as_mut_ptr().cast(), Self::BYTES_MAX) }
    }

    /// Calls `each` with level, type and data of the messages in the first `bytes` bytes.
    pub(super) fn read(&mut self, bytes: usize, mut each: impl FnMut(c_int, c_int, &[u8])) {
        let area = self.area();
        let mut rest = &area[..bytes.min(Self::BYTES_MAX)];
        while rest.len() >= CMSG_BYTES {
            let number = |at: usize| rest[at..at + 4].first_chunk().map_or(0, |bytes| c_int::from_ne_bytes(*bytes));
            let len = rest[..WORD_BYTES].first_chunk().map_or(0, |bytes| usize::from_ne_bytes(*bytes));
            let Some(data) = rest.get(CMSG_BYTES..len) else { return };
            each(number(WORD_BYTES), number(WORD_BYTES + 4), data);
            rest = rest.get(len.next_multiple_of(WORD_BYTES)..).unwrap_or_default();
        }
    }
}

/// A message of `sendmmsg` or `recvmmsg`. The pointers are kept, not followed.
pub(super) fn message(
    name: (*mut Address, libc::socklen_t),
    iovecs: (*mut libc::iovec, usize),
    control: (*mut c_void, usize),
) -> libc::mmsghdr {
    // SAFETY: all zeros are a valid value of this plain structure, which has padding on some systems.
    let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
    message.msg_hdr.msg_name = name.0.cast();
    message.msg_hdr.msg_namelen = name.1;
    message.msg_hdr.msg_iov = iovecs.0;
    message.msg_hdr.msg_iovlen = iovecs.1 as _;
    message.msg_hdr.msg_control = control.0;
    message.msg_hdr.msg_controllen = control.1 as _;
    message
}

/// The bytes of ancillary data that came with a message.
pub(super) fn control_bytes(message: &libc::mmsghdr) -> usize {
    #[allow(clippy::unnecessary_cast, reason = "the type depends on the C library")]
    let bytes = message.msg_hdr.msg_controllen as usize;
    bytes
}

/// Sends messages; how many were taken. The error is that of the first, which was not.
///
/// # Safety
/// Whatever the messages point to is valid for reads of the lengths that they give.
pub(super) unsafe fn send(fd: RawFd, messages: &mut [libc::mmsghdr]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the caller's promise; the slice is valid for writes of the lengths that were sent.
    let sent = unsafe { libc::sendmmsg(fd, messages.as_mut_ptr(), messages.len() as _, flags as _) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
}

/// Receives messages; how many came.
///
/// # Safety
/// Whatever the messages point to is valid for writes of the lengths that they give, and nobody else's
/// meanwhile.
pub(super) unsafe fn receive(fd: RawFd, messages: &mut [libc::mmsghdr]) -> io::Result<usize> {
    let (count, flags) = (messages.len() as _, libc::MSG_DONTWAIT as _);
    // SAFETY: the caller's promise; no timeout is given.
    let got = unsafe { libc::recvmmsg(fd, messages.as_mut_ptr(), count, flags, std::ptr::null_mut()) };
    if got < 0 { Err(io::Error::last_os_error()) } else { Ok(got as usize) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_what_the_kernel_calls_them() {
        for (text, bytes) in [("198.18.0.2:4789", 16), ("[2001:db8::2]:4789", 28), ("[::ffff:198.18.0.2]:1", 28)] {
            let address: SocketAddr = text.parse().unwrap();
            let (raw, len) = Address::new(address);
            assert_eq!((raw.ip(), len), (Some(address.ip().to_canonical()), bytes));
        }
        assert_eq!(Address::empty().ip(), None);
    }

    #[test]
    fn ancillary_data_is_read_as_it_was_written() {
        let mut control = Control::new();
        control.push(17, 103, &1472_u16.to_ne_bytes());
        control.push(0, 1, &46_i32.to_ne_bytes());
        let mut seen = Vec::new();
        let bytes = control.len();
        control.read(bytes, |level, kind, data| seen.push((level, kind, data.to_vec())));
        assert_eq!(seen, [(17, 103, 1472_u16.to_ne_bytes().to_vec()), (0, 1, 46_i32.to_ne_bytes().to_vec())]);
        control.read(7, |_, _, _| panic!("not even a header"));
        control.words[0] = usize::MAX;
        control.read(bytes, |_, _, _| panic!("longer than what there is"));
    }
}
