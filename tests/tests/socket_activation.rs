//! The network driver's socket when the service manager holds it: `packaging/systemd/vswitch-docker.socket`.
//!
//! The test plays systemd: it binds the socket before there is a daemon, passes it as descriptor 3, and keeps it when the
//! daemon has ended, however it ended.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use vswitch_tests::daemon::PassedSocket;
use vswitch_tests::http;
use vswitch_tests::lab::must;
use vswitch_tests::process::{PATIENCE, wait_until};
use vswitch_tests::{Lab, Options};

/// How long a call may wait for a daemon that is being started.
const LIMIT: Duration = PATIENCE;
/// Long enough for a daemon that runs to have answered.
const NO_ANSWER: Duration = Duration::from_millis(300);

/// The socket that systemd would hold, in a directory of its own.
fn socket(name: &str) -> (TempDir, PathBuf, PassedSocket) {
    let directory = must(tempfile::Builder::new().prefix("vswitch-socket-").tempdir());
    let path = directory.path().join("vswitch.sock");
    let listener = must(UnixListener::bind(&path));
    (directory, path, PassedSocket { name: name.to_owned(), listener: Arc::new(listener) })
}

/// Docker's first call, which waits in the socket's queue as long as nobody answers.
fn call(path: &Path) -> JoinHandle<std::io::Result<http::Answer>> {
    let path = path.to_owned();
    thread::spawn(move || http::request(&path, "POST", "/Plugin.Activate", Some("{}")))
}

#[track_caller]
fn assert_answered(call: JoinHandle<std::io::Result<http::Answer>>) {
    must(wait_until("an answer", LIMIT, || call.is_finished().then_some(())));
    let answer = must(call.join().expect("a thread"));
    let implemented = answer.json()["Implements"].as_array().cloned().unwrap_or_default();
    assert!(implemented.contains(&Value::from("NetworkDriver")), "{answer:?}");
}

#[track_caller]
fn assert_waits(call: &JoinHandle<std::io::Result<http::Answer>>) {
    thread::sleep(NO_ANSWER);
    assert!(!call.is_finished(), "somebody answered");
}

#[test]
fn who_calls_early_is_answered_when_the_switch_is_up() {
    let (_directory, path, passed) = socket("docker");
    let Some(mut lab) = Lab::without_daemon(Options { passed: Some(passed), ..Options::default() }) else { return };
    for restart in ["the machine's start", "an upgrade", "a crash"] {
        let early = call(&path);
        assert_waits(&early);
        lab.start_daemon();
        assert_answered(early);
        assert_answered(call(&path));
        match restart {
            "a crash" => lab.kill_daemon(),
            _ => lab.stop_daemon(),
        }
        assert!(path.exists(), "the socket is gone with the daemon after {restart}, and it is not the daemon's");
    }
    lab.start_daemon();
    lab.finish();
}

#[test]
fn a_passed_socket_is_taken_instead_of_the_option() {
    let (directory, path, passed) = socket("docker");
    let other = directory.path().join("other.sock");
    let args = vec![format!("--docker={}", other.display())];
    let Some(lab) = Lab::with(Options { args, passed: Some(passed), ..Options::default() }) else { return };
    assert_answered(call(&path));
    assert!(!other.exists(), "two sockets are served");
    lab.finish();
}

#[test]
fn a_socket_of_another_name_is_not_the_drivers() {
    let (_directory, path, passed) = socket("metrics");
    let Some(lab) = Lab::with(Options { passed: Some(passed), ..Options::default() }) else { return };
    let unanswered = call(&path);
    assert_waits(&unanswered);
    // With the last descriptor of the socket the call ends, too.
    lab.finish();
}

#[test]
fn a_socket_that_was_passed_to_another_process_is_not_taken() {
    let (_directory, path, passed) = socket("docker");
    // As a daemon finds it that was started by a service which was itself started by its socket.
    let env = [("LISTEN_PID", "1"), ("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", "docker")];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let Some(lab) = Lab::with(Options { env, ..Options::default() }) else { return };
    let unanswered = call(&path);
    assert_waits(&unanswered);
    drop(passed);
    lab.finish();
}
