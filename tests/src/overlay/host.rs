//! Hosts with our daemon on an underlay, and what tests ask them.

use std::net::IpAddr;

use vswitch::api::{FdbEntry, Port, Stats, Vxlan};

use super::{Underlay, address};
use crate::lab::must;
use crate::{Lab, Options};

impl Lab {
    /// A lab whose host is number `number` of `underlay`, with a bridge `br0` in the network that all
    /// hosts share: 10.1.0.0/24 and fd01::/64, the gateway of this host being number `number` in both.
    /// None, loudly, where system tests cannot run.
    #[must_use]
    #[track_caller]
    pub fn on(underlay: &mut Underlay, number: u8, bridge_args: &str) -> Option<Self> {
        Self::on_with(underlay, number, bridge_args, Options::default())
    }

    /// The same with a daemon of other options.
    #[must_use]
    #[track_caller]
    pub fn on_with(underlay: &mut Underlay, number: u8, bridge_args: &str, options: Options) -> Option<Self> {
        let lab = Self::with(options)?;
        must(underlay.join(lab.host(), number));
        lab.add_bridge(
            "br0",
            &format!(
                "--subnet 10.1.0.0/24 --gateway 10.1.0.{number} --subnet fd01::/64 --gateway fd01::{number:x} {bridge_args}"
            ),
        );
        Some(lab)
    }

    /// A container with the last byte `number` in both addresses.
    #[track_caller]
    pub fn attach_numbered(&mut self, role: &str, number: u8) -> Port {
        self.attach("br0", role, &format!("--ip 10.1.0.{number} --ip fd01::{number:x}"))
    }

    /// `add-vxlan br0 --vni VNI` to the hosts `remotes`, with the words of `args`.
    #[track_caller]
    pub fn add_vxlan(&self, vni: u32, remotes: &[u8], ipv6: bool, args: &str) -> Vxlan {
        let mut words = vec!["add-vxlan".to_owned(), "br0".to_owned(), "--vni".to_owned(), vni.to_string()];
        for remote in remotes {
            words.extend(["--remote".to_owned(), address(*remote, ipv6).to_string()]);
        }
        words.extend(args.split_whitespace().map(str::to_owned));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let value = self.ctl_json(&words);
        serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("add-vxlan printed {value}: {error}"))
    }

    /// The tunnel `name` of `br0`.
    #[track_caller]
    pub fn vxlan(&self, name: &str) -> Vxlan {
        let tunnels: Vec<Vxlan> = self.get("/v1/bridges/br0/vxlans");
        tunnels.into_iter().find(|one| one.name == name).unwrap_or_else(|| panic!("no tunnel {name}"))
    }

    /// What `br0` knows of the MAC address `mac`.
    #[track_caller]
    pub fn fdb_of(&self, mac: &str) -> Option<FdbEntry> {
        self.fdb("br0").into_iter().find(|entry| entry.mac == mac)
    }

    /// How often packets of the only underlay were dropped for `reason`.
    #[track_caller]
    pub fn underlay_drops(&self, reason: &str) -> u64 {
        let stats: Stats = self.stats();
        stats.underlays.iter().map(|one| one.total.drops.get(reason).copied().unwrap_or(0)).sum()
    }

    /// What was sent to `remote` through any tunnel: frames.
    #[track_caller]
    pub fn sent_to(&self, remote: IpAddr) -> u64 {
        let stats: Stats = self.stats();
        let remotes = stats.tunnels.iter().flat_map(|tunnel| &tunnel.remotes);
        remotes.filter(|one| one.remote == remote).map(|one| one.total.tx_frames).sum()
    }
}
