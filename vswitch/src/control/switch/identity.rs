//! Which namespace a namespace is.
//!
//! The numbers of an nsfs file identify a namespace while it exists, and the kernel gives them
//! again as soon as it does not: a name deleted and made anew usually has the same inode. The
//! *cookie* of a namespace (`SO_NETNS_COOKIE`, Linux 5.14) is never given twice between two boots,
//! so that what was asked of one container is never done to its successor. After a boot all of
//! these numbers begin again, see [`Desired::reboot`](crate::control::desired::Desired::reboot).

// `SO_NETNS_COOKIE` has no safe wrapper among our dependencies.
#![allow(unsafe_code)]

use std::cell::OnceCell;
use std::collections::HashMap;
use std::io;
use std::mem::size_of;
use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::interface::{lent_link, lent_link_at_home};
use crate::control::desired::{LentRecord, PortRecord};
use crate::control::netlink::{Link, Netlink};
use crate::control::netns::{Holders, Netns, NetnsId, NetnsRef, census};

/// The kernel's name for this boot (`Documentation/admin-guide/sysctl/kernel.rst`, `random`).
///
/// # Errors
/// `/proc` is not mounted.
pub(in crate::control) fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// The cookie of `netns`; nothing on a kernel that has none.
///
/// # Errors
/// The namespace cannot be entered.
pub(super) fn cookie(netns: &Netns) -> io::Result<Option<u64>> {
    netns.run(|| {
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        let mut cookie: u64 = 0;
        let mut bytes = size_of::<u64>() as libc::socklen_t;
        // SAFETY: `cookie` has `bytes` writable bytes, any of which may be any value.
        let status = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_NETNS_COOKIE,
                (&raw mut cookie).cast(),
                &raw mut bytes,
            )
        };
        match status {
            0 => Ok(Some(cookie)),
            _ => match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(None),
                error => Err(error),
            },
        }
    })?
}

/// What tells the calling thread's namespace from every other one there ever was: this boot, and the cookie.
///
/// # Errors
/// `/proc` is not mounted, or the namespace cannot be entered.
pub(in crate::control) fn of_host() -> io::Result<(String, Option<u64>)> {
    Ok((boot_id()?, cookie(&Netns::current()?)?))
}

/// Whether `netns` is the one that the port was attached to.
fn is_same(port: &PortRecord, netns: &Netns) -> bool {
    netns.id() == port.netns_id
        && match (port.netns_cookie, cookie(netns)) {
            (Some(then), Ok(Some(now))) => then == now,
            _ => true,
        }
}

/// Opens the namespace of a port by the name that it was given, if that still leads to it.
pub(super) fn open_named(port: &PortRecord) -> Option<Netns> {
    Netns::open(&port.netns).ok().filter(|netns| is_same(port, netns))
}

/// Looks up namespaces of ports in one pass over them, which takes one look at who holds what at
/// most: a census costs the same for one port as for a thousand. It is of the moment when it is
/// first needed, so that a lookup serves one pass and no longer.
#[derive(Debug, Default)]
pub(super) struct Lookup {
    /// Who holds what; nothing where that cannot be found out.
    census: OnceCell<HashMap<NetnsId, Holders>>,
    /// Where interfaces with an alias are.
    aliases: OnceCell<HashMap<String, NetnsId>>,
}

impl Lookup {
    /// Opens the namespace of a port, if it still exists: by its name, or, where that is gone,
    /// through somebody who still holds it.
    pub(super) fn open(&self, port: &PortRecord) -> Option<Netns> {
        if let Some(netns) = open_named(port) {
            return Some(netns);
        }
        match &port.lent {
            Some(lent) => self.find_lent(port, lent).map(|(netns, _)| netns),
            None => self.held(port).next(),
        }
    }

