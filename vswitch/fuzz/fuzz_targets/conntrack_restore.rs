//! A file of connections that anybody may have written.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| vswitch::fuzzing::conntrack_restore(data));
