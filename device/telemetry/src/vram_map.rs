//! VRAM as the driver's notes describe it.
//!
//! A bit for each page of 4 KiB says whether it is in use; what folio begins at a page, and whose
//! it is, is said for first pages only. So a note costs little whatever its order, and what a
//! snapshot wants to know of a block of 2 MiB is in eight words of bits and a few counts. All of it
//! is zero-initialised: the host gives memory only for the parts in use.

use hmmgpu_contract::{MAX_ORDER, PAGE_SHIFT, VRAM_BLOCK_BYTES};

use crate::snapshot::{FolioState, Vram, VramFolios, VramRun};

/// Pages of a word of bits.
const WORD: usize = WORD_PAGES as usize;
const WORD_PAGES: u16 = 64;
/// Pages of a block.
const BLOCK: usize = (VRAM_BLOCK_BYTES >> PAGE_SHIFT) as usize;

/// The page of a byte offset in VRAM; beyond all of VRAM if it has none.
pub(crate) fn page(address: u64) -> usize {
    usize::try_from(address >> PAGE_SHIFT).unwrap_or(usize::MAX)
}
const ORDERS: usize = MAX_ORDER as usize + 1;
/// Unit in which a run tells how many pages are in use.
const RUN_PAGES: u16 = 32;

/// A folio begins here; its order is in the low bits.
const HEAD: u8 = 0x80;
/// It is what a split left.
const SPLIT: u8 = 0x40;

/// Whose memory it is: a number that the caller gives, 0 for nobody's.
pub(crate) type Owner = u16;

/// What is in a block of 2 MiB, whole or in part.
#[derive(Clone, Debug, Default)]
struct Block {
    /// Folios by order.
    folios: [u16; ORDERS],
    /// Those of them that a split left.
    split: u16,
}

/// Some pages: the first of them, and how many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pages {
    pub(crate) first: Option<usize>,
    pub(crate) count: u64,
}

impl Pages {
    fn add(&mut self, first: usize, count: u64) {
        if count > 0 {
            self.first.get_or_insert(first);
            self.count += count;
        }
    }

    /// Those of a word whose bits are set.
    fn add_word(&mut self, word: usize, bits: u64) {
        let first = word * WORD + bits.trailing_zeros() as usize;
        self.add(first, u64::from(bits.count_ones()));
    }
}

/// What came of a note.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Applied {
    /// Folios that it holds for.
    pub(crate) folios: u64,
    /// Pages of those folios that contradict what was noted before.
    pub(crate) refused: Pages,
}

/// Which folios are where.
#[derive(Debug)]
pub(crate) struct VramMap {
    /// Bits of pages in use.
    used: Vec<u64>,
    /// Bits of those of them that something was written to since, as far as a checker tells.
    written: Vec<u64>,
    /// Folios that begin at a page.
    heads: Vec<u8>,
    /// Their owners.
    owners: Vec<Owner>,
    blocks: Vec<Block>,
    /// Pages by owner.
    owned: Vec<u64>,
    /// Folios by order: whole ones, and those that a split left.
    folios: [[u64; ORDERS]; 2],
    used_pages: u64,
    peak_pages: u64,
    inconsistent_notes: u64,
}

/// The words of a range of pages, each with the bits that are in the range.
fn words(first: usize, pages: usize) -> impl Iterator<Item = (usize, u64)> {
    let end = first + pages;
    (first / WORD..end.div_ceil(WORD)).map(move |word| {
        let (low, high) = (word * WORD, (word + 1) * WORD);
        let below = (1_u64 << (first.max(low) - low)) - 1;
        let above = u64::MAX
            .checked_shr(u32::try_from(high - end.min(high)).unwrap_or(0))
            .unwrap_or(0);
        (word, above & !below)
    })
}

/// The blocks that a range of pages is in.
fn blocks(first: usize, pages: usize) -> std::ops::Range<usize> {
    first / BLOCK..(first + pages).div_ceil(BLOCK)
}

impl VramMap {
    /// A map of VRAM of a number of bytes, a multiple of 2 MiB, and of so many owners. All is free.
    pub(crate) fn new(bytes: u64, owners: usize) -> Self {
        let blocks = usize::try_from(bytes / VRAM_BLOCK_BYTES).unwrap_or(0);
        let pages = blocks * BLOCK;
        Self {
            used: vec![0; pages / WORD],
            written: vec![0; pages / WORD],
            heads: vec![0; pages],
            owners: vec![0; pages],
            blocks: vec![Block::default(); blocks],
            owned: vec![0; owners + 1],
            folios: [[0; ORDERS]; 2],
            used_pages: 0,
            peak_pages: 0,
            inconsistent_notes: 0,
        }
    }

