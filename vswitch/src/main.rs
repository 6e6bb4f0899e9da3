//! `vswitch`, the daemon: arguments and logging; the rest is [`vswitch::daemon`].

mod heap;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgAction, CommandFactory, Parser, ValueEnum};
use clap_complete::Shell;
use tracing_subscriber::EnvFilter;
use vswitch::control::containers::{EngineSockets, unix_socket};
use vswitch::control::docker::SOCKET_DEFAULT;
use vswitch::control::uplink::options::{self, UplinkOption};
use vswitch::daemon::{
    self, Options, WORKERS_MAX, XDP_BUSY_POLL_US_MAX, XDP_CHUNKS_DEFAULT, XDP_CHUNKS_MAX, XDP_CHUNKS_MIN,
};

/// A virtual switch for containers: bridges, and ports in network namespaces.
///
/// The daemon stays in the foreground and logs to stderr. It is driven with vswitchctl, or by HTTP
/// on its socket. Everything that is configured survives a restart; so do the containers'
/// interfaces and connections.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    /// The control socket.
    #[arg(long, value_name = "PATH", env = "VSWITCH_SOCKET", default_value = "/run/vswitch/vswitch.sock")]
    socket: PathBuf,

    /// Where the configuration is kept.
    #[arg(long, value_name = "DIR", env = "VSWITCH_STATE_DIR", default_value = "/var/lib/vswitch")]
    state_dir: PathBuf,

    /// Be Docker's network driver `vswitch` (`docker network create -d vswitch`), on this socket. A socket
    /// that systemd passes under the name `docker` is taken instead, also without this option.
    #[arg(long, value_name = "PATH", num_args = 0..=1, require_equals = true, default_missing_value = SOCKET_DEFAULT)]
    docker: Option<PathBuf>,

    /// The number of datapath threads [default: one per core, at most 8].
    #[arg(long, value_name = "N", value_parser = parse_workers)]
    workers: Option<usize>,

    /// An interface of the host through which the switch's traffic leaves, too, and how it is taken
    /// there: at the tc hook, or by AF_XDP (repeatable). `auto` is the interface of the default route, and
    /// touched only when something needs it [default: auto].
    #[arg(long = "uplink", value_name = "auto|none|IFACE[,tc|,xdp=native|generic]")]
    uplinks: Vec<UplinkOption>,

    /// Whether neighbours of one flow are merged into super-frames towards interfaces that take them.
    /// Off is for measurements: what it saves is the receiver's work per packet.
    #[arg(long, value_name = "on|off", default_value = "on", value_parser = parse_switch, action = ArgAction::Set)]
    coalesce: bool,

    /// The memory that each datapath thread receives AF_XDP frames into, in chunks of 4 KB. It is pinned,
    /// with the rest of the thread's frames, once the thread has an AF_XDP port.
    #[arg(long, value_name = "N", default_value_t = XDP_CHUNKS_DEFAULT, value_parser = parse_chunks)]
    xdp_chunks: u32,

    /// Let threads poll the drivers of AF_XDP ports, up to so many microseconds at a time, instead of
    /// sleeping until an interrupt: shorter round trips, for a core each [default: off].
    #[arg(long, value_name = "US", value_parser = clap::value_parser!(u32).range(1..=i64::from(XDP_BUSY_POLL_US_MAX)))]
    xdp_busy_poll: Option<u32>,

    /// The socket at which Docker answers questions about its containers, for `container:NAME` [default:
    /// that in $DOCKER_HOST, or /var/run/docker.sock].
    #[arg(long, value_name = "PATH", value_parser = parse_engine)]
    docker_host: Option<PathBuf>,

    /// What to log: error, warn, info, debug or trace, also per module as in RUST_LOG.
    #[arg(long, value_name = "LEVEL", env = "RUST_LOG", default_value = "info")]
    log: EnvFilter,

    /// Print the completion script of a shell, and do nothing else.
    #[arg(long, value_name = "SHELL", value_enum)]
    completion: Option<Supported>,
}

