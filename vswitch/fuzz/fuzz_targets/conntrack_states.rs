//! TCP segments and the connection that they belong to.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| vswitch::fuzzing::conntrack_states(data));