    fn bytes(&self) -> u64 {
        self.blocks.len() as u64 * VRAM_BLOCK_BYTES
    }

    /// Everything is free again; the peak and the count of contradictions stay.
    pub(crate) fn clear(&mut self) {
        *self = Self {
            peak_pages: self.peak_pages,
            inconsistent_notes: self.inconsistent_notes,
            ..Self::new(self.bytes(), self.owned.len() - 1)
        };
    }

    /// Bytes in use of an owner.
    pub(crate) fn owned_bytes(&self, owner: Owner) -> u64 {
        self.owned[usize::from(owner)] << PAGE_SHIFT
    }

    /// `count` folios of `order` from byte offset `address` were allocated for `owner`.
    pub(crate) fn alloc(&mut self, address: u64, order: u8, count: u64, owner: Owner) -> Applied {
        let pages = |map: &mut Self, head| map.alloc_word(head, owner);
        let applied = self.each(address, order, count, pages, |map, pages, head| {
            if words(head, pages).any(|(word, bits)| map.used[word] & bits != 0) {
                return false;
            }
            for (word, bits) in words(head, pages) {
                map.used[word] |= bits;
                map.unwrite(word, bits);
            }
            map.add(head, pages, order, false, owner);
            map.owned[usize::from(owner)] += pages as u64;
            map.used_pages += pages as u64;
            true
        });
        self.peak_pages = self.peak_pages.max(self.used_pages);
        applied
    }

    /// `count` folios of `order` from byte offset `address` were freed.
    pub(crate) fn free(&mut self, address: u64, order: u8, count: u64) -> Applied {
        self.each(
            address,
            order,
            count,
            Self::free_word,
            |map, pages, head| {
                if map.heads[head] & !SPLIT != HEAD | order {
                    return false;
                }
                let owner = map.remove(head, pages, order);
                for (word, bits) in words(head, pages) {
                    map.used[word] &= !bits;
                }
                map.owned[usize::from(owner)] -= pages as u64;
                map.used_pages -= pages as u64;
                true
            },
        )
    }

    /// `count` folios of `order` from byte offset `address` were split to `new_order`, as far
    /// as they were there to be split.
    pub(crate) fn split(&mut self, address: u64, order: u8, count: u64, new_order: u8) -> Applied {
        let none = |_: &mut Self, _| false;
        self.each(address, order, count, none, |map, pages, head| {
            if new_order >= order || map.heads[head] & !SPLIT != HEAD | order {
                return false;
            }
            let owner = map.remove(head, pages, order);
            let part = 1 << new_order;
            for head in (head..head + pages).step_by(part) {
                map.add(head, part, new_order, true, owner);
            }
            true
        })
    }

    /// Allocates the single pages of a word, if all of them are free.
    fn alloc_word(&mut self, head: usize, owner: Owner) -> bool {
        let used = &mut self.used[head / WORD];
        if *used != 0 {
            return false;
        }
        *used = u64::MAX;
        self.unwrite(head / WORD, u64::MAX);
        self.heads[head..head + WORD].fill(HEAD);
        let owners = &mut self.owners[head..head + WORD];
        // Not to touch memory for nobody's sake.
        if owners.iter().any(|before| *before != owner) {
            owners.fill(owner);
        }
        self.owned[usize::from(owner)] += WORD as u64;
        self.folios[0][0] += WORD as u64;
        self.blocks[head / BLOCK].folios[0] += WORD_PAGES;
        self.used_pages += WORD as u64;
        true
    }

    /// Frees the single pages of a word, if it has nothing else and they are alike.
    fn free_word(&mut self, head: usize) -> bool {
        let heads = &mut self.heads[head..head + WORD];
        let owners = &self.owners[head..head + WORD];
        let owner = owners[0];
        if heads.iter().any(|head| *head != HEAD) || owners.iter().any(|other| *other != owner) {
            return false;
        }
        heads.fill(0);
        self.used[head / WORD] = 0;
        self.owned[usize::from(owner)] -= WORD as u64;
        self.folios[0][0] -= WORD as u64;
        self.blocks[head / BLOCK].folios[0] -= WORD_PAGES;
        self.used_pages -= WORD as u64;
        true
    }

