//! A burst of frames, coalesced and cut again.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| vswitch::fuzzing::gro_coalesce(data));
