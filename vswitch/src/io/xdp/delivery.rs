//! Which of the units that were handed to the kernel it sent, and which it dropped.
//!
//! In copy mode a call takes packets one after another and stops at the first that is dropped, with `EBUSY`. How far
//! it came is told by the ring's consumer index, but only if the call sent something (`__xsk_generic_xmit`); a
//! call whose first packet is dropped takes it and moves nothing. So units are counted here as well: an `EBUSY` without
//! news stands for the next unit that is not accounted for.

use crate::frame::DropReason;
use crate::io::TxReport;

/// A unit in the ring whose fate is not known yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Described {
    /// The ring's index behind the unit's last descriptor.
    pub(super) end: u32,
    /// The length of the frame.
    pub(super) bytes: u32,
}

/// The accounts of one hand-over.
#[derive(Debug)]
pub(super) struct Delivery<'a, 'b> {
    units: &'a [Described],
    /// Units that are accounted for.
    settled: usize,
    report: &'b mut TxReport,
}

impl<'a, 'b> Delivery<'a, 'b> {
    pub(super) fn new(units: &'a [Described], report: &'b mut TxReport) -> Self {
        Self { units, settled: 0, report }
    }

    /// The ring's index behind the last unit that is accounted for; none if none is.
    pub(super) fn settled_end(&self) -> Option<u32> {
        Some(self.units[self.settled.checked_sub(1)?].end)
    }

    /// The kernel's index is `consumed`; if `dropped`, the unit that it took last was not sent. Whether that was news.
    pub(super) fn up_to(&mut self, consumed: u32, dropped: bool) -> bool {
        let before = self.settled;
        let passed = |unit: &Described| (consumed.wrapping_sub(unit.end) as i32) >= 0;
        let mut until = self.settled + self.units[self.settled..].iter().take_while(|unit| passed(unit)).count();
        if dropped && until == self.settled {
            // The index was not moved: the drop was all that happened.
            until = (until + 1).min(self.units.len());
        }
        for (at, unit) in self.units[before..until].iter().enumerate() {
            if dropped && before + at + 1 == until {
                self.report.drop_unit(DropReason::NoBuffer);
            } else {
                self.report.sent += 1;
                self.report.bytes += u64::from(unit.bytes);
            }
        }
        self.settled = until;
        until > before
    }

    /// Whether every unit is accounted for.
    pub(super) fn are_all(&self) -> bool {
        self.settled == self.units.len()
    }

    /// The rest is sent, or will be.
    pub(super) fn all(&mut self) {
        for unit in &self.units[self.settled..] {
            self.report.sent += 1;
            self.report.bytes += u64::from(unit.bytes);
        }
        self.settled = self.units.len();
    }

    /// The rest is dropped.
    pub(super) fn drop_rest(&mut self, reason: DropReason) {
        for _ in self.settled..self.units.len() {
            self.report.drop_unit(reason);
        }
        self.settled = self.units.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Units of 1, 3, 2 and 1 descriptors in a ring whose indices wrap meanwhile.
    const START: u32 = u32::MAX - 2;
    fn units() -> Vec<Described> {
        let ends = [1, 4, 6, 7];
        ends.iter().map(|&at: &u32| Described { end: START.wrapping_add(at), bytes: 100 * at }).collect()
    }

    fn outcome(report: &TxReport) -> (u32, u64, u32) {
        (report.sent, report.bytes, report.drops().map(|(_, count)| count).sum())
    }

    #[test]
    fn units_count_once_their_last_descriptor_was_taken() {
        let (units, mut report) = (units(), TxReport::default());
        let mut delivery = Delivery::new(&units, &mut report);
        assert!(delivery.up_to(START.wrapping_add(3), false), "the first one");
        assert!(!delivery.up_to(START.wrapping_add(3), false), "half of the second is nothing");
        assert_eq!(delivery.settled_end(), Some(START.wrapping_add(1)));
        assert!(delivery.up_to(START.wrapping_add(7), false) && delivery.are_all());
        assert_eq!(outcome(&report), (4, 100 + 400 + 600 + 700, 0));
    }

    #[test]
    fn a_drop_is_the_unit_that_was_taken_last() {
        let (units, mut report) = (units(), TxReport::default());
        let mut delivery = Delivery::new(&units, &mut report);
        // Two sent, the third dropped, and the index says so.
        delivery.up_to(START.wrapping_add(6), true);
        assert_eq!(delivery.settled_end(), Some(START.wrapping_add(6)));
        delivery.all();
        assert_eq!(outcome(&report), (3, 100 + 400 + 700, 1));
    }

    #[test]
    fn drops_without_news_are_counted_one_by_one() {
        let (units, mut report) = (units(), TxReport::default());
        let mut delivery = Delivery::new(&units, &mut report);
        // The first call drops its first packet: the index stays.
        assert!(delivery.up_to(START, true));
        // The second sends the second and drops the third.
        assert!(delivery.up_to(START.wrapping_add(6), true));
        // Behind the index by one unit is no news.
        assert!(!delivery.up_to(START.wrapping_add(6), false));
        assert!(delivery.up_to(START.wrapping_add(6), true) && delivery.are_all());
        assert!(!delivery.up_to(START.wrapping_add(6), true), "there is nothing left to be dropped");
        assert_eq!(outcome(&report), (1, 400, 3));
    }

    #[test]
    fn what_was_not_taken_is_dropped_by_its_reason() {
        let (units, mut report) = (units(), TxReport::default());
        let mut delivery = Delivery::new(&units, &mut report);
        delivery.up_to(START.wrapping_add(1), false);
        delivery.drop_rest(DropReason::PortDown);
        assert!(delivery.are_all());
        assert_eq!(report.drops().collect::<Vec<_>>(), [(DropReason::PortDown, 3)]);
    }
}
