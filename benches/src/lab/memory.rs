//! What many ports of one kind cost in memory, the daemon's and the kernel's.
//!
//! Read before the first port and after the last: `/proc/PID/status` and `/proc/PID/smaps` of the
//! daemon, `/proc/meminfo` for the whole machine. The latter holds what no process is charged for
//! (interfaces, queues, sockets, rings), and everybody else's changes too: it is good for an order
//! of magnitude, on an otherwise idle machine.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::time::Duration;

use serde::Serialize;

use super::peer::{Peer, Setup, Topology};

/// Ports before the first reading: a topology has at least two containers.
const PORTS_BEFORE: usize = 2;
/// How long interfaces, and the kernel's deferred frees, get to settle before a reading.
const SETTLE: Duration = Duration::from_secs(3);

/// One reading, in KiB.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Memory {
    /// Resident memory of the daemon (`VmRSS`).
    pub resident_kib: u64,
    /// The part of it that belongs to no file (`RssAnon`).
    pub anonymous_kib: u64,
    /// The part of it that is shared with the kernel or backed by files (`RssFile`, `RssShmem`).
    pub backed_kib: u64,
    /// Pinned memory: it cannot be moved or swapped, as registered packet buffers (`VmPin`).
    pub pinned_kib: u64,
    /// Locked memory (`VmLck`).
    pub locked_kib: u64,
    /// Rings that the kernel has allocated for AF_XDP sockets and the daemon has mapped.
    pub rings_kib: u64,
    /// What the whole machine has in use: `MemTotal` less `MemAvailable`.
    pub machine_kib: u64,
    /// The kernel's small objects (`Slab`).
    pub slab_kib: u64,
    /// The kernel's large objects, such as tables and rings (`VmallocUsed`).
    pub vmalloc_kib: u64,
    /// The kernel's objects that each core has one of (`Percpu`).
    pub percpu_kib: u64,
    /// Open descriptors of the daemon.
    pub descriptors: u64,
}

impl Memory {
    /// Reads what the process `pid` and the machine use now.
    ///
    /// # Errors
    /// The process is gone.
    pub fn read(pid: u32) -> io::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let machine = fs::read_to_string("/proc/meminfo")?;
        let of_daemon = |name| field(&status, name);
        let of_machine = |name| field(&machine, name);
        Ok(Self {
            resident_kib: of_daemon("VmRSS"),
            anonymous_kib: of_daemon("RssAnon"),
            backed_kib: of_daemon("RssFile") + of_daemon("RssShmem"),
            pinned_kib: of_daemon("VmPin"),
            locked_kib: of_daemon("VmLck"),
            rings_kib: socket_mappings(&fs::read_to_string(format!("/proc/{pid}/smaps"))?),
            machine_kib: of_machine("MemTotal").saturating_sub(of_machine("MemAvailable")),
            slab_kib: of_machine("Slab"),
            vmalloc_kib: of_machine("VmallocUsed"),
            percpu_kib: of_machine("Percpu"),
            descriptors: fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64,
        })
    }
}

/// The value of a line such as `VmRSS:     9040 kB`; 0 where the kernel does not know the name.
fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// The sizes of all mappings of sockets in an smaps file, in KiB.
fn socket_mappings(smaps: &str) -> u64 {
    let mut of_socket = false;
    let mut sum = 0;
    for line in smaps.lines() {
        let head = line.split_whitespace().next().unwrap_or_default();
        if head.contains('-') {
            of_socket = line.contains("socket:[");
        } else if of_socket && head == "Size:" {
            sum += field(line, "Size");
        }
    }
    sum
}

/// What the ports of one peer cost.
#[derive(Debug, Clone, Serialize)]
pub struct Growth {
    /// The peer.
    pub peer: String,
    /// With so many ports ...
    pub ports_before: usize,
    /// ... this was in use.
    pub before: Memory,
    /// With so many ports ...
    pub ports_after: usize,
    /// ... this was in use.
    pub after: Memory,
}

