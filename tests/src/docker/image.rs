//! Images out of what the machine has: static programs, in an archive for `docker import`.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::run_ok;

/// The name that tests import their image by.
pub const NAME: &str = "vswitch-test";

const LIMIT: Duration = Duration::from_secs(60);
/// Waits until it is told to end. As the first process of a container it would not be ended by signals whose default
/// action that is (pid_namespaces(7)), hence the handlers; and it reaps what `docker exec` leaves.
const PAUSE: &str = "#include <signal.h>\n#include <unistd.h>\n\
    static void end(int s) { (void)s; _exit(0); }\n\
    int main(void) { signal(SIGCHLD, SIG_IGN); signal(SIGTERM, end); signal(SIGINT, end); for (;;) pause(); }\n";
/// What of busybox tests use by name.
const APPLETS: [&str; 9] = ["sh", "cat", "ip", "nslookup", "ping", "sleep", "true", "wget", "httpd"];

/// The archive of an image with `/pause` alone, below `directory`.
///
/// # Errors
/// There is no C compiler, or no static C library.
pub fn pause(directory: &Path) -> io::Result<PathBuf> {
    let root = pause_root(directory)?;
    archive(directory, &root)
}

/// The same with busybox: a shell, and clients for `docker exec`.
///
/// # Errors
/// As [`pause`], or busybox is not installed.
pub fn busybox(directory: &Path) -> io::Result<PathBuf> {
    let root = pause_root(directory)?;
    fs::create_dir_all(root.join("bin"))?;
    fs::copy("/bin/busybox", root.join("bin/busybox"))
        .map_err(|error| io::Error::new(error.kind(), format!("/bin/busybox (Debian: busybox-static): {error}")))?;
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    archive(directory, &root)
}

/// A directory with `pause` in it.
fn pause_root(directory: &Path) -> io::Result<PathBuf> {
    let (root, source) = (directory.join("image"), directory.join("pause.c"));
    fs::create_dir_all(root.join("tmp"))?;
    fs::write(&source, PAUSE)?;
    run_ok(Command::new("cc").args(["-static", "-Os", "-o"]).arg(root.join("pause")).arg(&source), LIMIT)?;
    Ok(root)
}

fn archive(directory: &Path, root: &Path) -> io::Result<PathBuf> {
    let archive = directory.join("image.tar");
    run_ok(Command::new("tar").arg("-C").arg(root).arg("-cf").arg(&archive).arg("."), LIMIT)?;
    Ok(archive)
}
