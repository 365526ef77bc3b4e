//! What jobs do, as machines that can stop at any piece of memory and go on there later.
//!
//! A step works under one permit, so it is bounded: by bytes where memory is read or written in
//! order, by elements where every element may be a walk of a page table. Progress is noted piece
//! by piece: what a step has done before it is stopped is not done again.

mod atomic_add;
mod bytes;
mod chase;
mod indexed;
mod saxpy;
#[cfg(test)]
mod tests;
mod words;

pub(crate) use atomic_add::AtomicAdd;
pub(crate) use bytes::{Compare, Copy, Fill, Side};
pub(crate) use chase::Chase;
pub(crate) use indexed::{Gather, Scatter};
pub(crate) use saxpy::Saxpy;
pub(crate) use words::{Checksum, Reduce, Reduction};

use super::memory::{Halt, Memory};

/// Most bytes that are filled or copied in a step.
const COPY_STEP: u64 = 2 << 20;
/// Most bytes that are read in a step by kernels that compute.
const COMPUTE_STEP: u64 = 512 << 10;
/// Bytes that are computed on at once.
const PIECE: usize = 64 << 10;
/// Most elements in a step of kernels that jump about in memory.
const ELEMENT_STEP: u64 = 1024;

/// How far a job is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Elements that are done.
    pub(crate) done: u64,
    /// The result as it is so far.
    pub(crate) value: u64,
}

/// Whether a step was the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    More,
    Finished,
}

impl Step {
    /// Whether all of `count` is done.
    fn of(progress: &Progress, count: u64) -> Self {
        if progress.done == count {
            Self::Finished
        } else {
            Self::More
        }
    }
}

/// Local memory of an engine.
pub(crate) struct Scratch {
    a: Box<[u8]>,
    b: Box<[u8]>,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self {
            a: vec![0; PIECE].into(),
            b: vec![0; PIECE].into(),
        }
    }
}

/// A job's work. `step` continues from `progress`.
#[derive(Debug)]
pub(crate) enum Kernel {
    Fill(Fill),
    Copy(Copy),
    Compare(Compare),
    Checksum(Checksum),
    Reduce(Reduce),
    Saxpy(Saxpy),
    Gather(Gather),
    Scatter(Scatter),
    Chase(Chase),
    AtomicAdd(AtomicAdd),
}

impl Kernel {
    /// The progress of a job that has not begun.
    pub(crate) fn begin(&self) -> Progress {
        let value = match self {
            Self::Checksum(_) => Checksum::BEGIN,
            Self::Reduce(reduce) => reduce.begin(),
            _ => 0,
        };
        Progress { done: 0, value }
    }

    /// Works on for a bounded time.
    pub(crate) fn step<'m>(
        &mut self,
        progress: &mut Progress,
        memory: &mut impl Memory<'m>,
        scratch: &mut Scratch,
    ) -> Result<Step, Halt> {
        match self {
            Self::Fill(kernel) => kernel.step(progress, memory, scratch),
            Self::Copy(kernel) => kernel.step(progress, memory),
            Self::Compare(kernel) => kernel.step(progress, memory, scratch),
            Self::Checksum(kernel) => kernel.step(progress, memory, scratch),
            Self::Reduce(kernel) => kernel.step(progress, memory, scratch),
            Self::Saxpy(kernel) => kernel.step(progress, memory, scratch),
            Self::Gather(kernel) => kernel.step(progress, memory),
            Self::Scatter(kernel) => kernel.step(progress, memory),
            Self::Chase(kernel) => kernel.step(progress, memory),
            Self::AtomicAdd(kernel) => kernel.step(progress, memory),
        }
    }
}

/// As a length in this process.
fn length(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
