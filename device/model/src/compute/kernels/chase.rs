//! CHASE.

use hmmgpu_contract::mmu::FaultAccess;

use super::{ELEMENT_STEP, Progress, Step};
use crate::compute::memory::{Halt, Memory, load};

/// CHASE. Offsets wrap, so that they may be negative.
#[derive(Debug)]
pub(crate) struct Chase {
    /// Where it is; 0 at the end of the list.
    pub(crate) pointer: u64,
    pub(crate) payload: u64,
    pub(crate) next: u64,
    pub(crate) count: u64,
}

fn word<'m>(memory: &mut impl Memory<'m>, address: u64) -> Result<u64, Halt> {
    // What is not aligned could reach into the next page.
    if !address.is_multiple_of(size_of::<u64>() as u64) {
        return Err(Halt::Misaligned);
    }
    let slice = memory.slice(address, size_of::<u64>(), FaultAccess::FAULT_READ)?;
    load::<u64>(&slice).map(u64::from_le)
}

impl Chase {
    pub(super) fn step<'m>(
        &mut self,
        progress: &mut Progress,
        memory: &mut impl Memory<'m>,
    ) -> Result<Step, Halt> {
        let end = self.count.min(progress.done + ELEMENT_STEP);
        while progress.done < end && self.pointer != 0 {
            let payload = word(memory, self.pointer.wrapping_add(self.payload))?;
            let next = word(memory, self.pointer.wrapping_add(self.next))?;
            // Only now, as either may fault: a payload that is read again is added once.
            progress.value = progress.value.wrapping_add(payload);
            progress.done += 1;
            self.pointer = next;
        }
        if self.pointer == 0 {
            return Ok(Step::Finished);
        }
        Ok(Step::of(progress, self.count))
    }
}
