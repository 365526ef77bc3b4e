//! SAXPY.

use hmmgpu_contract::mmu::FaultAccess;

use super::{COMPUTE_STEP, PIECE, Progress, Scratch, Step, length};
use crate::compute::memory::{Halt, Memory};
use crate::copy::copy_from_buffer;

const FLOAT: u64 = size_of::<f32>() as u64;

/// SAXPY.
#[derive(Debug)]
pub(crate) struct Saxpy {
    pub(crate) dst: u64,
    pub(crate) src: u64,
    pub(crate) count: u64,
    pub(crate) a: f32,
}

impl Saxpy {
    /// Bytes that may be read before any of them is written: where the ranges overlap, elements
    /// of `src` may be results of elements before them.
    fn independent(&self) -> usize {
        match self.dst.checked_sub(self.src) {
            Some(ahead) if ahead > 0 => length(ahead).min(PIECE),
            _ => PIECE,
        }
    }

    pub(super) fn step<'m>(
        &self,
        progress: &mut Progress,
        memory: &mut impl Memory<'m>,
        scratch: &mut Scratch,
    ) -> Result<Step, Halt> {
        let end = self.count.min(progress.done + COMPUTE_STEP / FLOAT);
        let most = self.independent();
        while progress.done < end {
            let want = length((end - progress.done) * FLOAT).min(most);
            let offset = progress.done * FLOAT;
            let src = memory.slice(self.src + offset, want, FaultAccess::FAULT_READ)?;
            // For writing first, so that a driver is not asked twice for a page that is not there.
            let dst = memory.slice(self.dst + offset, src.len(), FaultAccess::FAULT_WRITE)?;
            let old = memory.slice(self.dst + offset, dst.len(), FaultAccess::FAULT_READ)?;
            let len = old.len();
            let (x, y) = (&mut scratch.a[..len], &mut scratch.b[..len]);
            src.copy_to(x);
            old.copy_to(y);
            let ((x, x_rest), (y, _)) = (x.as_chunks(), y.as_chunks_mut());
            if !x_rest.is_empty() {
                return Err(Halt::Misaligned);
            }
            for (x, y) in x.iter().zip(y) {
                let result = self.a * f32::from_le_bytes(*x) + f32::from_le_bytes(*y);
                *y = result.to_le_bytes();
            }
            copy_from_buffer(&dst, &scratch.b[..len]);
            progress.done += x.len() as u64;
        }
        Ok(Step::of(progress, self.count))
    }
}
