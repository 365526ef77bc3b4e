//! Kernels on bytes: FILL, COPY, COMPARE.

use hmmgpu_contract::mmu::FaultAccess;
use vm_memory::VolatileSlice;

use super::{COMPUTE_STEP, COPY_STEP, PIECE, Progress, Scratch, Step, length};
use crate::compute::memory::{Halt, Memory};
use crate::copy::{copy, copy_from_buffer};
use crate::dma::Access;

/// FILL.
#[derive(Debug)]
pub(crate) struct Fill {
    pub(crate) dst: u64,
    pub(crate) count: u64,
    pub(crate) pattern: u64,
}

impl Fill {
    pub(super) fn step<'m>(
        &self,
        progress: &mut Progress,
        memory: &mut impl Memory<'m>,
        scratch: &mut Scratch,
    ) -> Result<Step, Halt> {
        let end = self.count.min(progress.done + COPY_STEP);
        // Pieces begin anywhere; the pattern has to begin with the byte that is due there.
        let mut phase = None;
        while progress.done < end {
            let address = self.dst + progress.done;
            let want = length(end - progress.done).min(PIECE);
            let dst = memory.slice(address, want, FaultAccess::FAULT_WRITE)?;
            let shift = progress.done % 8;
            if phase.replace(shift) != Some(shift) {
                let pattern = self
                    .pattern
                    .rotate_right(8 * u32::try_from(shift).unwrap_or(0));
                for word in scratch.a.chunks_exact_mut(8) {
                    word.copy_from_slice(&pattern.to_le_bytes());
                }
            }
            copy_from_buffer(&dst, &scratch.a);
            progress.done += dst.len() as u64;
        }
        Ok(Step::of(progress, self.count))
    }
}

/// One side of COPY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Virtual(u64),
    Dma(u64),
}

impl Side {
    fn slice<'m>(
        self,
        memory: &mut impl Memory<'m>,
        offset: u64,
        len: usize,
        access: Access,
    ) -> Result<VolatileSlice<'m>, Halt> {
        match (self, access) {
            (Self::Virtual(base), Access::Read) => {
                memory.slice(base + offset, len, FaultAccess::FAULT_READ)
            }
            (Self::Virtual(base), Access::Write) => {
                memory.slice(base + offset, len, FaultAccess::FAULT_WRITE)
            }
            (Self::Dma(base), access) => memory.dma(base + offset, len, access),
        }
    }
}

/// COPY.
#[derive(Debug)]
pub(crate) struct Copy {
    pub(crate) dst: Side,
    pub(crate) src: Side,
    pub(crate) count: u64,
}

impl Copy {
    pub(super) fn step<'m>(
        &self,
        progress: &mut Progress,
        memory: &mut impl Memory<'m>,
    ) -> Result<Step, Halt> {
        let end = self.count.min(progress.done + COPY_STEP);
        while progress.done < end {
            let want = length(end - progress.done);
            let src = self.src.slice(memory, progress.done, want, Access::Read)?;
            let dst = (self.dst).slice(memory, progress.done, src.len(), Access::Write)?;
            copy(&dst, &src);
            progress.done += dst.len() as u64;
        }
        Ok(Step::of(progress, self.count))
    }
}

/// COMPARE. Ends at the first difference, which counts as done.
#[derive(Debug)]
pub(crate) struct Compare {
    pub(crate) dst: u64,
    pub(crate) src: u64,
    pub(crate) count: u64,
}

impl Compare {
    pub(super) fn step<'m>(
        &self,
        progress: &mut Progress,
        memory: &mut impl Memory<'m>,
        scratch: &mut Scratch,
    ) -> Result<Step, Halt> {
        let end = self.count.min(progress.done + COMPUTE_STEP);
        while progress.done < end {
            let want = length(end - progress.done).min(PIECE);
            let read = FaultAccess::FAULT_READ;
            let src = memory.slice(self.src + progress.done, want, read)?;
            let dst = memory.slice(self.dst + progress.done, src.len(), read)?;
            let len = dst.len();
            let (a, b) = (&mut scratch.a[..len], &mut scratch.b[..len]);
            src.copy_to(a);
            dst.copy_to(b);
            if a != b {
                let same = a.iter().zip(&*b).take_while(|(a, b)| a == b).count();
                progress.value = progress.done + same as u64;
                progress.done = progress.value + 1;
                return Ok(Step::Finished);
            }
            progress.done += len as u64;
            progress.value = progress.done;
        }
        Ok(Step::of(progress, self.count))
    }
}