    /// A folio is there from now on; its pages are in use already.
    fn add(&mut self, head: usize, pages: usize, order: u8, split: bool, owner: Owner) {
        self.heads[head] = HEAD | order | if split { SPLIT } else { 0 };
        // Not to touch memory for nobody's sake.
        if self.owners[head] != owner {
            self.owners[head] = owner;
        }
        self.folios[usize::from(split)][usize::from(order)] += 1;
        for block in &mut self.blocks[blocks(head, pages)] {
            block.folios[usize::from(order)] += 1;
            block.split += u16::from(split);
        }
    }

    /// A folio is not there any more. Returns whose it was.
    fn remove(&mut self, head: usize, pages: usize, order: u8) -> Owner {
        let split = self.heads[head] & SPLIT != 0;
        self.heads[head] = 0;
        self.folios[usize::from(split)][usize::from(order)] -= 1;
        for block in &mut self.blocks[blocks(head, pages)] {
            block.folios[usize::from(order)] -= 1;
            block.split -= u16::from(split);
        }
        self.owners[head]
    }

    /// Nothing was written to these pages of a word yet.
    fn unwrite(&mut self, word: usize, bits: u64) {
        let written = &mut self.written[word];
        // Not to touch memory where nobody checks.
        if *written & bits != 0 {
            *written &= !bits;
        }
    }

    /// The words of a range of pages, cut to VRAM, each with the bits that are in the range.
    fn words_within(
        &self,
        first: usize,
        pages: usize,
    ) -> impl Iterator<Item = (usize, u64)> + use<> {
        let all = self.heads.len();
        let first = first.min(all);
        words(first, pages.min(all - first))
    }

    /// Something was written to pages. Returns those that are free.
    pub(crate) fn written(&mut self, first: usize, pages: usize) -> Pages {
        let mut free = Pages::default();
        for (word, bits) in self.words_within(first, pages) {
            free.add_word(word, bits & !self.used[word]);
            self.written[word] |= bits & self.used[word];
        }
        free
    }

    /// Pages were read. Returns those that are free, and those that nothing was written to.
    pub(crate) fn read(&self, first: usize, pages: usize) -> (Pages, Pages) {
        let (mut free, mut unwritten) = (Pages::default(), Pages::default());
        for (word, bits) in self.words_within(first, pages) {
            let (used, written) = (self.used[word], self.written[word]);
            free.add_word(word, bits & !used);
            unwritten.add_word(word, bits & used & !written);
        }
        (free, unwritten)
    }

    /// Whether a page is in use.
    pub(crate) fn is_used(&self, page: usize) -> bool {
        let used = self.used.get(page / WORD);
        used.is_some_and(|used| used >> (page % WORD) & 1 != 0)
    }

    /// The first page from `page` on that is in use.
    pub(crate) fn first_used(&self, page: usize) -> Option<usize> {
        let from = |page: usize| self.words_within(page, usize::MAX);
        from(page).find_map(|(word, bits)| match self.used[word] & bits {
            0 => None,
            used => Some(word * WORD + used.trailing_zeros() as usize),
        })
    }

    /// Runs of pages in use that follow each other: the first page and the number of each.
    pub(crate) fn used_runs(&self) -> impl Iterator<Item = (usize, u64)> {
        let mut next = 0;
        std::iter::from_fn(move || {
            let first = self.first_used(next)?;
            let free = self.words_within(first, usize::MAX);
            let mut free = free.filter_map(|(word, bits)| match !self.used[word] & bits {
                0 => None,
                free => Some(word * WORD + free.trailing_zeros() as usize),
            });
            next = free.next().unwrap_or(self.heads.len());
            Some((first, (next - first) as u64))
        })
    }

    /// Calls `apply` with the length in pages and the first page of each folio; but single pages
    /// that fill a word are offered to `word` first, all at once, since most notes are of many.
    /// Returns for how many the answer was yes; a note with any other answer contradicts what was
    /// noted before.
    fn each(
        &mut self,
        address: u64,
        order: u8,
        count: u64,
        word: impl Fn(&mut Self, usize) -> bool,
        mut apply: impl FnMut(&mut Self, usize, usize) -> bool,
    ) -> Applied {
        let (mut seen, mut done) = (0, 0);
        let mut refused = Pages::default();
        if order <= MAX_ORDER {
            let pages = 1_usize << order;
            let mut head = page(address);
            while seen < count && head < self.heads.len() && pages <= self.heads.len() - head {
                let in_words = order == 0 && head.is_multiple_of(WORD);
                // VRAM is whole words: one that begins here ends in it.
                let folios = if in_words && count - seen >= WORD as u64 && word(self, head) {
                    done += WORD as u64;
                    WORD
                } else {
                    let well = apply(self, pages, head);
                    done += u64::from(well);
                    if !well {
                        refused.add(head, pages as u64);
                    }
                    1
                };
                seen += folios as u64;
                head += folios * pages;
            }
        }
        self.inconsistent_notes += u64::from(done != count);
        Applied {
            folios: done,
            refused,
        }
    }

