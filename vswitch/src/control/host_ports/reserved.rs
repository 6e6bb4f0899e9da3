//! Ports that the kernel keeps off when it chooses one itself: `net.ipv4.ip_local_reserved_ports`, of this network
//! namespace and for both families.
//!
//! The setting outlives the process, and may have entries of somebody else. So what was added is written down before it
//! is added, in a file of the state directory, and is what is taken away again: at the end, or by the next start. After
//! a boot, or in another namespace, the file speaks of a setting that is gone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::port_set::PortSet;

/// The name of the file in the state directory.
const FILE: &str = "reserved-ports.json";
const SETTING: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
/// The kernel answers one read, of whatever size: every second port is 200 KB.
const SETTING_BYTES_MAX: usize = 256 * 1024;

/// Which setting is meant: every namespace has one, from its making to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Whose {
    /// The machine's boot.
    pub(super) boot_id: String,
    /// The namespace's cookie, where the kernel has cookies.
    pub(super) netns_cookie: Option<u64>,
}

/// What the file says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    #[serde(flatten)]
    whose: Whose,
    /// What was added to the setting, as the kernel writes it.
    added: String,
}

/// The part of the setting that is ours.
#[derive(Debug)]
pub(super) struct ReservedPorts {
    file: PathBuf,
    setting: PathBuf,
    whose: Whose,
    added: PortSet,
}

impl ReservedPorts {
    /// Looks what an earlier process has added to the setting and not taken away.
    ///
    /// # Errors
    /// The file cannot be read or is damaged. It is left as it is.
    pub(super) fn open(state_dir: &Path, whose: Whose) -> io::Result<Self> {
        Self::open_at(state_dir.join(FILE), PathBuf::from(SETTING), whose)
    }

    fn open_at(file: PathBuf, setting: PathBuf, whose: Whose) -> io::Result<Self> {
        let damaged = |why: String| {
            let what = format!("{}: {why}; put ip_local_reserved_ports right and remove the file", file.display());
            io::Error::new(io::ErrorKind::InvalidData, what)
        };
        let added = match fs::read(&file) {
            Ok(bytes) => {
                let note: Note = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
                if note.whose == whose { note.added.parse().map_err(damaged)? } else { PortSet::default() }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => PortSet::default(),
            Err(error) => return Err(error),
        };
        Ok(Self { file, setting, whose, added })
    }

    /// Makes `wanted` what of the setting is ours. What somebody else has reserved stays, and stays theirs.
    ///
    /// # Errors
    /// The file cannot be written, or the setting cannot. The file then says what may have been added.
    pub(super) fn set(&mut self, wanted: &PortSet) -> io::Result<()> {
        if *wanted == self.added && wanted.is_empty() {
            return self.forget();
        }
        let current = self.read()?;
        let theirs = current.minus(&self.added);
        let ours = wanted.minus(&theirs);
        let target = theirs.union(&ours);
        if ours == self.added && target == current {
            return Ok(());
        }
        // Whatever happens in between, all that can have been added is written down.
        let both = self.added.union(&ours);
        if both != self.added {
            self.note(&both)?;
            self.added = both;
        }
        if target != current {
            self.write(&target)?;
        }
        if ours.is_empty() {
            self.added = ours;
            return self.forget();
        }
        if ours != self.added {
            self.note(&ours)?;
            self.added = ours;
        }
        Ok(())
    }

    fn read(&self) -> io::Result<PortSet> {
        let mut bytes = vec![0; SETTING_BYTES_MAX];
        let length = File::open(&self.setting)?.read(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes[..length]);
        text.trim().parse().map_err(|why: String| io::Error::new(io::ErrorKind::InvalidData, why))
    }

    fn write(&self, ports: &PortSet) -> io::Result<()> {
        // The kernel takes a page at a time, and adds what follows in the same opening.
        OpenOptions::new().write(true).open(&self.setting)?.write_all(format!("{ports}\n").as_bytes())
    }

    fn note(&self, added: &PortSet) -> io::Result<()> {
        let note = Note { whose: self.whose.clone(), added: added.to_string() };
        let temporary = self.file.with_extension("tmp");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&temporary)?;
        file.write_all(&serde_json::to_vec(&note)?)?;
        file.sync_data()?;
        fs::rename(&temporary, &self.file)?;
        self.sync_directory()
    }

    fn forget(&self) -> io::Result<()> {
        match fs::remove_file(&self.file) {
            Ok(()) => self.sync_directory(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn sync_directory(&self) -> io::Result<()> {
        match self.file.parent() {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Host {
        directory: tempfile::TempDir,
    }

    impl Host {
        fn new() -> Self {
            let host = Self { directory: tempfile::tempdir().expect("a directory") };
            host.administrator_sets("");
            host
        }

        fn setting(&self) -> PathBuf {
            self.directory.path().join("setting")
        }

        fn administrator_sets(&self, text: &str) {
            fs::write(self.setting(), format!("{text}\n")).expect("written");
        }

        fn open(&self, boot_id: &str) -> io::Result<ReservedPorts> {
            let whose = Whose { boot_id: boot_id.to_owned(), netns_cookie: Some(1) };
            ReservedPorts::open_at(self.directory.path().join(FILE), self.setting(), whose)
        }

        fn set(&self, reserved: &mut ReservedPorts, wanted: &str) -> String {
            reserved.set(&wanted.parse().expect("ports")).expect("set");
            // An ordinary file keeps what was longer.
            let text = fs::read_to_string(self.setting()).expect("read");
            text.lines().next().unwrap_or_default().to_owned()
        }

        fn has_note(&self) -> bool {
            self.directory.path().join(FILE).exists()
        }
    }

    #[test]
    fn what_was_added_is_taken_away_and_the_rest_stays() {
        let host = Host::new();
        host.administrator_sets("100-110");
        let mut reserved = host.open("boot").expect("opened");
        assert_eq!(host.set(&mut reserved, ""), "100-110");
        assert!(!host.has_note(), "nothing was changed");
        assert_eq!(host.set(&mut reserved, "105-120"), "100-120");
        assert_eq!(host.set(&mut reserved, "108"), "100-110", "theirs stay, also where they are ours as well");
        assert_eq!(host.set(&mut reserved, "200"), "100-110,200");
        assert!(host.has_note());
        // Killed, and started anew: first the same, then nothing.
        let mut again = host.open("boot").expect("opened");
        assert_eq!(host.set(&mut again, "200,201"), "100-110,200-201");
        let mut again = host.open("boot").expect("opened");
        assert_eq!(host.set(&mut again, ""), "100-110");
        assert!(!host.has_note());
    }

    #[test]
    fn a_note_of_another_boot_is_about_nothing() {
        let host = Host::new();
        let mut reserved = host.open("one").expect("opened");
        assert_eq!(host.set(&mut reserved, "200"), "200");
        host.administrator_sets("200");
        let mut reserved = host.open("two").expect("opened");
        assert_eq!(host.set(&mut reserved, ""), "200", "now it is the administrator's");
        assert!(!host.has_note());
    }

    #[test]
    fn a_damaged_note_is_left_alone() {
        let host = Host::new();
        for text in ["", "{}", r#"{"boot_id":"one","netns_cookie":1,"added":"x"}"#] {
            fs::write(host.directory.path().join(FILE), text).expect("written");
            let error = host.open("one").expect_err("damaged").to_string();
            assert!(error.contains("reserved-ports.json"), "{error}");
            assert!(host.has_note());
        }
    }
}
