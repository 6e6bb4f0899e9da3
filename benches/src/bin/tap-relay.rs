//! `tap-relay`: joins two namespaces by TAP interfaces and does nothing else; see
//! [`vswitch_benches::lab::relay`].

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use vswitch_benches::lab::relay;

/// Joins two network namespaces: what either sends by its new `eth0` is written to the other's, as it is. It looks at
/// nothing, so it is not a switch but the least that one over TAP interfaces has to do. `lab` starts it.
#[derive(Debug, Parser)]
struct Arguments {
    /// The file of the one namespace, such as /run/netns/a
    first: PathBuf,
    /// That of the other one
    second: PathBuf,
}

fn main() -> ExitCode {
    let Arguments { first, second } = Arguments::parse();
    match relay::run([&first, &second]) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tap-relay: {error}");
            ExitCode::FAILURE
        }
    }
}
