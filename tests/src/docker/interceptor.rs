//! Between Docker and its network driver: sees every call, and ends the driver at a chosen moment of one.
//!
//! Docker connects to the interceptor's socket, each call to a connection of its own, and the interceptor to the
//! driver's. A call that is cut off is one that Docker repeats, as after any end of a driver.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::process::wait_until;

/// How long a driver may take to answer.
const LIMIT: Duration = Duration::from_secs(30);

/// A moment of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The driver has not heard of it.
    Before,
    /// The driver has done it, and its answer is lost.
    Unanswered,
    /// Docker has the answer.
    Answered,
}

impl Moment {
    /// All.
    pub const ALL: [Self; 3] = [Self::Before, Self::Unanswered, Self::Answered];
}

/// What is to happen, and what has.
#[derive(Debug, Default)]
struct Plan {
    /// The calls since the plan was made, by their names.
    calls: Vec<String>,
    /// At which call, counted from 0, and at which moment of it to kill which process.
    kill: Option<(usize, Moment, Pid)>,
    /// Whether that call has come, and it has been killed, which follows.
    due: bool,
    killed: bool,
}

/// See the module's documentation. Its thread ends with the test process.
#[derive(Debug)]
pub struct Interceptor {
    plan: Arc<Mutex<Plan>>,
}

impl Interceptor {
    /// Listens at `socket` for Docker, and passes calls on to `driver`.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn start(socket: &Path, driver: &Path) -> io::Result<Self> {
        if let Some(directory) = socket.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let listener = UnixListener::bind(socket)?;
        let plan = Arc::new(Mutex::new(Plan::default()));
        let (shared, driver) = (Arc::clone(&plan), driver.to_owned());
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (shared, driver) = (Arc::clone(&shared), driver.clone());
                // Docker may call for several containers at once. A call that fails is cut off.
                thread::spawn(move || pass(connection, &driver, &shared));
            }
        });
        Ok(Self { plan })
    }

    /// Counts calls anew, and kills `pid` at `moment` of the call `number`, counted from 0.
    ///
    /// # Errors
    /// `pid` is no process id.
    pub fn kill_at(&self, number: usize, moment: Moment, pid: u32) -> io::Result<()> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
        *lock(&self.plan) = Plan { kill: Some((number, moment, pid)), ..Plan::default() };
        Ok(())
    }

    /// Counts calls anew, and kills nobody.
    pub fn watch(&self) {
        *lock(&self.plan) = Plan::default();
    }

    /// The calls so far.
    #[must_use]
    pub fn calls(&self) -> Vec<String> {
        lock(&self.plan).calls.clone()
    }

    /// Whether the moment has come; if its call has, waits for it. To be asked when Docker has got its answers: the one
    /// that is followed by the end of the driver may have made it go on before that.
    ///
    /// # Errors
    /// The driver does not end.
    pub fn kills(&self) -> io::Result<bool> {
        wait_until("the end of the driver", LIMIT, || {
            let plan = lock(&self.plan);
            (plan.due == plan.killed).then_some(plan.killed)
        })
    }

    /// Whether the moment has come and gone.
    #[must_use]
    pub fn has_killed(&self) -> bool {
        lock(&self.plan).killed
    }
}

fn lock(plan: &Mutex<Plan>) -> MutexGuard<'_, Plan> {
    plan.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One call.
fn pass(mut docker: UnixStream, driver: &PathBuf, plan: &Mutex<Plan>) -> io::Result<()> {
    docker.set_read_timeout(Some(LIMIT))?;
    let request = read_request(&mut docker)?;
    let head = String::from_utf8_lossy(&request);
    let name = head.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
    let due = {
        let mut plan = lock(plan);
        plan.calls.push(name);
        let number = plan.calls.len() - 1;
        let due = plan.kill.filter(|kill| kill.0 == number).map(|kill| (kill.1, kill.2));
        plan.due |= due.is_some();
        due
    };
    let at = |moment| due.filter(|due| due.0 == moment).map(|due| due.1);
    if let Some(pid) = at(Moment::Before) {
        return kill(pid, plan);
    }
    // A driver that is not there refuses connections, and Docker tries again: here it waits as long.
    let mut switch = wait_until("the driver", LIMIT, || UnixStream::connect(driver).ok())?;
    switch.set_read_timeout(Some(LIMIT))?;
    switch.write_all(&request)?;
    let mut answer = Vec::new();
    switch.read_to_end(&mut answer)?;
    if let Some(pid) = at(Moment::Unanswered) {
        return kill(pid, plan);
    }
    docker.write_all(&answer)?;
    drop(docker);
    at(Moment::Answered).map_or(Ok(()), |pid| kill(pid, plan))
}

/// SIGKILL, and waits for the end.
fn kill(pid: Pid, plan: &Mutex<Plan>) -> io::Result<()> {
    kill_process(pid, Signal::KILL)?;
    let status = format!("/proc/{}/stat", pid.as_raw_nonzero());
    wait_until("the end of the driver", LIMIT, || {
        // Its parent is the test, which will reap it.
        std::fs::read_to_string(&status).map_or(true, |stat| stat.contains(") Z ")).then_some(())
    })?;
    lock(plan).killed = true;
    Ok(())
}

/// A request with its content, which Docker sends with its length.
fn read_request(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    const END: &[u8] = b"\r\n\r\n";
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(END.len()).position(|window| window == END) {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            if bytes.len() >= end + END.len() + length.unwrap_or(0) {
                return Ok(bytes);
            }
        }
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => bytes.extend_from_slice(&buffer[..count]),
        }
    }
}