    pub(crate) fn snapshot(&self) -> Vram {
        let layout = Layout::of(self);
        let pages = self.heads.len() as u64;
        let free = pages - self.used_pages;
        let in_blocks = layout.free_blocks * BLOCK as u64;
        Vram {
            bytes: self.bytes(),
            used_bytes: self.used_pages << PAGE_SHIFT,
            peak_bytes: self.peak_pages << PAGE_SHIFT,
            largest_free_bytes: layout.largest_free << PAGE_SHIFT,
            fragmentation: share(free - in_blocks, free),
            folios: self.folio_rows(),
            map: layout.runs,
            inconsistent_notes: self.inconsistent_notes,
        }
    }

    fn folio_rows(&self) -> Vec<VramFolios> {
        let row = |order: u8, state, folios: u64| VramFolios {
            order,
            state,
            folios,
            bytes: folios << (u32::from(order) + PAGE_SHIFT),
        };
        let [whole, split] = &self.folios;
        let counts = (0..=MAX_ORDER).zip(whole.iter().zip(split));
        counts
            .flat_map(|(order, (whole, split))| {
                [
                    row(order, FolioState::Whole, *whole),
                    row(order, FolioState::Split, *split),
                ]
            })
            .filter(|row| row.folios > 0)
            .collect()
    }
}

/// `part / all`, 0 of nothing.
#[allow(clippy::cast_precision_loss)] // Numbers of pages are far below 2^52.
fn share(part: u64, all: u64) -> f64 {
    if all == 0 {
        0.0
    } else {
        part as f64 / all as f64
    }
}

/// What a look at all blocks finds.
#[derive(Debug, Default)]
struct Layout {
    runs: Vec<VramRun>,
    free_blocks: u64,
    /// Pages of the largest free range.
    largest_free: u64,
    /// Free pages before the word that is looked at.
    free_behind: u64,
}

impl Layout {
    fn of(map: &VramMap) -> Self {
        let mut layout = Self::default();
        for (block, words) in map.blocks.iter().zip(map.used.chunks_exact(BLOCK / WORD)) {
            let used: u32 = words.iter().map(|word| word.count_ones()).sum();
            if used == 0 {
                layout.free_blocks += 1;
                layout.free_range(BLOCK as u64);
            } else {
                words.iter().for_each(|word| layout.word(!word));
            }
            layout.run(block, u16::try_from(used).unwrap_or(u16::MAX));
        }
        layout
    }

    /// The free range that ends here grows.
    fn free_range(&mut self, pages: u64) {
        self.free_behind += pages;
        self.largest_free = self.largest_free.max(self.free_behind);
    }

    /// Pages of a word, as bits of those that are free.
    fn word(&mut self, free: u64) {
        if free == u64::MAX {
            self.free_range(WORD as u64);
            return;
        }
        self.free_range(u64::from(free.trailing_ones()));
        // Ranges inside: looked for only as far as they are larger than what was found.
        while has_run(free, self.largest_free + 1) {
            self.largest_free += 1;
        }
        self.free_behind = u64::from(free.leading_ones());
    }

    fn run(&mut self, block: &Block, used: u16) {
        let largest = block.folios.iter().rposition(|folios| *folios > 0);
        let look = VramRun {
            blocks: 1,
            order: largest.and_then(|order| u8::try_from(order).ok()),
            used_pages: used.next_multiple_of(RUN_PAGES),
            split: block.split > 0,
        };
        match self.runs.last_mut() {
            Some(last) if look == (VramRun { blocks: 1, ..*last }) => last.blocks += 1,
            _ => self.runs.push(look),
        }
    }
}

