//! A `virtio_net_hdr` and the frame behind it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| vswitch::fuzzing::vnet_hdr_decode(data));