/// The shells that there are completions for, as of vswitchctl.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Supported {
    Bash,
    Zsh,
    Fish,
}

const EXAMPLES: &str = "\
Examples:
  Start the switch, and attach two containers to a bridge:
    vswitch &
    vswitchctl ping --timeout 5s
    ip netns add web; ip netns add db
    vswitchctl add-br br0
    vswitchctl add-port br0 web
    vswitchctl add-port br0 db

  A second switch beside the first:
    vswitch --socket /run/vswitch/two.sock --state-dir /var/lib/vswitch-two

  Share an interface other than that of the default route, and do so from the beginning:
    vswitch --uplink eth1
    vswitch --uplink eth1,xdp=native --uplink auto

  Be Docker's network driver:
    vswitch --docker &
    docker network create -d vswitch net1
    docker run --network net1 -p 8080:80 nginx

  See more of what it does:
    vswitch --log debug

  Completion of its arguments in this shell:
    source <(vswitch --completion bash)

Stop it with SIGTERM or `vswitchctl shutdown`: the containers' interfaces stay for the next start.
`vswitchctl shutdown --cleanup` removes them, too.";

fn parse_workers(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(workers @ 1..=WORKERS_MAX) => Ok(workers),
        _ => Err(format!("a number from 1 to {WORKERS_MAX} is needed")),
    }
}

fn parse_switch(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("on or off is needed".to_owned()),
    }
}

fn parse_chunks(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(chunks) if (XDP_CHUNKS_MIN..=XDP_CHUNKS_MAX).contains(&chunks) => Ok(chunks),
        _ => Err(format!("a number from {XDP_CHUNKS_MIN} to {XDP_CHUNKS_MAX} is needed")),
    }
}

fn parse_engine(text: &str) -> Result<PathBuf, String> {
    unix_socket(text).ok_or_else(|| "an absolute path is needed, or unix:// and one".to_owned())
}

fn completion_script(shell: Supported) -> Vec<u8> {
    let shell = match shell {
        Supported::Bash => Shell::Bash,
        Supported::Zsh => Shell::Zsh,
        Supported::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "vswitch", &mut script);
    script
}

fn main() -> ExitCode {
    heap::give_back_what_is_free();
    let arguments = Arguments::parse();
    if let Some(shell) = arguments.completion {
        return match std::io::stdout().write_all(&completion_script(shell)) {
            Ok(()) => ExitCode::SUCCESS,
            // Whoever reads has read enough.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("vswitch: the completion script cannot be written: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let uplinks = match options::check(arguments.uplinks) {
        Ok(uplinks) => uplinks,
        Err(why) => Arguments::command().error(clap::error::ErrorKind::ArgumentConflict, why).exit(),
    };
    tracing_subscriber::fmt().with_env_filter(arguments.log).with_writer(std::io::stderr).with_ansi(false).init();
    let mut engines = EngineSockets::from_environment(|name| std::env::var(name).ok());
    engines.docker = arguments.docker_host.unwrap_or(engines.docker);
    let options = Options {
        socket: arguments.socket,
        state_dir: arguments.state_dir,
        docker: arguments.docker,
        workers: arguments.workers,
        uplinks,
        coalesce: arguments.coalesce,
        xdp_chunks: arguments.xdp_chunks,
        xdp_busy_poll_us: arguments.xdp_busy_poll,
        engines,
    };
    match daemon::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vswitch: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completion_scripts_know_the_options() {
        for shell in [Supported::Bash, Supported::Zsh, Supported::Fish] {
            let script = String::from_utf8(completion_script(shell)).expect("text");
            for option in ["state-dir", "docker", "workers", "xdp-chunks", "xdp-busy-poll", "completion"] {
                assert!(script.contains(option), "{shell:?} does not know --{option}");
            }
        }
    }
}
