//! A frame that the gateway may have to answer itself.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| vswitch::fuzzing::gateway_answers(data));
