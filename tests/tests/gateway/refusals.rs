//! A host port has one owner, who is named.

use std::io::ErrorKind;
use std::net::{TcpListener, UdpSocket};

use vswitch_tests::contact::{Protocol, Server};
use vswitch_tests::lab::must;
use vswitch_tests::outside::host;
use vswitch_tests::process::{PATIENCE, wait_until};
use vswitch_tests::requirement;

use super::{finish, lab, lab_with};

#[test]
fn a_port_of_a_program_is_refused_with_its_name() {
    let Some((mut lab, _)) = lab_with(&["a"]) else { return };
    if !requirement::program("socat") {
        return;
    }
    for words in ["TCP4-LISTEN:8080,fork", "UDP4-RECVFROM:5353,fork", "TCP6-LISTEN:8081,ipv6only=1,fork"] {
        let mut socat = lab.host().command("socat");
        socat.args([words, "/dev/null"]);
        lab.start(socat);
    }
    must(wait_until("socat", PATIENCE, || {
        let sockets = lab.host().run("ss -Hltun").ok()?;
        ["8080", "5353", "8081"].iter().all(|port| sockets.contains(port)).then_some(())
    }));
    for (spec, port) in [("8080:80", "8080"), ("5353:53/udp", "5353"), ("8081:80", "8081"), ("8000-8100:80-180", "808")]
    {
        let refusal = lab.ctl_refused(&["publish", "br0", "a", spec]);
        for word in [port, "socat"] {
            assert!(refusal.contains(word), "`{spec}`: no {word} in: {refusal}");
        }
    }
    assert_eq!(lab.ctl(&["ports"]), "");
    // Another protocol, another family, a range with a free one: all of that is free.
    lab.ctl(&["publish", "br0", "a", "8080:80/udp", "5353:53/tcp", "0.0.0.0:8081:80", "8080-8090:99"]);
    finish(lab);
}

#[test]
fn a_published_port_is_refused_with_its_owner() {
    let Some((mut lab, _)) = lab_with(&["a"]) else { return };
    lab.attach("br0", "other", "");
    lab.ctl(&["publish", "br0", "a", "8080:80", "9000-9010:9000-9010/udp", "127.0.0.1:7000:80"]);
    for spec in
        ["8080:81", "127.0.0.1:8080:80", "[::1]:8080:80", "9010-9020:1-11/udp", "7000:80", "8000-9000:8000-9000"]
    {
        let refusal = lab.ctl_refused(&["publish", "br0", "other", spec]);
        assert!(refusal.contains('a') && refusal.contains("br0"), "`{spec}`: {refusal}");
    }
    // A refused port attaches nothing either.
    lab.add_container("late");
    let netns = lab.netns("late");
    let refusal = lab.ctl_refused(&["add-port", "br0", &netns, "--name", "late", "--publish", "8080:80"]);
    assert!(refusal.contains("8080"), "{refusal}");
    assert!(!lab.ctl(&["list-ports"]).contains("late"));
    finish(lab);
}

#[test]
fn a_published_port_is_reserved_against_the_hosts_programs() {
    let Some((lab, _)) = lab_with(&["a"]) else { return };
    let tcp = |address: &str| lab.host().enter(|| TcpListener::bind(address).map(drop));
    let udp = |address: &str| lab.host().enter(|| UdpSocket::bind(address).map(drop));
    must(tcp("0.0.0.0:8080"));
    lab.ctl(&["publish", "br0", "a", "8080:80", "40000-45000:40000-45000/udp"]);
    for address in ["0.0.0.0:8080", "127.0.0.1:8080", "198.18.0.2:8080", "[::]:8080"] {
        let error = tcp(address).expect_err(address);
        assert!([ErrorKind::AddrInUse, ErrorKind::PermissionDenied].contains(&error.kind()), "{address}: {error}");
    }
    let error = udp("0.0.0.0:41234").expect_err("a published port");
    assert!([ErrorKind::AddrInUse, ErrorKind::PermissionDenied].contains(&error.kind()), "{error}");
    // Nor does the kernel choose them for anybody.
    let sockets: Vec<UdpSocket> = (0..2000).map(|_| must(lab.host().enter(|| UdpSocket::bind("0.0.0.0:0")))).collect();
    let chosen = sockets.iter().filter_map(|socket| socket.local_addr().ok());
    assert_eq!(chosen.filter(|address| (40_000..=45_000).contains(&address.port())).count(), 0);
    drop(sockets);
    // Given back, they are the programs' again.
    lab.ctl(&["unpublish", "br0", "a", "8080:80", "40000-45000:40000-45000/udp"]);
    must(tcp("0.0.0.0:8080"));
    must(tcp("[::]:8080"));
    must(udp("0.0.0.0:41234"));
    finish(lab);
}

#[test]
fn a_published_port_is_reserved_while_no_daemon_runs() {
    let Some((mut lab, _)) = lab_with(&["a"]) else { return };
    lab.ctl(&["publish", "br0", "a", "8080:80"]);
    lab.kill_daemon();
    lab.start_daemon();
    let server = must(Server::any(Protocol::Tcp, lab.container("a"), false, 80));
    let target = std::net::SocketAddr::new(host(false), 8080);
    must(wait_until("the way in", PATIENCE, || server.meet(lab.far(), target).ok()));
    let error = lab.host().enter(|| TcpListener::bind("0.0.0.0:8080").map(drop)).expect_err("a published port");
    assert!([ErrorKind::AddrInUse, ErrorKind::PermissionDenied].contains(&error.kind()), "{error}");
    finish(lab);
}

#[test]
fn what_makes_no_sense() {
    let Some(mut lab) = lab() else { return };
    lab.add_bridge("br0", super::DUAL);
    lab.add_bridge("flat", "--l2");
    lab.add_bridge("back", "--subnet 10.3.0.0/24 --internal");
    lab.attach("br0", "a", "");
    lab.attach("flat", "l", "");
    lab.attach("back", "i", "");
    for (words, wanted) in [
        (&["publish", "br0", "a", "192.0.2.77:80:80"][..], "192.0.2.77"),
        (&["publish", "br0", "nobody", "80:80"], "nobody"),
        (&["publish", "nowhere", "a", "80:80"], "nowhere"),
        (&["publish", "flat", "l", "80:80"], "address"),
        (&["publish", "back", "i", "80:80"], "internal"),
        (&["unpublish", "br0", "a", "80:80"], "80"),
    ] {
        let refusal = lab.ctl_refused(words);
        assert!(refusal.contains(wanted), "{words:?}: {refusal}");
    }
    lab.ctl(&["publish", "br0", "a", "80:80"]);
    let refusal = lab.ctl_refused(&["set-br", "br0", "--internal", "on"]);
    assert!(refusal.contains("publish"), "{refusal}");
    for words in
        [&["publish", "br0", "a", "0:80"][..], &["publish", "br0", "a", "80:80/icmp"], &["publish", "br0", "a"]]
    {
        assert_eq!(lab.try_ctl(words).status.code(), Some(2), "{words:?}");
    }
    finish(lab);
}
