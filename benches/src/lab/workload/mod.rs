//! The workloads: what is sent between the first two containers, and what is read off.

use std::fmt;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use serde::{Serialize, Serializer};
use serde_json::Value;
use vswitch_tests::namespace::Namespace;
use vswitch_tests::process::{Background, run_ok, wait_until};

use super::blast::blast;
use super::meter::{Cost, Meter};
use super::peer::{Container, Topology, Way};

mod http;

pub(super) use self::http::{FILE_BYTES, FILE_NAME, nginx_configuration};

/// A workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// One TCP stream (iperf3).
    Tcp1,
    /// Four TCP streams.
    Tcp4,
    /// One TCP stream the other way round.
    Tcp1r,
    /// TCP ping-pong of 64 bytes (sockperf).
    Rtt,
    /// UDP ping-pong of 64 bytes (sockperf).
    Urtt,
    /// New connections: HTTP without keep-alive (nginx, wrk).
    Conn,
    /// HTTP requests over kept connections.
    Req,
    /// One HTTP request at a time over one kept connection.
    Get,
    /// A large file by HTTP, again and again (nginx, curl).
    File,
    /// 64-byte frames of an unused ethertype.
    Raw64,
    /// UDP datagrams of 64 bytes (iperf3), delivered to the receiving program.
    Udp64,
}

impl Workload {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Tcp1,
        Self::Tcp4,
        Self::Tcp1r,
        Self::Rtt,
        Self::Urtt,
        Self::Conn,
        Self::Req,
        Self::Get,
        Self::File,
        Self::Raw64,
        Self::Udp64,
    ];
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|workload| workload.to_string() == text)
            .ok_or_else(|| format!("no workload {text}: one of {}", Self::ALL.map(|one| one.to_string()).join(", ")))
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp1 => "tcp1",
            Self::Tcp4 => "tcp4",
            Self::Tcp1r => "tcp1r",
            Self::Rtt => "rtt",
            Self::Urtt => "urtt",
            Self::Conn => "conn",
            Self::Req => "req",
            Self::Get => "get",
            Self::File => "file",
            Self::Raw64 => "raw64",
            Self::Udp64 => "udp64",
        })
    }
}

/// A workload and the way that it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Job {
    /// The way.
    pub way: Way,
    /// The workload.
    pub workload: Workload,
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.way {
            Way::Direct => "",
            Way::Published => "in/",
            Way::Egress => "out/",
        })?;
        self.workload.fmt(f)
    }
}

impl Serialize for Job {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One number that a run gave.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Metric {
    /// What was measured; the same for all peers.
    pub name: &'static str,
    /// The number.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
}

/// What a run gave and what it cost.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// The numbers.
    pub metrics: Vec<Metric>,
    /// What it cost.
    pub cost: Cost,
    /// Payload and headers that arrived, in gigabytes, where the workload is about bytes.
    pub gigabytes: Option<f64>,
    /// Frames, datagrams, requests or round trips that were completed, where it is about those.
    pub operations: Option<f64>,
    /// TCP segments sent again.
    pub retransmits: Option<u64>,
    /// Anything that a reader of the number should know.
    pub note: Option<String>,
}

impl Outcome {
    /// `delivered` packets, of whatever size.
    fn of_packets(delivered: f64, cost: Cost, note: String) -> Self {
        Self {
            metrics: vec![Metric { name: "delivered", value: delivered / cost.wall_s / 1e3, unit: "kpps" }],
            cost,
            gigabytes: None,
            operations: Some(delivered),
            retransmits: None,
            note: Some(note),
        }
    }
}

/// How a TCP sender decides how much to have on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Congestion {
    /// Until something is lost, by RFC 9438: Linux's default.
    Cubic,
    /// The rate that was delivered, paced: one super-frame at a time, by a timer.
    Bbr,
    /// Until something is lost, by RFC 5681.
    Reno,
}

impl Congestion {
    /// The kernel's name of it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cubic => "cubic",
            Self::Bbr => "bbr",
            Self::Reno => "reno",
        }
    }
}

/// How long and how hard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Load {
    /// How long one run lasts.
    pub seconds: u64,
    /// Threads of the HTTP client, and as many processes of the server.
    pub wrk_threads: u16,
    /// Connections that the HTTP client holds at one time, over all of its threads.
    pub wrk_connections: u16,
    /// What the streams of iperf3 use; none: what new namespaces have of the machine.
    pub congestion: Option<Congestion>,
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seconds, wrk_threads, wrk_connections, congestion } = self;
        // New namespaces have the machine's.
        let default = || fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap_or_default();
        let congestion = congestion.map_or_else(default, |congestion| congestion.name().to_owned());
        write!(
            f,
            "{seconds} s per run, streams of TCP {}; conn and req: wrk -t {wrk_threads} -c {wrk_connections}, {wrk_threads} nginx workers",
            congestion.trim()
        )
    }
}

