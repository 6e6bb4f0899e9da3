//! A kernel path that does nothing: two eBPF programs without a look at the packet, one redirects what an interface of the host
//! receives into a container (`bpf_redirect_peer`), the other what the container sends to that interface.
//!
//! It is what a path for established connections inside of the kernel would be at most, one that has found its flow and
//! translated its packet in no time.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use vswitch::bpf::sys::{self, Instruction, ProgramKind};
use vswitch_tests::namespace::Namespace;

use super::Container;

/// `BPF_FUNC_redirect` and `BPF_FUNC_redirect_peer` (linux/bpf.h).
const REDIRECT: i32 = 23;
const REDIRECT_PEER: i32 = 155;

/// Joins `container` and an interface of `host`, of whose veth pair to the container `inner` is the host's end.
pub(super) fn join(host: &Namespace, [uplink, inner]: [&str; 2], container: &Container) -> io::Result<[OwnedFd; 2]> {
    let [outer_link, inner_link] = [link(host, uplink)?, link(host, inner)?];
    // What comes for the uplink's address is the container's.
    container.namespace.ip(&format!("link set eth0 address {}", outer_link.mac))?;
    host.enter(|| {
        Ok([
            attach(outer_link.index, REDIRECT_PEER, inner_link.index)?,
            attach(inner_link.index, REDIRECT, outer_link.index)?,
        ])
    })
}

/// What is to be known of an interface.
struct Link {
    index: u32,
    mac: String,
}

fn link(host: &Namespace, name: &str) -> io::Result<Link> {
    let links: serde_json::Value = serde_json::from_str(&host.ip(&format!("-j link show dev {name}"))?)?;
    let index = links[0]["ifindex"].as_u64().and_then(|index| u32::try_from(index).ok());
    let mac = links[0]["address"].as_str().map(str::to_owned);
    index.zip(mac).map(|(index, mac)| Link { index, mac }).ok_or_else(|| io::Error::other(format!("no link {name}")))
}

/// Has all that the interface `from` receives redirected to the interface `to` by `helper`.
fn attach(from: u32, helper: i32, to: u32) -> io::Result<OwnedFd> {
    // r1 = to; r2 = 0; r0 = helper(r1, r2); exit (BPF_ALU64 | BPF_MOV | BPF_K, BPF_JMP | BPF_CALL, BPF_JMP | BPF_EXIT)
    let instruction = |code, registers, immediate| Instruction { code, registers, offset: 0, immediate };
    let program = [
        instruction(0xb7, 1, to as i32),
        instruction(0xb7, 2, 0),
        instruction(0x85, 0, helper),
        instruction(0x95, 0, 0),
    ];
    let program = sys::load(ProgramKind::SchedCls, &program, c"GPL", 0, "redirect")?;
    sys::attach_tcx_ingress(program.as_fd(), from)
}
