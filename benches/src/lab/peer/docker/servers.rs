//! The image of the servers, which needs no registry: programs of this machine, with the libraries that they ask for.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use vswitch_tests::process::run_ok;

use crate::lab::workload::{FILE_BYTES, FILE_NAME, nginx_configuration};

const LIMIT: Duration = Duration::from_secs(60);
/// Where nginx has its files, in the image.
pub(super) const NGINX_PREFIX: &str = "/srv";
/// The port that it listens at.
pub(super) const NGINX_PORT: u16 = 80;

/// An archive with nginx, its configuration and the large file, and with iperf3.
///
/// # Errors
/// A program is not installed, or there is no space.
pub(super) fn archive(directory: &Path, workers: u16) -> io::Result<PathBuf> {
    let root = directory.join("servers");
    let prefix = root.join(&NGINX_PREFIX[1..]);
    // Its compiled-in directories, which it asks for before it has read that they are elsewhere.
    for path in ["tmp", "etc", "var/log/nginx", "var/lib/nginx"] {
        fs::create_dir_all(root.join(path))?;
    }
    fs::create_dir_all(&prefix)?;
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\n")?;
    fs::write(prefix.join("nginx.conf"), nginx_configuration(Path::new(NGINX_PREFIX), NGINX_PORT, workers))?;
    fs::write(prefix.join(FILE_NAME), vec![0; FILE_BYTES])?;
    for program in ["nginx", "iperf3"] {
        install(&root, program)?;
    }
    let archive = directory.join("servers.tar");
    run_ok(Command::new("tar").arg("-C").arg(root).arg("-cf").arg(&archive).arg("."), LIMIT)?;
    Ok(archive)
}

/// Copies `program` from the search path to `/PROGRAM`, and what `ldd` lists to where it is found.
fn install(root: &Path, program: &str) -> io::Result<()> {
    let directories = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&directories).map(|directory| directory.join(program)).find(|path| path.is_file());
    let path = found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{program} is not installed")))?;
    let listed = run_ok(Command::new("ldd").arg(&path), LIMIT)?;
    // `libz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x…)`, and the loader without an arrow.
    for library in listed.split_whitespace().filter(|word| word.starts_with('/')) {
        let target = root.join(library.trim_start_matches('/'));
        fs::create_dir_all(target.parent().unwrap_or(root))?;
        fs::copy(library, target)?;
    }
    fs::copy(&path, root.join(program)).map(drop)
}
