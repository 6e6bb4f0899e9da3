//! The programs in the kernel and the model of their rules, side by side.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;
use rustix::time::ClockId;
use vswitch::bpf::model::{Arrival, Maps};
use vswitch::bpf::{Classifier, Counter, Flow, HostAddresses, Program, Protocol};

use super::test_run;

/// `TC_ACT_UNSPEC`.
const TC_PASS: u32 = u32::MAX;
/// `TC_ACT_SHOT`: taken, and no target is set in these tests.
pub(crate) const TC_TAKEN: u32 = 2;
const XDP_PASS: u32 = 2;
/// `XDP_DROP`: the same.
const XDP_TAKEN: u32 = 1;

/// Whether the kernel runs a tc program on such a frame: it must have its whole IP header (`bpf_prog_test_run_skb`), and
/// fit a page, less what a `sk_buff` needs.
fn runs_as_tc(frame: &[u8]) -> bool {
    let shortest = match frame[12..14] {
        [0x08, 0x00] => 14 + 20,
        [0x86, 0xdd] => 14 + 40,
        _ => 15,
    };
    (shortest..=3000).contains(&frame.len())
}

pub(crate) struct Both {
    pub(crate) classifier: Classifier,
    pub(crate) model: Maps,
    /// Whether the kernel can put a frame into several buffers where we say (6.18).
    splits: bool,
}

impl Both {
    pub(crate) fn new() -> Self {
        let mut classifier = Classifier::load().unwrap();
        let xdp = classifier.program_fd(Program::Xdp).unwrap();
        let splits = test_run::run(xdp, &[0; 64], Some(32)).is_ok();
        classifier.stand_until(now() + Duration::from_secs(3600)).unwrap();
        Self { classifier, model: Maps::default(), splits }
    }

    pub(crate) fn set_local_addresses(&mut self, addresses: &[IpAddr]) {
        self.classifier.set_local_addresses(addresses.iter().copied()).unwrap();
        self.model.local = addresses.iter().copied().collect();
    }

    pub(crate) fn publish(&mut self, protocol: Protocol, at: impl Into<HostAddresses>, ports: RangeInclusive<u16>) {
        let at = at.into();
        self.classifier.publish_range(protocol, at, ports.clone()).unwrap();
        self.model_publish(protocol, at, ports, true);
    }

    pub(crate) fn unpublish(&mut self, protocol: Protocol, at: impl Into<HostAddresses>, ports: RangeInclusive<u16>) {
        let at = at.into();
        self.classifier.unpublish_range(protocol, at, ports.clone()).unwrap();
        self.model_publish(protocol, at, ports, false);
    }

    fn model_publish(&mut self, protocol: Protocol, at: HostAddresses, ports: RangeInclusive<u16>, on: bool) {
        for port in ports {
            if let HostAddresses::One(address) = at {
                let key = (protocol, address, port);
                if on {
                    self.model.services.insert(key, Counter::Published);
                } else if self.model.services.get(&key) == Some(&Counter::Published) {
                    self.model.services.remove(&key);
                }
            }
            for ipv6 in [false, true] {
                let other = if ipv6 { HostAddresses::AllIpv4 } else { HostAddresses::AllIpv6 };
                if matches!(at, HostAddresses::One(_)) || at == other {
                    continue;
                }
                if on {
                    self.model.published.insert((protocol, ipv6, port));
                } else {
                    self.model.published.remove(&(protocol, ipv6, port));
                }
            }
        }
    }

    pub(crate) fn set_routed_networks(&mut self, networks: &[IpNet]) {
        self.classifier.set_routed_networks(networks.iter().copied()).unwrap();
        self.model.routed = networks.iter().copied().collect();
    }

    pub(crate) fn set_vxlan_ports(&mut self, ports: &[(Option<IpAddr>, u16)]) {
        self.classifier.set_vxlan_ports(ports.iter().copied()).unwrap();
        self.model.services.retain(|_, rule| *rule != Counter::Vxlan);
        for &(address, port) in ports {
            for address in each(address) {
                self.model.services.insert((Protocol::Udp, address, port), Counter::Vxlan);
            }
        }
    }

    pub(crate) fn translate(&mut self, flow: Flow, ipv6: bool, port: u16, on: bool) {
        if on {
            self.classifier.translated().set(flow, ipv6, port);
            self.model.translated.insert((flow, ipv6, port));
        } else {
            self.classifier.translated().clear(flow, ipv6, port);
            self.model.translated.remove(&(flow, ipv6, port));
        }
    }

    pub(crate) fn pass_time(&mut self, by: Duration) {
        self.classifier.age_fragments(by).unwrap();
        for taken in self.model.fragments.values_mut() {
            *taken = taken.saturating_sub(by);
        }
        for (since, _) in self.model.host_fragments.values_mut() {
            *since = since.saturating_sub(by);
        }
    }

