//! HTTP: nginx, which answers from memory, and its clients.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use vswitch_tests::process::{Background, run, run_ok};

use super::super::meter::{Cost, Meter};
use super::{Ends, Metric, Outcome};

/// The large file's name.
pub(in crate::lab) const FILE_NAME: &str = "large";
/// Its size in bytes: large enough that what a request costs does not count.
pub(in crate::lab) const FILE_BYTES: usize = 64 << 20;
/// How often the client asks for it at most; time ends it sooner.
const DOWNLOADS: u32 = 1_000_000;

impl Ends<'_> {
    /// Starts nginx, unless it runs.
    fn nginx(&self) -> io::Result<Option<Background>> {
        if self.runs {
            return Ok(None);
        }
        let prefix = self.directory.join("nginx");
        fs::create_dir_all(&prefix)?;
        let (configuration, file) = (prefix.join("nginx.conf"), prefix.join(FILE_NAME));
        fs::write(&configuration, nginx_configuration(&prefix, self.port, self.load.wrk_threads))?;
        if !file.exists() {
            fs::write(&file, vec![0; FILE_BYTES])?;
        }
        let (prefix, configuration) = (prefix.display().to_string(), configuration.display().to_string());
        self.serve("nginx", &["-p", &prefix, "-c", &configuration, "-e", "stderr"])
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", SocketAddr::new(self.target, self.port))
    }

    /// Requests over new connections.
    pub(super) fn connections(&self) -> io::Result<Outcome> {
        let (threads, connections) = (self.load.wrk_threads, self.load.wrk_connections);
        self.wrk(threads, connections, true, |rate, _| {
            vec![Metric { name: "connections", value: rate / 1e3, unit: "k/s" }]
        })
    }

    /// Requests over kept connections, as many as the server can answer, and how long they take then.
    pub(super) fn requests(&self) -> io::Result<Outcome> {
        let (threads, connections) = (self.load.wrk_threads, self.load.wrk_connections);
        self.wrk(threads, connections, false, |rate, [p50, p99]| {
            vec![
                Metric { name: "requests", value: rate / 1e3, unit: "k/s" },
                Metric { name: "p50", value: p50, unit: "us" },
                Metric { name: "p99", value: p99, unit: "us" },
            ]
        })
    }

    /// How long a request takes that is the only one.
    pub(super) fn single_requests(&self) -> io::Result<Outcome> {
        self.wrk(1, 1, false, |_, [p50, p99]| {
            vec![Metric { name: "p50", value: p50, unit: "us" }, Metric { name: "p99", value: p99, unit: "us" }]
        })
    }

    /// Runs wrk; `metrics` makes the numbers of the requests per second and of the median and the 99th percentile of
    /// their time in microseconds.
    fn wrk(
        &self,
        threads: u16,
        connections: u16,
        close: bool,
        metrics: impl FnOnce(f64, [f64; 2]) -> Vec<Metric>,
    ) -> io::Result<Outcome> {
        let _server = self.nginx()?;
        let mut command = self.client.namespace.command("wrk");
        command.args(["--latency", "-t", &threads.to_string(), "-c", &connections.to_string()]);
        command.args(["-d", &format!("{}s", self.load.seconds)]);
        if close {
            command.args(["-H", "Connection: close"]);
        }
        command.arg(self.url(""));
        let meter = Meter::start(&self.pids)?;
        let text = run_ok(&mut command, self.limit())?;
        let cost = meter.stop()?;
        let report = WrkReport::parse(&text)
            .ok_or_else(|| io::Error::other(format!("wrk reported no rate, or no percentiles: {text}")))?;
        Ok(Outcome {
            metrics: metrics(report.rate, report.percentiles_us),
            cost,
            gigabytes: None,
            operations: Some(report.rate * self.load.seconds as f64),
            retransmits: None,
            note: report.errors,
        })
    }

    /// A large file, downloaded again and again over one connection.
    pub(super) fn file(&self) -> io::Result<Outcome> {
        let _server = self.nginx()?;
        // curl has a limit for each transfer, and none for all of them.
        let mut command = self.client.namespace.command("timeout");
        command.args(["--signal", "INT", &self.load.seconds.to_string(), "curl", "--silent", "--output", "/dev/null"]);
        // Standard error is not buffered: it has what was complete when the time was over.
        command.args(["--write-out", "%{stderr}%{http_code} %{size_download} %{time_total}\\n"]);
        command.arg(format!("{}?[1-{DOWNLOADS}]", self.url(FILE_NAME)));
        let before = self.client.namespace.link_counter("eth0", "rx_bytes")?;
        let meter = Meter::start(&self.pids)?;
        let output = run(&mut command, self.limit())?;
        let cost: Cost = meter.stop()?;
        let bytes = self.client.namespace.link_counter("eth0", "rx_bytes")? - before;
        let text = String::from_utf8_lossy(&output.stderr);
        let value = downloads_gbits(&text)
            .ok_or_else(|| io::Error::other(format!("curl downloaded nothing ({}): {text}", output.status)))?;
        Ok(Outcome {
            metrics: vec![Metric { name: "download", value, unit: "Gbit/s" }],
            cost,
            gigabytes: Some(bytes as f64 / 1e9),
            operations: None,
            retransmits: None,
            note: None,
        })
    }
}

