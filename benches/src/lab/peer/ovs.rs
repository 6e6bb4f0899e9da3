//! Open vSwitch in userspace (`datapath_type=netdev`) over veth pairs, from the distribution's
//! package, with a database and run directory of its own.

use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use vswitch_tests::namespace::Namespace;
use vswitch_tests::process::{Background, run_ok, wait_until};

use super::{Container, Setup, add_veth};

const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
const LIMIT: Duration = Duration::from_secs(20);

/// Starts Open vSwitch in `host` and joins `containers` by it. Returns its processes.
pub(super) fn join(
    host: &Namespace,
    containers: &[Container],
    tso: bool,
    setup: &Setup,
    directory: &Path,
) -> io::Result<Vec<Background>> {
    let database = directory.join("conf.db");
    let socket = directory.join("db.sock");
    let remote = format!("unix:{}", socket.display());
    run_ok(private(host, directory, "ovsdb-tool").arg("create").arg(&database).arg(SCHEMA), LIMIT)?;
    let server = Background::start(
        private(host, directory, "ovsdb-server")
            .arg(&database)
            .arg(format!("--remote=p{remote}"))
            .arg(format!("--unixctl={}", directory.join("ovsdb.ctl").display())),
        &directory.join("ovsdb.log"),
    )?;
    wait_until("ovsdb-server's socket", LIMIT, || socket.exists().then_some(()))?;
    let vsctl = |args: &[&str]| {
        let mut command = private(host, directory, "ovs-vsctl");
        command.arg(format!("--db={remote}")).arg("--timeout=15").args(args);
        run_ok(&mut command, LIMIT)
    };
    vsctl(&["--no-wait", "init"])?;
    if tso {
        vsctl(&["--no-wait", "set", "Open_vSwitch", ".", "other_config:userspace-tso-enable=true"])?;
    }
    let switch = Background::start(
        private(host, directory, "ovs-vswitchd")
            .arg(&remote)
            .arg(format!("--unixctl={}", directory.join("vswitchd.ctl").display())),
        &directory.join("vswitchd.log"),
    )?;
    vsctl(&["add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev"])
        .map_err(|error| io::Error::new(error.kind(), format!("{error}; ovs-vswitchd: {}", switch.output())))?;
    for (number, container) in containers.iter().enumerate() {
        add_veth(host, container, number, setup)?;
        if !tso {
            // Without its segmentation offload Open vSwitch forwards the unfinished checksums that
            // veth leaves; its own tests turn checksum offload off in the namespaces, as here.
            container.namespace.run("ethtool -K eth0 tx off")?;
        }
        vsctl(&["add-port", "br0", &format!("h{number}")])?;
    }
    Ok(vec![switch, server])
}

/// A program of Open vSwitch that keeps its files in `directory`.
fn private(host: &Namespace, directory: &Path, program: &str) -> Command {
    let mut command = host.command(program);
    for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
        command.env(variable, directory);
    }
    command
}
