//! Asking an engine: one HTTP/1.1 exchange over its unix socket, or the output of its program.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::sleep;

use super::answers::{Complaint, Inspected};

/// The largest answer: a thousand containers are about two megabytes.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// How often a program that was started is looked after.
const PROGRAM_INTERVAL: Duration = Duration::from_millis(10);

/// What a program is asked for: the keys of [`Inspected`], and nothing that may be long.
const FORMAT: &str = concat!(
    r#"{"Id":{{json .ID}},"Name":{{json .Name}},"#,
    r#""State":{"Running":{{json .State.Running}},"Status":{{json .State.Status}},"Pid":{{json .State.Pid}}},"#,
    r#""HostConfig":{"NetworkMode":{{json .HostConfig.NetworkMode}}},"#,
    r#""NetworkSettings":{"SandboxKey":{{json .NetworkSettings.SandboxKey}}}}"#
);

/// Where an engine answers.
#[derive(Debug)]
pub(super) struct Source {
    /// The engine's name.
    pub(super) engine: &'static str,
    /// Its socket.
    pub(super) socket: PathBuf,
    /// The program to be asked where nobody listens there.
    pub(super) program: Option<&'static str>,
}

/// Why an engine gave no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum EngineError {
    /// There is no such engine on this host.
    #[error("{engine} is not there: {what}")]
    Absent { engine: &'static str, what: String },
    /// It has no such object.
    #[error("{engine}: {what}")]
    NotFound { engine: &'static str, what: String },
    /// It refuses.
    #[error("{engine}: {what}")]
    Refused { engine: &'static str, what: String },
    /// The exchange failed.
    #[error("{engine} at {} cannot be asked: {why}", socket.display())]
    Broken { engine: &'static str, socket: PathBuf, why: String },
}

impl Source {
    /// `GET path`, which is escaped already.
    ///
    /// # Errors
    /// [`EngineError`].
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, EngineError> {
        let engine = self.engine;
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                EngineError::Absent { engine, what: format!("nobody listens at {}", self.socket.display()) }
            }
            _ => self.broken(&error),
        })?;
        let (status, answer) = exchange(stream, path).await.map_err(|why| self.broken(&why))?;
        if status.is_success() {
            return serde_json::from_slice(&answer).map_err(|error| self.broken(&error));
        }
        let Complaint { message } = serde_json::from_slice(&answer).unwrap_or_default();
        let what = if message.is_empty() { format!("status {status}") } else { message };
        Err(match status {
            StatusCode::NOT_FOUND => EngineError::NotFound { engine, what },
            _ => EngineError::Refused { engine, what },
        })
    }

    /// The container that `name` names: its name, its id or the beginning of that.
    ///
    /// # Errors
    /// [`EngineError`].
    pub(super) async fn inspect(&self, name: &str) -> Result<Inspected, EngineError> {
        match (self.get(&format!("/containers/{name}/json")).await, self.program) {
            (Err(EngineError::Absent { .. }), Some(program)) => self.run_inspect(program, name).await,
            (answer, _) => answer,
        }
    }

    async fn run_inspect(&self, program: &'static str, name: &str) -> Result<Inspected, EngineError> {
        let engine = self.engine;
        let child = Command::new(program)
            .args(["container", "inspect", "--format", FORMAT, "--", name])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let child = child.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => EngineError::Absent {
                engine,
                what: format!("nobody listens at {}, and there is no program {program}", self.socket.display()),
            },
            _ => self.broken(&error),
        })?;
        let mut child = Killed(child);
        // What it prints fits into a pipe many times over, so it ends before it is read.
        let status = loop {
            match child.0.try_wait().map_err(|error| self.broken(&error))? {
                Some(status) => break status,
                None => sleep(PROGRAM_INTERVAL).await,
            }
        };
        let (mut answer, mut said) = (Vec::new(), Vec::new());
        if let Some(pipe) = &mut child.0.stdout {
            pipe.read_to_end(&mut answer).map_err(|error| self.broken(&error))?;
        }
        if status.success() {
            // One line for each container: an id may begin several ids, of which the program refuses to choose.
            return serde_json::from_slice(&answer).map_err(|error| self.broken(&error));
        }
        if let Some(pipe) = &mut child.0.stderr {
            pipe.read_to_end(&mut said).map_err(|error| self.broken(&error))?;
        }
        let what = String::from_utf8_lossy(&said).trim().replace('\n', "; ");
        // libpod's `ErrNoSuchCtr`.
        Err(if what.contains("no such container") {
            EngineError::NotFound { engine, what }
        } else {
            EngineError::Refused { engine, what }
        })
    }

    fn broken(&self, why: &impl ToString) -> EngineError {
        EngineError::Broken { engine: self.engine, socket: self.socket.clone(), why: why.to_string() }
    }

    /// Its socket.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }
}

/// A program that does not outlive the question.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Both fail for one that has ended and was seen to.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn exchange(stream: UnixStream, path: &str) -> Result<(StatusCode, Bytes), String> {
    let text = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
    // It ends with the sender, or with this function when nobody waits for it any more.
    let driver = AbortOnDrop(tokio::spawn(connection));
    let request = Request::get(path).header(HOST, "localhost").body(Empty::<Bytes>::new());
    let response = sender.send_request(request.map_err(|error| error.to_string())?).await.map_err(text)?;
    let status = response.status();
    let body =
        Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|error| error.to_string())?;
    drop(driver);
    Ok((status, body.to_bytes()))
}

struct AbortOnDrop(tokio::task::JoinHandle<hyper::Result<()>>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
