//! A region of memory and what each of its pages must hold.

use std::ops::Range;

use anyhow::{Context, Result, bail};

use crate::pattern;
use crate::sys::memory::{Access, Advice, Memory, PAGE, WORDS};

/// What a page must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Zero,
    /// The pattern of this base.
    Pattern(u64),
    /// The pattern, or zero if the kernel has dropped it: MADV_FREE.
    PatternOrZero(u64),
    /// This word, repeated.
    Repeated(u64),
    /// The same, or zero if the kernel has dropped it.
    RepeatedOrZero(u64),
}

impl Content {
    /// The words of a page that holds it; `None` when more than one content is possible.
    pub(crate) fn words(self) -> Option<[u64; WORDS]> {
        let mut words = [0; WORDS];
        match self {
            Content::Zero => {}
            Content::Pattern(base) => pattern::fill(&mut words, base),
            Content::Repeated(word) => words.fill(word),
            Content::PatternOrZero(_) | Content::RepeatedOrZero(_) => return None,
        }
        Some(words)
    }
}

/// The model of a page; `None` in the region's list when it is not mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Page {
    content: Content,
    access: Access,
}

/// How a region's memory is to be backed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backing {
    /// Folios of 2 MiB where they fit.
    Huge,
    /// As the system says.
    Default,
    /// Single pages.
    Small,
}

/// A range of addresses, its mappings, and the model of its pages.
#[derive(Debug)]
pub(crate) struct Region {
    memory: Memory,
    pages: Vec<Option<Page>>,
    backing: Backing,
}

