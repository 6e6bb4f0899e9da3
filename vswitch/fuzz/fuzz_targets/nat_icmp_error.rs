//! What an ICMP error quotes, and the tuple that it is given.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| vswitch::fuzzing::nat_icmp_error(data));