/// Builds `peer` with two containers, then with `setup.ports`, and reads the memory each time.
///
/// # Errors
/// The topology cannot be set up, or `peer` has no process.
pub fn measure(peer: &Peer, setup: &Setup) -> io::Result<Growth> {
    let read = |ports| -> io::Result<Memory> {
        let topology = Topology::build(peer, &Setup { ports, ..setup.clone() })?;
        let pid = *topology.pids().first().ok_or_else(|| io::Error::other(format!("{peer} has no process")))?;
        std::thread::sleep(SETTLE);
        Memory::read(pid)
    };
    let before = read(PORTS_BEFORE)?;
    // What the first topology gave back, the kernel frees later.
    std::thread::sleep(SETTLE);
    let after = read(setup.ports)?;
    Ok(Growth { peer: peer.to_string(), ports_before: PORTS_BEFORE, before, ports_after: setup.ports, after })
}

/// The table of `growths` for people.
#[must_use]
pub fn table(growths: &[Growth]) -> String {
    type Column = (&'static str, fn(&Memory) -> u64);
    const COLUMNS: [Column; 11] = [
        ("RSS", |memory| memory.resident_kib),
        ("anon", |memory| memory.anonymous_kib),
        ("file+shm", |memory| memory.backed_kib),
        ("pinned", |memory| memory.pinned_kib),
        ("locked", |memory| memory.locked_kib),
        ("rings", |memory| memory.rings_kib),
        ("machine", |memory| memory.machine_kib),
        ("slab", |memory| memory.slab_kib),
        ("vmalloc", |memory| memory.vmalloc_kib),
        ("percpu", |memory| memory.percpu_kib),
        ("fds", |memory| memory.descriptors),
    ];
    let mut text = format!("{:<18} {:>6}", "peer", "ports");
    for (name, _) in COLUMNS {
        let _ = write!(text, " {name:>9}");
    }
    text.push('\n');
    for growth in growths {
        let more = growth.ports_after.saturating_sub(growth.ports_before).max(1) as f64;
        for (ports, memory) in [(growth.ports_before, &growth.before), (growth.ports_after, &growth.after)] {
            let _ = write!(text, "{:<18} {ports:>6}", growth.peer);
            for (_, value) in COLUMNS {
                let _ = write!(text, " {:>9}", value(memory));
            }
            text.push('\n');
        }
        let _ = write!(text, "{:<18} {:>6}", "", "each");
        for (_, value) in COLUMNS {
            let _ = write!(text, " {:>9.1}", (value(&growth.after) as f64 - value(&growth.before) as f64) / more);
        }
        text.push('\n');
    }
    text.push_str(
        "\nKiB, but for descriptors. RSS, anon, file+shm, pinned, locked: of the daemon (/proc/PID/status). rings: mapped\n\
         memory of sockets, the kernel's own. machine (MemTotal less MemAvailable), slab, vmalloc, percpu: of the whole\n\
         machine, containers' namespaces and everybody else included.\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let status = "VmPeak:\t  12 kB\nVmRSS:\t    9040 kB\nRssAnon:\t 3 kB\n";
        assert_eq!(field(status, "VmRSS"), 9040);
        assert_eq!(field(status, "Vm"), 0);
        assert_eq!(field(status, "VmPin"), 0);
    }

    #[test]
    fn only_mappings_of_sockets_are_rings() {
        let smaps = "7f00-7f10 rw-s 100000000 00:08 123  socket:[123]\nSize:              64 kB\nRss: 0 kB\n\
                     7f20-7f30 rw-p 00000000 00:00 0 \nSize:             512 kB\n\
                     7f40-7f50 rw-s 80000000 00:08 123  socket:[123]\nSize:              36 kB\n";
        assert_eq!(socket_mappings(smaps), 100);
    }
}
