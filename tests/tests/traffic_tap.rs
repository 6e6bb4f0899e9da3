//! All traffic suites over TAP ports.

mod traffic;

use vswitch_tests::lab::PortTypes;

const PORTS: PortTypes = PortTypes::Tap;
