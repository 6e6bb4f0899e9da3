//! A `virtio_net_hdr` of the form for tunnels and the super-frame behind it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| vswitch::fuzzing::tunnel_whole(data));
