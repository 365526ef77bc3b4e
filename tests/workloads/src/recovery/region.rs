//! 2 MiB of memory that may get lost.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};

use crate::gpu::Command;
use crate::sys::memory::{Memory, PAGE, UNIT, WORDS};
use crate::{pattern, reference};

/// What a region holds.
#[derive(Clone, Copy, Debug)]
enum Content {
    /// The pattern of a seed.
    Pattern(u64),
    /// One word, repeated.
    Word(u64),
}

/// One region.
#[derive(Debug)]
pub(super) struct Region {
    memory: Memory,
    content: Content,
    seed: u64,
    /// Some of it may be in VRAM.
    pub(super) maybe_away: bool,
}

impl Region {
    pub(super) fn new(seed: u64) -> Result<Region> {
        let mut memory = Memory::anonymous(UNIT).context("cannot map memory")?;
        for page in 0..memory.pages() {
            pattern::fill(memory.words_mut(page), pattern::page_base(seed, page));
        }
        Ok(Region {
            memory,
            content: Content::Pattern(seed),
            seed,
            maybe_away: false,
        })
    }

    /// Gives the memory up and takes other memory.
    pub(super) fn renew(&mut self) -> Result<()> {
        *self = Region::new(self.seed + (1 << 16))?;
        Ok(())
    }

    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    pub(super) fn all(&self) -> Range<usize> {
        0..self.memory.pages()
    }

    fn words(&self, page: usize) -> [u64; WORDS] {
        let mut words = [0; WORDS];
        match self.content {
            Content::Pattern(seed) => pattern::fill(&mut words, pattern::page_base(seed, page)),
            Content::Word(word) => words.fill(word),
        }
        words
    }

    /// A job that reads it all, and its result.
    pub(super) fn checksum(&self) -> (Command, u64) {
        let command = Command::Checksum {
            src: self.memory.address() as u64,
            words: (self.memory.len() / 8) as u64,
        };
        let words = self.all().flat_map(|page| self.words(page));
        (command, reference::checksum(words))
    }

    /// A job that overwrites it all; it counts as done.
    pub(super) fn fill(&mut self, word: u64) -> Command {
        self.content = Content::Word(word);
        Command::Fill {
            dst: self.memory.address() as u64,
            pattern: word,
            bytes: self.memory.len() as u64,
        }
    }

    /// Compares what can be read: bytes that could, and pages that could not.
    ///
    /// Reads by way of the kernel, which gives an error where an access would end the process.
    pub(super) fn verify(&self) -> Result<(u64, u64)> {
        let own = File::open("/proc/self/mem").context("cannot open /proc/self/mem")?;
        let (mut read, mut lost) = (0, 0);
        let mut found = vec![0; PAGE];
        for page in self.all() {
            let address = self.memory.page_address(page) as u64;
            match own.read_exact_at(&mut found, address) {
                Ok(()) => {
                    let expected = self.words(page);
                    let words = found.chunks_exact(8);
                    let same = words
                        .zip(expected)
                        .all(|(found, word)| found == word.to_ne_bytes());
                    ensure!(
                        same,
                        "page {page} is not what was written ({:?})",
                        self.content
                    );
                    read += PAGE as u64;
                }
                Err(error) if error.raw_os_error() == Some(libc::EIO) => lost += 1,
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot read page {page}"));
                }
            }
        }
        Ok((read, lost))
    }
}
