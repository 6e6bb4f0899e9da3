//! External programs, bounded in time.
//!
//! No program started here outlives its starter: a [`Background`] is stopped and reaped on drop,
//! and the kernel sends SIGTERM to the children of a starter that was killed (the parent death
//! signal). That signal belongs to the *thread* that started the child, so long-lived children must
//! be started by a thread that lives as long.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

/// Set it to make every wait of this module end early with [`io::ErrorKind::Interrupted`]; the
/// signal handler of a program that wants to clean up on SIGINT does.
pub static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// How long a test waits for what must come. Whoever waits goes on as soon as it is there, so that nothing but a failure
/// lasts that long, and a busy machine is no failure.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How long one `poll` lasts at most, so that [`INTERRUPTED`] is noticed.
const SLICE: Duration = Duration::from_millis(200);

/// Runs `command` to its end and returns what it printed; kills it, and all of its process group,
/// after `limit`.
///
/// # Errors
/// The program cannot be started ([`io::ErrorKind::NotFound`] names it), it did not end in time
/// ([`io::ErrorKind::TimedOut`]), or [`INTERRUPTED`] was set.
pub fn run(command: &mut Command, limit: Duration) -> io::Result<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().map_err(|error| name_program(command, &error))?;
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let ended = wait(&mut child, limit);
    if ended.is_err() {
        kill_group(&child, Signal::KILL);
        let _ = child.wait();
    }
    let stdout = stdout.join().unwrap_or_default();
    let stderr = stderr.join().unwrap_or_default();
    match ended {
        Ok(status) => Ok(Output { status, stdout, stderr }),
        Err(error) => Err(io::Error::new(
            error.kind(),
            format!("{command:?}: {error}; it had printed: {}", String::from_utf8_lossy(&stderr).trim_end()),
        )),
    }
}

/// Runs `command` and returns its standard output.
///
/// # Errors
/// As [`run`], and when the exit status is not 0, with what it printed on standard error.
pub fn run_ok(command: &mut Command, limit: Duration) -> io::Result<String> {
    let output = run(command, limit)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(io::Error::other(format!(
        "{command:?}: {}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout),
    )))
}

/// Waits until `child` ends, at most for `limit`.
fn wait(child: &mut Child, limit: Duration) -> io::Result<ExitStatus> {
    let deadline = Instant::now() + limit;
    let pid = Pid::from_child(child);
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if INTERRUPTED.load(Ordering::Relaxed) {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "interrupted"));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("still running after {limit:?}")));
        }
        let slice = left.min(SLICE);
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(slice.subsec_nanos()) };
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Reads a pipe to its end in a thread of its own, so that the child never blocks on it.
fn drain<R: Read + Send + 'static>(pipe: Option<R>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What could be read before an error is still worth showing.
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}

fn kill_group(child: &Child, signal: Signal) {
    // The group may be gone already: that is what was wanted.
    let _ = kill_process_group(Pid::from_child(child), signal);
}

fn name_program(command: &Command, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot start {}: {error}", command.get_program().to_string_lossy()))
}

/// A program in the background, in a process group of its own, its output in a file.
#[derive(Debug)]
pub struct Background {
    child: Child,
    output: PathBuf,
    ended: Option<ExitStatus>,
}

impl Background {
    /// Starts `command`; standard output and error go to the file `output`, appended.
    ///
    /// # Errors
    /// The program or the file cannot be opened.
    pub fn start(command: &mut Command, output: &Path) -> io::Result<Self> {
        Self::start_with_input(command, Stdio::null(), output)
    }

    /// The same with `input` as standard input.
    ///
    /// # Errors
    /// As [`Background::start`].
    pub fn start_with_input(command: &mut Command, input: Stdio, output: &Path) -> io::Result<Self> {
        let log = File::options().create(true).append(true).open(output)?;
        command.stdin(input).stdout(log.try_clone()?).stderr(log).process_group(0);
        let child = command.spawn().map_err(|error| name_program(command, &error))?;
        Ok(Self { child, output: output.to_owned(), ended: None })
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far.
    #[must_use]
    pub fn output(&self) -> String {
        std::fs::read(&self.output).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended.is_some()
    }

    /// Sends a signal to the process group, unless it has ended.
    pub fn signal(&mut self, signal: Signal) {
        if !self.has_ended() {
            kill_group(&self.child, signal);
        }
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// It did not end within `limit`.
    pub fn wait(&mut self, limit: Duration) -> io::Result<ExitStatus> {
        if let Some(status) = self.ended {
            return Ok(status);
        }
        let status = wait(&mut self.child, limit)?;
        self.ended = Some(status);
        Ok(status)
    }

    /// Stops it: SIGTERM, and SIGKILL for what has not ended two seconds later.
    pub fn stop(&mut self) {
        self.signal(Signal::TERM);
        if self.wait(Duration::from_secs(2)).is_err() {
            kill_group(&self.child, Signal::KILL);
            self.ended = self.child.wait().ok();
        }
        // Members of the group that outlived their leader, such as the workers of a killed server.
        kill_group(&self.child, Signal::KILL);
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Polls `condition` until it gives a value.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`], with `what` was waited for, after `limit`.
pub fn wait_until<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> io::Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = condition() {
            return Ok(value);
        }
        if INTERRUPTED.load(Ordering::Relaxed) {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "interrupted"));
        }
        if Instant::now() >= deadline {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("{what}: not within {limit:?}")));
        }
        thread::sleep(Duration::from_millis(5));
    }
}
