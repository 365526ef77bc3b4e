//! Who moves memory in a round, and is asked the same way whoever it is.

use std::ops::Range;

use anyhow::Result;
use hmmgpu_guest_protocol::bench::{BenchPlan, Subject};

use super::floor::Floor;
use super::test_hmm::TestHmm;
use crate::device::Device;
use crate::sys::memory::Memory;

/// How often a call of `test_hmm` is made again.
const TEST_HMM_TRIES: u32 = 5;

/// Whom a plan wants measured with memory of this order, by turns.
pub(super) fn subjects(plan: &BenchPlan, order: u8) -> Vec<Subject> {
    let mut subjects = vec![Subject::Driver];
    if plan.floor {
        subjects.push(Subject::Floor);
    }
    // It has folios of these orders only.
    if plan.test_hmm.is_some() && (order == 0 || order == 9) {
        subjects.push(Subject::TestHmm);
    }
    subjects
}

/// A subject at work.
pub(super) enum Mover<'a> {
    Driver(&'a Device),
    Floor(&'a Device, Floor),
    TestHmm(TestHmm),
}

impl Mover<'_> {
    /// Begins a round of calls for up to `call` pages.
    pub(super) fn begin(subject: Subject, device: &Device, call: usize) -> Result<Mover<'_>> {
        Ok(match subject {
            Subject::Driver => Mover::Driver(device),
            Subject::Floor => Mover::Floor(device, Floor::set()?),
            Subject::TestHmm => Mover::TestHmm(TestHmm::open(call)?),
        })
    }

    /// Migrates some pages to the device. Returns the bytes that moved, as `bring_home` does.
    pub(super) fn send(&mut self, memory: &Memory, pages: Range<usize>) -> Result<u64> {
        match self {
            Mover::Driver(device) | Mover::Floor(device, _) => {
                let outcome = device.to_device(memory, pages);
                Ok(outcome.complete("MIGRATE_TO_DEVICE")?.moved)
            }
            Mover::TestHmm(test_hmm) => test_hmm.send(memory, pages),
        }
    }

    /// The same where it is not measured. `test_hmm` does not tell of any page of a call when one
    /// of them has a reference at the wrong moment; asked again, it moves what is left.
    pub(super) fn send_all(&mut self, memory: &Memory, pages: Range<usize>) -> Result<u64> {
        let mut moved = self.send(memory, pages.clone())?;
        for _ in 0..TEST_HMM_TRIES {
            if moved > 0 || !matches!(self, Mover::TestHmm(_)) {
                break;
            }
            moved = self.send(memory, pages.clone())?;
        }
        Ok(moved)
    }

    /// Migrates some pages, which were in folios of `order`, home.
    pub(super) fn bring_home(
        &self,
        memory: &Memory,
        pages: Range<usize>,
        order: u8,
    ) -> Result<u64> {
        match self {
            Mover::Driver(device) | Mover::Floor(device, _) => {
                let outcome = device.to_system(memory, pages);
                Ok(outcome.complete("MIGRATE_TO_SYSTEM")?.moved)
            }
            Mover::TestHmm(test_hmm) => test_hmm.bring_home(memory, pages, order),
        }
    }

    /// Ends the round.
    pub(super) fn end(self) -> Result<()> {
        match self {
            Mover::Driver(_) | Mover::TestHmm(_) => Ok(()),
            Mover::Floor(_, floor) => floor.clear(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_hmm_has_two_orders() {
        let mut plan = BenchPlan {
            device: "/dev/hmmgpu0".into(),
            sources: vec![],
            repeats: 1,
            call_bytes: 2 << 20,
            wait: false,
            floor: true,
            test_hmm: None,
        };
        let both = [Subject::Driver, Subject::Floor];
        let all = [Subject::Driver, Subject::Floor, Subject::TestHmm];
        assert_eq!(subjects(&plan, 9), both);
        plan.test_hmm = Some("test_hmm.ko".into());
        assert_eq!(subjects(&plan, 0), all);
        assert_eq!(subjects(&plan, 4), both);
        assert_eq!(subjects(&plan, 9), all);
        plan.floor = false;
        assert_eq!(subjects(&plan, 4), [Subject::Driver]);
    }
}
