//! `lab`: the switch side by side with its peers; see [`vswitch_benches::lab`].
// A signal handler has to be installed.
#![allow(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use clap::Parser;
use vswitch_benches::lab::peer::{Peer, Setup};
use vswitch_benches::lab::report;
use vswitch_benches::lab::run::{Plan, measure};
use vswitch_benches::lab::workload::{Load, Workload};
use vswitch_tests::daemon::binaries;
use vswitch_tests::namespace;
use vswitch_tests::process::INTERRUPTED;

/// Measures the switch side by side with the kernel's bridge and Open vSwitch, in interleaved rounds.
///
/// Needs root, and for all workloads: iperf3, sockperf, nginx, wrk, ethtool; for the peer `ovs`:
/// Open vSwitch (Debian: openvswitch-switch; its service need not run).
#[derive(Debug, Parser)]
#[command(after_help = "Examples:\n  \
    lab                                                    everything, five rounds\n  \
    lab --workloads tcp1 --peers vswitch,bridge            one number, quickly\n  \
    lab --peers vswitch,vswitch@/tmp/old,bridge            two builds against each other\n  \
    lab --peers vxlan,vxlan-kernel --reference vxlan-kernel --workloads tcp1,tcp4,rtt,raw64,udp64")]
struct Arguments {
    /// The switches: vswitch, vswitch@BIN_DIR (another build), bridge, bridge-plain (no
    /// netfilter hooks), ovs, ovs-tso; and overlays of two hosts: vxlan, vxlan@BIN_DIR, vxlan-kernel
    #[arg(long, value_delimiter = ',', default_value = "vswitch,bridge,ovs")]
    peers: Vec<Peer>,
    /// The workloads: tcp1, tcp4, tcp1r, rtt, conn, req, raw64, udp64
    #[arg(long, value_delimiter = ',', default_value = "tcp1,tcp4,rtt,conn,req,raw64,udp64")]
    workloads: Vec<Workload>,
    /// How often each workload runs over each switch
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long one run lasts
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Threads of the HTTP client of conn and req, and as many processes of the server. One of each
    /// makes, with the switch, three busy threads
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    wrk_threads: u16,
    /// Connections that the HTTP client of conn and req holds at one time; not fewer than its threads
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=4000))]
    wrk_connections: u16,
    /// Containers attached to each switch; all but two are idle
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(2..=4000))]
    ports: u16,
    /// Where vswitch and vswitchctl are; default: beside this program
    #[arg(long)]
    bin_dir: Option<PathBuf>,
    /// Further arguments of the vswitch daemon, separated by spaces, such as "--workers 2"
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    vswitch_args: String,
    /// The MTU of the underlay of vxlan and vxlan-kernel
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u32).range(1330..=65_535))]
    underlay_mtu: u32,
    /// Give the underlay no segmentation offload, as a plain network card: all is cut before it crosses
    #[arg(long)]
    underlay_cuts: bool,
    /// Ratios are to this peer
    #[arg(long, default_value = "bridge")]
    reference: Peer,
    /// Write every run to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    match execute(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab: {error}");
            ExitCode::FAILURE
        }
    }
}

fn execute(arguments: &Arguments) -> std::io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(std::io::Error::other("namespaces need root; run it with sudo"));
    }
    let load = Load {
        seconds: arguments.seconds,
        wrk_threads: arguments.wrk_threads,
        wrk_connections: arguments.wrk_connections,
    };
    if load.wrk_connections < load.wrk_threads {
        return Err(std::io::Error::other("each thread of wrk needs a connection: raise --wrk-connections"));
    }
    on_signal_set_flag();
    namespace::sweep()?;
    let directory = tempfile::Builder::new().prefix("vswitch-lab-").tempdir()?;
    let ours = arguments.peers.iter().any(|peer| matches!(peer, Peer::Vswitch(None) | Peer::Vxlan(None)));
    let setup = Setup {
        ports: usize::from(arguments.ports),
        binaries: match &arguments.bin_dir {
            Some(directory) => directory.clone(),
            None if ours => binaries()?,
            None => PathBuf::new(),
        },
        vswitch_args: arguments.vswitch_args.split_whitespace().map(str::to_owned).collect(),
        underlay_mtu: arguments.underlay_mtu,
        cuts: arguments.underlay_cuts,
        directory: directory.path().to_owned(),
    };
    let plan = Plan {
        peers: arguments.peers.clone(),
        workloads: arguments.workloads.clone(),
        rounds: arguments.rounds,
        load,
        setup,
    };
    let runs = measure(&plan, |run| eprintln!("{}", report::line(run)))?;
    if let Some(path) = &arguments.json {
        let document = serde_json::json!({
            "machine": machine(),
            "load": plan.load,
            "ports": arguments.ports,
            "vswitch_args": arguments.vswitch_args,
            "underlay": { "mtu": arguments.underlay_mtu, "cuts": arguments.underlay_cuts },
            "runs": runs,
        });
        std::fs::write(path, serde_json::to_vec_pretty(&document)?)?;
    }
    println!("{}\n{load}", machine());
    println!("{}", report::table(&runs, &arguments.reference.to_string()));
    Ok(())
}

/// Kernel and cores, in one line.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let model = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name.trim().to_owned()))
        .unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let netfilter = if std::path::Path::new("/proc/sys/net/bridge").exists() { "with" } else { "without" };
    format!("Linux {}, {cores} cores, {model}, {netfilter} br_netfilter", read("/proc/sys/kernel/osrelease").trim())
}

/// SIGINT and SIGTERM end the measurement early and in order: every wait returns, and everything is
/// removed on the way out.
fn on_signal_set_flag() {
    extern "C" fn set_flag(_signal: libc::c_int) {
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    let handler = set_flag as extern "C" fn(libc::c_int) as libc::sighandler_t;
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        unsafe { libc::signal(signal, handler) };
    }
}
