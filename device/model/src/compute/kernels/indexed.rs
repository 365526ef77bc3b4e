//! Kernels that jump about by indices: GATHER and SCATTER.

use hmmgpu_contract::mmu::FaultAccess;

use super::{ELEMENT_STEP, Progress, Step, length};
use crate::compute::memory::{Halt, Memory, Stream, load, store};

const INDEX: u64 = size_of::<u32>() as u64;
const WORD: u64 = size_of::<u64>() as u64;

/// Address of a word by its index. What wraps around is no virtual address, and faults.
fn indexed(base: u64, index: u32) -> u64 {
    base.saturating_add(u64::from(index) * WORD)
}

/// The index of element `done`; `left` more come, that one among them.
fn index<'m>(
    stream: &mut Stream<'m>,
    memory: &mut impl Memory<'m>,
    base: u64,
    done: u64,
    left: u64,
) -> Result<u32, Halt> {
    let address = base + done * INDEX;
    let slot = stream.element(memory, address, size_of::<u32>(), length(left * INDEX))?;
    load::<u32>(&slot).map(u32::from_le)
}

/// GATHER.
#[derive(Debug)]
pub(crate) struct Gather {
    pub(crate) dst: u64,
    pub(crate) src: u64,
    pub(crate) indices: u64,
    pub(crate) count: u64,
}

impl Gather {
    pub(super) fn step<'m>(
        &self,
        progress: &mut Progress,
        memory: &mut impl Memory<'m>,
    ) -> Result<Step, Halt> {
        let end = self.count.min(progress.done + ELEMENT_STEP);
        let mut indices = Stream::new(FaultAccess::FAULT_READ);
        let mut target = Stream::new(FaultAccess::FAULT_WRITE);
        while progress.done < end {
            let left = end - progress.done;
            let index = index(&mut indices, memory, self.indices, progress.done, left)?;
            let from = indexed(self.src, index);
            let from = memory.slice(from, size_of::<u64>(), FaultAccess::FAULT_READ)?;
            let to = self.dst + progress.done * WORD;
            let to = target.element(memory, to, size_of::<u64>(), length(left * WORD))?;
            store(&to, load::<u64>(&from)?)?;
            progress.done += 1;
        }
        Ok(Step::of(progress, self.count))
    }
}

/// SCATTER.
#[derive(Debug)]
pub(crate) struct Scatter {
    pub(crate) dst: u64,
    pub(crate) src: u64,
    pub(crate) indices: u64,
    pub(crate) count: u64,
}

impl Scatter {
    pub(super) fn step<'m>(
        &self,
        progress: &mut Progress,
        memory: &mut impl Memory<'m>,
    ) -> Result<Step, Halt> {
        let end = self.count.min(progress.done + ELEMENT_STEP);
        let mut indices = Stream::new(FaultAccess::FAULT_READ);
        let mut source = Stream::new(FaultAccess::FAULT_READ);
        while progress.done < end {
            let left = end - progress.done;
            let index = index(&mut indices, memory, self.indices, progress.done, left)?;
            let from = self.src + progress.done * WORD;
            let from = source.element(memory, from, size_of::<u64>(), length(left * WORD))?;
            let to = indexed(self.dst, index);
            let to = memory.slice(to, size_of::<u64>(), FaultAccess::FAULT_WRITE)?;
            store(&to, load::<u64>(&from)?)?;
            progress.done += 1;
        }
        Ok(Step::of(progress, self.count))
    }
}
