//! Announcements: a new port tells its neighbours who it is.
//!
//! An address that moves to another container is remembered elsewhere under the old one's MAC
//! address. A gratuitous ARP request (RFC 5227 section 3) or an unsolicited neighbour
//! advertisement (RFC 4861 section 7.2.6) in the port's name corrects that. It is repeated,
//! because Linux ignores a change that comes within a second of the last (`locktime`, arp(7)).

use crate::control::netlink::{Netlink, NetlinkError};
use crate::datapath::clock::now_s;
use crate::snapshot::PortId;
use crate::wire::announce::announcement;

use super::Switch;
use super::live::untagged_vlan;

/// How often an announcement is repeated, a second apart.
const REPEATS: u8 = 2;

/// An announcement that is still to be repeated.
#[derive(Debug)]
pub struct Announcement {
    id: PortId,
    incarnation: u64,
    frames: Vec<Vec<u8>>,
    /// When to repeat it, in seconds of the datapath's clock.
    due_s: u32,
    repeats_left: u8,
}

impl Switch {
    /// Announces the addresses of a port that was just attached.
    pub(super) fn announce(&mut self, bridge: &str, name: &str) {
        let Some((_, record)) = self.record(bridge, name) else { return };
        if record.ips.is_empty() || untagged_vlan(record).is_none() {
            return;
        }
        let frames: Vec<_> = record.ips.iter().map(|ip| announcement(record.mac, ip.addr())).collect();
        if let Err(error) = self.forget_neighbours(bridge, name) {
            // The announcement corrects the host's entries, too, only a moment later.
            tracing::info!(port = name, %error, "the host's neighbour entries could not be removed");
        }
        let Some(port) = self.live.bridges.get(bridge).and_then(|live| live.ports.get(name)) else { return };
        let announcement = Announcement {
            id: port.id,
            incarnation: port.incarnation,
            frames,
            due_s: now_s() + 1,
            repeats_left: REPEATS,
        };
        for frame in &announcement.frames {
            self.datapath.inject(announcement.id, frame.clone());
        }
        self.announcements.push(announcement);
    }

    /// Repeats the announcements that are due at `now_s`; those of ports that are gone are dropped.
    pub fn repeat_announcements(&mut self, now_s: u32) {
        let mut announcements = std::mem::take(&mut self.announcements);
        announcements.retain_mut(|announcement| {
            if now_s < announcement.due_s {
                return true;
            }
            if self.live.find(announcement.id, announcement.incarnation).is_none() {
                return false;
            }
            for frame in &announcement.frames {
                self.datapath.inject(announcement.id, frame.clone());
            }
            announcement.due_s = now_s + 1;
            announcement.repeats_left -= 1;
            announcement.repeats_left > 0
        });
        self.announcements = announcements;
    }

    fn forget_neighbours(&self, bridge: &str, name: &str) -> Result<(), NetlinkError> {
        let Some((_, record)) = self.record(bridge, name) else { return Ok(()) };
        let mut netlink = Netlink::open()?;
        let Some(link) = netlink.link_by_name(bridge)? else { return Ok(()) };
        for ip in &record.ips {
            netlink.flush_neighbour(link.index, ip.addr())?;
        }
        Ok(())
    }
}
