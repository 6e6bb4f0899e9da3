//! The client's half of the command-line contract, against a server in this test: the requests it
//! makes, the exit statuses, and that nothing but the answer reaches standard output.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::Response;
use vswitch::api::{Error, ErrorCode};

/// A request as the server saw it: `METHOD path?query body`.
type Seen = Arc<Mutex<Vec<String>>>;

/// An HTTP server that answers every request in the same way and remembers what it was asked.
struct Server {
    directory: tempfile::TempDir,
    seen: Seen,
}

impl Server {
    fn new(status: u16, body: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let server = Self { directory, seen: Seen::default() };
        server.listen(status, body);
        server
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    fn listen(&self, status: u16, body: &str) {
        let body = body.to_owned();
        self.listen_with(status, move |_| body.clone());
    }

    fn listen_with(&self, status: u16, answer: impl Fn(&str) -> String + Clone + Send + Sync + 'static) {
        let listener = UnixListener::bind(self.socket()).expect("a socket in a fresh directory");
        listener.set_nonblocking(true).expect("a socket");
        let seen = Arc::clone(&self.seen);
        let status = StatusCode::from_u16(status).expect("a status");
        let app = Router::new().fallback(move |request: Request| {
            let (seen, answer) = (Arc::clone(&seen), answer.clone());
            async move {
                let (parts, sent) = request.into_parts();
                let body = answer(&parts.uri.to_string());
                let sent = to_bytes(sent, 1 << 20).await.expect("a body");
                let line = format!("{} {} {}", parts.method, parts.uri, String::from_utf8_lossy(&sent));
                seen.lock().expect("no panic").push(line.trim_end().to_owned());
                Response::builder().status(status).body(Body::from(body)).expect("a response")
            }
        });
        // Ends with the test's process.
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = tokio::net::UnixListener::from_std(listener).expect("a listener");
                axum::serve(listener, app).await.expect("served");
            });
        });
    }

    fn run(&self, line: &str) -> Output {
        run(&self.socket(), line)
    }

    fn requests(&self) -> Vec<String> {
        self.seen.lock().expect("no panic").clone()
    }
}

fn run(socket: &Path, line: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vswitchctl"))
        .args(line.split_whitespace())
        .env("VSWITCH_SOCKET", socket)
        .output()
        .expect("vswitchctl starts")
}

fn status(output: &Output) -> i32 {
    output.status.code().expect("no signal")
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("UTF-8")
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("UTF-8")
}

const PORT: &str = r#"{"name":"web","bridge":"br0","netns":"web","ifname":"eth0","type":"tap","state":"up",
    "ips":["172.17.0.2/16"],"mac":"02:42:ac:11:00:02","mtu":1500,"default_route":true,"offloads":[],
    "a_field_of_a_later_version":1}"#;

#[test]
fn a_command_that_is_done_prints_its_line_and_returns_0() {
    let server = Server::new(201, PORT);
    let output = server.run("add-port br0 web --mtu 9k");
    assert_eq!(status(&output), 0);
    assert_eq!(stdout(&output), "web eth0 172.17.0.2/16 02:42:ac:11:00:02\n");
    assert_eq!(stderr(&output), "");
    let requests = server.requests();
    assert_eq!(requests.len(), 1);
    let body = requests[0].strip_prefix("POST /v1/bridges/br0/ports ").expect("the contract's path");
    let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(body["netns"], "web");
    assert_eq!(body["mtu"], 9000);
}

#[test]
fn a_refusal_is_one_sentence_on_stderr_and_1() {
    let error = Error {
        code: ErrorCode::Conflict,
        message: "port `web` exists on bridge `br0`".into(),
        remedy: "choose another name with --name".into(),
    };
    let server = Server::new(409, &serde_json::to_string(&error).expect("JSON"));
    for line in ["add-port br0 web", "add-port br0 web --json"] {
        let output = server.run(line);
        assert_eq!(status(&output), 1);
        assert_eq!(stdout(&output), "");
        assert_eq!(stderr(&output), "vswitchctl: port `web` exists on bridge `br0`; choose another name with --name\n");
    }
}

