//! The datagrams of a train, behind their size.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| vswitch::fuzzing::vxlan_train(data));