impl Region {
    /// Untouched memory.
    pub(crate) fn new(address: usize, pages: usize, backing: Backing) -> Result<Region> {
        let memory = Memory::at(address, pages * PAGE).context("cannot map a region")?;
        let page = Page {
            content: Content::Zero,
            access: Access::Write,
        };
        let mut region = Region {
            memory,
            pages: vec![Some(page); pages],
            backing,
        };
        region.advise_backing(0..pages)?;
        Ok(region)
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    pub(crate) fn len(&self) -> usize {
        self.pages.len()
    }

    /// Compares every byte of the pages that can be read. Returns the bytes compared.
    pub(crate) fn verify(&mut self, range: Range<usize>) -> Result<u64> {
        let mut compared = 0;
        for page in range {
            let Some(model) = self.pages[page] else {
                continue;
            };
            if model.access == Access::None {
                continue;
            }
            let content = self.check(page, model.content, 0)?;
            self.pages[page] = Some(Page { content, ..model });
            compared += PAGE as u64;
        }
        Ok(compared)
    }

    /// Writes a new pattern to the pages that can be written. The first store is of one word,
    /// after which the rest of the page must still be what it was.
    pub(crate) fn write(&mut self, range: Range<usize>, seed: u64) -> Result<u64> {
        let mut compared = 0;
        for page in range {
            let Some(model) = self.pages[page] else {
                continue;
            };
            if model.access != Access::Write {
                continue;
            }
            let base = pattern::page_base(seed, page);
            self.memory.words_mut(page)[0] = pattern::word(base, 0);
            self.check(page, model.content, 1)?;
            compared += (PAGE - 8) as u64;
            pattern::fill(self.memory.words_mut(page), base);
            self.pages[page] = Some(Page {
                content: Content::Pattern(base),
                ..model
            });
        }
        Ok(compared)
    }

    /// What a page holds, from the word `skip` on, if the model allows it.
    fn check(&self, page: usize, content: Content, skip: usize) -> Result<Content> {
        let words = &self.memory.words(page)[skip..];
        let pattern = |base| pattern::differing_bytes(words, pattern::word(base, skip));
        if matches!(
            content,
            Content::PatternOrZero(_) | Content::RepeatedOrZero(_)
        ) && pattern::nonzero_bytes(words) == 0
        {
            return Ok(Content::Zero);
        }
        let wrong = match content {
            Content::Zero => pattern::nonzero_bytes(words),
            Content::Pattern(base) | Content::PatternOrZero(base) => pattern(base),
            Content::Repeated(word) | Content::RepeatedOrZero(word) => {
                pattern::bytes_unlike(words, word)
            }
        };
        if wrong != 0 {
            let found = words[..4].iter().map(|word| format!("{word:#018x}"));
            let found = found.collect::<Vec<_>>().join(" ");
            let expected = match content {
                Content::Zero => 0,
                Content::Repeated(word) | Content::RepeatedOrZero(word) => word,
                Content::Pattern(base) | Content::PatternOrZero(base) => pattern::word(base, skip),
            };
            bail!(
                "page {page} at {:#x}: {wrong} bytes differ; expected {content:x?}, from {expected:#018x} on; found {found}",
                self.memory.page_address(page)
            );
        }
        Ok(content)
    }

    /// Writes a new pattern to the pages that can be written, whatever they hold now.
    pub(crate) fn overwrite(&mut self, range: Range<usize>, seed: u64) {
        for page in range {
            let Some(model) = &mut self.pages[page] else {
                continue;
            };
            if model.access == Access::Write {
                let base = pattern::page_base(seed, page);
                pattern::fill(self.memory.words_mut(page), base);
                model.content = Content::Pattern(base);
            }
        }
    }

    /// Writes a word over and over to the pages that can be written, whatever they hold now.
    pub(crate) fn repeat(&mut self, range: Range<usize>, word: u64) {
        for page in range {
            if self.writable(page) {
                self.memory.words_mut(page).fill(word);
                self.written(page, Content::Repeated(word));
            }
        }
    }

    /// Gives advice that changes no content.
    pub(crate) fn advise(&mut self, range: Range<usize>, advice: Advice) -> Result<()> {
        for run in self.mapped(range) {
            self.memory
                .advise(run, advice)
                .with_context(|| format!("madvise {advice:?} failed"))?;
        }
        Ok(())
    }

    /// The memory, to be changed by others; what they write has to be told by
    /// [`written`](Self::written).
    pub(crate) fn memory_mut(&mut self) -> &mut Memory {
        &mut self.memory
    }

    /// What the pages that can be read begin with.
    pub(crate) fn sample(&self, range: Range<usize>) -> Vec<u64> {
        let readable = range.filter(|&page| self.readable(page));
        readable.map(|page| self.memory.touch(page)).collect()
    }

    /// Whether more than one content of a page is possible.
    pub(crate) fn unsettled(&self, page: usize) -> bool {
        matches!(
            self.content(page),
            Some(Content::PatternOrZero(_) | Content::RepeatedOrZero(_))
        )
    }

    /// Whether a page may be read.
    pub(crate) fn readable(&self, page: usize) -> bool {
        self.pages[page].is_some_and(|page| page.access != Access::None)
    }

    /// Whether a page may be written.
    pub(crate) fn writable(&self, page: usize) -> bool {
        self.pages[page].is_some_and(|page| page.access == Access::Write)
    }

    /// What a page must hold, if it is mapped.
    pub(crate) fn content(&self, page: usize) -> Option<Content> {
        self.pages[page].map(|page| page.content)
    }

    /// A page was written by somebody else.
    pub(crate) fn written(&mut self, page: usize, content: Content) {
        if let Some(page) = &mut self.pages[page] {
            page.content = content;
        }
    }

    pub(crate) fn unmap(&mut self, range: Range<usize>) -> Result<()> {
        self.memory.unmap(range.clone()).context("munmap failed")?;
        self.pages[range].fill(None);
        Ok(())
    }

    /// Maps what is not mapped; says whether there was something.
    pub(crate) fn map_holes(&mut self) -> Result<bool> {
        let holes = self.runs(0..self.len(), |page| page.is_none());
        for hole in &holes {
            self.memory
                .map_again(hole.clone())
                .context("mmap of a hole failed")?;
            self.advise_backing(hole.clone())?;
            self.pages[hole.clone()].fill(Some(Page {
                content: Content::Zero,
                access: Access::Write,
            }));
        }
        Ok(!holes.is_empty())
    }

    pub(crate) fn protect(&mut self, range: Range<usize>, access: Access) -> Result<()> {
        for run in self.mapped(range) {
            self.memory
                .protect(run.clone(), access)
                .context("mprotect failed")?;
            for page in self.pages[run].iter_mut().flatten() {
                page.access = access;
            }
        }
        Ok(())
    }

    /// Moves the region to other addresses.
    pub(crate) fn move_to(&mut self, address: usize) -> Result<()> {
        let runs = self.mapped(0..self.len());
        self.memory.move_to(address, &runs).context("mremap failed")
    }

    pub(crate) fn drop_content(&mut self, range: Range<usize>) -> Result<()> {
        for run in self.mapped(range) {
            self.memory
                .advise(run.clone(), Advice::DontNeed)
                .context("MADV_DONTNEED failed")?;
            for page in self.pages[run].iter_mut().flatten() {
                page.content = Content::Zero;
            }
        }
        Ok(())
    }

    pub(crate) fn free_lazily(&mut self, range: Range<usize>) -> Result<()> {
        for run in self.mapped(range) {
            self.memory
                .advise(run.clone(), Advice::Free)
                .context("MADV_FREE failed")?;
            for page in self.pages[run].iter_mut().flatten() {
                page.content = match page.content {
                    Content::Pattern(base) => Content::PatternOrZero(base),
                    Content::Repeated(word) => Content::RepeatedOrZero(word),
                    other => other,
                };
            }
        }
        Ok(())
    }

    /// Asks for huge pages now; returns how often the kernel refused, which it may.
    pub(crate) fn collapse(&mut self, range: Range<usize>) -> u64 {
        let mut refused = 0;
        for run in self.mapped(range) {
            if self.memory.advise(run, Advice::Collapse).is_err() {
                refused += 1;
            }
        }
        refused
    }

    fn advise_backing(&mut self, range: Range<usize>) -> Result<()> {
        let advice = match self.backing {
            Backing::Huge => Advice::HugePage,
            Backing::Small => Advice::NoHugePage,
            Backing::Default => return Ok(()),
        };
        self.memory
            .advise(range, advice)
            .context("madvise about huge pages failed")
    }

    fn mapped(&self, range: Range<usize>) -> Vec<Range<usize>> {
        self.runs(range, Option::is_some)
    }

    /// The longest runs of pages in `range` that are alike.
    fn runs(
        &self,
        range: Range<usize>,
        matches: impl Fn(&Option<Page>) -> bool,
    ) -> Vec<Range<usize>> {
        let mut runs: Vec<Range<usize>> = Vec::new();
        for page in range.filter(|&page| matches(&self.pages[page])) {
            match runs.last_mut() {
                Some(run) if run.end == page => run.end += 1,
                _ => runs.push(page..page + 1),
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(address: usize) -> Region {
        Region::new(address, 64, Backing::Default).unwrap()
    }

    #[test]
    fn the_model_follows_the_memory() {
        let mut region = region(0x1000_0000_0000);
        assert_eq!(region.verify(0..64).unwrap(), 64 * PAGE as u64);
        region.write(0..64, 1).unwrap();
        region.unmap(10..20).unwrap();
        region.protect(0..40, Access::Read).unwrap();
        region.protect(30..32, Access::None).unwrap();
        assert_eq!(region.verify(0..64).unwrap(), 52 * PAGE as u64);
        region.write(0..64, 2).unwrap();
        region.move_to(0x1010_0000_1000).unwrap();
        assert!(region.map_holes().unwrap());
        assert!(!region.map_holes().unwrap());
        region.drop_content(50..60).unwrap();
        region.free_lazily(20..25).unwrap();
        region.collapse(0..64);
        region.protect(0..64, Access::Write).unwrap();
        assert_eq!(region.verify(0..64).unwrap(), 64 * PAGE as u64);
    }

    #[test]
    fn a_changed_byte_is_found() {
        let mut region = region(0x1100_0000_0000);
        region.write(0..64, 1).unwrap();
        region.memory.bytes_mut(9)[4095] ^= 1;
        let error = region.verify(0..64).unwrap_err().to_string();
        // The verdict comes first, on one line.
        assert!(error.starts_with("page 9 at 0x"), "{error}");
        assert!(error.contains(": 1 bytes differ"), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(region.write(9..10, 2).is_err());
    }

    #[test]
    fn a_page_that_should_be_zero_is_found() {
        let mut region = region(0x1200_0000_0000);
        region.memory.bytes_mut(3)[17] = 1;
        assert!(region.verify(0..64).is_err());
        assert!(region.verify(4..64).is_ok());
    }
}