/// Whether so many bits in a row are set.
fn has_run(bits: u64, len: u64) -> bool {
    if len > u64::from(u64::BITS) {
        return false;
    }
    // Bit i of `runs` says that `known` bits are set from bit i on.
    let (mut runs, mut known) = (bits, 1);
    while known < len && runs != 0 {
        let step = known.min(len - known);
        runs &= runs >> step;
        known += step;
    }
    runs != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;
    const VRAM: u64 = 64 * MIB;

    fn map(bytes: u64) -> VramMap {
        VramMap::new(bytes, 3)
    }

    #[test]
    fn alloc_split_free_add_up() {
        let mut map = map(VRAM);
        map.alloc(2 * MIB, 9, 3, 1);
        assert_eq!(map.split(4 * MIB, 9, 1, 0).folios, 1);
        map.free(4 * MIB, 0, 256);
        map.free(2 * MIB, 9, 1);
        let vram = map.snapshot();
        let folios: Vec<_> = vram
            .folios
            .iter()
            .map(|row| (row.order, row.state, row.folios))
            .collect();
        assert_eq!(
            folios,
            [(0, FolioState::Split, 256), (9, FolioState::Whole, 1)]
        );
        assert_eq!((vram.used_bytes, vram.peak_bytes), (3 * MIB, 6 * MIB));
        assert_eq!(map.owned_bytes(1), 3 * MIB);
        assert_eq!(vram.inconsistent_notes, 0);
        let run = |blocks, order, used_pages, split| VramRun {
            blocks,
            order,
            used_pages,
            split,
        };
        assert_eq!(
            vram.map,
            [
                run(2, None, 0, false),
                run(1, Some(0), 256, true),
                run(1, Some(9), 512, false),
                run(28, None, 0, false)
            ]
        );
        assert_eq!(vram.largest_free_bytes, 56 * MIB);
        assert_eq!(vram.fragmentation, 1.0 / 61.0);
        map.clear();
        let vram = map.snapshot();
        assert_eq!((vram.used_bytes, vram.peak_bytes), (0, 6 * MIB));
        assert_eq!(map.owned_bytes(1), 0);
        assert_eq!(vram.fragmentation, 0.0);
    }

    #[test]
    fn contradictions_are_counted_and_change_nothing() {
        let mut map = map(VRAM);
        map.alloc(0, 9, 1, 0);
        let before = map.snapshot();
        map.alloc(0, 0, 1, 0); // allocated already
        map.alloc(4096, 4, 1, 0); // inside a folio
        map.free(0, 0, 1); // another order
        map.free(4096, 9, 1); // not a head
        map.free(2 * MIB, 9, 1); // not allocated
        map.split(2 * MIB, 9, 1, 0); // not allocated
        map.split(0, 9, 1, 9); // not smaller
        map.alloc(VRAM - 4096, 1, 1, 0); // beyond the end
        map.alloc(u64::MAX, 18, u64::from(u32::MAX), 0); // far beyond the end
        let after = map.snapshot();
        let expected = Vram {
            inconsistent_notes: 9,
            ..before
        };
        assert_eq!(after, expected);
    }

    #[test]
    fn runs_of_bits() {
        for len in 0..=64_u64 {
            let ones = u64::MAX
                .checked_shr(64 - u32::try_from(len).unwrap())
                .unwrap_or(0);
            for bits in [ones, ones << (64 - len).min(63), ones | 1 << 63] {
                assert!(len == 0 || has_run(bits, len), "{bits:x} {len}");
            }
            assert!(!has_run(ones, len + 1));
        }
        assert!(!has_run(0x5555_5555_5555_5555, 2));
    }

    /// A map that keeps the folio of each page, and nothing else.
    #[derive(Debug)]
    struct Naive(Vec<Option<Folio>>);

    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Folio {
        head: usize,
        order: u8,
        split: bool,
        owner: Owner,
    }

    /// Largest order, pages in use and whether there was a split, of a block.
    type Look = (Option<u8>, u16, bool);

    impl Naive {
        fn put(&mut self, folio: Folio) {
            let end = folio.head + (1 << folio.order);
            self.0[folio.head..end].fill(Some(folio));
        }

        fn at(&self, head: usize, order: u8) -> Option<Folio> {
            let end = head + (1 << order);
            let folio = (*self.0.get(head..end)?.first()?)?;
            (folio.head == head && folio.order == order).then_some(folio)
        }

        fn alloc(&mut self, head: usize, order: u8, owner: Owner) -> bool {
            let pages = self.0.get(head..head + (1 << order));
            let free = pages.is_some_and(|pages| pages.iter().all(Option::is_none));
            if free {
                self.put(Folio {
                    head,
                    order,
                    split: false,
                    owner,
                });
            }
            free
        }

        fn free(&mut self, head: usize, order: u8) -> bool {
            let found = self.at(head, order).is_some();
            if found {
                self.0[head..head + (1 << order)].fill(None);
            }
            found
        }

        fn split(&mut self, head: usize, order: u8, new: u8) -> bool {
            let Some(folio) = self.at(head, order).filter(|_| new < order) else {
                return false;
            };
            for part in 0..1 << (order - new) {
                self.put(Folio {
                    head: head + (part << new),
                    order: new,
                    split: true,
                    ..folio
                });
            }
            true
        }

        fn folios(&self, order: u8, split: bool) -> u64 {
            let heads = self.0.iter().zip(0..).filter(|(folio, page)| {
                folio.is_some_and(|f| f.head == *page && f.order == order && f.split == split)
            });
            heads.count() as u64
        }

        fn owned(&self, owner: Owner) -> u64 {
            let pages = self.0.iter().flatten();
            pages.filter(|folio| folio.owner == owner).count() as u64 * 4096
        }

        /// As `Vram` tells it: largest free range, fragmentation, and each block's look.
        fn layout(&self) -> (u64, f64, Vec<Look>) {
            let longest = self.0.split(Option::is_some).map(<[_]>::len).max();
            let free = self.0.iter().filter(|page| page.is_none()).count();
            let blocks: Vec<_> = self.0.chunks(512).collect();
            let free_blocks = blocks
                .iter()
                .filter(|block| block.iter().all(Option::is_none));
            let loose = free - 512 * free_blocks.count();
            let looks = blocks.iter().map(|block| {
                let folios = block.iter().flatten();
                let used = u16::try_from(folios.clone().count()).unwrap();
                (
                    folios.clone().map(|folio| folio.order).max(),
                    used.next_multiple_of(32),
                    folios.clone().any(|folio| folio.split),
                )
            });
            let looks = looks.collect();
            let fragmentation = share(loose as u64, free as u64);
            (longest.unwrap_or(0) as u64 * 4096, fragmentation, looks)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn equals_a_map_that_keeps_every_page(
            notes in prop::collection::vec(
                (
                    0_u8..4,
                    // Few places and orders, so that notes meet each other.
                    prop_oneof![0_usize..6, (0_usize..18).prop_map(|n| n * 64), (0_usize..9).prop_map(|n| n * 512)],
                    prop_oneof![Just(0_u8), Just(9), Just(10), 1_u8..9],
                    prop_oneof![Just(0_u8), 0_u8..10],
                    // Some of them fill words.
                    prop_oneof![4 => 1_u64..5, 1 => 60_u64..200],
                    0_u16..=3,
                ),
                1..120,
            ),
        ) {
            let (blocks, mut inconsistent) = (8, 0);
            let mut map = map(blocks as u64 * 2 * MIB);
            let mut naive = Naive(vec![None; blocks * 512]);
            for (what, page, order, new, count, owner) in notes {
                let address = page as u64 * 4096;
                match what {
                    0 | 1 => {
                        map.alloc(address, order, count, owner);
                    }
                    2 => {
                        map.free(address, order, count);
                    }
                    _ => {
                        map.split(address, order, count, new);
                    }
                }
                let mut well = true;
                for i in 0..usize::try_from(count).unwrap() {
                    let head = page + (i << order);
                    well &= match what {
                        0 | 1 => naive.alloc(head, order, owner),
                        2 => naive.free(head, order),
                        _ => naive.split(head, order, new),
                    };
                }
                inconsistent += u64::from(!well);
            }
            let vram = map.snapshot();
            prop_assert_eq!(vram.inconsistent_notes, inconsistent);
            for order in 0..=MAX_ORDER {
                for (split, state) in [(false, FolioState::Whole), (true, FolioState::Split)] {
                    let row = vram.folios.iter().find(|row| row.order == order && row.state == state);
                    prop_assert_eq!(row.map_or(0, |row| row.folios), naive.folios(order, split));
                }
            }
            for owner in 0..=3 {
                prop_assert_eq!(map.owned_bytes(owner), naive.owned(owner));
            }
            let (largest, fragmentation, looks) = naive.layout();
            prop_assert_eq!(vram.largest_free_bytes, largest);
            prop_assert_eq!(vram.fragmentation, fragmentation);
            let runs = vram.map.iter().flat_map(|run| {
                let look = (run.order, run.used_pages, run.split);
                std::iter::repeat_n(look, run.blocks as usize)
            });
            prop_assert_eq!(runs.collect::<Vec<_>>(), looks);
        }
    }
}
