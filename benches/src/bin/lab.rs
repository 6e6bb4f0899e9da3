//! `lab`: the switch side by side with its peers; see [`vswitch_benches::lab`].
// A signal handler has to be installed.
#![allow(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use clap::Parser;
use vswitch_benches::lab::peer::{Carry, Family, Gateway, Network, Ours, Overlay, Peer, Ports, Setup, Uplink, Way};
use vswitch_benches::lab::run::{Plan, measure};
use vswitch_benches::lab::workload::{Congestion, Job, Load, Workload};
use vswitch_benches::lab::{memory, report};
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
    lab --peers vswitch-xdp,vswitch-xdp-busy,bridge        AF_XDP ports, sleeping and busy polling\n  \
    lab --mtu 60000 --peers vswitch-xdp,bridge --workloads tcp1\n  \
    lab --uplink-cost --rounds 15 --seconds 1              what a shared uplink costs the host\n  \
    lab --memory --ports 100 --peers vswitch,vswitch-xdp   what ports cost in memory\n  \
    lab --overlay                                          VXLAN between two hosts, against the kernel's\n  \
    lab --nat --peers nat-kernel,docker0,nat-vswitch-tap   published ports and masquerade\n  \
    lab --peers bridge,relay,vswitch                       which part of the difference is TAP's, and which ours\n  \
    lab --docker                                           nginx in a container behind -p, Docker's bridge and ours")]
