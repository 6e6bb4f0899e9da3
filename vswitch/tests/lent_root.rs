//! Lent ports: made in the host's namespace, moved and configured by somebody else, who here is the test in Docker's
//! place. Needs root; everything happens in namespaces that each test makes and removes, the "host" being one of them.

#[path = "lent_root/lab.rs"]
mod lab;
mod namespaces;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use lab::{Container, Host, future};
use namespaces::{PATIENCE, can_run, eventually, run};
use vswitch::api::{BridgeChange, ErrorCode, PortState, PortType};
use vswitch::datapath::clock::now_s;

/// A port that publishes 8080:80, and one that publishes nothing, with their addresses.
const WEB: (&str, &str) = ("web", "10.77.0.2");
const DB: (&str, &str) = ("db", "10.77.0.3");

/// Both types, in turn.
fn each_type(test: &str, body: impl Fn(PortType)) {
    if can_run(test) {
        [PortType::Tap, PortType::Xdp].into_iter().for_each(body);
    }
}

/// A connection from `a` to `b`, whose address is `address`.
fn connect(a: &Container, b: &Container, address: &str) -> (TcpStream, TcpStream) {
    let listener = b.netns.inside(|| TcpListener::bind((address, 5001)).unwrap());
    let timeout = PATIENCE;
    let to = (address.parse::<std::net::IpAddr>().unwrap(), 5001).into();
    let one = a.netns.inside(|| TcpStream::connect_timeout(&to, timeout).unwrap());
    let (two, _) = listener.accept().unwrap();
    for stream in [&one, &two] {
        stream.set_read_timeout(Some(timeout)).unwrap();
    }
    (one, two)
}

fn exchange((one, two): &(TcpStream, TcpStream)) {
    for (mut from, mut to) in [(one, two), (two, one)] {
        from.write_all(b"still here").unwrap();
        let mut received = [0; 10];
        to.read_exact(&mut received).unwrap();
        assert_eq!(&received, b"still here");
    }
}

#[test]
fn a_lent_interface_carries_wherever_it_is_moved_and_ends_with_the_container() {
    each_type("a_lent_interface_carries_wherever_it_is_moved_and_ends_with_the_container", |port_type| {
        let mut host = Host::new();
        let before = host.interfaces();
        let (web_name, db_name) = (future(), future());
        let lent = host.lend(WEB, &web_name, port_type);
        let other = host.lend(DB, &db_name, port_type);

        // As it waits in the host's namespace: named, marked and shaped, and not the host's to use.
        let link = host.netns.netlink().link_by_name(&lent.ifname).unwrap().expect("is in the host's namespace");
        assert!(link.alias.ends_with(" br0 web lent"), "{link:?}");
        assert_eq!((link.mac, link.mtu, link.up), (Some(lent.mac.0), 1500, false));
        assert!(host.netns.netlink().addrs(Some(link.index)).unwrap().is_empty());
        let port = host.port("web").expect("is there");
        assert!(port.lent && port.state == PortState::Up, "{port:?}");
        assert_eq!((port.ifname.as_str(), port.netns.as_str()), (&*lent.ifname, &*format!("/run/netns/{web_name}")));

        let (web, db) = (Container::new(&web_name), Container::new(&db_name));
        web.borrow(&host, &lent, "10.77.0.2/24");
        db.borrow(&host, &other, "10.77.0.3/24");
        assert!(web.reaches("10.77.0.1") && web.reaches("10.77.0.3") && db.reaches("10.77.0.2"));
        eventually("the port says where it is", || host.port("web").is_some_and(|port| port.ifname == "eth0"));
        let inside = web.netns.netlink().link_by_name("eth0").unwrap().expect("was moved");
        assert!(inside.alias.ends_with(" br0 web lent"), "the alias went with it: {inside:?}");

        let connection = connect(&web, &db, "10.77.0.3");
        exchange(&connection);

        // What concerns the interface finds it where it is.
        let mtu = BridgeChange { mtu: Some(1400), ..BridgeChange::default() };
        host.with(move |switch| switch.change_bridge("br0", &mtu)).unwrap();
        assert_eq!(web.netns.netlink().link_by_name("eth0").unwrap().expect("is there").mtu, 1400);
        let stats = host.with(|switch| switch.stats_plan(Some("br0"), Some("web"))).unwrap();
        let stats = host.netns.inside(|| stats.gather());
        assert!(stats.ports[0].kernel_tx_dropped.is_some(), "{stats:?}");

        // A daemon that is killed and started again.
        for _ in 0..2 {
            host.kill();
            host.start();
            let port = host.port("web").expect("is still there");
            assert!(port.lent && port.state == PortState::Up && port.ifname == "eth0", "{port:?}");
            assert_eq!(port.publications.len(), 1);
            exchange(&connection);
            assert!(web.reaches("10.77.0.1") && db.reaches("10.77.0.2"));
        }
        assert_eq!(web.netns.exec(&["ip", "-4", "-o", "address", "show", "dev", "eth0"]).lines().count(), 1);

        // A container that ends takes its port with it, with what it published; here the daemon has opened the
        // interface in the container's namespace.
        drop(connection);
        web.netns.remove();
        eventually("the port goes with its container", || host.port("web").is_none());
        let lent = host.lend(WEB, &web_name, port_type);
        assert!(host.port("web").is_some_and(|port| port.publications.len() == 1), "the host's port was free again");
        // And here in the host's.
        let web = Container::new(&web_name);
        web.borrow(&host, &lent, "10.77.0.2/24");
        assert!(web.reaches("10.77.0.3"));
        web.netns.remove();
        eventually("the port goes with its container", || host.port("web").is_none());
        db.netns.remove();
        eventually("the port goes with its container", || host.ports().is_empty());
        eventually("nothing is left in the host's namespace", || host.interfaces() == before);
    });
}

