//! Which pages of VRAM are in use, as the driver has noted so far: for accesses of jobs.
//!
//! Telemetry follows a ring in its order, but later. A job is in no order with a ring: whether it may
//! reach a page is known only while it does. So what notes and copies say is kept a second time, in
//! two bits a page that change as copy engines carry them out, before the fence behind them is
//! written.
//!
//! A driver that does no wrong allocates before it writes an entry of a page table, and invalidates
//! before it frees: at any moment, what its translations lead to is in use.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hmmgpu_contract::PAGE_SHIFT;

/// Pages of a word of bits.
const WORD: u64 = u64::BITS as u64;

/// An access that no driver lets a job do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Misuse {
    /// The memory is free; otherwise nothing was copied or filled to it since it was allocated.
    pub(crate) free: bool,
    /// Byte offset in VRAM of the first page of which that holds.
    pub(crate) address: u64,
    /// How many pages of the access it holds for.
    pub(crate) pages: u64,
}

/// What is known of 64 pages.
#[derive(Debug, Default)]
struct Word {
    used: AtomicU64,
    written: AtomicU64,
}

/// What is known of VRAM.
#[derive(Debug)]
pub(crate) struct Usage {
    words: Box<[Word]>,
    /// The driver has noted an allocation; what others do with VRAM nobody knows.
    noted: AtomicBool,
}

impl Usage {
    /// VRAM of a number of bytes, of which nothing is known.
    pub(crate) fn new(bytes: u64) -> Self {
        let words = (bytes >> PAGE_SHIFT).div_ceil(WORD);
        Self {
            words: (0..words).map(|_| Word::default()).collect(),
            noted: AtomicBool::new(false),
        }
    }

    /// The words of a range, cut to VRAM; each with the page that it begins at, and the bits that are
    /// in the range.
    fn words(&self, address: u64, bytes: u64) -> impl Iterator<Item = (&Word, u64, u64)> {
        let begin = address >> PAGE_SHIFT;
        let end = address.saturating_add(bytes).div_ceil(1 << PAGE_SHIFT);
        let place = |word: u64| usize::try_from(word).map_or(usize::MAX, |word| word);
        let len = self.words.len();
        let range = place(begin / WORD).min(len)..place(end.div_ceil(WORD)).min(len);
        let pages = (begin / WORD..).map(|word| word * WORD);
        self.words[range]
            .iter()
            .zip(pages)
            .map(move |(word, page)| {
                let below = (1 << (begin.max(page) - page)) - 1;
                let above = u64::MAX >> (page + WORD - end.min(page + WORD));
                (word, page, above & !below)
            })
    }

    /// Memory was allocated.
    pub(crate) fn alloc(&self, address: u64, bytes: u64) {
        for (word, _, bits) in self.words(address, bytes) {
            word.written.fetch_and(!bits, Ordering::Relaxed);
            word.used.fetch_or(bits, Ordering::Release);
        }
        self.noted.store(true, Ordering::Release);
    }

    /// Memory was freed.
    pub(crate) fn free(&self, address: u64, bytes: u64) {
        for (word, _, bits) in self.words(address, bytes) {
            word.used.fetch_and(!bits, Ordering::Release);
        }
    }

    /// Memory was copied or filled to.
    pub(crate) fn written(&self, address: u64, bytes: u64) {
        for (word, _, bits) in self.words(address, bytes) {
            word.written.fetch_or(bits, Ordering::Release);
        }
    }

    /// Nothing is known any more.
    pub(crate) fn forget(&self) {
        if self.noted.swap(false, Ordering::AcqRel) {
            self.free(0, u64::MAX);
        }
    }

    /// What is wrong with an access, if anything is: of what is wrong first, how much.
    #[inline]
    pub(crate) fn judge(&self, address: u64, bytes: u64, reads: bool) -> Option<Misuse> {
        if !self.noted.load(Ordering::Acquire) || self.is_one_good_page(address, bytes, reads) {
            return None;
        }
        self.judge_all(address, bytes, reads)
    }

