//! ATOMIC_ADD.

use std::sync::atomic::{AtomicU64, Ordering};

use hmmgpu_contract::mmu::FaultAccess;
use vm_memory::VolatileMemory;

use super::{ELEMENT_STEP, Progress, Step};
use crate::compute::memory::{Halt, Memory};

// Words of memory are added to by the host's CPU as they are.
const _: () = assert!(cfg!(target_endian = "little"));

/// ATOMIC_ADD. The additions are the host's atomic ones on the very memory of the guest, so they
/// are atomic with regard to those of the guest's CPUs, and of other contexts.
#[derive(Debug)]
pub(crate) struct AtomicAdd {
    pub(crate) dst: u64,
    pub(crate) count: u64,
    pub(crate) addend: u64,
}

impl AtomicAdd {
    pub(super) fn step<'m>(
        &self,
        progress: &mut Progress,
        memory: &mut impl Memory<'m>,
    ) -> Result<Step, Halt> {
        let end = self.count.min(progress.done + ELEMENT_STEP);
        if progress.done < end {
            let slice = memory.slice(self.dst, size_of::<u64>(), FaultAccess::FAULT_ATOMIC)?;
            let word: &AtomicU64 = slice.get_atomic_ref(0).map_err(|_| Halt::Misaligned)?;
            while progress.done < end {
                progress.value = word.fetch_add(self.addend, Ordering::SeqCst);
                progress.done += 1;
            }
        }
        Ok(Step::of(progress, self.count))
    }
}
