//! No switch at all: [`crate::lab::relay`], which writes what it reads: between two containers, or between a container and a host's
//! interface whose packets tc redirects to a TAP and back, which is how a shared uplink keeps super-frames whole.

use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use vswitch::io::tap::TX_QUEUE_LEN;
use vswitch_tests::namespace::Namespace;
use vswitch_tests::process::{Background, wait_until};

use super::{Container, Setup, raise};
use crate::lab::relay::IFNAME;

const LIMIT: Duration = Duration::from_secs(5);

/// Joins the first two of `containers`.
pub(super) fn join(containers: &[Container], setup: &Setup, directory: &Path) -> io::Result<Background> {
    let [first, second, ..] = containers else { return Err(io::Error::other("a relay has two ends")) };
    let process = start([&first.namespace, &second.namespace], setup, directory)?;
    for end in [first, second] {
        raise(end, setup.family)?;
    }
    Ok(process)
}

/// Joins `container` and the interface `uplink` of `host`: nothing of what comes in there is the host's.
pub(super) fn join_uplink(
    host: &Namespace,
    uplink: &str,
    container: &Container,
    setup: &Setup,
    directory: &Path,
) -> io::Result<Background> {
    let process = start([host, &container.namespace], setup, directory)?;
    host.ip(&format!("link set {IFNAME} up"))?;
    for (from, to) in [(uplink, IFNAME), (IFNAME, uplink)] {
        host.run(&format!("tc qdisc add dev {from} clsact"))?;
        let everything = "protocol all u32 match u32 0 0";
        host.run(&format!("tc filter add dev {from} ingress {everything} action mirred egress redirect dev {to}"))?;
    }
    raise(container, setup.family)?;
    Ok(process)
}

/// Starts the program, which makes an interface in each of the namespaces.
fn start(ends: [&Namespace; 2], setup: &Setup, directory: &Path) -> io::Result<Background> {
    let program = std::env::current_exe()?.with_file_name("tap-relay");
    let mut command = Command::new(&program);
    command.args(ends.map(Namespace::path));
    let mut process = Background::start(&mut command, &directory.join("relay.log"))?;
    for end in ends {
        let made = wait_until("the relay's interface", LIMIT, || end.ip(&format!("link show dev {IFNAME}")).ok());
        if let Err(error) = made {
            let ended = if process.has_ended() { "; it has ended" } else { "" };
            return Err(io::Error::other(format!("{error}{ended}: {}", process.output())));
        }
        end.ip(&format!("link set {IFNAME} mtu {} txqueuelen {TX_QUEUE_LEN}", setup.mtu))?;
    }
    Ok(process)
}
