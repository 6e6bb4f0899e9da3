//! Who is behind the tunnels: IP addresses of remote stations, so that questions for them need not
//! be flooded to every VTEP (ARP and ND suppression, RFC 9161 is its model).
//!
//! # Theory of operation
//! A table per bridge says which MAC address an IP address has. It is filled by what tunnels
//! deliver (ARP, neighbour advertisements) and by static entries. A local question about to be
//! flooded is answered in place, on the port that asked, if its address is in the table *and* the
//! forwarding database still has the station behind a tunnel that the asker may talk to. Everything
//! else is flooded as ever: questions that come out of tunnels, probes for duplicates,
//! announcements, and questions for addresses that are not known.
//!
//! The table errs on the side of flooding. What a local station says about an address removes it;
//! what was not heard of for [`LEARNED_S`] is not believed; when the table is full nothing is
//! learned. The database's own ageing limits it, too. IPv6 addresses are learned only from
//! advertisements, which alone say whether the station is a router.
//!
//! One lock, taken for what is flooded (which the storm limit bounds) and for address resolution
//! out of tunnels. Nothing on the hit path.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::wire::MacAddr;
use crate::wire::resolution::{self, Binding};

/// Addresses of one bridge. 64 bytes each: a megabyte.
pub const NEIGHBOURS_MAX: usize = 16_384;
/// Seconds for which what was heard is believed. Linux asks again after 15 to 45 s
/// (`base_reachable_time_ms`), and its unicast question and the answer renew the entry.
pub const LEARNED_S: u32 = 60;

/// A static binding: in which VLAN, which address, which station.
pub type Pinned = (u16, IpAddr, MacAddr);

#[derive(Debug, Clone, Copy)]
struct Entry {
    mac: MacAddr,
    router: bool,
    /// When it was last heard of; nothing for a static one.
    heard_s: Option<u32>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Neighbours {
    table: Mutex<HashMap<(u16, IpAddr), Entry>>,
    /// The table's length, for a look without the lock.
    known: AtomicUsize,
    answered: AtomicU64,
}

impl Neighbours {
    /// Learns from a frame of `vlan` that a tunnel delivered.
    pub fn hear(&self, frame: &[u8], vlan: u16, now_s: u32) {
        let Some(Binding { ip, mac, router }) = resolution::read(frame).says else { return };
        let mut table = self.lock();
        let room = table.len() < NEIGHBOURS_MAX;
        match (table.get_mut(&(vlan, ip)), router) {
            (Some(Entry { heard_s: None, .. }), _) => {}
            (Some(entry), _) if entry.mac == mac => {
                entry.heard_s = Some(now_s);
                entry.router = router.unwrap_or(entry.router);
            }
            // Another station has it, which is all that is known of that.
            (Some(_), None) => {
                table.remove(&(vlan, ip));
            }
            (Some(entry), Some(router)) => *entry = Entry { mac, router, heard_s: Some(now_s) },
            (None, Some(router)) if room => {
                table.insert((vlan, ip), Entry { mac, router, heard_s: Some(now_s) });
            }
            (None, _) => {}
        }
        self.known.store(table.len(), Ordering::Relaxed);
    }

    /// Turns a question of a local station, about to be flooded, into its answer, if that is known
    /// and `is_remote` says of the answering station that it is behind a tunnel. If false, the frame
    /// is as it was.
    pub fn answer(&self, frame: &mut [u8], vlan: u16, now_s: u32, is_remote: impl FnOnce(MacAddr) -> bool) -> bool {
        if self.known.load(Ordering::Relaxed) == 0 || !resolution::is_candidate(frame) {
            return false;
        }
        let message = resolution::read(frame);
        let found = {
            let mut table = self.lock();
            if let Some(says) = message.says
                && table.get(&(vlan, says.ip)).is_some_and(|entry| entry.heard_s.is_some())
            {
                // It is here now, or two have it, which they must find out between themselves.
                table.remove(&(vlan, says.ip));
                self.known.store(table.len(), Ordering::Relaxed);
            }
            message.asks.and_then(|ip| table.get(&(vlan, ip)).copied())
        };
        let Some(Entry { mac, router, .. }) = found.filter(|entry| is_believed(entry, now_s)) else { return false };
        let answered = is_remote(mac) && resolution::answer(frame, mac, router);
        if answered {
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
        answered
    }

    /// The station that has an address, as far as it was heard of lately.
    #[must_use]
    pub fn lookup(&self, vlan: u16, ip: IpAddr, now_s: u32) -> Option<MacAddr> {
        if self.known.load(Ordering::Relaxed) == 0 {
            return None;
        }
        self.lock().get(&(vlan, ip)).filter(|entry| is_believed(entry, now_s)).map(|entry| entry.mac)
    }

    /// Replaces the static bindings.
    pub fn pin(&self, pinned: impl IntoIterator<Item = Pinned>) {
        let mut table = self.lock();
        table.retain(|_, entry| entry.heard_s.is_some());
        for (vlan, ip, mac) in pinned {
            table.insert((vlan, ip), Entry { mac, router: false, heard_s: None });
        }
        self.known.store(table.len(), Ordering::Relaxed);
    }

    /// Forgets what was not heard of for too long.
    pub fn expire(&self, now_s: u32) {
        if self.known.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut table = self.lock();
        table.retain(|_, entry| is_believed(entry, now_s));
        self.known.store(table.len(), Ordering::Relaxed);
    }

    /// The number of addresses known.
    #[must_use]
    pub fn known(&self) -> usize {
        self.known.load(Ordering::Relaxed)
    }

    /// The number of questions answered.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(u16, IpAddr), Entry>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_believed(entry: &Entry, now_s: u32) -> bool {
    entry.heard_s.is_none_or(|heard_s| now_s.saturating_sub(heard_s) <= LEARNED_S)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::announce::announcement;

    const STATION: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
    const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 8]);
    const ASKER: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// A question of `ASKER` (10.0.0.1) for 10.0.0.`last`.
    fn question(last: u8) -> Vec<u8> {
        let mut frame = announcement(ASKER, ip("10.0.0.1"));
        frame[41] = last;
        frame
    }