/// The two ends of a workload.
struct Ends<'a> {
    client: &'a Container,
    server: &'a Container,
    /// The address that the client connects to.
    target: IpAddr,
    pids: Vec<u32>,
    load: Load,
    port: u16,
    /// Whether the server is a container, and runs.
    runs: bool,
    directory: &'a Path,
}

/// Runs `job` once over `topology`; server logs go to `directory`.
///
/// # Errors
/// A program is missing or fails, or the topology has no such way.
pub fn run(job: Job, topology: &Topology, load: Load, directory: &Path) -> io::Result<Outcome> {
    let super::peer::Ends { client, server, target } = topology.ends(job.way)?;
    // Both addresses are learned and resolved before the clock starts.
    client.namespace.run(&format!("ping -n -q -c 2 -i 0.05 -W 2 {target}"))?;
    let service = topology.services().map(|services| match job.workload {
        Workload::Conn | Workload::Req | Workload::Get | Workload::File => Ok(services.http),
        Workload::Tcp1 | Workload::Tcp4 | Workload::Tcp1r | Workload::Udp64 => Ok(services.iperf),
        Workload::Rtt | Workload::Urtt | Workload::Raw64 => {
            Err(io::Error::other(format!("{} has no container that serves {}", topology.peer, job.workload)))
        }
    });
    let (server, port, runs) = match service.transpose()? {
        Some(service) => (&topology.containers[service.container], service.port, true),
        None => (server, topology.next_port(), false),
    };
    let ends = Ends { client, server, target, pids: topology.pids(), load, port, runs, directory };
    match job.workload {
        Workload::Tcp1 => ends.tcp(&[]),
        Workload::Tcp4 => ends.tcp(&["-P", "4"]),
        Workload::Tcp1r => ends.tcp(&["-R"]),
        Workload::Rtt => ends.round_trip(&["--tcp"]),
        Workload::Urtt => ends.round_trip(&[]),
        Workload::Conn => ends.connections(),
        Workload::Req => ends.requests(),
        Workload::Get => ends.single_requests(),
        Workload::File => ends.file(),
        Workload::Raw64 => ends.raw(),
        Workload::Udp64 => ends.udp(),
    }
}

