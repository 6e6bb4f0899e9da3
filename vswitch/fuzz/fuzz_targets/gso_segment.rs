//! A super-frame behind its `virtio_net_hdr`, cut into segments.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| vswitch::fuzzing::gso_segment(data));
