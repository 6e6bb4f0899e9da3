//! Names of containers, and of everybody else: Docker's resolver in each container, 127.0.0.11.
//!
//! It answers for its network, and asks the host's resolver for the rest *from the container's namespace*: what it sends
//! goes through the driver as the container's own traffic.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use vswitch_tests::contact;
use vswitch_tests::outside::near;

use super::findings::Findings;
use crate::world::World;

/// The resolver of the world outside, the machine on the host's wire.
pub(crate) const RESOLVER: &str = "198.18.0.1";
/// What that one knows: every name has this address.
const ANSWER: [u8; 4] = [203, 0, 113, 80];

/// By the container's name, by `--network-alias`, by a name of the world's.
pub(crate) fn resolved(world: &World, findings: &mut Findings) {
    findings.group("names", |findings| {
        let server = world.start("server", "--network n1 --network-alias www")?;
        let second = world.start("second", "--network n1 --network-alias www")?;
        let stranger = world.start("stranger", "--network n2")?;
        world.start("asker", "--network n1")?;
        let docker = &world.docker;
        let ask = |who: &str, name: &str| docker.exec(who, &format!("nslookup -type=a {name} 127.0.0.11"));
        let knows = |answer: io::Result<String>, address: io::Result<std::net::IpAddr>| {
            let (answer, address) = (answer?, address?.to_string());
            let found = answer.lines().any(|line| line.trim_end().ends_with(&format!(" {address}")));
            if found { Ok(answer) } else { Err(io::Error::other(format!("{address} is not in: {answer}"))) }
        };
        let address = || server.address("n1", false);
        findings.works("DNS: a container's name", knows(ask("asker", "server"), address()));
        findings.works(
            "DNS: --network-alias, two containers by one name",
            knows(ask("asker", "www"), address()).and_then(|answer| knows(Ok(answer), second.address("n1", false))),
        );
        findings.works("DNS: the name of a container of another network", knows(ask("stranger", "server"), address()));
        let answering = Resolver::start(world)?;
        let outside = ask("asker", "www.example.com");
        drop(answering);
        findings.works("DNS: a name of the world outside", knows(outside, Ok(ANSWER.into())));
        drop(stranger);
        docker.remove(&["server", "second", "stranger", "asker"])
    });
}

/// A name server on the machine `near` that answers every question for an address with [`ANSWER`].
struct Resolver {
    stop: std::sync::Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Resolver {
    fn start(world: &World) -> io::Result<Self> {
        let socket = contact::udp(world.lab.near(), false, 53)?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        debug_assert_eq!(near(false).to_string(), RESOLVER);
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let stopped = std::sync::Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut buffer = [0; 512];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                let from: SocketAddr = from;
                if let Some(answer) = answer(&buffer[..length]) {
                    // Who is gone does not want it.
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The answer to a query with one question (RFC 1035 section 4).
fn answer(query: &[u8]) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    let name = query.get(HEADER..)?.iter().position(|&byte| byte == 0)?;
    // The name's last byte, the type and the class.
    let question = query.get(HEADER..HEADER + name + 5)?;
    // Id; a recursive answer without error; one question, one answer.
    let mut answer = query.get(..2)?.to_vec();
    answer.extend([0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    answer.extend(question);
    // The name is that at offset 12; type A, class IN, a minute, four bytes.
    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
    answer.extend(ANSWER);
    Some(answer)
}