#[test]
fn a_wrong_command_line_is_2_and_asks_nothing() {
    let server = Server::new(200, "[]");
    for line in [
        "",
        "no-such-command",
        "add-br",
        "add-br br0 --mtu big",
        "set-br br0",
        "add-br br0 --masquerade maybe",
        "add-br br0 --internal on",
        "publish br0 web",
        "publish br0 web 80:0",
        "publish br0 web 80 --from somebody",
        "unpublish br0 web x",
        "add-port br0 web --publish 80-90:80-91",
        "stats a b c",
    ] {
        let output = server.run(line);
        assert_eq!(status(&output), 2, "{line}");
        assert_eq!(stdout(&output), "", "{line}");
        assert!(!stderr(&output).is_empty(), "{line}");
    }
    assert!(server.requests().is_empty());
}

#[test]
fn a_daemon_that_cannot_be_reached_is_3_and_named() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let socket = directory.path().join("absent.sock");
    let output = run(&socket, "show --json");
    assert_eq!(status(&output), 3);
    assert_eq!(stdout(&output), "");
    assert!(stderr(&output).contains(socket.to_str().expect("UTF-8")), "{}", stderr(&output));
    assert!(stderr(&output).contains("start it with `vswitch --socket"), "{}", stderr(&output));
    assert_eq!(stderr(&output).lines().count(), 1);

    // A socket that nobody listens at any more, as SIGKILL leaves it.
    let stale = directory.path().join("stale.sock");
    drop(UnixListener::bind(&stale).expect("a socket"));
    let output = run(&stale, "list-br");
    assert_eq!(status(&output), 3);
    assert!(stderr(&output).contains("nobody listens there"), "{}", stderr(&output));

    // The option wins over the environment.
    let output = run(&stale, &format!("list-br --socket {}", socket.display()));
    assert!(stderr(&output).contains("absent.sock"), "{}", stderr(&output));
}

#[test]
fn a_daemon_that_dies_in_between_is_3_and_the_outcome_is_called_unknown() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let socket = directory.path().join("s");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let _ = stream.read(&mut [0; 1024]);
    });
    let output = run(&socket, "del-br br0");
    server.join().expect("no panic");
    assert_eq!(status(&output), 3);
    assert!(stderr(&output).contains("whether the command was carried out is not known"), "{}", stderr(&output));
}

#[test]
fn something_else_at_the_socket_is_not_believed() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let socket = directory.path().join("s");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n");
        let _ = stream.read(&mut [0; 1024]);
    });
    let output = run(&socket, "list-br");
    server.join().expect("no panic");
    assert_eq!(status(&output), 3, "{}", stderr(&output));
    assert_eq!(stdout(&output), "");

    let server = Server::new(200, "{\"not\": \"a list\"}");
    let output = server.run("list-br");
    assert_eq!(status(&output), 1);
    assert!(stderr(&output).contains("cannot be read"), "{}", stderr(&output));
}

