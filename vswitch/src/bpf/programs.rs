//! What is attached to an interface, whoever attached it.

use std::io;

use aya::programs::SchedClassifier;
use aya::programs::tc::{TcAttachType, qdisc_detach_program};

use super::error::ClassifierError;
use super::loader::Program;
use super::{Result, sys};
use crate::control::netlink::{Netlink, XdpAttached};

/// A program on an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachedProgram {
    /// Where it is attached: `tcx ingress`, `clsact ingress`, `xdp native`, `xdp generic`.
    pub hook: &'static str,
    /// The name it was loaded with, at most 15 bytes; empty if it has none.
    pub name: String,
    /// The kernel's number of it, with which `bpftool prog show id` shows it.
    pub id: u32,
}

impl std::fmt::Display for AttachedProgram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = if self.name.is_empty() { "without a name" } else { &self.name };
        write!(f, "{name} (id {}, {})", self.id, self.hook)
    }
}

/// All programs that see what the interface receives, in the calling thread's namespace: ours, if it is attached, and
/// those of others.
///
/// # Errors
/// When the kernel cannot be asked, or there is no such interface.
pub fn attached_programs(interface: &str) -> Result<Vec<AttachedProgram>> {
    let what = || format!("list the programs of interface {interface}");
    let refused = |error: &(dyn std::error::Error + 'static)| ClassifierError::refused(what(), error);
    let mut netlink = Netlink::open().map_err(|error| refused(&error))?;
    let Some(link) = netlink.link_by_name(interface).map_err(|error| refused(&error))? else {
        return Err(refused(&io::Error::from(io::ErrorKind::NotFound)));
    };
    let mut programs = Vec::new();
    if let Some((attached, id)) = netlink.xdp_program(link.index).map_err(|error| refused(&error))? {
        let hook = match attached {
            XdpAttached::Native => "xdp native",
            XdpAttached::Generic => "xdp generic",
            XdpAttached::Hardware => "xdp hardware",
            XdpAttached::Several => "xdp",
        };
        let id = id.unwrap_or_default();
        programs.push(AttachedProgram { hook, name: name_of(id), id });
    }
    // Kernels before 6.6 do not know the question.
    if let Ok((_, infos)) = SchedClassifier::query_tcx(interface, TcAttachType::Ingress) {
        programs.extend(infos.iter().map(|info| AttachedProgram {
            hook: "tcx ingress",
            name: String::from_utf8_lossy(info.name()).into_owned(),
            id: info.id(),
        }));
    }
    for filter in netlink.clsact_filters(link.index, true).map_err(|error| refused(&error))? {
        let id = filter.program.unwrap_or_default();
        let name = if filter.kind == "bpf" { name_of(id) } else { filter.kind };
        let name = if name.is_empty() { filter.name.unwrap_or_default() } else { name };
        programs.push(AttachedProgram { hook: "clsact ingress", name, id });
    }
    Ok(programs)
}

/// The name of the program with this id, if there is one.
fn name_of(id: u32) -> String {
    sys::program_info_by_id(id).map(|info| info.name).unwrap_or_default()
}

/// Removes what an earlier process, on a kernel without TCX, left on the interface's clsact hook: filters with our
/// programs' names. The hook goes too if nothing else is on it. Says how many filters it removed.
///
/// # Errors
/// When the kernel refuses; not when there is nothing to remove or no such interface.
pub fn remove_leftovers(interface: &str) -> Result<usize> {
    let what = || format!("remove the filters of an earlier start from interface {interface}");
    let refused = |error: &(dyn std::error::Error + 'static)| ClassifierError::refused(what(), error);
    let mut netlink = Netlink::open().map_err(|error| refused(&error))?;
    let Some(link) = netlink.link_by_name(interface).map_err(|error| refused(&error))? else { return Ok(0) };
    let filters = netlink.clsact_filters(link.index, true).map_err(|error| refused(&error))?;
    let mut removed = 0;
    for program in Program::TC {
        let ours = filters.iter().filter(|filter| filter.name.as_deref() == Some(program.name())).count();
        if ours > 0 {
            qdisc_detach_program(interface, TcAttachType::Ingress, program.name()).map_err(|error| refused(&error))?;
            removed += ours;
        }
    }
    if removed > 0 {
        delete_clsact_if_empty(&mut netlink, link.index).map_err(|error| refused(&error))?;
    }
    Ok(removed)
}

pub(super) fn delete_clsact_if_empty(
    netlink: &mut Netlink,
    index: u32,
) -> std::result::Result<(), crate::control::netlink::NetlinkError> {
    for ingress in [true, false] {
        if !netlink.clsact_filters(index, ingress)?.is_empty() {
            return Ok(());
        }
    }
    if netlink.has_clsact(index)? { netlink.delete_clsact(index) } else { Ok(()) }
}
