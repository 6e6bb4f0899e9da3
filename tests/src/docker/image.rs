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

/// A directory to build the image of a real nginx from, its libraries included, with `docker build`: it answers with the
/// client's address.
///
/// # Errors
/// nginx is not installed (Debian: nginx-light).
pub fn nginx(directory: &Path) -> io::Result<PathBuf> {
    const PROGRAM: &str = "/usr/sbin/nginx";
    let context = directory.join("nginx");
    let libraries = run_ok(Command::new("ldd").arg(PROGRAM), LIMIT)?;
    // `libz.so.1 => /lib/… (0x…)`, or the path alone.
    let paths = libraries.split_whitespace().filter(|word| word.starts_with('/'));
    for path in paths.chain([PROGRAM]) {
        let copy = context.join("root").join(path.trim_start_matches('/'));
        fs::create_dir_all(copy.parent().unwrap_or(&context))?;
        fs::copy(path, &copy).map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))?;
    }
    for path in ["etc", "tmp"] {
        fs::create_dir_all(context.join("root").join(path))?;
    }
    fs::write(context.join("root/etc/passwd"), "root:x:0:0:root:/:/bin/sh\n")?;
    fs::write(context.join("root/etc/group"), "root:x:0:\n")?;
    fs::write(
        context.join("root/etc/nginx.conf"),
        "daemon off; user root; worker_processes 1; pid /tmp/pid; error_log stderr warn; events {}\n\
         http { access_log off; client_body_temp_path /tmp/a; proxy_temp_path /tmp/b; fastcgi_temp_path /tmp/c;\n\
         uwsgi_temp_path /tmp/d; scgi_temp_path /tmp/e;\n\
         server { listen 80; listen [::]:80; location / { return 200 \"$remote_addr\\n\"; } } }\n",
    )?;
    fs::write(
        context.join("Dockerfile"),
        "FROM scratch\nCOPY root /\nEXPOSE 80\nSTOPSIGNAL SIGQUIT\n\
         CMD [\"/usr/sbin/nginx\", \"-c\", \"/etc/nginx.conf\", \"-e\", \"stderr\"]\n",
    )?;
    Ok(context)
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
