//! The connections of the host's containers, which outlive the daemon.
//!
//! They are in a file beside the control socket, which the kernel keeps in memory: `/run` is no disk. The workers
//! write to it as to any memory, so there is nothing to be saved when the daemon ends, by whatever signal. What another
//! boot has left there, or another version, is not taken over.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::switch::identity::boot_id;
use crate::datapath::clock::now_s;
use crate::nat::ExternalPorts;
use crate::nat::conntrack::{Conntrack, ConntrackConfig, Restored, Storage};

/// Where the connections of the daemon with this control socket are.
#[must_use]
pub fn path_beside(socket: &Path) -> PathBuf {
    let mut name = socket.file_name().unwrap_or_default().to_owned();
    name.push(".conntrack");
    socket.with_file_name(name)
}

/// Opens the connections in the file at `path`, which is made if there is none.
///
/// # Errors
/// What the kernel says of the file, or of memory.
pub fn open(path: &Path, ports: Arc<dyn ExternalPorts>) -> io::Result<(Arc<Conntrack>, Restored)> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let file: File = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let mut secret = [0; 16];
    rustix::rand::getrandom(&mut secret, rustix::rand::GetRandomFlags::empty())?;
    let storage = Storage::File { file, boot_id: boot_number(&boot_id()?) };
    let (conntrack, restored) = Conntrack::open(storage, ConntrackConfig::default(), ports, secret, now_s())?;
    Ok((Arc::new(conntrack), restored))
}

/// The boot's identifier as a number: the file holds a UUID.
fn boot_number(text: &str) -> [u8; 16] {
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).unwrap_or_default().to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::NobodysPorts;

    #[test]
    fn the_file_is_beside_the_socket_and_used_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = path_beside(&directory.path().join("run/vswitch.sock"));
        assert_eq!(path, directory.path().join("run/vswitch.sock.conntrack"));
        for _ in 0..2 {
            let (conntrack, restored) = open(&path, Arc::new(NobodysPorts)).expect("opens");
            assert_eq!((conntrack.counts().connections, restored.discarded), (0, 0));
        }
        assert_ne!(boot_number("1b4e28ba-2fa1-11d2-883f-0016d3cca427\n"), [0; 16]);
    }
}