    fn ask(table: &Neighbours, vlan: u16, now_s: u32) -> Option<MacAddr> {
        let mut frame = question(9);
        table.answer(&mut frame, vlan, now_s, |_| true).then(|| MacAddr(frame[6..12].try_into().unwrap()))
    }

    #[test]
    fn what_a_tunnel_delivered_is_known_for_a_minute() {
        let table = Neighbours::default();
        assert_eq!(ask(&table, 0, 100), None);
        table.hear(&announcement(STATION, ip("10.0.0.9")), 0, 100);
        assert_eq!((ask(&table, 0, 100), table.known(), table.answered()), (Some(STATION), 1, 1));
        assert_eq!(ask(&table, 7, 100), None, "in another VLAN");
        assert_eq!(ask(&table, 0, 100 + LEARNED_S), Some(STATION));
        assert_eq!(ask(&table, 0, 101 + LEARNED_S), None);
        table.expire(101 + LEARNED_S);
        assert_eq!(table.known(), 0);
    }

    #[test]
    fn a_station_that_is_no_longer_behind_a_tunnel_is_asked_itself() {
        let table = Neighbours::default();
        table.hear(&announcement(STATION, ip("10.0.0.9")), 0, 100);
        let mut frame = question(9);
        assert!(!table.answer(&mut frame, 0, 100, |mac| mac != STATION));
        assert_eq!((frame, table.answered()), (question(9), 0));
    }

    #[test]
    fn an_address_that_moves_is_answered_for_at_its_new_place_or_not_at_all() {
        let table = Neighbours::default();
        table.hear(&announcement(STATION, ip("10.0.0.9")), 0, 100);
        table.hear(&announcement(OTHER, ip("10.0.0.9")), 0, 101);
        assert_eq!(ask(&table, 0, 101), Some(OTHER));
        // It comes here, and says so.
        let mut announced = announcement(STATION, ip("10.0.0.9"));
        assert!(!table.answer(&mut announced, 0, 102, |_| true));
        assert_eq!((ask(&table, 0, 102), table.known()), (None, 0));
    }

    #[test]
    fn static_bindings_stay() {
        let table = Neighbours::default();
        table.pin([(0, ip("10.0.0.9"), STATION)]);
        table.hear(&announcement(OTHER, ip("10.0.0.9")), 0, 100);
        table.expire(1_000_000);
        assert_eq!(ask(&table, 0, 1_000_000), Some(STATION));
        let mut claimed = announcement(OTHER, ip("10.0.0.9"));
        assert!(!table.answer(&mut claimed, 0, 100, |_| true));
        assert_eq!(ask(&table, 0, 100), Some(STATION));
        table.pin([]);
        assert_eq!(table.known(), 0);
    }

    #[test]
    fn a_full_table_learns_nothing_more() {
        let table = Neighbours::default();
        for n in 0..NEIGHBOURS_MAX as u32 + 10 {
            let ip = IpAddr::from((0x0a00_0000 + n).to_be_bytes());
            table.hear(&announcement(STATION, ip), 0, 100);
        }
        // 10.0.0.255 and the like are addresses like any other here.
        assert_eq!(table.known(), NEIGHBOURS_MAX);
    }
}