    /// The namespace that the interface of a lent port is in, and the interface; nothing if it is gone. The calling
    /// thread is in the host's namespace.
    pub(super) fn find_lent(&self, port: &PortRecord, lent: &LentRecord) -> Option<(Netns, Link)> {
        let host = Netns::current().ok()?;
        let at_home = Netlink::open().and_then(|mut netlink| lent_link_at_home(&mut netlink, port.mac, lent));
        if let Ok(Some(link)) = at_home {
            return Some((host, link));
        }
        let host = host.id();
        let find = |netns: Netns| {
            let find = || lent_link(&mut Netlink::open()?, port.ifindex, port.mac, lent);
            let link = netns.run(find).ok()?.ok()??;
            Some((netns, link))
        };
        let named = Netns::open(&port.netns).ok().filter(|netns| netns.id() != host);
        let moved = port.netns_id != host;
        named.and_then(find).or_else(|| moved.then(|| self.held(port).find_map(find)).flatten())
    }

    /// The same in whatever namespace there is: whoever moved the interface may have told nobody of a path that leads
    /// there, or of one that is mounted elsewhere only. Costs a visit to each namespace, once.
    pub(super) fn find_lent_anywhere(&self, port: &PortRecord, lent: &LentRecord) -> Option<(Netns, Link)> {
        self.find_lent(port, lent).or_else(|| {
            let host = Netns::current().ok()?.id();
            let netns = self.open_held(*self.aliases(host).get(&lent.alias)?).next()?;
            let find = || lent_link(&mut Netlink::open()?, port.ifindex, port.mac, lent);
            let link = netns.run(find).ok()?.ok()??;
            Some((netns, link))
        })
    }

    /// The namespaces of all interfaces that have an alias, those of `host` left out, by their aliases.
    fn aliases(&self, host: NetnsId) -> &HashMap<String, NetnsId> {
        self.aliases.get_or_init(|| {
            let mut aliases = HashMap::new();
            for &id in self.census().keys().filter(|id| **id != host) {
                let links = self.open_held(id).next().map(|netns| netns.run(|| Netlink::open()?.links()));
                let Some(Ok(Ok(links))) = links else { continue };
                let named = links.into_iter().map(|link| link.alias).filter(|alias| !alias.is_empty());
                aliases.extend(named.map(|alias| (alias, id)));
            }
            aliases
        })
    }

    /// Whether there is no sense in making a port's interface again: its namespace is gone, or, where it was lent, the
    /// interface itself.
    pub(super) fn is_gone(&self, port: &PortRecord) -> bool {
        match &port.lent {
            Some(lent) => self.find_lent(port, lent).is_none(),
            None => self.open(port).is_none(),
        }
    }

    /// The namespace of a port, through anybody who still holds it.
    fn held<'a>(&'a self, port: &'a PortRecord) -> impl Iterator<Item = Netns> + 'a {
        // An iterator of its own: who does not come to this takes no census.
        let held = std::iter::once_with(move || self.open_held(port.netns_id)).flatten();
        held.filter(move |netns| is_same(port, netns))
    }

    /// The namespace `id`, once for each of its holders through which it can be opened.
    fn open_held(&self, id: NetnsId) -> impl Iterator<Item = Netns> + '_ {
        let references = self.census().get(&id).into_iter().flat_map(|holders| {
            let processes = holders.processes.iter().copied().map(NetnsRef::Pid);
            processes.chain(holders.mounts.iter().cloned().map(NetnsRef::Path))
        });
        references.filter_map(|reference| Netns::open(&reference).ok()).filter(move |netns| netns.id() == id)
    }

    fn census(&self) -> &HashMap<NetnsId, Holders> {
        self.census.get_or_init(|| {
            census().unwrap_or_else(|error| {
                tracing::warn!(%error, "the holders of namespaces cannot be found");
                HashMap::new()
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_keeps_its_cookie() {
        let netns = Netns::current().expect("our own");
        // Entering one's own namespace takes a privilege, too.
        let Ok(first) = cookie(&netns) else { return };
        assert_eq!(first, cookie(&netns).expect("works again"));
    }
}
