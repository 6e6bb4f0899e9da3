//! A frame through every parser.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| vswitch::fuzzing::ethernet_vlan_ip(data));