struct Arguments {
    /// The switches: vswitch (TAP ports), vswitch-xdp (AF_XDP ports), vswitch-xdp-busy (busy polled),
    /// vswitch-mixed (client AF_XDP, server TAP), vswitch-mixed-r (the other way round),
    /// vswitch-mixed-plain (without coalescing), each also as NAME@BIN_DIR (another build); bridge,
    /// bridge-plain (no netfilter hooks), relay (no switch: what either TAP gives is written to the other, the least that
    /// any datapath over TAP does), ovs, ovs-tso; uplinks: see --uplink-cost; overlays: see --overlay; gateways: see --nat;
    /// Docker's networks: see --docker
    /// [default: vswitch,bridge,ovs]
    #[arg(long, value_delimiter = ',')]
    peers: Vec<Peer>,
    /// The workloads: tcp1, tcp4, tcp1r, rtt, urtt, conn, req, get, file, raw64, udp64
    /// [default: all but tcp1r, urtt, get and file; with --uplink-cost tcp1, tcp1r and rtt; with --nat tcp1, rtt, urtt,
    /// conn and req; with --docker tcp1, file, conn, req and get]
    #[arg(long, value_delimiter = ',')]
    workloads: Vec<Workload>,
    /// What a shared uplink costs the host's own traffic. The peers are uplink (a wire, nothing
    /// attached), uplink-tc, uplink-native and uplink-generic (our classifier at tc, or as an XDP
    /// program), uplink-native0 and uplink-generic0 (an XDP program that does nothing)
    #[arg(long)]
    uplink_cost: bool,
    /// Uplinks: the far end sends packets instead of super-frames, the host joins them (GRO)
    #[arg(long)]
    wire: bool,
    /// What --ports ports cost in memory, instead of a workload
    #[arg(long, conflicts_with_all = ["uplink_cost", "workloads"])]
    memory: bool,
    /// The MTU of all interfaces
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u32).range(1280..=65_521))]
    mtu: u32,
    /// Use IPv6. Versions of sockperf before 3.8 have none: rtt fails with them
    #[arg(long)]
    ipv6: bool,
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
    /// The congestion control of the TCP streams (tcp1, tcp4, tcp1r) [default: the machine's]. What paces decides much:
    /// bbr sends one super-frame at a time, and cubic, which most machines have, as many as are taken
    #[arg(long)]
    congestion: Option<Congestion>,
    /// Containers attached to each switch; all but two are idle
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(2..=4000))]
    ports: u16,
    /// Where vswitch and vswitchctl are; default: beside this program
    #[arg(long)]
    bin_dir: Option<PathBuf>,
    /// Further arguments of the vswitch daemon, separated by spaces, such as "--workers 2"
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    vswitch_args: String,
    /// Two hosts and VXLAN between them. The peers are vxlan (UDP sockets), vxlan-tc and vxlan-xdp (over the shared
    /// uplink), each also as NAME@BIN_DIR, and vxlan-kernel (bridge, veth and vxlan device of the kernel)
    #[arg(long, conflicts_with_all = ["uplink_cost", "memory"])]
    overlay: bool,
    /// The MTU of the overlay's underlay
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u32).range(1330..=65_535))]
    underlay_mtu: u32,
    /// Give the underlay no segmentation offload, as a plain network card: all is cut before it crosses
    #[arg(long)]
    underlay_cuts: bool,
    /// A host between a container and the world outside: each workload from outside to a published port (in/) and from
    /// the container to the outside (out/). The peers are nat-kernel (bridge, veth, and Docker's rules in nftables),
    /// docker0 (Docker itself: dockerd, docker, containerd, runc and iptables in the PATH), nat-relay (no gateway: a
    /// relay between the container and the uplink), nat-redirect (none either: two programs in the kernel that redirect
    /// everything), nat-wire (not even a host: the container at the outside's wire), nat-vswitch-tap (TAP port, uplink
    /// at tc), nat-vswitch-xdp (both AF_XDP) and nat-vswitch-tap-xdp (TAP port, uplink AF_XDP), the latter three also
    /// as NAME@BIN_DIR
    #[arg(long, conflicts_with_all = ["uplink_cost", "memory", "overlay"])]
    nat: bool,
    /// Docker's containers: nginx and iperf3 as containers, published by `docker run -p`, and a client outside. The
    /// peers are docker-bridge (Docker's own driver with its defaults: iptables and a proxy for each published port),
    /// docker-vswitch-tap (`docker network create -d vswitch`, TAP ports, uplink at tc) and docker-vswitch-xdp (AF_XDP
    /// ports and uplink), the latter two also as NAME@BIN_DIR. Needs dockerd, docker, containerd, runc and iptables in
    /// the PATH; none of it needs to run
    #[arg(long, conflicts_with_all = ["uplink_cost", "memory", "overlay", "nat", "ipv6"])]
    docker: bool,
    /// Ratios are to this peer [default: bridge; with --uplink-cost uplink; with --overlay vxlan-kernel; with --nat
    /// nat-kernel; with --docker docker-bridge]
    #[arg(long)]
    reference: Option<Peer>,
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
        congestion: arguments.congestion,
    };
    if load.wrk_connections < load.wrk_threads {
        return Err(std::io::Error::other("each thread of wrk needs a connection: raise --wrk-connections"));
    }
    on_signal_set_flag();
    namespace::sweep()?;
    let directory = tempfile::Builder::new().prefix("vswitch-lab-").tempdir()?;
    let peers = arguments.peers();
    let setup = Setup {
        ports: usize::from(arguments.ports),
        mtu: arguments.mtu,
        family: if arguments.ipv6 { Family::Ipv6 } else { Family::Ipv4 },
        wire: arguments.wire,
        binaries: match &arguments.bin_dir {
            Some(directory) => directory.clone(),
            None if peers.iter().any(Peer::needs_binaries) => binaries()?,
            None => PathBuf::new(),
        },
        vswitch_args: arguments.vswitch_args.split_whitespace().map(str::to_owned).collect(),
        http_workers: arguments.wrk_threads,
        underlay_mtu: arguments.underlay_mtu,
        cuts: arguments.underlay_cuts,
        directory: directory.path().to_owned(),
    };
    if arguments.memory {
        return weigh(arguments, &peers, &setup);
    }
    let plan = Plan { peers, jobs: arguments.jobs(), rounds: arguments.rounds, load, setup };
    let runs = measure(&plan, |run| eprintln!("{}", report::line(run)))?;
    arguments.record(&serde_json::json!({
        "machine": machine(),
        "load": plan.load,
        "ports": arguments.ports,
        "mtu": arguments.mtu,
        "ipv6": arguments.ipv6,
        "wire": arguments.wire,
        "underlay": { "mtu": arguments.underlay_mtu, "cuts": arguments.underlay_cuts },
        "vswitch_args": arguments.vswitch_args,
        "runs": runs,
    }))?;
    println!("{}\n{load}, MTU {}", machine(), arguments.mtu);
    println!("{}", report::table(&runs, &arguments.reference().to_string()));
    // What an XDP program costs by being there is the kernel's; the rest is ours.
    for (ours, empty) in [(Uplink::Native, Uplink::NativeEmpty), (Uplink::Generic, Uplink::GenericEmpty)] {
        let pair = [ours.name(), empty.name()];
        if pair.iter().all(|name| runs.iter().any(|run| run.peer == *name)) {
            let of_pair: Vec<_> = runs.iter().filter(|run| pair.contains(&run.peer.as_str())).cloned().collect();
            println!("{}", report::table(&of_pair, empty.name()));
        }
    }
    Ok(())
}

