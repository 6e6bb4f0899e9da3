//! All suites of the gateway over TAP ports, and an uplink that is shared at tc.

mod gateway;

use vswitch_tests::lab::PortTypes;

const PORTS: PortTypes = PortTypes::Tap;
const CARRY: &str = "tc";
