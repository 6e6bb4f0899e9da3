//! The daemon as a child process in the namespace that plays the host, and its client.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;

use crate::http;
use crate::namespace::Namespace;
use crate::process::{Background, PATIENCE, run, wait_until};

/// How long a daemon may take until it answers; generous, for loaded machines and many ports.
pub const START_LIMIT: Duration = Duration::from_secs(60);
/// How long one command may take.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// Where the two programs are: `$VSWITCH_BIN_DIR`, or the directory that cargo built into.
///
/// # Errors
/// The programs are not there.
pub fn binaries() -> io::Result<PathBuf> {
    let directory = match std::env::var_os("VSWITCH_BIN_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => {
            // target/debug/deps/suite-0123, or target/release/lab.
            let own = std::env::current_exe()?;
            let parent = own.parent().unwrap_or(Path::new("."));
            if parent.file_name() == Some(OsStr::new("deps")) {
                parent.parent().unwrap_or(parent).to_owned()
            } else {
                parent.to_owned()
            }
        }
    };
    for program in ["vswitch", "vswitchctl"] {
        if !directory.join(program).is_file() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!(
                    "{} does not exist; run `cargo build` first, or set VSWITCH_BIN_DIR",
                    directory.join(program).display()
                ),
            ));
        }
    }
    Ok(directory)
}

/// How a daemon is started.
#[derive(Debug, Clone)]
pub struct DaemonConfig {
    /// Where `vswitch` and `vswitchctl` are.
    pub binaries: PathBuf,
    /// The control socket.
    pub socket: PathBuf,
    /// The state directory.
    pub state_dir: PathBuf,
    /// The file that the daemon's log is appended to.
    pub log: PathBuf,
    /// The value of `RUST_LOG`.
    pub log_level: String,
    /// Further arguments.
    pub args: Vec<String>,
    /// Further environment variables.
    pub env: Vec<(String, String)>,
    /// A socket that it gets from whoever starts it.
    pub passed: Option<PassedSocket>,
}

/// A socket that a daemon gets as systemd passes one (sd_listen_fds(3)).
#[derive(Debug, Clone)]
pub struct PassedSocket {
    /// Its name (`FileDescriptorName=` of systemd.socket(5)).
    pub name: String,
    /// The socket, which is whoever starts the daemon's: it stays when the daemon ends.
    pub listener: Arc<UnixListener>,
}

/// Becomes the daemon, with what was standard input as descriptor 3; only the process itself knows its id.
const LAUNCHER: &str = "export LISTEN_PID=$$; exec \"$@\" 3<&0 0</dev/null";

impl DaemonConfig {
    /// Everything below `directory`.
    #[must_use]
    pub fn below(directory: &Path, binaries: PathBuf) -> Self {
        Self {
            binaries,
            socket: directory.join("vswitch.sock"),
            state_dir: directory.join("state"),
            log: directory.join("vswitch.log"),
            log_level: "info".to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            passed: None,
        }
    }

    /// Starts the daemon in `host` without waiting for it.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn spawn(&self, host: &Namespace) -> io::Result<Background> {
        let program = self.binaries.join("vswitch");
        let (mut command, input) = match &self.passed {
            None => (host.command(program), Stdio::null()),
            Some(PassedSocket { name, listener }) => {
                let mut command = host.command("sh");
                command.args(["-c", LAUNCHER, "sh"]).arg(program);
                command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", name);
                (command, OwnedFd::from(listener.try_clone()?).into())
            }
        };
        command
            .arg("--socket")
            .arg(&self.socket)
            .arg("--state-dir")
            .arg(&self.state_dir)
            .args(&self.args)
            .env("RUST_LOG", &self.log_level)
            .env("RUST_BACKTRACE", "1")
            .env("NO_COLOR", "1")
            .envs(self.env.iter().map(|(name, value)| (name, value)));
        Background::start_with_input(&mut command, input, &self.log)
    }

    /// Runs `vswitchctl` with `args` in `host`; returns its output whatever its exit status is.
    ///
    /// # Errors
    /// It cannot be started, or did not end in time.
    pub fn ctl<S: AsRef<OsStr>>(&self, host: &Namespace, args: &[S]) -> io::Result<Output> {
        let mut command = host.command(self.binaries.join("vswitchctl"));
        command.args(args).env("VSWITCH_SOCKET", &self.socket).env("NO_COLOR", "1").env_remove("COLUMNS");
        run(&mut command, COMMAND_LIMIT)
    }
}

/// A running daemon; killed on drop.
#[derive(Debug)]
pub struct Daemon {
    process: Background,
    /// How it was started.
    pub config: DaemonConfig,
}

impl Daemon {
    /// Starts a daemon and waits until it answers on its socket.
    ///
    /// # Errors
    /// It ended, or did not answer within [`START_LIMIT`]; with what it logged.
    pub fn start(host: &Namespace, config: DaemonConfig) -> io::Result<Self> {
        let process = config.spawn(host)?;
        let mut daemon = Self { process, config };
        let pid = daemon.pid();
        let answer = wait_until("the daemon's first answer", START_LIMIT, || {
            if daemon.process.has_ended() {
                return Some(Err(io::Error::other("the daemon ended")));
            }
            // A socket file of a killed predecessor may still be there: ask who answers.
            let answer = http::request(&daemon.config.socket, "GET", "/v1/ping", None).ok()?;
            (answer.status == 200 && answer.json()["pid"] == pid).then_some(Ok(()))
        });
        match answer {
            Ok(Ok(())) => Ok(daemon),
            Ok(Err(error)) | Err(error) => {
                Err(io::Error::new(error.kind(), format!("{error}; its log:\n{}", daemon.log())))
            }
        }
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The log, of predecessors that wrote to the same file too.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.output()
    }

    /// SIGKILL, and waits until the process is gone.
    pub fn kill(&mut self) {
        self.process.signal(Signal::KILL);
        // A killed process ends; should it not, the wait for the next start says so.
        let _ = self.process.wait(PATIENCE);
    }

    /// Sends a signal and waits for the end.
    ///
    /// # Errors
    /// It did not end within [`PATIENCE`].
    pub fn terminate(&mut self, signal: Signal) -> io::Result<ExitStatus> {
        self.process.signal(signal);
        self.process.wait(PATIENCE)
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// It did not end within [`PATIENCE`].
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.process.wait(PATIENCE)
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.process.has_ended()
    }

    /// The CPU time used so far, of all threads that ever were.
    ///
    /// # Errors
    /// The process is gone.
    pub fn cpu(&self) -> io::Result<Duration> {
        cpu_time(self.pid())
    }

    /// Resident memory in bytes.
    ///
    /// # Errors
    /// The process is gone.
    pub fn resident_bytes(&self) -> io::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok())
            .map(|kib| kib * 1024)
            .ok_or_else(|| io::Error::other("no VmRSS in the process's status"))
    }

    /// The number of open descriptors.
    ///
    /// # Errors
    /// The process is gone.
    pub fn descriptors(&self) -> io::Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.pid()))?.count())
    }
}

/// The CPU time of a process: nanoseconds of its living threads (`schedstat`), because the ticks
/// of `/proc/PID/stat` are too coarse for idle switches.
///
/// # Errors
/// The process is gone.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    let mut nanoseconds = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end between the listing and the reading.
        let Ok(text) = std::fs::read_to_string(task?.path().join("schedstat")) else { continue };
        nanoseconds += text.split(' ').next().and_then(|first| first.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(nanoseconds))
}
