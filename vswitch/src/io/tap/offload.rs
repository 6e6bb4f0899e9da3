//! A TAP's capabilities: asked for downward, and taken back when a write shows them to be empty.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::io::Errno;

use super::ioctl;
use crate::frame::{Gso, GsoKind};
use crate::io::Caps;

const CSUM: u8 = 1 << 0;
const TSO4: u8 = 1 << 1;
const TSO6: u8 = 1 << 2;
const ECN: u8 = 1 << 3;
const USO: u8 = 1 << 4;
const TUNNEL: u8 = 1 << 5;

const F_CSUM: u32 = libc::TUN_F_CSUM;
const F_TSO: u32 = libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
const F_ECN: u32 = libc::TUN_F_TSO_ECN;
/// Since Linux 6.2, and only both together (`set_offload` in `drivers/net/tun.c`).
const F_USO: u32 = libc::TUN_F_USO4 | libc::TUN_F_USO6;
/// `TUN_F_UDP_TUNNEL_GSO` and `TUN_F_UDP_TUNNEL_GSO_CSUM` (`include/uapi/linux/if_tun.h`): since Linux 6.17, in headers of
/// [`crate::wire::vnet_hdr::HEADER_BYTES_TUNNEL`] bytes.
const F_TUNNEL: u32 = 0x80 | 0x100;

/// What is asked for, from the richest set downward.
const LADDER: [(u32, u8); 5] = [
    (F_CSUM | F_TSO | F_ECN | F_USO, CSUM | TSO4 | TSO6 | ECN | USO),
    (F_CSUM | F_TSO | F_ECN, CSUM | TSO4 | TSO6 | ECN),
    (F_CSUM | F_TSO, CSUM | TSO4 | TSO6),
    (F_CSUM, CSUM),
    (0, 0),
];

/// Asks for the richest set of offloads that the kernel grants.
pub(super) fn probe(fd: BorrowedFd<'_>) -> io::Result<Caps> {
    for (bits, caps) in LADDER {
        match ioctl::set_offload(fd, bits) {
            Ok(()) => return Ok(from_bits(caps)),
            Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Caps::NONE)
}

/// Asks for everything, super-frames inside of tunnels among it; whether the kernel grants that. If not, nothing has changed.
pub(super) fn probe_tunnels(fd: BorrowedFd<'_>) -> Option<Caps> {
    let bits = F_CSUM | F_TSO | F_ECN | F_USO | F_TUNNEL;
    ioctl::set_offload(fd, bits).ok().map(|()| Caps { tunnel: true, ..Caps::ALL })
}

/// Capabilities that only ever shrink, shared by all queues of a device.
#[derive(Debug)]
pub(super) struct LiveCaps {
    granted: AtomicU8,
    /// The kinds of super-frames that the device has taken at least once.
    proven: AtomicU8,
}

impl LiveCaps {
    pub(super) fn new(caps: Caps) -> Self {
        Self { granted: AtomicU8::new(to_bits(caps)), proven: AtomicU8::new(0) }
    }

    pub(super) fn get(&self) -> Caps {
        from_bits(self.granted.load(Ordering::Relaxed))
    }

    /// The device took such a super-frame.
    #[inline]
    pub(super) fn accepted(&self, gso: Gso, in_tunnel: bool) {
        let bits = bits_of(gso, in_tunnel);
        // A plain load first: the line stays shared between workers once all is proven.
        if self.proven.load(Ordering::Relaxed) & bits != bits {
            self.proven.fetch_or(bits, Ordering::Relaxed);
        }
    }

    /// The device refused such a super-frame. Takes the capability back unless the device took
    /// one like it before; says whether it did.
    #[cold]
    pub(super) fn refused(&self, gso: Gso, in_tunnel: bool) -> bool {
        let unproven = bits_of(gso, in_tunnel) & !self.proven.load(Ordering::Relaxed);
        // If the kind as such works, only CWR on it is at fault.
        self.granted.fetch_and(!unproven, Ordering::Relaxed);
        unproven != 0
    }
}

fn bits_of(gso: Gso, in_tunnel: bool) -> u8 {
    if in_tunnel {
        // Says nothing about the kind outside of a tunnel.
        return TUNNEL;
    }
    let kind = match gso.kind {
        GsoKind::Tcp4 => TSO4,
        GsoKind::Tcp6 => TSO6,
        GsoKind::Udp => USO,
    };
    if gso.ecn { kind | ECN } else { kind }
}

fn from_bits(bits: u8) -> Caps {
    Caps {
        csum: bits & CSUM != 0,
        tso4: bits & TSO4 != 0,
        tso6: bits & TSO6 != 0,
        ecn: bits & ECN != 0,
        uso: bits & USO != 0,
        scatter: false,
        tunnel: bits & TUNNEL != 0,
    }
}

fn to_bits(caps: Caps) -> u8 {
    [(caps.csum, CSUM), (caps.tso4, TSO4), (caps.tso6, TSO6), (caps.ecn, ECN), (caps.uso, USO), (caps.tunnel, TUNNEL)]
        .into_iter()
        .fold(0, |bits, (granted, bit)| if granted { bits | bit } else { bits })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP4: Gso = Gso { kind: GsoKind::Tcp4, ecn: false, size: 1448 };
    const TCP4_CWR: Gso = Gso { kind: GsoKind::Tcp4, ecn: true, size: 1448 };
    const UDP: Gso = Gso { kind: GsoKind::Udp, ecn: false, size: 1200 };

    #[test]
    fn a_refused_kind_is_switched_off_alone() {
        let caps = LiveCaps::new(Caps::ALL);
        assert!(caps.refused(UDP, false));
        assert_eq!(caps.get(), Caps { uso: false, ..Caps::ALL });
        assert!(caps.refused(TCP4, false));
        assert_eq!(caps.get(), Caps { uso: false, tso4: false, ..Caps::ALL });
    }

    #[test]
    fn a_kind_that_worked_is_kept_when_one_frame_is_refused() {
        let caps = LiveCaps::new(Caps::ALL);
        caps.accepted(TCP4, false);
        assert!(!caps.refused(TCP4, false));
        assert_eq!(caps.get(), Caps::ALL);
        assert!(caps.refused(TCP4_CWR, false));
        assert_eq!(caps.get(), Caps { ecn: false, ..Caps::ALL });
    }

    #[test]
    fn a_refused_tunnel_says_nothing_about_what_is_inside() {
        let caps = LiveCaps::new(Caps { tunnel: true, ..Caps::ALL });
        caps.accepted(TCP4, false);
        assert!(caps.refused(TCP4, true));
        assert_eq!(caps.get(), Caps::ALL);
        let caps = LiveCaps::new(Caps { tunnel: true, ..Caps::ALL });
        caps.accepted(TCP4, true);
        assert!(!caps.refused(UDP, true));
        assert!(caps.get().tunnel);
    }

    #[test]
    fn bits_and_caps_are_the_same_thing() {
        for bits in 0..64 {
            assert_eq!(to_bits(from_bits(bits)), bits);
        }
    }
}