    pub(crate) fn withhold_fragments(&mut self, interface: u32, per_window: u32) {
        self.classifier.withhold_fragments(interface, per_window).unwrap();
        self.model.withholds = true;
    }

    /// Runs one program of an uplink, once, and the model.
    pub(crate) fn step(&mut self, program: Program, frame: &[u8]) -> Result<Counter, String> {
        let rule = self.model.classify(Arrival::Uplink, frame, true, now());
        self.compare(program, frame, None, rule)?;
        Ok(rule)
    }

    /// Runs all on `frame`, and says by which rule it is taken from an uplink.
    pub(crate) fn check(&mut self, frame: &[u8]) -> Result<Counter, String> {
        let to_host = frame.get(..6) == Some(&[0; 6]);
        let as_xdp = self.model.classify(Arrival::Uplink, frame, true, now());
        self.compare(Program::Xdp, frame, None, as_xdp)?;
        if self.splits {
            // Headers behind the first buffer are read by a helper.
            for linear in [14, 20, 38, 62] {
                if linear < frame.len() {
                    self.compare(Program::Xdp, frame, Some(linear), as_xdp)?;
                }
            }
        }
        // Sometimes not for us by its Ethernet address; then also the fragments that XDP has noted stay what they are.
        let as_tc = self.model.classify(Arrival::Uplink, frame, to_host, now());
        if runs_as_tc(frame) {
            self.compare(Program::Tc, frame, None, as_tc)?;
            self.check_loopback(frame)?;
            self.check_guards(frame)?;
            // What the last one has noted of fragments is as if it had come last here.
            let as_tc = self.model.classify(Arrival::Uplink, frame, to_host, now());
            self.compare(Program::Tc, frame, None, as_tc)?;
        }
        Ok(as_tc)
    }

    /// Runs both on `frame` as if the host had sent it to itself, and says by which rule it is taken.
    pub(crate) fn check_loopback(&mut self, frame: &[u8]) -> Result<Counter, String> {
        let to_host = frame.get(..6) == Some(&[0; 6]);
        let rule = self.model.classify(Arrival::Loopback, frame, to_host, now());
        self.compare(Program::Lo, frame, None, rule)?;
        Ok(rule)
    }

    /// Runs the rear guards on `frame`, as if nobody had taken or passed it before.
    fn check_guards(&mut self, frame: &[u8]) -> Result<(), String> {
        let to_host = frame.get(..6) == Some(&[0; 6]);
        for (program, arrival) in [(Program::Rear, Arrival::Uplink), (Program::LoRear, Arrival::Loopback)] {
            let drops = self.model.guard(arrival, frame, to_host, now());
            let fd = self.classifier.program_fd(program).unwrap();
            let (returned, after) =
                test_run::run(fd, frame, None).map_err(|error| format!("{}: {error}", program.name()))?;
            if returned != if drops { TC_TAKEN } else { TC_PASS } || after != frame {
                return Err(format!("{} returned {returned}, the model says {drops}\n{}", program.name(), hex(frame)));
            }
        }
        Ok(())
    }

    fn compare(&mut self, program: Program, frame: &[u8], linear: Option<usize>, rule: Counter) -> Result<(), String> {
        let before = self.classifier.counters().unwrap();
        let fd = self.classifier.program_fd(program).unwrap();
        let (returned, after) =
            test_run::run(fd, frame, linear).map_err(|error| format!("{}: {error}", program.name()))?;
        let counted: Vec<_> = before
            .iter()
            .zip(self.classifier.counters().unwrap())
            .filter(|(before, after)| before.1 != after.1)
            .map(|(before, after)| (before.0, after.1 - before.1))
            .collect();
        let (pass, taken) = if program == Program::Xdp { (XDP_PASS, XDP_TAKEN) } else { (TC_PASS, TC_TAKEN) };
        let expected = match rule {
            Counter::Passed => (pass, vec![]),
            rule => (taken, vec![(rule, 1), (Counter::NoTarget, 1)]),
        };
        if (returned, counted.clone()) != expected {
            return Err(format!(
                "{} (first buffer: {linear:?}) returned {returned}, counted {counted:?}; the model says {rule:?}\n{}",
                program.name(),
                hex(frame)
            ));
        }
        let mut expected = frame.to_vec();
        if rule == Counter::Undecided {
            expected[6] |= 1;
        }
        if after != expected {
            return Err(format!("{} changed the frame\n{}\n{}", program.name(), hex(frame), hex(&after)));
        }
        Ok(())
    }
}

fn each(address: Option<IpAddr>) -> Vec<IpAddr> {
    match address {
        Some(address) => vec![address],
        None => vec!["0.0.0.0".parse().unwrap(), "::".parse().unwrap()],
    }
}

/// `bpf_ktime_get_ns`.
pub(crate) fn now() -> Duration {
    let now = rustix::time::clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

fn hex(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(300)];
    cut.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + if cut.len() < bytes.len() { "..." } else { "" }
}