impl Arguments {
    fn peers(&self) -> Vec<Peer> {
        let ours = |ports| Peer::Vswitch(Ours { ports, build: None });
        if !self.peers.is_empty() {
            self.peers.clone()
        } else if self.uplink_cost {
            Uplink::ALL.map(Peer::Uplink).to_vec()
        } else if self.overlay {
            let ours = [Carry::Socket, Carry::UplinkTc, Carry::UplinkXdp];
            let ours = ours.map(|carry| Peer::Vxlan(Overlay { carry, build: None }));
            ours.into_iter().chain([Peer::VxlanKernel]).collect()
        } else if self.nat {
            Gateway::usual().into_iter().map(Peer::Nat).collect()
        } else if self.docker {
            Network::usual().into_iter().map(Peer::Docker).collect()
        } else if self.memory {
            vec![ours(Ports::Tap), ours(Ports::Xdp)]
        } else {
            vec![ours(Ports::Tap), Peer::Bridge, Peer::Ovs]
        }
    }

    fn workloads(&self) -> Vec<Workload> {
        if !self.workloads.is_empty() {
            self.workloads.clone()
        } else if self.uplink_cost {
            vec![Workload::Tcp1, Workload::Tcp1r, Workload::Rtt]
        } else if self.nat {
            vec![Workload::Tcp1, Workload::Rtt, Workload::Urtt, Workload::Conn, Workload::Req]
        } else if self.docker {
            vec![Workload::Tcp1, Workload::File, Workload::Conn, Workload::Req, Workload::Get]
        } else {
            let seldom = [Workload::Tcp1r, Workload::Urtt, Workload::Get, Workload::File];
            Workload::ALL.into_iter().filter(|workload| !seldom.contains(workload)).collect()
        }
    }

    fn jobs(&self) -> Vec<Job> {
        let ways: &[Way] = match self {
            _ if self.nat => &[Way::Published, Way::Egress],
            _ if self.docker => &[Way::Published],
            _ => &[Way::Direct],
        };
        let of_way = |way: &Way| {
            let way = *way;
            self.workloads().into_iter().map(move |workload| Job { way, workload })
        };
        ways.iter().flat_map(of_way).collect()
    }

    fn reference(&self) -> Peer {
        let default = || match self {
            _ if self.uplink_cost => Peer::Uplink(Uplink::Bare),
            _ if self.overlay => Peer::VxlanKernel,
            _ if self.nat => Peer::Nat(Gateway::Kernel),
            _ if self.docker => Peer::Docker(Network::Bridge),
            _ => Peer::Bridge,
        };
        self.reference.clone().unwrap_or_else(default)
    }

    fn record(&self, document: &serde_json::Value) -> std::io::Result<()> {
        let Some(path) = &self.json else { return Ok(()) };
        std::fs::write(path, serde_json::to_vec_pretty(document)?)
    }
}

/// The measurement of `--memory`.
fn weigh(arguments: &Arguments, peers: &[Peer], setup: &Setup) -> std::io::Result<()> {
    let mut growths = Vec::with_capacity(peers.len());
    for peer in peers {
        growths.push(memory::measure(peer, setup)?);
    }
    arguments.record(&serde_json::json!({ "machine": machine(), "mtu": setup.mtu, "growths": growths }))?;
    println!("{}\nMTU {}", machine(), setup.mtu);
    println!("{}", memory::table(&growths));
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
