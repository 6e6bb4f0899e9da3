//! The state file: the desired state, durable before a command is answered.
//!
//! Theory of operation: the file is replaced as a whole. The new contents go to a temporary file
//! in the same directory, which is synced and then renamed over the old one, and the directory is
//! synced: after a crash at any moment there is either the old state or the new one, never a part.
//! Where the last sync fails, the caller is refused, and so the old contents are put back: what was
//! refused must not come true at the next start.
//! A file that cannot be understood is a reason to refuse to start, never to begin afresh: the
//! daemon does not overwrite what it did not read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::desired::{Desired, Owner};

/// The name of the state file in the state directory.
pub const STATE_FILE: &str = "state.json";
const TEMPORARY_FILE: &str = "state.json.tmp";
/// The version of the state file that this daemon writes, and the only one that it reads.
const FORMAT_VERSION: u32 = 1;
/// The largest state file that is written or read, in bytes: 8192 ports need about 4 MB.
const STATE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Why the state could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file could not be read.
    #[error("the state file {path} cannot be read: {source}; correct that, or start with another --state-dir", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// The file is not what this daemon writes.
    #[error("the state file {path} is damaged: {why}; repair it, or move it away to start with no configuration (it was left as it is)", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The file was written by another version.
    #[error("the state file {path} has format {found}, and this daemon reads format {FORMAT_VERSION}; start the version that wrote it, or move it away to start with no configuration (it was left as it is)", path = path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The format's number in the file.
        found: u64,
    },
}

#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    #[serde(flatten)]
    desired: &'a Desired,
}

/// The first look at a file: its version alone.
#[derive(Deserialize)]
struct Head {
    version: u64,
}

/// The state directory of this daemon.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    /// For the sync after a rename.
    dir_file: File,
}

impl Store {
    /// Opens the state directory, and makes it if it is missing (mode 0750).
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open(dir: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o750).create(dir)?;
        Ok(Self { dir: dir.to_owned(), dir_file: File::open(dir)? })
    }

    /// The state directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.dir
    }

    /// Whose state this is: no other directory has these numbers while this one is open.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn owner(&self) -> io::Result<Owner> {
        let metadata = self.dir_file.metadata()?;
        Ok(Owner { dev: metadata.dev(), ino: metadata.ino() })
    }

    /// Loads the state; a missing file is an empty state.
    ///
    /// # Errors
    /// The file cannot be read, is damaged, or is of another version. It is left as it is.
    pub fn load(&self) -> Result<Desired, LoadError> {
        let path = self.dir.join(STATE_FILE);
        let read = || match fs::metadata(&path) {
            Ok(meta) if meta.len() > STATE_BYTES_MAX => Err(io::Error::other("it is larger than 64 MiB")),
            Ok(_) => fs::read(&path).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        match read() {
            Ok(None) => Ok(Desired::default()),
            Ok(Some(bytes)) => parse(&path, &bytes),
            Err(source) => Err(LoadError::Read { path, source }),
        }
    }

    /// Stores the state durably.
    ///
    /// # Errors
    /// The state is larger than what [`Store::load`] reads, or what the kernel says. The old state
    /// is then still in place; if it was the very last step that failed (the sync of the
    /// directory), it is in place again, and either may be found after a power loss.
    pub fn save(&self, desired: &Desired) -> io::Result<()> {
        let bytes = encode(desired, STATE_BYTES_MAX)?;
        // Open, the old contents outlive the rename.
        let old = match File::open(self.dir.join(STATE_FILE)) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        self.replace(&bytes)?;
        self.dir_file.sync_all().inspect_err(|error| {
            tracing::error!(%error, "the state directory cannot be synced; the state file is put back as it was");
            if let Err(error) = self.put_back(old) {
                tracing::error!(%error, "the state file could not be put back; a restart may find what was refused");
            }
        })
    }

    /// Puts `bytes` in the place of the state file, all of them or none.
    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        let temporary = self.dir.join(TEMPORARY_FILE);
        let write = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&temporary)?;
            file.write_all(bytes)?;
            file.sync_data()?;
            fs::rename(&temporary, self.dir.join(STATE_FILE))
        };
        write().inspect_err(|_| {
            // Best effort: a left-over is truncated by the next save anyway.
            let _ = fs::remove_file(&temporary);
        })
    }

    fn put_back(&self, old: Option<File>) -> io::Result<()> {
        match old {
            None => fs::remove_file(self.dir.join(STATE_FILE)),
            Some(mut old) => {
                let mut bytes = Vec::new();
                old.read_to_end(&mut bytes)?;
                self.replace(&bytes)
            }
        }
    }
}

