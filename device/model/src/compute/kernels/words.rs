//! Kernels that read words in order: CHECKSUM and REDUCE.

use hmmgpu_contract::compute::CHECKSUM_BASIS;
use hmmgpu_contract::mmu::FaultAccess;

use super::{COMPUTE_STEP, PIECE, Progress, Scratch, Step, length};
use crate::checksum;
use crate::compute::memory::{Halt, Memory};

const WORD: u64 = size_of::<u64>() as u64;

/// Folds the words from `src` on into the progress's value, for one step.
fn fold<'m>(
    src: u64,
    count: u64,
    progress: &mut Progress,
    memory: &mut impl Memory<'m>,
    scratch: &mut Scratch,
    mut add: impl FnMut(u64, u64) -> u64,
) -> Result<Step, Halt> {
    let end = count.min(progress.done + COMPUTE_STEP / WORD);
    while progress.done < end {
        let want = length((end - progress.done) * WORD).min(PIECE);
        let address = src + progress.done * WORD;
        let piece = memory.slice(address, want, FaultAccess::FAULT_READ)?;
        let bytes = &mut scratch.a[..piece.len()];
        piece.copy_to(bytes);
        let (words, rest) = bytes.as_chunks();
        if !rest.is_empty() {
            return Err(Halt::Misaligned);
        }
        progress.value = words.iter().fold(progress.value, |value, word| {
            add(value, u64::from_le_bytes(*word))
        });
        progress.done += words.len() as u64;
    }
    Ok(Step::of(progress, count))
}

/// CHECKSUM.
#[derive(Debug)]
pub(crate) struct Checksum {
    pub(crate) src: u64,
    pub(crate) count: u64,
}

impl Checksum {
    pub(super) const BEGIN: u64 = CHECKSUM_BASIS;

    pub(super) fn step<'m>(
        &self,
        progress: &mut Progress,
        memory: &mut impl Memory<'m>,
        scratch: &mut Scratch,
    ) -> Result<Step, Halt> {
        fold(
            self.src,
            self.count,
            progress,
            memory,
            scratch,
            checksum::add,
        )
    }
}

/// What REDUCE looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reduction {
    Sum,
    Minimum,
    Maximum,
}

/// REDUCE.
#[derive(Debug)]
pub(crate) struct Reduce {
    pub(crate) src: u64,
    pub(crate) count: u64,
    pub(crate) reduction: Reduction,
}

impl Reduce {
    /// The result of nothing.
    pub(super) fn begin(&self) -> u64 {
        match self.reduction {
            Reduction::Sum | Reduction::Maximum => 0,
            Reduction::Minimum => u64::MAX,
        }
    }

    pub(super) fn step<'m>(
        &self,
        progress: &mut Progress,
        memory: &mut impl Memory<'m>,
        scratch: &mut Scratch,
    ) -> Result<Step, Halt> {
        let (src, count) = (self.src, self.count);
        match self.reduction {
            Reduction::Sum => fold(src, count, progress, memory, scratch, u64::wrapping_add),
            Reduction::Minimum => fold(src, count, progress, memory, scratch, u64::min),
            Reduction::Maximum => fold(src, count, progress, memory, scratch, u64::max),
        }
    }
}
