//! All traffic suites over a TAP port and an AF_XDP port by turns.

mod traffic;

use vswitch_tests::lab::PortTypes;

const PORTS: PortTypes = PortTypes::Mixed;
