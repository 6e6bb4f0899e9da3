//! Settings of one interface below `/proc/sys/net`.
//!
//! The files are of the namespace of the thread that opens them, and belong to the interface: they
//! go with it.

use std::fs;
use std::io;
use std::path::Path;

/// The name of a setting, and the value that it is to have.
pub(super) type Setting = (&'static str, &'static str);

/// Gives the settings below `dir` their values; says which it had to change. Where there is no such
/// directory or setting, the interface or the kernel does not have what it is about.
///
/// # Errors
/// A setting has another value and cannot be written, for example because `/proc/sys` is read-only.
pub(super) fn set_in(dir: &Path, settings: &[Setting]) -> io::Result<Vec<&'static str>> {
    let mut changed = Vec::new();
    for &(setting, value) in settings {
        let path = dir.join(setting);
        match fs::read_to_string(&path) {
            Ok(now) if now.trim() == value => continue,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        }
        fs::write(&path, value).map_err(|error| {
            io::Error::new(error.kind(), format!("{} cannot be set to {value}: {error}", path.display()))
        })?;
        changed.push(setting);
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_gets_its_value_and_is_said_once() {
        const SETTINGS: [Setting; 3] = [("accept_ra", "0"), ("autoconf", "0"), ("rp_filter", "1")];
        let dir = tempfile::tempdir().expect("a directory");
        for ((setting, _), value) in SETTINGS.iter().zip(["1\n", "0\n", "2\n"]) {
            fs::write(dir.path().join(setting), value).expect("writes");
        }
        assert_eq!(set_in(dir.path(), &SETTINGS).expect("works"), ["accept_ra", "rp_filter"]);
        for (setting, value) in SETTINGS {
            assert_eq!(fs::read_to_string(dir.path().join(setting)).expect("reads").trim(), value);
        }
        assert!(set_in(dir.path(), &SETTINGS).expect("works").is_empty());
    }

    #[test]
    fn what_is_not_there_is_not_set() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(set_in(&dir.path().join("br0"), &[("accept_ra", "0")]).expect("works").is_empty());
    }
}
