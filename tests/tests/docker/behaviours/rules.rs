//! Somebody else flushes the host's packet filter, as firewalld does when it is reloaded.

use std::net::SocketAddr;

use vswitch_tests::contact::{Protocol, Server};
use vswitch_tests::outside::{far, host};

use super::findings::{Findings, Names, access};
use crate::world::World;

/// The last behaviour of all: Docker's own rules do not come back by themselves.
pub(crate) fn flushed(world: &World, findings: &mut Findings) {
    findings.group("rules flushed", |findings| {
        let kept = world.start("kept", "--network n1 -p 8092:80 -p 8092:80/udp")?;
        world.lab.host().run("nft flush ruleset")?;
        let target = SocketAddr::new(host(false), 8092);
        let names = |itself| Names::new(vec![(itself, "itself"), ([10, 61, 1, 1].into(), "the gateway")]);
        findings.record(
            "after `nft flush ruleset`: a published port from outside",
            access(&kept, 80, world.lab.far(), target, &names(far(false))),
        );
        let outside = Server::any(Protocol::Tcp, world.lab.far(), false, 7000)?;
        findings.works(
            "after `nft flush ruleset`: out, beyond a router",
            outside.try_meet(&kept.namespace, SocketAddr::new(far(false), 7000)),
        );
        world.docker.remove(&["kept"])
    });
}