#[test]
fn what_is_given_back_is_taken_back() {
    each_type("what_is_given_back_is_taken_back", |port_type| {
        let mut host = Host::new();
        let before = host.interfaces();
        let name = future();
        let container = Container::new(&name);
        for restart in [false, true] {
            let lent = host.lend(WEB, &name, port_type);
            container.borrow(&host, &lent, "10.77.0.2/24");
            assert!(container.reaches("10.77.0.1"));
            if restart {
                host.kill();
                host.start();
                assert!(container.reaches("10.77.0.1"));
            }
            container.give_back(&host, &lent);
            assert!(host.port("web").is_some(), "it is kept until it is taken back");
            assert!(host.interfaces().contains(&lent.ifname));
            host.with(|switch| switch.remove_port("br0", "web")).unwrap();
            assert!(host.ports().is_empty());
            eventually("the host is as it was", || host.interfaces() == before);
            assert!(container.netns.netlink().link_by_name("eth0").unwrap().is_none());
        }
        // One that nobody gave back is taken out of the container.
        let lent = host.lend(WEB, &name, port_type);
        container.borrow(&host, &lent, "10.77.0.2/24");
        eventually("the port says where it is", || host.port("web").is_some_and(|port| port.ifname == "eth0"));
        let refused = host.with(|switch| switch.detach_port("br0", "web", false)).unwrap_err();
        assert_eq!(refused.code, ErrorCode::Conflict);
        assert!(refused.remedy.contains("docker network disconnect"), "{refused:?}");
        let key = format!("/run/netns/{name}");
        host.with(move |switch| switch.detach_port("br0", &key, true)).unwrap();
        assert!(container.netns.netlink().link_by_name("eth0").unwrap().is_none());
        eventually("the host is as it was", || host.interfaces() == before);
    });
}

#[test]
fn what_happens_while_no_daemon_runs_is_noticed_by_the_next() {
    each_type("what_happens_while_no_daemon_runs_is_noticed_by_the_next", |port_type| {
        let mut host = Host::new();
        let before = host.interfaces();
        let names = [future(), future()];
        let waits = host.lend(("waits", "10.77.0.2"), &names[0], port_type);
        let ends = host.lend(("web", "10.77.0.3"), &names[1], port_type);
        let container = Container::new(&names[1]);
        container.borrow(&host, &ends, "10.77.0.3/24");

        // Between Docker's Join and the move, and back with the move in between.
        host.kill();
        host.start();
        assert!(host.port("waits").is_some_and(|port| port.state == PortState::Up && port.ifname == waits.ifname));
        host.kill();
        let late = Container::new(&names[0]);
        late.borrow(&host, &waits, "10.77.0.2/24");
        host.start();
        assert!(late.reaches("10.77.0.1") && late.reaches("10.77.0.3"));
        eventually("the port says where it is", || host.port("waits").is_some_and(|port| port.ifname == "eth0"));

        // The path is gone, or never led anywhere for us; a process is still there.
        let hidden = future();
        let lent = host.lend(("hidden", "10.77.0.4"), &hidden, port_type);
        host.kill();
        let inside = Container::new(&hidden);
        inside.borrow(&host, &lent, "10.77.0.4/24");
        let mut process = inside.process();
        inside.netns.remove();
        host.start();
        assert!(host.port("hidden").is_some_and(|port| port.state == PortState::Up && port.ifname == "eth0"));
        assert!(late.reaches("10.77.0.4"));
        process.kill().unwrap();
        process.wait().unwrap();
        eventually("the port goes with its container", || host.port("hidden").is_none());

        // A container that ended, and an interface that somebody removed.
        host.kill();
        container.netns.remove();
        run("ip", &["-n", &names[0], "link", "del", "eth0"]);
        host.start();
        assert_eq!(host.ports(), []);
        eventually("the host is as it was", || host.interfaces() == before);
        let again = host.lend(("web", "10.77.0.3"), &names[1], port_type);
        assert_eq!(again.ifname, ends.ifname, "nothing is in the way of a successor");
        // One that somebody removes at run time is not made again, bare as it would be.
        run("ip", &["-n", &host.netns.name, "link", "del", &again.ifname]);
        eventually("the port goes with its interface", || host.ports().is_empty());
    });
}

#[test]
fn one_that_nobody_comes_for_is_collected_after_a_while() {
    each_type("one_that_nobody_comes_for_is_collected_after_a_while", |port_type| {
        let host = Host::new();
        let before = host.interfaces();
        let (never, later) = (future(), future());
        host.lend(WEB, &never, port_type);
        host.lend(("later", "10.77.0.3"), &later, port_type);
        let container = Container::new(&later);
        let look = |seconds: u32| {
            host.with(move |switch| {
                switch.follow_lent(now_s() + seconds);
                switch.collect_unclaimed(now_s() + seconds);
                Ok(())
            })
            .unwrap();
        };
        look(100);
        assert_eq!(host.ports().len(), 2);
        look(1000);
        let ports = host.ports();
        assert_eq!(ports.len(), 1, "{ports:?}");
        assert_eq!(ports[0].name, "later", "its namespace exists: somebody is about to come");
        host.with(|switch| switch.remove_port("br0", "later")).unwrap();
        eventually("the host is as it was", || host.interfaces() == before);
        drop(container);
    });
}
