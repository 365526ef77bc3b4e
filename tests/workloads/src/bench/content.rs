//! What is in the memory that is measured.

use std::ops::Range;

use hmmgpu_guest_protocol::bench::Subject;

use crate::pattern;
use crate::sys::memory::{Memory, UNIT_PAGES, WORDS};

/// Memory of a round, and the seed of what it is filled with.
pub(super) struct Filled {
    pub(super) memory: Memory,
    pub(super) seed: u64,
}

/// Writes the pattern to all of `memory`.
pub(super) fn fill(memory: &mut Memory, seed: u64) {
    let pages = memory.pages();
    let part = part_of(pages);
    let words = memory.words_of_mut(0..pages);
    std::thread::scope(|scope| {
        for (index, words) in words.chunks_mut(part * WORDS).enumerate() {
            scope.spawn(move || {
                for (page, words) in (index * part..).zip(words.chunks_exact_mut(WORDS)) {
                    pattern::fill(words, pattern::page_base(seed, page));
                }
            });
        }
    });
}

/// Bytes that are not what was written.
fn mismatches(filled: &Filled) -> u64 {
    let differing = |page| {
        let base = pattern::page_base(filled.seed, page);
        pattern::differing_bytes(filled.memory.words(page), base)
    };
    in_parts(filled.memory.pages(), |part| {
        part.map(differing).sum::<u64>()
    })
    .into_iter()
    .sum()
}

/// What is known of the data after a trip.
#[derive(Clone, Copy)]
pub(super) struct Data {
    pub(super) verified: bool,
    pub(super) mismatched_bytes: u64,
}

impl Data {
    /// Without copies there is nothing to compare.
    pub(super) fn compare(subject: Subject, filled: &Filled) -> Data {
        if subject == Subject::Floor {
            return Data {
                verified: false,
                mismatched_bytes: 0,
            };
        }
        let mismatched_bytes = mismatches(filled);
        Data {
            verified: mismatched_bytes == 0,
            mismatched_bytes,
        }
    }
}

/// Does `work` on parts of so many pages, one for each processor, at the same time. Only for what is
/// not measured: migrations are asked for, and pages touched, by one thread.
pub(super) fn in_parts<T: Send>(pages: usize, work: impl Fn(Range<usize>) -> T + Sync) -> Vec<T> {
    let part = part_of(pages);
    std::thread::scope(|scope| {
        let parts: Vec<_> = (0..pages)
            .step_by(part)
            .map(|start| {
                let work = &work;
                scope.spawn(move || work(start..pages.min(start + part)))
            })
            .collect();
        parts
            .into_iter()
            .map(|part| match part.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect()
    })
}

/// Pages of a processor's part: whole units, so that no two threads share a folio.
fn part_of(pages: usize) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    pages.div_ceil(processors).next_multiple_of(UNIT_PAGES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::memory::UNIT;

    #[test]
    fn a_wrong_byte_is_seen() -> std::io::Result<()> {
        let mut memory = Memory::anonymous(2 * UNIT)?;
        fill(&mut memory, 9);
        let mut filled = Filled { memory, seed: 9 };
        assert_eq!(mismatches(&filled), 0);
        filled.memory.bytes_mut(700)[4095] ^= 1;
        assert_eq!(mismatches(&filled), 1);
        Ok(())
    }
}
