//! `vswitchctl`: controls the vswitch daemon.
//!
//! One invocation is one command: parse the command line, ask the daemon over its unix socket,
//! print the answer. Nothing is kept between invocations and nothing is known here that the daemon
//! does not say; the rules (which address is free, what may be changed) are the daemon's alone, so
//! that every client obeys the same ones. This side refuses only what is not well-formed.
//!
//! - [`commands`]: one file per group of commands, arguments and execution together
//! - [`client`]: the HTTP exchange
//! - [`failure`]: exit statuses and the sentence that goes with them
//! - [`output`]: text and JSON; [`units`]: sizes, rates and times

mod client;
mod commands;
mod failure;
mod output;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser};
use vswitch::units;

use crate::client::Client;
use crate::commands::Command;
use crate::failure::Failure;
use crate::output::{Output, Printer};

/// Controls the vswitch daemon: bridges, ports into network namespaces, and what passes through them.
#[derive(Debug, Parser)]
#[command(
    name = "vswitchctl",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    after_help = "\
Examples:
  vswitchctl add-br br0                         a bridge with the first free private network
  vswitchctl add-port br0 web                   gives the namespace `web` an eth0 on it
  vswitchctl show                               everything, as a tree
  vswitchctl list-ports br0 --json | jq '.[].ips'

`vswitchctl COMMAND --help` shows the options of a command, with examples.

Exit status: 0 done; 1 the daemon refused; 2 the command line is wrong; 3 the daemon cannot be reached."
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command understands.
#[derive(Debug, Args)]
struct Global {
    /// The daemon's control socket
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "VSWITCH_SOCKET",
        default_value = "/run/vswitch/vswitch.sock",
        value_hint = clap::ValueHint::FilePath,
        help_heading = "Global options"
    )]
    socket: PathBuf,
    /// Print one JSON document and nothing else
    #[arg(long, global = true, help_heading = "Global options")]
    json: bool,
}

fn main() -> ExitCode {
    let Cli { global, command } = Cli::parse();
    let client = Client::new(global.socket);
    let mut printer = Printer::new(global.json, std::io::stdout());
    let result = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::Usage(format!("cannot start: {e}")))
        .and_then(|runtime| runtime.block_on(command.exec(&client, &mut printer)));
    match result {
        Ok(output) => {
            let printed = printer.print(&output);
            if let Output { failure: Some(failure), .. } = output {
                return report(&failure);
            }
            // The command was carried out all the same; the status says that its words were lost.
            printed.map_or_else(|e| report(&Failure::Output(e.to_string())), |()| ExitCode::SUCCESS)
        }
        Err(failure) => report(&failure),
    }
}

fn report(failure: &Failure) -> ExitCode {
    eprintln!("vswitchctl: {}", output::visible(&failure.to_string()));
    ExitCode::from(failure.status())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_tree_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_teaches_by_example() {
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            let help = command.get_after_help().unwrap_or_else(|| panic!("{name} has no examples")).to_string();
            assert!(help.starts_with("Examples:\n"), "{name}");
            assert!(help.matches(&format!("vswitchctl {name}")).count() >= 2, "{name}: fewer than two examples");
        }
    }

    #[test]
    fn the_examples_of_every_command_parse() {
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            for line in help.lines().filter_map(|line| line.strip_prefix("  vswitchctl ")) {
                // Two spaces begin the explanation, a `|` or `>` another program.
                let line = line.split("  ").next().unwrap_or(line);
                let words = line.split_whitespace().take_while(|word| !matches!(*word, "|" | ">" | "&&"));
                let parsed = Cli::try_parse_from(std::iter::once("vswitchctl").chain(words));
                assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
            }
        }
    }
}