/// What wrk prints.
#[derive(Debug, PartialEq)]
struct WrkReport {
    rate: f64,
    /// The median, and the 99th percentile.
    percentiles_us: [f64; 2],
    /// Its line about errors, where there were any.
    errors: Option<String>,
}

impl WrkReport {
    fn parse(text: &str) -> Option<Self> {
        let after = |prefix: &str| text.lines().find_map(|line| line.trim().strip_prefix(prefix)).map(str::trim);
        Some(Self {
            rate: after("Requests/sec:")?.parse().ok()?,
            percentiles_us: [microseconds(after("50%")?)?, microseconds(after("99%")?)?],
            errors: text.lines().find(|line| line.contains("Socket errors")).map(|line| line.trim().to_owned()),
        })
    }
}

/// `20.00us`, `1.25ms`, `2.00s` or `1.00m`, as wrk writes times.
fn microseconds(text: &str) -> Option<f64> {
    let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        "m" => 60e6,
        _ => return None,
    };
    Some(digits.parse::<f64>().ok()? * factor)
}

/// The rate of the whole downloads that curl reported: status, bytes and seconds of each.
fn downloads_gbits(text: &str) -> Option<f64> {
    let (bytes, seconds) = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next()? == "200").then_some(())?;
            let (bytes, seconds): (f64, f64) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            (bytes == FILE_BYTES as f64).then_some((bytes, seconds))
        })
        .fold((0.0, 0.0), |(all_bytes, all_seconds), (bytes, seconds)| (all_bytes + bytes, all_seconds + seconds));
    (seconds > 0.0).then(|| bytes * 8.0 / seconds / 1e9)
}

/// A server that answers from memory, and has the large file, in the foreground, all of its files below `prefix`.
pub(in crate::lab) fn nginx_configuration(prefix: &Path, port: u16, workers: u16) -> String {
    let prefix = prefix.display();
    format!(
        "daemon off; user root; worker_processes {workers}; pid {prefix}/nginx.pid; error_log stderr warn;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; sendfile on; keepalive_requests 1000000000;\n\
         client_body_temp_path {prefix}/body; proxy_temp_path {prefix}/proxy; fastcgi_temp_path {prefix}/fastcgi;\n\
         uwsgi_temp_path {prefix}/uwsgi; scgi_temp_path {prefix}/scgi;\n\
         server {{ listen {port} backlog=4096; listen [::]:{port} backlog=4096; location = /{FILE_NAME} {{ root {prefix}; }}\n\
         location / {{ return 200 \"hello\\n\"; }} }} }}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_wrk_is_read() {
        let text = "Running 1s test @ http://172.17.0.2/\n  1 threads and 1 connections\n  Latency Distribution\n     \
                    50%   20.00us\n     75%   21.00us\n     99%    2.69ms\n  43369 requests in 1.00s, 6.33MB read\n  \
                    Socket errors: connect 0, read 3, write 0, timeout 0\nRequests/sec:  43243.90\n";
        let report = WrkReport::parse(text).expect("a report");
        assert_eq!(report.percentiles_us, [20.0, 2690.0]);
        assert_eq!(report.rate, 43_243.9);
        assert!(report.errors.is_some_and(|line| line.contains("read 3")));
        assert_eq!(microseconds("1.50s"), Some(1.5e6));
        assert_eq!(microseconds("1.50h"), None);
    }

    #[test]
    fn only_whole_downloads_count() {
        let text = format!("200 {FILE_BYTES} 0.5\n200 {FILE_BYTES} 0.5\n200 1000 0.1\n502 150 0.1\ncurl: (7) no\n");
        let expected = 2.0 * FILE_BYTES as f64 * 8.0 / 1e9;
        assert_eq!(downloads_gbits(&text), Some(expected));
        assert_eq!(downloads_gbits("000 0 0.0\n"), None);
    }
}
