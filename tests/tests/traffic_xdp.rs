//! All traffic suites over AF_XDP ports.

mod traffic;

use vswitch_tests::lab::PortTypes;

const PORTS: PortTypes = PortTypes::Xdp;
