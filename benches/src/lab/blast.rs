//! The raw load: small frames of an ethertype that no protocol takes, as fast as one thread can.
//!
//! No socket receives them, so no receiving application competes with the switch for the machine's
//! cores; what arrived is what the receiving interface counted.

use std::io;
use std::time::{Duration, Instant};

use vswitch_tests::frame::{EXPERIMENTAL, ethernet};
use vswitch_tests::namespace::Namespace;
use vswitch_tests::raw::{BURST_MAX, PacketSocket};

/// Sends 64-byte frames (60 bytes and the checksum that a wire would add) from `eth0` of
/// `namespace` for `duration`; returns how many the kernel took.
///
/// # Errors
/// The interface does not exist or goes away.
pub fn blast(namespace: &Namespace, src: [u8; 6], dst: [u8; 6], duration: Duration) -> io::Result<u64> {
    let socket = PacketSocket::open_sender(namespace, "eth0")?;
    let frame = ethernet(dst, src, EXPERIMENTAL, &[]);
    let burst: Vec<&[u8]> = vec![&frame; BURST_MAX];
    let deadline = Instant::now() + duration;
    let mut sent = 0;
    while Instant::now() < deadline {
        match socket.send_burst(&burst) {
            Ok(count) => sent += count as u64,
            // The interface's queue is full: that is the load's purpose.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}
