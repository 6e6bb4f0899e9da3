//! Raw frames from and to an interface of a namespace (`AF_PACKET`, see packet(7)).
// The standard library knows no packet sockets, and neither do sendmmsg and control messages come
// without raw pointers.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::ptr;
use std::time::{Duration, Instant};

use crate::frame::tagged;
use crate::namespace::Namespace;
use crate::process::PATIENCE;

/// The most frames of one [`PacketSocket::send_burst`].
pub const BURST_MAX: usize = 64;

/// A raw packet socket bound to one interface.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
}

impl PacketSocket {
    /// Opens a socket on `ifname` of `namespace` that receives frames of every ethertype.
    ///
    /// # Errors
    /// The interface does not exist, or what the kernel says.
    pub fn open(namespace: &Namespace, ifname: &str) -> io::Result<Self> {
        Self::bound(namespace, ifname, libc::ETH_P_ALL as u16)
    }

    /// Opens a socket that only sends: no received frame is ever copied to it, so that it costs a
    /// measurement nothing.
    ///
    /// # Errors
    /// The interface does not exist, or what the kernel says.
    pub fn open_sender(namespace: &Namespace, ifname: &str) -> io::Result<Self> {
        Self::bound(namespace, ifname, 0)
    }

    fn bound(namespace: &Namespace, ifname: &str, protocol: u16) -> io::Result<Self> {
        let ifname = CString::new(ifname)?;
        namespace.enter(|| {
            // SAFETY: no pointers are passed.
            let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: `fd` was just opened and nobody else owns it.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            // SAFETY: `ifname` is a live NUL-terminated string.
            let index = unsafe { libc::if_nametoindex(ifname.as_ptr()) };
            if index == 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: all-zero bytes are a valid sockaddr_ll.
            let mut address: libc::sockaddr_ll = unsafe { zeroed() };
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = protocol.to_be();
            address.sll_ifindex = index.cast_signed();
            // SAFETY: the pointer is to a sockaddr_ll that lives through the call, with its size.
            let bound = unsafe {
                libc::bind(
                    fd.as_raw_fd(),
                    (&raw const address).cast(),
                    size_of::<libc::sockaddr_ll>() as libc::socklen_t,
                )
            };
            if bound < 0 {
                return Err(io::Error::last_os_error());
            }
            let socket = Self { fd };
            // The kernel takes a VLAN tag out of the frame on reception and reports it beside.
            socket.option(libc::SOL_PACKET, libc::PACKET_AUXDATA, 1)?;
            // Tests send bursts before they read.
            socket.option(libc::SOL_SOCKET, libc::SO_RCVBUF, 8 << 20)?;
            Ok(socket)
        })
    }

