//! The host's ports: published ones are reserved, who has one is named, and the host gets back what was changed.

use std::io::ErrorKind;
use std::net::{IpAddr, TcpListener, UdpSocket};

use vswitch_tests::Lab;
use vswitch_tests::lab::must;

const SETTING: &str = "net.ipv4.ip_local_reserved_ports";
const RANGE: &str = "net.ipv4.ip_local_port_range";

fn reserved(lab: &Lab) -> String {
    must(lab.host().command("sysctl", &["-n", SETTING])).trim().to_owned()
}

/// A host with a bridge and a container `web`, of whose ports none is published yet.
fn lab() -> Option<Lab> {
    let mut lab = Lab::new()?;
    must(lab.host().sysctl(RANGE, "40000 50000"));
    must(lab.host().sysctl(SETTING, "45000"));
    lab.expect_changes("host");
    lab.add_container("web");
    lab.add_bridge("br0", "--subnet 172.30.0.0/24");
    lab.attach("br0", "web");
    Some(lab)
}

fn bind_tcp(lab: &Lab, address: &str, port: u16) -> Result<TcpListener, ErrorKind> {
    let address: IpAddr = must(address.parse());
    lab.host().enter(|| TcpListener::bind((address, port))).map_err(|error| error.kind())
}
