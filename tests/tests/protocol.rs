//! The control socket under abuse: whatever comes in, the answer is clear, and the daemon goes on.

use std::io::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use vswitch::api;
use vswitch_tests::Lab;
use vswitch_tests::http::{self, connect, read_answer, request, send};
use vswitch_tests::lab::must;

/// The daemon answers a ping, quickly.
#[track_caller]
fn assert_alive(lab: &Lab) {
    let started = Instant::now();
    let pong: api::Pong = lab.get("/v1/ping");
    assert_eq!(pong.pid, lab.daemon().pid());
    assert!(started.elapsed() < Duration::from_secs(5), "a ping took {:?}", started.elapsed());
}

#[test]
fn bad_requests_are_refused_in_words() {
    let Some(lab) = Lab::new() else { return };
    lab.add_bridge("br0", "");
    let before = lab.configuration();
    let cases: [(&str, &str, Option<&str>, u16); 14] = [
        ("GET", "/", None, 404),
        ("GET", "/v1/nonsense", None, 404),
        ("GET", "/v2/ping", None, 404),
        ("GET", "/v1/bridges/nope", None, 404),
        ("PUT", "/v1/bridges", Some("{}"), 405),
        ("DELETE", "/v1/ping", None, 405),
        ("POST", "/v1/bridges", Some(""), 400),
        ("POST", "/v1/bridges", Some("{"), 400),
        ("POST", "/v1/bridges", Some("[]"), 400),
        ("POST", "/v1/bridges", Some("{}"), 400),
        ("POST", "/v1/bridges", Some(r#"{"name":"x","mtuu":1400}"#), 400),
        ("POST", "/v1/bridges", Some(r#"{"name":"x","mtu":"big"}"#), 400),
        ("POST", "/v1/bridges", Some(r#"{"name":"x","mtu":-1}"#), 400),
        ("PATCH", "/v1/bridges/br0", Some(r#"{"mtu":1}"#), 400),
    ];
    for (method, path, body, status) in cases {
        let answer = must(request(lab.socket(), method, path, body));
        assert_eq!(answer.status, status, "{method} {path} {body:?}: {}", answer.body);
        let error: api::Error = serde_json::from_str(&answer.body)
            .unwrap_or_else(|error| panic!("{method} {path} {body:?}: {error}: {:?}", answer.body));
        assert!(!error.message.is_empty());
    }
    let answer = must(request(lab.socket(), "POST", "/v1/bridges", Some(r#"{"name":"x","mtuu":1400}"#)));
    assert!(answer.body.contains("mtuu"), "a misspelt option is named: {}", answer.body);
    assert_eq!(lab.configuration(), before);
    assert_alive(&lab);
    lab.finish();
}

#[test]
fn an_oversized_request_is_refused_and_not_read() {
    let Some(lab) = Lab::new() else { return };
    let labels = "x".repeat(api::REQUEST_BYTES_MAX);
    let body = format!(r#"{{"name":"x","labels":{{"a":"{labels}"}}}}"#);
    let answer = must(request(lab.socket(), "POST", "/v1/bridges", Some(&body)));
    assert_eq!(answer.status, 413, "{}", answer.body);
    // A length that is only claimed.
    let head = "POST /v1/bridges HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n\
                Content-Length: 99999999999\r\n\r\n{";
    let answer = must(send(lab.socket(), head.as_bytes()));
    assert_eq!(answer.status, 413, "{}", answer.body);
    // An endless body in chunks.
    let mut stream = must(connect(lab.socket()));
    must(stream.write_all(
        b"POST /v1/bridges HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n\
          Transfer-Encoding: chunked\r\n\r\n",
    ));
    let chunk = format!("{:x}\r\n{}\r\n", 16 << 10, " ".repeat(16 << 10));
    for _ in 0..64 {
        // The daemon stops reading when it has seen enough: that may break the pipe.
        if stream.write_all(chunk.as_bytes()).is_err() {
            break;
        }
    }
    if let Ok(answer) = read_answer(&mut stream) {
        assert_eq!(answer.status, 413, "{}", answer.body);
    }
    assert_alive(&lab);
    lab.finish();
}

#[test]
fn what_is_not_http_does_no_harm() {
    let Some(lab) = Lab::new() else { return };
    let endless_header = format!("GET /v1/ping HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(1 << 20));
    let many_headers = format!("GET /v1/ping HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(10_000));
    let inputs: [&[u8]; 9] = [
        b"",
        b"\0\0\0\0",
        b"hello\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /v1/ping HTTP/9.9\r\n\r\n",
        b"GET /v1/ping HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/bridges HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n",
        endless_header.as_bytes(),
        many_headers.as_bytes(),
    ];
    for input in inputs {
        let mut stream = must(connect(lab.socket()));
        let _ = stream.write_all(input);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        if let Ok(answer) = read_answer(&mut stream) {
            assert!(answer.status >= 400, "{:?}… was answered with {}", &input[..input.len().min(40)], answer.status);
        }
    }
    // Random bytes, from a fixed seed.
    let mut bytes = vec![0; 4096];
    for seed in 0..50 {
        vswitch_tests::stream::fill(seed, 0, &mut bytes);
        let mut stream = must(connect(lab.socket()));
        let _ = stream.write_all(&bytes);
    }
    assert_alive(&lab);
    lab.finish();
}

#[test]
fn slow_clients_do_not_hold_up_others_and_are_sent_away() {
    let Some(lab) = Lab::new() else { return };
    let mut slow: Vec<_> = (0..50)
        .map(|_| {
            let mut stream = must(connect(lab.socket()));
            must(stream.write_all(b"GET /v1/ping HTT"));
            stream
        })
        .collect();
    assert_alive(&lab);
    lab.ctl(&["add-br", "br0", "--subnet", "10.1.0.0/24"]);
    // A header that is not finished in time ends the connection.
    let mut first = slow.remove(0);
    must(first.set_read_timeout(Some(Duration::from_secs(30))));
    let started = Instant::now();
    let mut rest = Vec::new();
    std::io::Read::read_to_end(&mut first, &mut rest).expect("the daemon closes the connection");
    assert!(started.elapsed() < Duration::from_secs(25), "{:?}", started.elapsed());
    lab.finish();
}

#[test]
fn two_hundred_clients_at_once_are_all_served() {
    let Some(lab) = Lab::new() else { return };
    lab.add_bridge("br0", "");
    let socket = lab.socket();
    thread::scope(|scope| {
        let clients: Vec<_> =
            (0..200).map(|_| scope.spawn(|| http::request(socket, "GET", "/v1/bridges", None))).collect();
        for client in clients {
            let answer = must(client.join().expect("no panic"));
            assert_eq!(answer.status, 200, "{}", answer.body);
        }
    });
    assert_alive(&lab);
    lab.finish();
}

#[test]
fn commands_from_many_clients_are_done_one_after_the_other() {
    let Some(mut lab) = Lab::new() else { return };
    lab.add_bridge("br0", "--subnet 10.1.0.0/24");
    let roles: Vec<String> = (0..16).map(|number| format!("c{number}")).collect();
    for role in &roles {
        lab.add_container(role);
    }
    thread::scope(|scope| {
        for role in &roles {
            let lab = &lab;
            scope.spawn(move || lab.ctl(&["add-port", "br0", &lab.netns(role)]));
        }
    });
    let mut addresses: Vec<String> = lab.ports("br0").iter().map(|port| port.ips[0].to_string()).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 16, "no address was given twice");
    lab.finish();
}
