//! The socket's manners, without root: bare learning switches need no interface.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::*;
use crate::api::REQUEST_BYTES_MAX;
use crate::control::desired::Desired;
use crate::control::server::socket::Socket;
use crate::control::store::Store;
use crate::control::switch::{Switch, XdpContext};
use crate::datapath::{Datapath, DatapathConfig};
use crate::nat::conntrack::Conntrack;

struct Daemon {
    dir: tempfile::TempDir,
    service: Service,
    stop: watch::Sender<bool>,
    _socket: Socket,
}

impl Daemon {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(&dir.path().join("state")).expect("a state directory");
        let conntrack = Arc::new(Conntrack::in_memory(0).expect("a table"));
        let datapath = Arc::new(Datapath::start(DatapathConfig::default(), conntrack).expect("a datapath"));
        let switch = Switch::new(Desired::default(), store, datapath, XdpContext::default()).expect("a switch");
        let service = Service::new(switch, 1);
        let allowed = Allowed::look_up().expect("the group database");
        let (socket, listener) = Socket::bind(&dir.path().join("s"), &allowed).expect("a socket");
        let stop = watch::Sender::new(false);
        tokio::spawn(serve(listener, allowed, service.clone(), stop.subscribe()));
        Self { dir, service, stop, _socket: socket }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.path()).await.expect("connects")
    }

    /// Sends bytes and reads until the daemon closes: status and JSON body (null if empty).
    async fn raw(&self, request: &[u8]) -> (u16, Value) {
        let mut stream = self.connect().await;
        // A daemon that refuses early may close before it has read everything.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).expect("text");
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status line");
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    async fn ask(&self, method: &str, path: &str, body: Option<&str>) -> (u16, Value) {
        let body = body.map_or_else(String::new, |body| {
            format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        });
        let end = if body.is_empty() { "\r\n" } else { "" };
        self.raw(format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{body}{end}").as_bytes()).await
    }

    /// Asks for something that must be refused, in JSON, with words and a remedy.
    async fn refused(&self, method: &str, path: &str, body: Option<&str>, status: u16, code: &str, says: &str) {
        let (got, error) = self.ask(method, path, body).await;
        assert_eq!(got, status, "{method} {path}: {error}");
        assert_eq!(error["code"], code, "{method} {path}: {error}");
        assert!(error["message"].as_str().is_some_and(|message| message.contains(says)), "{error}");
    }
}

#[tokio::test]
async fn a_bridge_is_made_shown_changed_and_removed() {
    let daemon = Daemon::start();
    assert_eq!(daemon.ask("GET", "/v1/ping", None).await, (200, json!({"pid": std::process::id()})));
    let (status, bridge) = daemon.ask("POST", "/v1/bridges", Some(r#"{"name":"sw0","l2":true}"#)).await;
    assert_eq!((status, &bridge["name"], &bridge["mtu"]), (201, &json!("sw0"), &json!(1500)));
    let (status, list) = daemon.ask("GET", "/v1/bridges", None).await;
    assert_eq!((status, &list[0]), (200, &bridge));
    let (status, changed) = daemon.ask("PATCH", "/v1/bridges/sw0", Some(r#"{"icc":false}"#)).await;
    assert_eq!((status, &changed["icc"]), (200, &json!(false)));
    assert_eq!(daemon.ask("GET", "/v1/bridges/sw0/ports", None).await, (200, json!([])));
    assert_eq!(daemon.ask("GET", "/v1/bridges/sw0/fdb", None).await, (200, json!([])));
    assert_eq!(daemon.ask("DELETE", "/v1/bridges/sw0/fdb", None).await, (200, json!({"removed": 0})));
    assert_eq!(daemon.ask("GET", "/v1/stats", None).await.1["balance"]["unexplained"], 0);
    let stored = Store::open(&daemon.dir.path().join("state")).expect("opens").load().expect("loads");
    assert!(!stored.bridges["sw0"].icc);
    assert_eq!(daemon.ask("DELETE", "/v1/bridges/sw0", None).await, (204, Value::Null));
    assert_eq!(daemon.ask("GET", "/v1/bridges", None).await, (200, json!([])));
}

#[tokio::test]
async fn every_refusal_is_json() {
    let daemon = Daemon::start();
    daemon.ask("POST", "/v1/bridges", Some(r#"{"name":"sw0","l2":true}"#)).await;
    daemon.refused("GET", "/v1/nonsense", None, 404, "not_found", "/v1/nonsense").await;
    daemon.refused("GET", "/", None, 404, "not_found", "there is no /").await;
    daemon.refused("PUT", "/v1/bridges", None, 405, "invalid", "PUT").await;
    daemon.refused("POST", "/v1/ping", None, 405, "invalid", "POST").await;
    for body in
        ["", "{", "[]", "null", "\"\u{0}\"", r#"{"name":5}"#, r#"{"name":"x","mtuu":5}"#, r#"{"name":"x","mtu":-5}"#]
    {
        daemon.refused("POST", "/v1/bridges", Some(body), 400, "invalid", "body").await;
    }
    let deep = "[".repeat(60_000);
    daemon.refused("POST", "/v1/bridges", Some(&deep), 400, "invalid", "body").await;
    daemon.refused("POST", "/v1/bridges", Some(r#"{"name":"a b","l2":true}"#), 400, "invalid", "a b").await;
    daemon.refused("POST", "/v1/bridges", Some(r#"{"name":"sw0","l2":true}"#), 409, "conflict", "sw0").await;
    daemon.refused("DELETE", "/v1/bridges/sw9", None, 404, "not_found", "sw9").await;
    daemon.refused("DELETE", "/v1/bridges/sw0?force=perhaps", None, 400, "invalid", "query").await;
    daemon.refused("DELETE", "/v1/bridges/sw0?fource=true", None, 400, "invalid", "fource").await;
    daemon.refused("DELETE", "/v1/bridges/%ff", None, 400, "invalid", "path").await;
    daemon.refused("GET", "/v1/stats?port=web", None, 400, "invalid", "bridge").await;
    daemon
        .refused("DELETE", "/v1/bridges/sw0/ports/%2Fproc%2F1%2Fns%2Fnet", None, 404, "not_found", "/proc/1/ns/net")
        .await;
    daemon.refused("DELETE", "/v1/bridges/sw0/fdb/nonsense", None, 400, "invalid", "MAC").await;
    let port = r#"{"netns":"no-such-namespace-here"}"#;
    daemon.refused("POST", "/v1/bridges/sw0/ports", Some(port), 404, "not_found", "no-such-namespace-here").await;
    let port = r#"{"netns":"pid:0"}"#;
    daemon.refused("POST", "/v1/bridges/sw0/ports", Some(port), 400, "invalid", "pid:0").await;
    let port = format!(r#"{{"netns":"pid:{}"}}"#, std::process::id());
    daemon.refused("POST", "/v1/bridges/sw0/ports", Some(&port), 409, "conflict", "host's own").await;
}

#[tokio::test]
async fn what_is_published_and_tracked_is_asked_for_by_bridge_and_port() {
    let daemon = Daemon::start();
    daemon.ask("POST", "/v1/bridges", Some(r#"{"name":"sw0","l2":true}"#)).await;
    for path in ["/v1/publications", "/v1/publications?bridge=sw0"] {
        assert_eq!(daemon.ask("GET", path, None).await, (200, json!([])), "{path}");
    }
    for path in ["/v1/conntrack", "/v1/conntrack?bridge=sw0", "/v1/conntrack?cursor=4294967295"] {
        assert_eq!(daemon.ask("GET", path, None).await, (200, json!({"connections": []})), "{path}");
    }
    assert_eq!(daemon.ask("DELETE", "/v1/conntrack?bridge=sw0", None).await, (200, json!({"removed": 0})));
    assert_eq!(daemon.ask("GET", "/v1/stats", None).await.1["gateway"]["connections"], 0);
    for path in ["/v1/publications?bridge=sw9", "/v1/conntrack?bridge=sw9"] {
        daemon.refused("GET", path, None, 404, "not_found", "sw9").await;
    }
    daemon.refused("DELETE", "/v1/conntrack?bridge=sw9", None, 404, "not_found", "sw9").await;
    daemon.refused("GET", "/v1/publications?bridge=sw0&port=web", None, 404, "not_found", "web").await;
    daemon.refused("GET", "/v1/publications?port=web", None, 400, "invalid", "without its bridge").await;
    daemon.refused("GET", "/v1/conntrack?cursor=-1", None, 400, "invalid", "query").await;
    let path = "/v1/bridges/sw0/ports/web/publications";
    daemon.refused("POST", path, Some(r#"{"specs":["8080:80"]}"#), 404, "not_found", "web").await;
    daemon.refused("POST", path, Some(r#"{"specs":[]}"#), 400, "invalid", "nothing").await;
    for (body, says) in [
        (r#"{"specs":["80:x"]}"#, "`x` is not a port"),
        (r#"{"specs":["80/ip"]}"#, "`ip` is not a protocol"),
        (r#"{"specs":["a:1:2"]}"#, "`a` is not an IP address"),
        (r#"{"specs":["1-2:3-5"]}"#, "differ in length"),
        (r#"{"specs":["80"],"from":["10.0.0.0/33"]}"#, "body"),
        (r#"{"specs":["80"],"form":[]}"#, "form"),
    ] {
        daemon.refused("POST", path, Some(body), 400, "invalid", says).await;
    }
    daemon.refused("DELETE", path, None, 400, "invalid", "specs").await;
    daemon.refused("DELETE", &format!("{path}?specs=80,x"), None, 400, "invalid", "`x`").await;
    daemon.refused("DELETE", &format!("{path}?specs=80"), None, 404, "not_found", "web").await;
    for option in [r#""internal":true"#, r#""masquerade":false"#, r#""mss_clamp":true"#, r#""host_ips":["::1"]"#] {
        let body = format!("{{{option}}}");
        daemon.refused("PATCH", "/v1/bridges/sw0", Some(&body), 400, "invalid", "no gateway").await;
    }
}

#[tokio::test]
async fn bodies_of_another_kind_and_size_are_refused() {
    let daemon = Daemon::start();
    let form = b"POST /v1/bridges HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
        Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 2\r\n\r\n{}";
    let (status, error) = daemon.raw(form).await;
    assert_eq!((status, &error["code"]), (415, &json!("invalid")));
    let large = format!(r#"{{"name":"{}"}}"#, "x".repeat(REQUEST_BYTES_MAX));
    daemon.refused("POST", "/v1/bridges", Some(&large), 413, "too_large", "65536").await;
    let (status, _) = daemon.raw(b"nonsense\r\n\r\n").await;
    assert_eq!(status, 400);
    let header = format!("GET /v1/ping HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(2 * HEADER_BYTES_MAX));
    assert_eq!(daemon.raw(header.as_bytes()).await.0, 431);
}

#[tokio::test]
async fn connections_are_bounded_and_the_next_one_waits() {
    let daemon = Daemon::start();
    let mut open = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        open.push(daemon.connect().await);
    }
    let ping = daemon.ask("GET", "/v1/ping", None);
    tokio::pin!(ping);
    assert!(tokio::time::timeout(Duration::from_millis(200), ping.as_mut()).await.is_err(), "one too many was served");
    open.pop();
    let (status, _) = tokio::time::timeout(Duration::from_secs(30), ping).await.expect("served once one was closed");
    assert_eq!(status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_dawdles_is_cut_off() {
    let daemon = Daemon::start();
    let mut stream = daemon.connect().await;
    stream.write_all(b"GET /v1/ping HTTP/1.1\r\nHost:").await.expect("writes");
    let mut answer = Vec::new();
    // Paused time jumps to the next timer when everybody waits.
    let _ = tokio::time::timeout(3 * HEADER_TIMEOUT, stream.read_to_end(&mut answer)).await.expect("was cut off");
    let (status, error) = daemon
        .raw(b"POST /v1/bridges HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 100\r\n\r\n{\"name\"")
        .await;
    assert_eq!((status, &error["code"]), (408, &json!("invalid")));
}

#[tokio::test]
async fn a_stopping_daemon_refuses_changes_and_still_shows() {
    let daemon = Daemon::start();
    assert_eq!(daemon.ask("POST", "/v1/shutdown", Some(r#"{"cleanup":true}"#)).await, (202, Value::Null));
    assert!(daemon.service.stop_requested().await.cleanup);
    daemon.refused("POST", "/v1/bridges", Some(r#"{"name":"sw0","l2":true}"#), 503, "stopping", "stopping").await;
    assert_eq!(daemon.ask("GET", "/v1/bridges", None).await.0, 200);
    daemon.stop.send_replace(true);
}

#[tokio::test]
async fn a_slow_command_does_not_delay_a_ping() {
    let daemon = Daemon::start();
    let service = daemon.service.clone();
    let (enough, waits) = std::sync::mpsc::channel();
    let slow = tokio::spawn(async move {
        service
            .change(move |_| {
                // It lasts as long as the pings do, however long that is.
                let _ = waits.recv();
                Ok(())
            })
            .await
    });
    for _ in 0..10 {
        let ping = tokio::time::timeout(Duration::from_secs(30), daemon.ask("GET", "/v1/ping", None));
        assert_eq!(ping.await.expect("an answer meanwhile").0, 200);
    }
    assert!(!slow.is_finished());
    enough.send(()).expect("it still runs");
    slow.await.expect("runs").expect("works");
}
