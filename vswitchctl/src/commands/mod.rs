//! The commands: one file per group, each with its arguments, its execution and its text.

mod bridge;
mod completion;
mod conntrack;
mod daemon;
mod fdb;
mod port;
mod publish;
mod show;
mod stats;
mod uplink;
mod vxlan;

use clap::{Subcommand, ValueEnum};

use crate::client::Client;
use crate::failure::Failure;
use crate::output::{Output, Printer};

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    AddBr(bridge::AddBr),
    DelBr(bridge::DelBr),
    ListBr(bridge::ListBr),
    SetBr(bridge::SetBr),
    Show(show::Show),
    AddPort(port::AddPort),
    DelPort(port::DelPort),
    ListPorts(port::ListPorts),
    Publish(publish::Add),
    Unpublish(publish::Del),
    Ports(publish::List),
    AddVxlan(vxlan::AddVxlan),
    DelVxlan(vxlan::DelVxlan),
    AddRemote(vxlan::AddRemote),
    DelRemote(vxlan::DelRemote),
    AddUplink(uplink::AddUplink),
    DelUplink(uplink::DelUplink),
    Uplinks(uplink::List),
    Fdb(fdb::List),
    FdbAdd(fdb::Add),
    FdbDel(fdb::Del),
    FdbFlush(fdb::Flush),
    Conntrack(conntrack::List),
    ConntrackFlush(conntrack::Flush),
    Stats(stats::Stats),
    Ping(daemon::Ping),
    Version(daemon::Version),
    Shutdown(daemon::Shutdown),
    Completion(completion::Completion),
}

impl Command {
    /// Asks the daemon and renders the answer; a list without a bound is printed as it comes.
    pub(crate) async fn exec(self, client: &Client, printer: &mut Printer) -> Result<Output, Failure> {
        match self {
            Self::AddBr(command) => command.exec(client).await,
            Self::DelBr(command) => command.exec(client).await,
            Self::ListBr(command) => command.exec(client).await,
            Self::SetBr(command) => command.exec(client).await,
            Self::Show(command) => command.exec(client).await,
            Self::AddPort(command) => command.exec(client).await,
            Self::DelPort(command) => command.exec(client).await,
            Self::ListPorts(command) => command.exec(client).await,
            Self::Publish(command) => command.exec(client).await,
            Self::Unpublish(command) => command.exec(client).await,
            Self::Ports(command) => command.exec(client).await,
            Self::AddVxlan(command) => command.exec(client).await,
            Self::DelVxlan(command) => command.exec(client).await,
            Self::AddRemote(command) => command.exec(client).await,
            Self::DelRemote(command) => command.exec(client).await,
            Self::AddUplink(command) => command.exec(client).await,
            Self::DelUplink(command) => command.exec(client).await,
            Self::Uplinks(command) => command.exec(client).await,
            Self::Fdb(command) => command.exec(client).await,
            Self::FdbAdd(command) => command.exec(client).await,
            Self::FdbDel(command) => command.exec(client).await,
            Self::FdbFlush(command) => command.exec(client).await,
            Self::Conntrack(command) => command.exec(client, printer).await,
            Self::ConntrackFlush(command) => command.exec(client).await,
            Self::Stats(command) => command.exec(client).await,
            Self::Ping(command) => command.exec(client).await,
            Self::Version(command) => command.exec(client).await,
            Self::Shutdown(command) => command.exec(client).await,
            Self::Completion(command) => command.exec(),
        }
    }
}

/// A switch of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OnOff {
    On,
    Off,
}

impl From<OnOff> for bool {
    fn from(value: OnOff) -> Self {
        value == OnOff::On
    }
}

fn on_off(value: bool) -> &'static str {
    if value { "on" } else { "off" }
}
