//! Reserves the switch's ports against the programs of the host.
//!
//! Theory of operation: programs at the cgroup's hook behind bind(2) look into the same arrays of bits as the
//! classifier, so that a reserved port costs no socket and no entry of a list. They also note what the host's programs
//! do bind, so that a port which is about to be taken for a flow is known to be in use at once. Only sockets of the
//! host's network namespace are looked at, wherever in the cgroup's tree their processes are. The links end with the
//! process.

use std::os::fd::{AsFd, BorrowedFd};

use aya::maps::Array;
use aya::programs::cgroup_sock::CgroupSockLink;
use aya::programs::{CgroupAttachMode, CgroupSock};

use super::Result;
use super::error::ClassifierError;
use super::loader::{Classifier, Program, wrong_map};

/// As long as it lives, programs of the host cannot bind ports of the switch.
#[derive(Debug)]
pub struct Reservation {
    _links: Vec<CgroupSockLink>,
}

impl Classifier {
    /// Refuses (`EADDRINUSE`) to bind what is published or translated, to processes of `cgroup` and below, for sockets
    /// of the network namespace with the cookie `netns` (`SO_NETNS_COOKIE`).
    ///
    /// # Errors
    /// `cgroup` is no cgroup of version 2, or somebody has attached a program there that stands alone; the kernel is too
    /// old (5.18 is needed).
    pub fn reserve_ports(&mut self, cgroup: BorrowedFd<'_>, netns: u64) -> Result<Reservation> {
        let map = self.ebpf.map_mut("host_netns").ok_or_else(|| wrong_map("host_netns"))?;
        Array::try_from(map)
            .and_then(|mut map: Array<_, u64>| map.set(0, netns, 0))
            .map_err(|error| ClassifierError::refused("name the host's network namespace", &error))?;
        let links = [Program::Bind4, Program::Bind6].map(|program| {
            self.load_program(program)?;
            let found = self.ebpf.program_mut(program.name()).ok_or_else(|| wrong_map(program.name()))?;
            let attach = || -> std::result::Result<_, aya::programs::ProgramError> {
                let found = <&mut CgroupSock>::try_from(found)?;
                // A link: other programs may be there as well.
                let id = found.attach(cgroup.as_fd(), CgroupAttachMode::Single)?;
                found.take_link(id)
            };
            let what = || format!("attach the program {} to the cgroup", program.name());
            attach().map_err(|error| ClassifierError::refused(what(), &error))
        });
        Ok(Reservation { _links: links.into_iter().collect::<Result<_>>()? })
    }
}
