//! The rules of a shared uplink's classifier.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| vswitch::fuzzing::classifier(data));
