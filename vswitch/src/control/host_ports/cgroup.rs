//! The cgroup that all programs of the host are in.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// The inode of the first cgroup namespace's file in `/proc` (`PROC_CGROUP_INIT_INO`).
const FIRST_NAMESPACE: u64 = 0xEFFF_FFFB;

/// Opens the root of the hierarchy of cgroups of version 2, wherever it is mounted.
///
/// # Errors
/// `NotFound` if it is not mounted; what the kernel says.
pub(super) fn open_root() -> io::Result<File> {
    let mounts = std::fs::read("/proc/self/mountinfo")?;
    let path = root_of(&mounts).ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, "no hierarchy of cgroups of version 2 is mounted (cgroup2)")
    })?;
    File::open(path)
}

/// Whether this process is in a cgroup namespace of its own, and sees only a part of the hierarchy. Programs in other
/// parts can be in the same network namespace.
pub(super) fn sees_only_a_part() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self/ns/cgroup").is_ok_and(|metadata| metadata.ino() != FIRST_NAMESPACE)
}

/// Where in mountinfo (proc_pid_mountinfo(5)) a cgroup2 is mounted with its root, or else with a part of it.
fn root_of(mountinfo: &[u8]) -> Option<PathBuf> {
    let mounts = mountinfo.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let (root, point) = (fields.nth(3)?, fields.next()?);
        let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
        (kind == b"cgroup2").then_some((root, point))
    });
    let mut mounts: Vec<_> = mounts.collect();
    mounts.sort_by_key(|(root, _)| root.len());
    let (_, point) = mounts.first()?;
    Some(PathBuf::from(std::ffi::OsString::from_vec(unescape(point))))
}

/// Spaces and the like are written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.first_chunk::<3>().filter(|digits| digits.iter().all(|digit| (b'0'..b'8').contains(digit)));
        match digits {
            Some(digits) if byte == b'\\' => {
                plain.push(digits.iter().fold(0u8, |value, digit| value.wrapping_mul(8).wrapping_add(digit - b'0')));
                rest = &after[3..];
            }
            _ => {
                plain.push(byte);
                rest = after;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_found() {
        let of = |text: &str| root_of(text.as_bytes()).map(|path| path.to_string_lossy().into_owned());
        let hybrid = "\
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:4 - cgroup2 cgroup2 rw
";
        assert_eq!(of(hybrid).as_deref(), Some("/sys/fs/cgroup/unified"));
        let part_first = "\
30 23 0:26 /system.slice/a.service /mnt/part rw - cgroup2 cgroup2 rw
31 23 0:26 / /sys/fs/with\\040space rw shared:9 master:3 - cgroup2 cgroup2 rw,nsdelegate
";
        assert_eq!(of(part_first).as_deref(), Some("/sys/fs/with space"));
        assert_eq!(of("22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\nnonsense"), None);
        assert_eq!(of("30 23 0:26 /part /mnt rw - cgroup2 cgroup2 rw").as_deref(), Some("/mnt"));
    }
}
