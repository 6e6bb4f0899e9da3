//! The floor: what any datapath over TAP interfaces costs on this machine, whatever it is made of.
//!
//! A frame that a userspace switch forwards from one TAP to another is read and written: two system calls, two copies,
//! the receiver's network stack inside the second call, and a wait for the next frame. The relay does this and nothing
//! else: no header is looked at, no address learned, no counter kept. It reads into one buffer that stays in the cache,
//! and waits as our switch does when that pays: it looks for 50 us before it sleeps. So what a switch of this kind
//! can reach at most is what the relay reaches, and what lies between the two is what the switch itself costs. What
//! lies between the relay and the kernel's bridge is the price of leaving the kernel, which differs between machines.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, read, write};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use vswitch::io::tap::TapDevice;

/// The interface's name in either namespace.
pub const IFNAME: &str = "eth0";
/// For how long the relay looks for frames before it sleeps, as the switch's workers at most do.
const SPIN: Duration = Duration::from_micros(50);
/// Frames of one side before the other gets its turn.
const TURN: usize = 8;
/// The largest frame with its header: a super-frame is below 64 KB and an Ethernet header.
const BUFFER_BYTES: usize = 1 << 17;

/// Makes a TAP in each of the two namespaces and relays between them; for ever, or until one of them goes.
///
/// # Errors
/// A namespace cannot be entered, or has an interface of that name.
pub fn run(namespaces: [&Path; 2]) -> io::Result<()> {
    let [first, second] = namespaces.map(tap);
    let taps = [first?, second?];
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut last = Instant::now();
    loop {
        let mut moved = false;
        for (from, to) in [(&taps[0], &taps[1]), (&taps[1], &taps[0])] {
            for _ in 0..TURN {
                let bytes = match read(from, &mut buffer[..]) {
                    Ok(bytes) => bytes,
                    Err(Errno::AGAIN | Errno::INTR) => break,
                    Err(error) => return Err(error.into()),
                };
                moved = true;
                // Not taken, as while the interface is down: a lost frame, as on any wire.
                let _ = write(to, &buffer[..bytes]);
            }
        }
        if moved {
            last = Instant::now();
        } else if last.elapsed() >= SPIN {
            let mut fds = [PollFd::new(&taps[0], PollFlags::IN), PollFd::new(&taps[1], PollFlags::IN)];
            // EINTR: looked again.
            let _ = poll(&mut fds, None);
            last = Instant::now();
        }
    }
}

/// Makes a TAP in `namespace`, where the calling thread then is.
fn tap(namespace: &Path) -> io::Result<TapDevice> {
    let file = File::open(namespace)?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
    TapDevice::create(IFNAME)
}
