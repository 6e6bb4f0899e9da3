//! A host with Open vSwitch in userspace (`datapath_type=netdev`): its own tunnels, its own checksums.
//!
//! It needs no kernel module, so that it runs in a namespace. The underlay's interface is a port of a
//! bridge `br-phy`, whose internal port has the address; Open vSwitch finds the way to remotes through
//! the host's routes over that port. Everything of it (database, sockets, logs) is in one directory.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{IFNAME, Station, Underlay, address};
use crate::namespace::{Namespace, unique_prefix};
use crate::process::{Background, run_ok, wait_until};

const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
const LIMIT: Duration = Duration::from_secs(30);

/// See the module's documentation. Dropped in this order: the processes before their host.
#[derive(Debug)]
pub struct OvsVtep {
    /// The containers, `eth0` on the bridge `br0`.
    pub stations: Vec<Station>,
    processes: Vec<Background>,
    directory: PathBuf,
    /// The host's namespace.
    pub host: Namespace,
}

impl OvsVtep {
    /// Host `number` of `underlay`, with its files in `directory`.
    ///
    /// # Errors
    /// What its programs say.
    pub fn create(underlay: &mut Underlay, number: u8, directory: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let host = Namespace::create(&format!("{}ovs", unique_prefix()))?;
        underlay.join(&host, number)?;
        let mut vtep = Self { stations: Vec::new(), processes: Vec::new(), directory: directory.to_owned(), host };
        vtep.start()?;
        vtep.vsctl("add-br br-phy -- set bridge br-phy datapath_type=netdev other_config:forward-bpdu=true")?;
        // The bridge takes over the address, and with it the routes.
        vtep.host.ip(&format!("addr flush dev {IFNAME}"))?;
        vtep.vsctl(&format!("add-port br-phy {IFNAME}"))?;
        vtep.host.ip(&format!("addr add {}/24 dev br-phy", address(number, false)))?;
        vtep.host.ip(&format!("addr add {}/64 dev br-phy nodad", address(number, true)))?;
        vtep.host.ip("link set br-phy up")?;
        vtep.vsctl("add-br br0 -- set bridge br0 datapath_type=netdev")?;
        Ok(vtep)
    }

    fn start(&mut self) -> io::Result<()> {
        let database = self.directory.join("conf.db");
        let socket = self.directory.join("db.sock");
        run_ok(self.private("ovsdb-tool").arg("create").arg(&database).arg(SCHEMA), LIMIT)?;
        let server = Background::start(
            self.private("ovsdb-server")
                .arg(&database)
                .arg(format!("--remote=punix:{}", socket.display()))
                .arg(format!("--unixctl={}", self.directory.join("ovsdb.ctl").display())),
            &self.directory.join("ovsdb.log"),
        )?;
        self.processes.push(server);
        wait_until("ovsdb-server's socket", LIMIT, || socket.exists().then_some(()))?;
        self.vsctl("--no-wait init")?;
        let switch = Background::start(
            self.private("ovs-vswitchd")
                .arg(format!("unix:{}", socket.display()))
                .arg(format!("--unixctl={}", self.directory.join("vswitchd.ctl").display())),
            &self.directory.join("vswitchd.log"),
        )?;
        // The switch first, when they are stopped.
        self.processes.insert(0, switch);
        Ok(())
    }

    /// A tunnel on the bridge `br0`, one port per remote. They are protected ports, which do not talk to
    /// one another: Open vSwitch knows no other split horizon for its NORMAL action.
    ///
    /// # Errors
    /// What `ovs-vsctl` says.
    pub fn add_vxlan(&self, vni: u32, number: u8, remotes: &[IpAddr], options: &str) -> io::Result<()> {
        for (at, remote) in remotes.iter().enumerate() {
            let local = address(number, remote.is_ipv6());
            let port = format!("vx{vni}-{at}");
            self.vsctl(&format!(
                "add-port br0 {port} -- set port {port} protected=true -- set interface {port} type=vxlan \
                 options:key={vni} options:remote_ip={remote} options:local_ip={local} {options}"
            ))?;
        }
        Ok(())
    }

    /// A container on the bridge; the last byte of its addresses is `number`.
    ///
    /// # Errors
    /// What `ip` and `ovs-vsctl` say.
    pub fn add_station(&mut self, number: u8, mtu: u32) -> io::Result<&Station> {
        let port = format!("o{number}");
        let station = Station::create(&self.host, &port, number, mtu)?;
        // It forwards the unfinished checksums that veth leaves; its own tests turn them off, too.
        station.namespace.run("ethtool -K eth0 tx off")?;
        self.vsctl(&format!("add-port br0 {port}"))?;
        self.stations.push(station);
        Ok(&self.stations[self.stations.len() - 1])
    }

    /// The forwarding database of `br0`, as `ovs-appctl fdb/show` prints it.
    ///
    /// # Errors
    /// What `ovs-appctl` says.
    pub fn fdb(&self) -> io::Result<String> {
        let target = self.directory.join("vswitchd.ctl");
        run_ok(self.private("ovs-appctl").arg("-t").arg(target).args(["fdb/show", "br0"]), LIMIT)
    }

    fn vsctl(&self, line: &str) -> io::Result<String> {
        let mut command = self.private("ovs-vsctl");
        command.arg(format!("--db=unix:{}", self.directory.join("db.sock").display())).arg("--timeout=20");
        run_ok(command.args(line.split_whitespace()), LIMIT)
    }

    fn private(&self, program: &str) -> Command {
        let mut command = self.host.command(program);
        for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
            command.env(variable, &self.directory);
        }
        command
    }
}