impl Ends<'_> {
    fn limit(&self) -> Duration {
        Duration::from_secs(self.load.seconds + 20)
    }

    /// Starts a server program in the server's namespace and waits until it listens, unless it runs.
    fn serve(&self, program: &str, args: &[&str]) -> io::Result<Option<Background>> {
        if self.runs {
            return Ok(None);
        }
        let mut command = self.server.namespace.command(program);
        command.args(args);
        let mut server = Background::start(&mut command, &self.directory.join(format!("{program}.log")))?;
        wait_until(&format!("{program} to listen"), Duration::from_secs(10), || {
            if server.has_ended() {
                return Some(Err(io::Error::other(format!("{program} ended: {}", server.output()))));
            }
            listens(&self.server.namespace, self.port).then_some(Ok(()))
        })??;
        Ok(Some(server))
    }

    fn iperf(&self, args: &[&str]) -> io::Result<(Value, Cost)> {
        let _server = self.serve("iperf3", &["-s", "-1", "-p", &self.port.to_string()])?;
        let mut command = self.client.namespace.command("iperf3");
        command
            .args(["-J", "-O", "1", "-p", &self.port.to_string(), "-t", &self.load.seconds.to_string(), "-c"])
            .arg(self.target.to_string())
            .args(args);
        if let Some(congestion) = self.load.congestion {
            command.args(["-C", congestion.name()]);
        }
        let meter = Meter::start(&self.pids)?;
        let text = run_ok(&mut command, self.limit())?;
        let cost = meter.stop()?;
        let report: Value = serde_json::from_str(&text)?;
        Ok((report, cost))
    }

    fn tcp(&self, args: &[&str]) -> io::Result<Outcome> {
        let reverse = args.contains(&"-R");
        let receiver = if reverse { self.client } else { self.server };
        let before = receiver.namespace.link_counter("eth0", "rx_bytes")?;
        let (report, cost) = self.iperf(args)?;
        // Everything between the meter's readings, the second that iperf3 omits included.
        let bytes = receiver.namespace.link_counter("eth0", "rx_bytes")? - before;
        let sum = &report["end"]["sum_received"]["bits_per_second"];
        let value = sum.as_f64().ok_or_else(|| io::Error::other(format!("iperf3 reported no rate: {report}")))? / 1e9;
        Ok(Outcome {
            metrics: vec![Metric { name: "throughput", value, unit: "Gbit/s" }],
            cost,
            gigabytes: Some(bytes as f64 / 1e9),
            operations: None,
            retransmits: report["end"]["sum_sent"]["retransmits"].as_u64(),
            note: None,
        })
    }

    fn udp(&self) -> io::Result<Outcome> {
        let before = udp_delivered(&self.server.namespace)?;
        let (report, cost) = self.iperf(&["-u", "-b", "0", "-l", "64"])?;
        let delivered = (udp_delivered(&self.server.namespace)? - before) as f64;
        let lost = report["end"]["sum"]["lost_percent"].as_f64().unwrap_or(0.0);
        // The second that iperf3 omits in its own report is part of the count.
        Ok(Outcome::of_packets(delivered, cost, format!("{lost:.0} % of the offered load lost")))
    }

    fn round_trip(&self, protocol: &[&str]) -> io::Result<Outcome> {
        let (address, target, port) = (self.server.address.to_string(), self.target.to_string(), self.port.to_string());
        let _server = self.serve("sockperf", &[&["server", "-i", &address, "-p", &port], protocol].concat())?;
        let mut command = self.client.namespace.command("sockperf");
        command
            .args(["ping-pong", "--full-rtt", "-m", "64", "-i", &target, "-p", &port])
            .args(protocol)
            .args(["-t", &self.load.seconds.to_string()]);
        let meter = Meter::start(&self.pids)?;
        let text = run_ok(&mut command, self.limit())?;
        let cost = meter.stop()?;
        let percentile = |name: &str| {
            text.lines()
                .find_map(|line| line.split_once(&format!("percentile {name}")))
                .and_then(|(_, rest)| rest.trim_start_matches(['0', ' ', '=']).trim().parse::<f64>().ok())
                .ok_or_else(|| io::Error::other(format!("sockperf reported no percentile {name}: {text}")))
        };
        let trips = text
            .lines()
            .find_map(|line| line.split_once("ReceivedMessages=")?.1.split(';').next()?.trim().parse::<f64>().ok());
        Ok(Outcome {
            metrics: vec![
                Metric { name: "p50", value: percentile("50.0")?, unit: "us" },
                Metric { name: "p99", value: percentile("99.0")?, unit: "us" },
            ],
            cost,
            gigabytes: None,
            operations: trips,
            retransmits: None,
            note: None,
        })
    }

    fn raw(&self) -> io::Result<Outcome> {
        let (src, dst) = (self.client.mac()?, self.server.mac()?);
        // Caches warm, and every queue in its steady state, before the clock starts.
        blast(&self.client.namespace, src, dst, Duration::from_millis(300))?;
        let before = self.server.namespace.link_counter("eth0", "rx_packets")?;
        let meter = Meter::start(&self.pids)?;
        let offered = blast(&self.client.namespace, src, dst, Duration::from_secs(self.load.seconds))?;
        let cost = meter.stop()?;
        let delivered = (self.server.namespace.link_counter("eth0", "rx_packets")? - before) as f64;
        let offered = offered as f64 / cost.wall_s / 1e3;
        Ok(Outcome::of_packets(delivered, cost, format!("offered {offered:.0} kpps")))
    }
}

/// Whether something listens on the TCP port `port` (`/proc/net/tcp`, state 0A) or has the UDP port (07), without
/// connecting: a server for one client would take the probe for it.
fn listens(namespace: &Namespace, port: u16) -> bool {
    let pattern = format!(":{port:04X}");
    namespace.enter(|| {
        [("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")].iter().any(|(protocol, wanted)| {
            let table = fs::read_to_string(format!("/proc/thread-self/net/{protocol}")).unwrap_or_default();
            table.lines().any(|line| {
                let fields: Vec<&str> = line.split_whitespace().collect();
                matches!(fields[..], [_, local, _, state, ..] if state == *wanted && local.ends_with(&pattern))
            })
        })
    })
}

/// Datagrams that programs of the namespace have read (`InDatagrams` of RFC 4113), of both families.
fn udp_delivered(namespace: &Namespace) -> io::Result<u64> {
    let (v4, v6) = namespace.enter(|| -> io::Result<_> {
        let read = |name: &str| fs::read_to_string(format!("/proc/thread-self/net/{name}"));
        Ok((read("snmp")?, read("snmp6").unwrap_or_default()))
    })?;
    let mut lines = v4.lines().filter(|line| line.starts_with("Udp:"));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let udp4: u64 = names
        .split_whitespace()
        .zip(values.split_whitespace())
        .find(|(name, _)| *name == "InDatagrams")
        .and_then(|(_, value)| value.parse().ok())
        .ok_or_else(|| io::Error::other("/proc/net/snmp has no InDatagrams"))?;
    let udp6 = v6.lines().find_map(|line| line.strip_prefix("Udp6InDatagrams")?.trim().parse::<u64>().ok());
    Ok(udp4 + udp6.unwrap_or(0))
}