    fn option(&self, level: i32, name: i32, value: i32) -> io::Result<()> {
        // SAFETY: the pointer is to an int that lives through the call, with its size.
        let set = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                level,
                name,
                (&raw const value).cast(),
                size_of::<i32>() as libc::socklen_t,
            )
        };
        if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Sends one frame.
    ///
    /// # Errors
    /// What the kernel says: `EMSGSIZE` above the interface's MTU.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: the pointer and the length are those of a live slice.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Sends up to [`BURST_MAX`] frames with one system call and returns how many the kernel took.
    ///
    /// # Errors
    /// What the kernel says, when it took none.
    ///
    /// # Panics
    /// When there are more than [`BURST_MAX`] frames.
    pub fn send_burst<F: AsRef<[u8]>>(&self, frames: &[F]) -> io::Result<usize> {
        assert!(frames.len() <= BURST_MAX);
        let mut vectors = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; BURST_MAX];
        // SAFETY: all-zero bytes are a valid mmsghdr.
        let mut messages: [libc::mmsghdr; BURST_MAX] = unsafe { zeroed() };
        for ((vector, message), frame) in vectors.iter_mut().zip(&mut messages).zip(frames) {
            let frame = frame.as_ref();
            // Sending only reads through the pointer.
            vector.iov_base = frame.as_ptr().cast_mut().cast();
            vector.iov_len = frame.len();
            message.msg_hdr.msg_iov = vector;
            message.msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: the first `frames.len()` messages point to live vectors, and those to live frames.
        let sent =
            unsafe { libc::sendmmsg(self.fd.as_raw_fd(), messages.as_mut_ptr(), frames.len() as libc::c_uint, 0) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// Receives the next frame that came in from outside (not one that the namespace itself sent),
    /// its VLAN tag where it was; nothing came within `limit`: none.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn recv(&self, limit: Duration) -> io::Result<Option<Vec<u8>>> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut waiting = libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one pollfd that lives through the call.
            let ready = unsafe { libc::poll(&raw mut waiting, 1, left.as_millis().min(60_000) as i32) };
            match ready {
                0 => return Ok(None),
                1.. => {}
                _ => return Err(io::Error::last_os_error()),
            }
            if let Some(frame) = self.recv_now()? {
                return Ok(Some(frame));
            }
        }
    }

    /// Receives until nothing came for `quiet`, and returns the frames that `wanted` chose: for those that should not
    /// come. For those that should, [`PacketSocket::recv_expected`] waits as long as it takes.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn recv_all(&self, quiet: Duration, wanted: impl Fn(&[u8]) -> bool) -> io::Result<Vec<Vec<u8>>> {
        self.recv_expected(0, quiet, wanted)
    }

    /// Receives until `count` frames came that `wanted` chose, however long that takes (up to [`PATIENCE`], when it
    /// returns what did come), and then until nothing came for `quiet`, which shows frames beyond those.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn recv_expected(
        &self,
        count: usize,
        quiet: Duration,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> io::Result<Vec<Vec<u8>>> {
        let deadline = Instant::now() + PATIENCE;
        let mut frames = Vec::new();
        loop {
            let complete = frames.len() >= count;
            let limit = if complete { quiet } else { deadline.saturating_duration_since(Instant::now()) };
            match self.recv(limit)? {
                Some(frame) if wanted(&frame) => frames.push(frame),
                Some(_) => {}
                None => return Ok(frames),
            }
        }
    }

    /// The first frame that `wanted` chooses.
    ///
    /// # Errors
    /// None came within [`PATIENCE`] ([`io::ErrorKind::TimedOut`]), or what the kernel says.
    pub fn recv_first(&self, wanted: impl Fn(&[u8]) -> bool) -> io::Result<Vec<u8>> {
        let mut frames = self.recv_expected(1, Duration::ZERO, wanted)?.into_iter();
        frames.next().ok_or_else(|| io::Error::new(io::ErrorKind::TimedOut, format!("no such frame in {PATIENCE:?}")))
    }

    /// One frame that waits; none when it was an outgoing one.
    fn recv_now(&self) -> io::Result<Option<Vec<u8>>> {
        let mut buffer = vec![0u8; 70_000];
        let mut vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        // 64-bit words, because a cmsghdr must be aligned.
        let mut control = [0u64; 16];
        // SAFETY: all-zero bytes are a valid sockaddr_ll.
        let mut from: libc::sockaddr_ll = unsafe { zeroed() };
        // SAFETY: all-zero bytes are a valid msghdr.
        let mut message: libc::msghdr = unsafe { zeroed() };
        message.msg_name = (&raw mut from).cast();
        message.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        message.msg_iov = &raw mut vector;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        // SAFETY: every pointer in `message` is to memory that lives through the call, with its size.
        let length = unsafe { libc::recvmsg(self.fd.as_raw_fd(), &raw mut message, 0) };
        let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
        if from.sll_pkttype == libc::PACKET_OUTGOING {
            return Ok(None);
        }
        buffer.truncate(length);
        // SAFETY: recvmsg filled `message`, and `control` is alive.
        let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
        if !header.is_null() {
            // SAFETY: the kernel wrote a whole header there.
            let (level, kind) = unsafe { ((*header).cmsg_level, (*header).cmsg_type) };
            if level == libc::SOL_PACKET && kind == libc::PACKET_AUXDATA {
                // SAFETY: the data of PACKET_AUXDATA is a tpacket_auxdata; it may be unaligned.
                let aux: libc::tpacket_auxdata = unsafe { ptr::read_unaligned(libc::CMSG_DATA(header).cast()) };
                if aux.tp_status & libc::TP_STATUS_VLAN_VALID != 0 && buffer.len() >= 14 {
                    buffer = tagged(aux.tp_vlan_tci, &buffer);
                }
            }
        }
        Ok(Some(buffer))
    }
}