#[test]
fn json_is_one_document_also_when_there_is_nothing() {
    for (status_code, body, line, expected) in [
        (200, "[]", "list-br --json", "[]\n"),
        (200, "[]", "--json list-ports", "[]\n"),
        (200, "[]", "show --json", "[]\n"),
        (200, "[]", "fdb br0 --json", "[]\n"),
        (200, "[]", "ports br0 web --json", "[]\n"),
        (200, r#"{"connections":[]}"#, "conntrack --json", "[]\n"),
        (204, "", "del-br br0 --json", "{}\n"),
        (204, "", "del-port br0 web --json", "{}\n"),
    ] {
        let output = Server::new(status_code, body).run(line);
        assert_eq!(stdout(&output), expected, "{line}: {}", stderr(&output));
        assert_eq!(status(&output), 0, "{line}");
        assert_eq!(stderr(&output), "", "{line}");
    }
    let output = Server::new(200, PORT).run("add-port br0 web --json");
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one document");
    assert_eq!(document["ips"][0], "172.17.0.2/16");
}

#[test]
fn every_command_asks_what_the_protocol_says() {
    let flushed = r#"{"removed":1}"#;
    for (line, status_code, body, expected) in [
        ("list-br", 200, "[]", "GET /v1/bridges"),
        ("list-ports", 200, "[]", "GET /v1/ports"),
        ("list-ports br0", 200, "[]", "GET /v1/bridges/br0/ports"),
        ("del-br br0", 204, "", "DELETE /v1/bridges/br0"),
        ("del-br br0 --force", 204, "", "DELETE /v1/bridges/br0?force=true"),
        ("del-port br0 /run/netns/web", 204, "", "DELETE /v1/bridges/br0/ports/%2Frun%2Fnetns%2Fweb"),
        ("del-vxlan br0 vxlan42", 204, "", "DELETE /v1/bridges/br0/vxlans/vxlan42"),
        ("fdb br0", 200, "[]", "GET /v1/bridges/br0/fdb"),
        ("fdb-del br0 02:00:00:00:00:01", 200, flushed, "DELETE /v1/bridges/br0/fdb/02%3A00%3A00%3A00%3A00%3A01"),
        ("fdb-del br0 x --vlan 7", 200, flushed, "DELETE /v1/bridges/br0/fdb/x?vlan=7"),
        ("fdb-flush br0", 200, flushed, "DELETE /v1/bridges/br0/fdb"),
        ("fdb-flush br0 web", 200, flushed, "DELETE /v1/bridges/br0/fdb?port=web"),
        ("ports", 200, "[]", "GET /v1/publications"),
        ("ports br0", 200, "[]", "GET /v1/publications?bridge=br0"),
        ("ports br0 web", 200, "[]", "GET /v1/publications?bridge=br0&port=web"),
        (
            "publish br0 web 8080:80 [::1]::53/udp 8000-8010:80 --from 192.0.2.0/24 --from 198.18.0.7",
            201,
            "[]",
            r#"POST /v1/bridges/br0/ports/web/publications {"specs":["8080:80/tcp","[::1]::53/udp","8000-8010:80/tcp"],"from":["192.0.2.0/24","198.18.0.7/32"]}"#,
        ),
        (
            "unpublish br0 web 8080:80 53/udp",
            200,
            flushed,
            "DELETE /v1/bridges/br0/ports/web/publications?specs=8080%3A80%2Ftcp%2C53%2Fudp",
        ),
        ("conntrack", 200, r#"{"connections":[]}"#, "GET /v1/conntrack"),
        ("conntrack br0", 200, r#"{"connections":[]}"#, "GET /v1/conntrack?bridge=br0"),
        ("conntrack-flush", 200, flushed, "DELETE /v1/conntrack"),
        ("conntrack-flush br0", 200, flushed, "DELETE /v1/conntrack?bridge=br0"),
        ("ping", 200, r#"{"pid":7}"#, "GET /v1/ping"),
    ] {
        let server = Server::new(status_code, body);
        let output = server.run(line);
        assert_eq!(status(&output), 0, "{line}: {}", stderr(&output));
        assert_eq!(server.requests(), [expected], "{line}");
    }
    let server = Server::new(404, r#"{"code":"not_found","message":"no bridge `b`","remedy":""}"#);
    server.run("stats b p");
    server.run("set-br b --label a= --icc on");
    server.run("fdb-add b 02:00:00:00:00:01 p --vlan 9");
    let requests = server.requests();
    assert_eq!(requests[0], "GET /v1/stats?bridge=b&port=p");
    assert!(requests[1].starts_with("PATCH /v1/bridges/b {"), "{}", requests[1]);
    assert!(requests[1].contains(r#""labels":{"a":""}"#), "{}", requests[1]);
    let pinned = r#"{"mac":"02:00:00:00:00:01","port":"p","vlan":9,"remote":null,"ips":[]}"#;
    assert_eq!(requests[2], format!("POST /v1/bridges/b/fdb {pinned}"));
}

const PUBLISHED: &str = r#"[{"bridge":"br0","port":"web","protocol":"tcp","host_ip":"0.0.0.0",
    "host":{"first":32768,"last":32768},"container":{"first":80,"last":80}},
    {"bridge":"br0","port":"web","protocol":"udp","host_ip":"::","host":{"first":8000,"last":8010},
    "container":{"first":80,"last":90},"from":["192.0.2.0/24"]}]"#;

#[test]
fn published_ports_are_printed_as_docker_does() {
    let server = Server::new(200, PUBLISHED);
    let lines = "80/tcp -> 0.0.0.0:32768\n80-90/udp -> [::]:8000-8010 from 192.0.2.0/24\n";
    assert_eq!(stdout(&server.run("ports br0 web")), lines);
    assert_eq!(stdout(&server.run("publish br0 web 80")), lines);
    let all = "br0 web 80/tcp -> 0.0.0.0:32768\nbr0 web 80-90/udp -> [::]:8000-8010 from 192.0.2.0/24\n";
    assert_eq!(stdout(&server.run("ports")), all);
    let output = server.run("ports --json");
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one document");
    assert_eq!((&document[0]["host"]["first"], &document[1]["from"][0]), (&32768.into(), &"192.0.2.0/24".into()));
}

#[test]
fn connections_come_in_pages_and_are_one_list() {
    let connection = r#"{"protocol":"tcp","state":"ESTABLISHED","bridge":"br0","container":"172.17.0.2",
        "original":{"source":"172.17.0.2","source_port":4000,"destination":"192.0.2.9","destination_port":443},
        "reply":{"source":"192.0.2.9","source_port":443,"destination":"198.18.0.1","destination_port":4000},
        "origin":"container","responder":"outside","timeout_s":7440}"#;
    let server = Server { directory: tempfile::tempdir().expect("a temporary directory"), seen: Seen::default() };
    let last = format!(r#"{{"connections":[{connection}]}}"#);
    let first = format!(r#"{{"connections":[{connection},{connection}],"next":7}}"#);
    server.listen_with(200, move |uri| if uri.contains("cursor=7") { last.clone() } else { first.clone() });
    let output = server.run("conntrack br0");
    assert_eq!(server.requests(), ["GET /v1/conntrack?bridge=br0", "GET /v1/conntrack?bridge=br0&cursor=7"]);
    assert_eq!(stdout(&output).lines().count(), 4, "one heading and three rows: {}", stdout(&output));
    assert!(stdout(&output).contains("172.17.0.2:4000 > 192.0.2.9:443"), "{}", stdout(&output));
    let output = server.run("conntrack --json");
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one document");
    assert_eq!((document.as_array().map(Vec::len), &document[2]["timeout_s"]), (Some(3), &7440.into()));
}

#[test]
fn ping_waits_for_a_daemon_that_is_only_just_starting() {
    let server = Server { directory: tempfile::tempdir().expect("a temporary directory"), seen: Seen::default() };
    let start = Instant::now();
    let output = server.run("ping --timeout 200ms");
    assert_eq!(status(&output), 3);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());

    let output = thread::scope(|scope| {
        let waiting = scope.spawn(|| server.run("ping --timeout 30s"));
        thread::sleep(Duration::from_millis(200));
        server.listen(200, r#"{"pid":4711}"#);
        waiting.join().expect("no panic")
    });
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    assert_eq!(stdout(&output), "vswitch is ready (pid 4711)\n");
}

#[test]
fn ping_gives_up_on_a_daemon_that_is_silent() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let socket = directory.path().join("s");
    // Connections queue up and nobody ever answers.
    let _listener = UnixListener::bind(&socket).expect("a socket");
    let start = Instant::now();
    let output = run(&socket, "ping --timeout 300ms");
    assert_eq!(status(&output), 3);
    assert!(stderr(&output).contains("no answer within"), "{}", stderr(&output));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn the_clients_own_version_is_known_without_a_daemon() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let output = run(&directory.path().join("absent"), "version --json");
    assert_eq!(status(&output), 3);
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one document");
    assert_eq!(document["client"], env!("CARGO_PKG_VERSION"));
    assert!(document["daemon"].is_null());
}

#[test]
fn a_reader_that_has_seen_enough_is_not_an_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_vswitchctl"))
        .args(["completion", "bash"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("vswitchctl starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
}
