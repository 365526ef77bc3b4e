//! VRAM as the driver's notes describe it: one byte for each page of 4 KiB.

use hmmgpu_contract::{MAX_ORDER, PAGE_SHIFT};

use crate::snapshot::{FolioState, Vram, VramFolios};

/// A page that no note has allocated.
const FREE: u8 = 0;
/// A page of a folio, other than its first.
const TAIL: u8 = 0x40;
/// The first page of a folio; the order is in the low bits.
const HEAD: u8 = 0x80;

/// Which folios are where.
#[derive(Debug)]
pub(crate) struct VramMap {
    /// Zero-initialised, so that the host gives memory only for the parts in use.
    pages: Vec<u8>,
    folios: [u64; MAX_ORDER as usize + 1],
    used_pages: u64,
    peak_pages: u64,
    inconsistent_notes: u64,
}

impl VramMap {
    pub(crate) fn new(bytes: u64) -> Self {
        let pages = usize::try_from(bytes >> PAGE_SHIFT).unwrap_or(0);
        Self {
            pages: vec![FREE; pages],
            folios: [0; MAX_ORDER as usize + 1],
            used_pages: 0,
            peak_pages: 0,
            inconsistent_notes: 0,
        }
    }

    /// Everything is free again; the peak and the count of contradictions stay.
    pub(crate) fn clear(&mut self) {
        self.pages = vec![FREE; self.pages.len()];
        self.folios = [0; MAX_ORDER as usize + 1];
        self.used_pages = 0;
    }

    /// `count` folios of `order` from byte offset `address` were allocated.
    pub(crate) fn alloc(&mut self, address: u64, order: u8, count: u64) {
        self.each(address, order, count, |map, pages, head| {
            if map.pages[head..head + pages]
                .iter()
                .any(|page| *page != FREE)
            {
                return false;
            }
            map.pages[head..head + pages].fill(TAIL);
            map.pages[head] = HEAD | order;
            map.folios[usize::from(order)] += 1;
            map.used_pages += pages as u64;
            true
        });
        self.peak_pages = self.peak_pages.max(self.used_pages);
    }

    /// `count` folios of `order` from byte offset `address` were freed.
    pub(crate) fn free(&mut self, address: u64, order: u8, count: u64) {
        self.each(address, order, count, |map, pages, head| {
            if map.pages[head] != HEAD | order {
                return false;
            }
            map.pages[head..head + pages].fill(FREE);
            map.folios[usize::from(order)] -= 1;
            map.used_pages -= pages as u64;
            true
        });
    }

    /// `count` folios of `order` from byte offset `address` were split to `new_order`. Returns
    /// how many of them were there to be split.
    pub(crate) fn split(&mut self, address: u64, order: u8, count: u64, new_order: u8) -> u64 {
        self.each(address, order, count, |map, pages, head| {
            if new_order >= order || map.pages[head] != HEAD | order {
                return false;
            }
            for part in (head..head + pages).step_by(1 << new_order) {
                map.pages[part] = HEAD | new_order;
            }
            map.folios[usize::from(order)] -= 1;
            map.folios[usize::from(new_order)] += 1 << (order - new_order);
            true
        })
    }

    /// Calls `apply` with the length in pages and the first page of each folio. Returns for how
    /// many it said yes; a note with any other answer contradicts what was noted before.
    fn each(
        &mut self,
        address: u64,
        order: u8,
        count: u64,
        mut apply: impl FnMut(&mut Self, usize, usize) -> bool,
    ) -> u64 {
        let mut done = 0;
        if order <= MAX_ORDER {
            let pages = 1_usize << order;
            let mut head = usize::try_from(address >> PAGE_SHIFT).unwrap_or(usize::MAX);
            for _ in 0..count {
                match head.checked_add(pages) {
                    Some(end) if end <= self.pages.len() => {}
                    _ => break,
                }
                done += u64::from(apply(self, pages, head));
                head += pages;
            }
        }
        self.inconsistent_notes += u64::from(done != count);
        done
    }

    pub(crate) fn snapshot(&self) -> Vram {
        Vram {
            bytes: (self.pages.len() as u64) << PAGE_SHIFT,
            used_bytes: self.used_pages << PAGE_SHIFT,
            peak_bytes: self.peak_pages << PAGE_SHIFT,
            largest_free_bytes: 0,
            fragmentation: 0.0,
            folios: (0..=MAX_ORDER)
                .zip(self.folios)
                .filter(|(_, folios)| *folios > 0)
                .map(|(order, folios)| VramFolios {
                    order,
                    state: FolioState::Whole,
                    folios,
                    bytes: folios << (u32::from(order) + PAGE_SHIFT),
                })
                .collect(),
            map: Vec::new(),
            inconsistent_notes: self.inconsistent_notes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn alloc_split_free_add_up() {
        let mut map = VramMap::new(64 * MIB);
        map.alloc(2 * MIB, 9, 3);
        assert_eq!(map.split(4 * MIB, 9, 1, 0), 1);
        map.free(4 * MIB, 0, 512);
        map.free(2 * MIB, 9, 1);
        let vram = map.snapshot();
        assert_eq!(vram.folios.len(), 1);
        assert_eq!((vram.used_bytes, vram.peak_bytes), (2 * MIB, 6 * MIB));
        assert_eq!(vram.inconsistent_notes, 0);
        map.clear();
        assert_eq!(map.snapshot().used_bytes, 0);
    }

    #[test]
    fn contradictions_are_counted_and_change_nothing() {
        let mut map = VramMap::new(64 * MIB);
        map.alloc(0, 9, 1);
        let before = map.snapshot();
        map.alloc(0, 0, 1); // allocated already
        map.alloc(4096, 4, 1); // inside a folio
        map.free(0, 0, 1); // another order
        map.free(4096, 9, 1); // not a head
        map.free(2 * MIB, 9, 1); // not allocated
        map.split(2 * MIB, 9, 1, 0); // not allocated
        map.split(0, 9, 1, 9); // not smaller
        map.alloc(64 * MIB - 4096, 1, 1); // beyond the end
        map.alloc(u64::MAX, 18, u64::from(u32::MAX)); // far beyond the end
        let after = map.snapshot();
        assert_eq!(after.inconsistent_notes, 9);
        assert_eq!(
            (after.folios, after.used_bytes),
            (before.folios, before.used_bytes)
        );
    }
}