/// The contents of a state file, refused where they would not be read again.
fn encode(desired: &Desired, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(&Written { version: FORMAT_VERSION, desired })?;
    bytes.push(b'\n');
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::other(format!(
            "it would take {} bytes, more than the {bytes_max} that are read at a start",
            bytes.len()
        )));
    }
    Ok(bytes)
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Desired, LoadError> {
    let damaged = |why: String| LoadError::Damaged { path: path.to_owned(), why };
    let Head { version } = serde_json::from_slice(bytes).map_err(|why| damaged(why.to_string()))?;
    if version != u64::from(FORMAT_VERSION) {
        return Err(LoadError::Version { path: path.to_owned(), found: version });
    }
    let mut value: serde_json::Value = serde_json::from_slice(bytes).map_err(|why| damaged(why.to_string()))?;
    if let Some(object) = value.as_object_mut() {
        object.remove("version");
    }
    let desired: Desired = serde_json::from_value(value).map_err(|why| damaged(why.to_string()))?;
    desired.check().map_err(|why| damaged(why.message))?;
    Ok(desired)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::BridgeSpec;
    use crate::control::desired::HostView;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(&dir.path().join("state")).expect("the state directory");
        (dir, store)
    }

    fn one_bridge() -> Desired {
        let mut desired = Desired::default();
        let spec = BridgeSpec { name: "br0".into(), ..BridgeSpec::default() };
        desired.add_bridge(&spec, &HostView::default()).expect("a bridge");
        desired
    }

    #[test]
    fn a_missing_file_is_an_empty_state() {
        let (_dir, store) = store();
        assert_eq!(store.load().expect("loads"), Desired::default());
    }

    #[test]
    fn what_was_saved_is_loaded_and_no_temporary_file_stays() {
        let (_dir, store) = store();
        store.save(&one_bridge()).expect("saves");
        assert_eq!(store.load().expect("loads"), one_bridge());
        assert_eq!(fs::read_dir(&store.dir).expect("lists").count(), 1);
    }

    #[test]
    fn damage_is_refused_by_name_and_left_alone() {
        let (_dir, store) = store();
        store.save(&one_bridge()).expect("saves");
        let path = store.dir.join(STATE_FILE);
        let good = fs::read_to_string(&path).expect("reads");
        let damages = [
            String::new(),
            "{".into(),
            "[]".into(),
            good[..good.len() / 2].to_owned(),
            good.replace("\"mtu\":1500", "\"mtu\":15"),
            good.replace("\"icc\"", "\"ick\""),
            good.replace("172.17.0.1\"", "10.0.0.1\""),
        ];
        for damage in damages {
            fs::write(&path, &damage).expect("writes");
            let error = store.load().expect_err("refused");
            assert!(matches!(error, LoadError::Damaged { .. }), "{damage}: {error}");
            assert!(error.to_string().contains(&path.display().to_string()), "{error}");
            assert_eq!(fs::read_to_string(&path).expect("reads"), damage, "the file was touched");
        }
    }

    #[test]
    fn another_version_is_refused() {
        let (_dir, store) = store();
        fs::write(store.dir.join(STATE_FILE), r#"{"version":2,"clusters":[]}"#).expect("writes");
        assert!(matches!(store.load(), Err(LoadError::Version { found: 2, .. })));
    }

    #[test]
    fn what_would_not_be_read_is_not_written() {
        let bytes = encode(&one_bridge(), STATE_BYTES_MAX).expect("fits");
        assert!(encode(&one_bridge(), bytes.len() as u64).is_ok());
        let error = encode(&one_bridge(), bytes.len() as u64 - 1).expect_err("refused");
        assert!(error.to_string().contains(&format!("{} bytes", bytes.len())), "{error}");
    }

    #[test]
    fn a_state_that_was_refused_for_want_of_a_sync_is_not_found_later() {
        let (_dir, mut store) = store();
        let good = std::mem::replace(&mut store.dir_file, File::open("/dev/null").expect("opens"));
        // fsync of a device without storage fails.
        assert!(store.save(&one_bridge()).is_err());
        assert_eq!(fs::read_dir(&store.dir).expect("lists").count(), 0);
        let null = std::mem::replace(&mut store.dir_file, good);
        store.save(&one_bridge()).expect("saves");
        store.dir_file = null;
        assert!(store.save(&Desired::default()).is_err());
        assert_eq!(store.load().expect("loads"), one_bridge());
    }

    #[test]
    fn a_failed_save_keeps_the_old_state() {
        let (_dir, store) = store();
        store.save(&one_bridge()).expect("saves");
        // A directory in the temporary file's place makes the save fail, also for root.
        fs::create_dir(store.dir.join(TEMPORARY_FILE)).expect("makes a directory");
        assert!(store.save(&Desired::default()).is_err());
        assert_eq!(store.load().expect("loads"), one_bridge());
    }
}
