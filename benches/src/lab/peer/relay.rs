//! No switch at all: [`relay`], which writes what it reads.

use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use vswitch::io::tap::TX_QUEUE_LEN;
use vswitch_tests::process::{Background, wait_until};

use super::{Container, Setup};
use crate::lab::relay;

const LIMIT: Duration = Duration::from_secs(5);

/// Joins the first two of `containers`.
pub(super) fn join(containers: &[Container], setup: &Setup, directory: &Path) -> io::Result<Background> {
    let ends = containers.get(..2).ok_or_else(|| io::Error::other("a relay has two ends"))?;
    let program = std::env::current_exe()?.with_file_name("tap-relay");
    let mut command = Command::new(&program);
    command.args(ends.iter().map(|end| end.namespace.path()));
    let mut process = Background::start(&mut command, &directory.join("relay.log"))?;
    for end in ends {
        let made = wait_until("the relay's interface", LIMIT, || end.namespace.ip("link show dev eth0").ok());
        if let Err(error) = made {
            let ended = if process.has_ended() { "; it has ended" } else { "" };
            return Err(io::Error::other(format!("{error}{ended}: {}", process.output())));
        }
        end.namespace.ip(&format!("link set {} mtu {} txqueuelen {TX_QUEUE_LEN}", relay::IFNAME, setup.mtu))?;
        end.namespace.ip(&format!("addr add {} dev {}", setup.family.assignment(end.address), relay::IFNAME))?;
        end.namespace.ip(&format!("link set {} up", relay::IFNAME))?;
    }
    Ok(process)
}