    /// Nearly all accesses are: those to words here and there at least, for which time counts.
    #[inline]
    fn is_one_good_page(&self, address: u64, bytes: u64, reads: bool) -> bool {
        let page = address >> PAGE_SHIFT;
        let word = usize::try_from(page / WORD).ok();
        let Some(word) = word.and_then(|word| self.words.get(word)) else {
            return false;
        };
        let bit = 1 << (page % WORD);
        address.saturating_add(bytes) <= (page + 1) << PAGE_SHIFT
            && word.used.load(Ordering::Acquire) & bit != 0
            && (!reads || word.written.load(Ordering::Acquire) & bit != 0)
    }

    fn judge_all(&self, address: u64, bytes: u64, reads: bool) -> Option<Misuse> {
        let mut found: Option<Misuse> = None;
        for (word, page, bits) in self.words(address, bytes) {
            let free = bits & !word.used.load(Ordering::Acquire);
            let unwritten = match reads {
                true => bits & !free & !word.written.load(Ordering::Acquire),
                false => 0,
            };
            let wrong = free | unwritten;
            if wrong == 0 {
                continue;
            }
            let first = u64::from(wrong.trailing_zeros());
            let found = found.get_or_insert(Misuse {
                free: free >> first & 1 != 0,
                address: (page + first) << PAGE_SHIFT,
                pages: 0,
            });
            let alike = if found.free { free } else { unwritten };
            found.pages += u64::from(alike.count_ones());
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE: u64 = 1 << PAGE_SHIFT;
    const PAGES: u64 = 4 * WORD;

    /// A page that is free, or whether it was written to.
    type Naive = Vec<Option<bool>>;

    fn judged(naive: &Naive, pages: std::ops::Range<u64>, reads: bool) -> Option<Misuse> {
        let wrong = |page: &u64| match naive[usize::try_from(*page).unwrap()] {
            None => Some(true),
            Some(false) if reads => Some(false),
            Some(_) => None,
        };
        let first = pages.clone().find(|page| wrong(page).is_some())?;
        let alike = pages.filter(|page| wrong(page) == wrong(&first));
        Some(Misuse {
            free: wrong(&first) == Some(true),
            address: first * PAGE,
            pages: alike.count() as u64,
        })
    }

    proptest! {
        #[test]
        fn equals_a_list_of_pages(
            steps in prop::collection::vec((0..5, 0..PAGES, 1..150_u64, any::<bool>()), 1..60),
        ) {
            let usage = Usage::new(PAGES * PAGE);
            let mut naive: Naive = vec![None; usize::try_from(PAGES).unwrap()];
            usage.alloc(0, PAGE);
            usage.free(0, PAGE);
            for (what, first, count, reads) in steps {
                let end = (first + count).min(PAGES);
                // What goes beyond the end is cut, as hostile notes do.
                let (address, bytes) = (first * PAGE, count * PAGE);
                let pages = usize::try_from(first).unwrap()..usize::try_from(end).unwrap();
                match what {
                    0 => {
                        usage.alloc(address, bytes);
                        naive[pages].fill(Some(false));
                    }
                    1 => {
                        usage.free(address, bytes);
                        naive[pages].fill(None);
                    }
                    2 => {
                        usage.written(address, bytes);
                        naive[pages].iter_mut().flatten().for_each(|written| *written = true);
                    }
                    _ => {
                        let bytes = (end - first) * PAGE;
                        // A part of a page is the page.
                        for (address, bytes) in [(address, bytes), (address + 8, bytes - 16)] {
                            let found = usage.judge(address, bytes, reads);
                            prop_assert_eq!(found, judged(&naive, first..end, reads));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_is_said_before_a_note_and_after_a_reset() {
        let usage = Usage::new(PAGES * PAGE);
        usage.written(0, PAGE);
        assert_eq!(usage.judge(0, 8, true), None);
        usage.alloc(PAGE, PAGE);
        assert!(usage.judge(0, 8, false).is_some_and(|wrong| wrong.free));
        assert!(usage.judge(PAGE, 8, true).is_some_and(|wrong| !wrong.free));
        assert_eq!(usage.judge(PAGE, 8, false), None);
        usage.forget();
        assert_eq!(usage.judge(0, 8, true), None);
        usage.alloc(0, PAGE);
        assert!(usage.judge(PAGE, 8, false).is_some_and(|wrong| wrong.free));
    }
}
