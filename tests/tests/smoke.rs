//! The programs' surface: help, completion, version, the OpenAPI document, readiness.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use vswitch::api;
use vswitch_tests::daemon::binaries;
use vswitch_tests::http;
use vswitch_tests::lab::must;
use vswitch_tests::process::run_ok;
use vswitch_tests::{Lab, Options, requirement};

const LIMIT: Duration = Duration::from_secs(10);
const COMMANDS: [&str; 18] = [
    "add-br",
    "del-br",
    "list-br",
    "show",
    "set-br",
    "add-port",
    "del-port",
    "list-ports",
    "fdb",
    "fdb-add",
    "fdb-del",
    "fdb-flush",
    "stats",
    "ping",
    "version",
    "completion",
    "shutdown",
    "help",
];

fn vswitchctl(args: &[&str]) -> String {
    must(run_ok(Command::new(must(binaries()).join("vswitchctl")).args(args), LIMIT))
}

#[test]
fn help_teaches_by_example() {
    for program in ["vswitch", "vswitchctl"] {
        let help = must(run_ok(Command::new(must(binaries()).join(program)).arg("--help"), LIMIT));
        assert!(help.contains("Example"), "{program} --help:\n{help}");
    }
    let help = vswitchctl(&["--help"]);
    for command in COMMANDS {
        assert!(help.contains(command), "{command} is not in the help:\n{help}");
        if command != "help" {
            let help = vswitchctl(&[command, "--help"]);
            assert!(help.contains("Example"), "{command} --help:\n{help}");
        }
    }
}

#[test]
fn completion_scripts_are_well_formed() {
    for shell in ["bash", "zsh", "fish"] {
        let script = vswitchctl(&["completion", shell]);
        assert!(script.contains("add-port") && script.contains("vswitchctl"), "{shell}:\n{script}");
        let name = format!("vswitch-completion-{}-{shell}", std::process::id());
        let path = std::env::temp_dir().join(name);
        must(std::fs::write(&path, script));
        if shell == "bash" {
            must(run_ok(Command::new("bash").arg("-n").arg(&path), LIMIT));
        }
        must(std::fs::remove_file(&path));
    }
}

#[test]
fn versions_of_client_and_daemon() {
    let Some(lab) = Lab::new() else { return };
    assert!(lab.ctl(&["version"]).contains(env!("CARGO_PKG_VERSION")));
    let version: api::Version = lab.get("/v1/version");
    assert_eq!((version.version.as_str(), version.pid), (env!("CARGO_PKG_VERSION"), lab.daemon().pid()));
    assert!(version.workers >= 1);
    assert!(lab.ctl_json(&["version"]).is_object());
    lab.ctl(&["ping"]);
    lab.ctl(&["ping", "--timeout", "1s"]);
    lab.finish();
}

#[test]
fn ping_waits_for_a_daemon_that_is_still_to_come() {
    let Some(mut lab) = Lab::without_daemon(Options::default()) else { return };
    assert_eq!(lab.try_ctl(&["ping"]).status.code(), Some(3));
    let mut command = lab.host().command(lab.config().binaries.join("vswitchctl"));
    command.args(["ping", "--timeout", "20s"]).env("VSWITCH_SOCKET", lab.socket());
    let waiting = std::thread::spawn(move || run_ok(&mut command, Duration::from_secs(30)));
    std::thread::sleep(Duration::from_millis(300));
    lab.start_daemon();
    must(waiting.join().expect("no panic"));
    lab.finish();
}

#[test]
fn every_listing_has_text_and_json() {
    let Some(mut lab) = Lab::new() else { return };
    lab.simple("--subnet 10.1.0.0/24", &["a", "b"]);
    for args in [
        &["show"][..],
        &["show", "br0"],
        &["list-br"],
        &["list-ports"],
        &["list-ports", "br0"],
        &["fdb", "br0"],
        &["stats"],
        &["stats", "br0", "a"],
    ] {
        assert!(!lab.ctl(args).trim().is_empty(), "{args:?} prints nothing");
        let value = lab.ctl_json(args);
        assert!(value.is_array() || value.is_object(), "{args:?}: {value}");
    }
    let tree = lab.ctl(&["show"]);
    for word in ["br0", "10.1.0.1", "a", "10.1.0.2", "eth0"] {
        assert!(tree.contains(word), "{word} is not in the tree:\n{tree}");
    }
    // add-port prints one line: port name, interface, addresses, MAC.
    lab.add_container("c");
    let line = lab.ctl(&["add-port", "br0", &lab.netns("c"), "--name", "c"]);
    assert_eq!(line, "c eth0 10.1.0.4/24 02:42:0a:01:00:04\n");
    lab.finish();
}

/// The routes in the table at the head of `api.rs`: method and path without its query.
fn documented_routes() -> Vec<(String, String)> {
    include_str!("../../vswitch/src/api.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("//! | `")?.split_once('`'))
        .filter_map(|(route, _)| route.split_once(' '))
        .map(|(method, path)| (method.to_lowercase(), path.split('?').next().unwrap_or(path).to_owned()))
        .collect()
}

#[test]
fn the_openapi_document_covers_every_route_and_no_other() {
    let Some(lab) = Lab::new() else { return };
    let document: serde_json::Value = lab.get("/v1/openapi.json");
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.")), "{document}");
    let mut documented = documented_routes();
    documented.sort();
    assert!(documented.len() >= 18, "{documented:?}");
    let mut served = Vec::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for method in methods.as_object().expect("methods").keys() {
            served.push((method.clone(), path.clone()));
        }
    }
    served.sort();
    assert_eq!(served, documented);
    for schema in ["Bridge", "BridgeSpec", "Port", "PortSpec", "Stats", "Error"] {
        assert!(document["components"]["schemas"][schema].is_object(), "no schema of {schema}");
    }
    lab.finish();
}

#[test]
fn curl_speaks_to_the_socket() {
    let Some(lab) = Lab::new() else { return };
    if !requirement::program("curl") {
        return;
    }
    let socket = lab.socket().display().to_string();
    let mut command = Command::new("curl");
    command.args(["-sS", "--unix-socket", &socket, "-d", r#"{"name":"br0"}"#, "-H", "Content-Type: application/json"]);
    let text = must(run_ok(command.arg("http://localhost/v1/bridges"), LIMIT));
    let bridge: api::Bridge = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(bridge, lab.bridge("br0"));
    lab.finish();
}

#[test]
fn the_service_supervisor_is_told() {
    if !requirement::system() {
        return;
    }
    let directory = must(tempfile::tempdir());
    let path = directory.path().join("notify.sock");
    let socket = must(UnixDatagram::bind(&path));
    must(socket.set_read_timeout(Some(LIMIT)));
    let env = vec![("NOTIFY_SOCKET".to_owned(), path.display().to_string())];
    let Some(mut lab) = Lab::with(Options { env, ..Options::default() }) else { return };
    let heard = |word: &str| {
        let mut buffer = [0; 4096];
        for _ in 0..10 {
            let length = must(socket.recv(&mut buffer));
            if String::from_utf8_lossy(&buffer[..length]).lines().any(|line| line == word) {
                return;
            }
        }
        panic!("{word} was not heard");
    };
    heard("READY=1");
    lab.stop_daemon();
    heard("STOPPING=1");
    assert!(http::request(lab.socket(), "GET", "/v1/ping", None).is_err());
    lab.finish();
}
