//! What was on the wire, as Wireshark's dissectors read it.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::namespace::Namespace;
use crate::process::{Background, run_ok, wait_until};

const LIMIT: Duration = Duration::from_secs(60);
/// Verified by the dissectors: every checksum, outer and inner. Each packet is looked at by itself: putting streams together, they
/// take a retransmission of another length, which TCP may send, for an error of the packet.
const PREFERENCES: [&str; 8] = [
    "-o",
    "udp.check_checksum:TRUE",
    "-o",
    "tcp.check_checksum:TRUE",
    "-o",
    "ip.check_checksum:TRUE",
    "-o",
    "tcp.desegment_tcp_streams:FALSE",
];

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    process: Background,
    file: PathBuf,
}

impl Capture {
    /// Captures what passes `ifname` of `namespace` into `file`, until [`Capture::stop`].
    ///
    /// # Errors
    /// `tcpdump` cannot be started.
    pub fn start(namespace: &Namespace, ifname: &str, file: &Path) -> io::Result<Self> {
        let mut command = namespace.command("tcpdump");
        // Unbuffered, as root, with room for bursts.
        command.args(["-i", ifname, "-U", "-Z", "root", "-B", "65536", "-s", "0", "-w"]).arg(file);
        let process = Background::start(&mut command, &file.with_extension("log"))?;
        wait_until("tcpdump", LIMIT, || process.output().contains("listening on").then_some(()))?;
        Ok(Self { process, file: file.to_owned() })
    }

    /// Ends the capture and returns it for reading.
    ///
    /// # Errors
    /// `tcpdump` does not end.
    pub fn stop(mut self) -> io::Result<Captured> {
        // What was received an instant ago is still on its way into the file.
        std::thread::sleep(Duration::from_millis(300));
        self.process.signal(Signal::INT);
        self.process.wait(LIMIT)?;
        Ok(Captured { file: self.file.clone() })
    }
}

/// A capture file.
#[derive(Debug)]
pub struct Captured {
    file: PathBuf,
}

impl Captured {
    /// The packets that the display filter `filter` selects: for each, the values of `fields`.
    ///
    /// # Errors
    /// `tshark` refuses the filter or the file.
    pub fn select(&self, filter: &str, fields: &[&str]) -> io::Result<Vec<Vec<String>>> {
        let mut command = Command::new("tshark");
        command.arg("-r").arg(&self.file).args(PREFERENCES).args(["-Y", filter, "-T", "fields", "-E", "separator=|"]);
        for field in fields {
            command.args(["-e", field]);
        }
        let text = run_ok(command.env("LC_ALL", "C"), LIMIT)?;
        Ok(text.lines().map(|line| line.split('|').map(str::to_owned).collect()).collect())
    }

    /// The number of packets that the display filter `filter` selects.
    ///
    /// # Errors
    /// As [`Captured::select`].
    pub fn count(&self, filter: &str) -> io::Result<usize> {
        Ok(self.select(filter, &["frame.number"])?.len())
    }

    /// What is wrong with any packet: malformed, or with a bad checksum, outer or inner. One line each.
    ///
    /// # Errors
    /// As [`Captured::select`].
    pub fn faults(&self) -> io::Result<Vec<String>> {
        self.faults_of("frame")
    }

    /// The same of those packets that the display filter `of` selects.
    ///
    /// # Errors
    /// As [`Captured::select`].
    pub fn faults_of(&self, of: &str) -> io::Result<Vec<String>> {
        let wrong = "_ws.malformed || ip.checksum.status == Bad || udp.checksum.status == Bad || \
                      tcp.checksum.status == Bad || icmp.checksum.status == Bad || icmpv6.checksum.status == Bad";
        let fields =
            ["frame.number", "frame.len", "ip.src", "ipv6.src", "vxlan.vni", "frame.protocols", "_ws.col.Info"];
        Ok(self.select(&format!("({of}) && ({wrong})"), &fields)?.into_iter().map(|row| row.join(" ")).collect())
    }
}
