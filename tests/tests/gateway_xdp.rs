//! All suites of the gateway over AF_XDP ports, and an uplink that is shared by AF_XDP.

mod gateway;

use vswitch_tests::lab::PortTypes;

const PORTS: PortTypes = PortTypes::Xdp;
const CARRY: &str = "xdp=native";
