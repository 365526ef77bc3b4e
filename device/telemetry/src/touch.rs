//! What the checker of VRAM is told of transfers.

use hmmgpu_contract::PAGE_SHIFT;

/// VRAM that descriptors of one length, which followed each other in a ring, copied from, or
/// copied or filled to: each behind the one before, or each ahead of it. Drivers move memory page
/// by page, and to tell of each page alone would take longer than the page does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touch {
    /// Whether it was written.
    pub write: bool,
    /// Whether each was ahead of the one before.
    pub downwards: bool,
    /// Byte offset in VRAM of the lowest, a multiple of 4 KiB.
    pub address: u64,
    /// Bytes of each, a multiple of 4 KiB.
    pub each: u64,
    /// Descriptors.
    pub count: u32,
    /// Index of the first in the ring.
    pub index: u32,
}

impl Touch {
    /// That of the descriptor at `index`, which touched `bytes` from `address` on.
    pub fn new(write: bool, address: u64, bytes: u64, index: u32) -> Self {
        Self {
            write,
            downwards: false,
            address,
            each: bytes,
            count: 1,
            index,
        }
    }

    /// Bytes of all of them.
    pub fn bytes(&self) -> u64 {
        self.each.saturating_mul(u64::from(self.count))
    }

    /// Takes the descriptor of `next`, if it goes on where this ends. Says whether it does.
    pub fn takes(&mut self, next: &Self) -> bool {
        let Some(count) = self.count.checked_add(1) else {
            return false;
        };
        if next.count != 1
            || (next.write, next.each) != (self.write, self.each)
            || next.index != self.index.wrapping_add(self.count)
        {
            return false;
        }
        let behind = self.address.checked_add(self.bytes()) == Some(next.address);
        let ahead = next.address.checked_add(next.each) == Some(self.address);
        let alone = self.count == 1;
        if behind && (alone || !self.downwards) {
            self.count = count;
        } else if ahead && (alone || self.downwards) {
            self.count = count;
            self.address = next.address;
            self.downwards = true;
        } else {
            return false;
        }
        true
    }

    /// The index of the descriptor that a page is of, which is one of those that were touched.
    pub(crate) fn index_of(&self, page: u64) -> u32 {
        let offset = (page << PAGE_SHIFT).saturating_sub(self.address);
        let behind = offset.checked_div(self.each).unwrap_or(0);
        let behind = u32::try_from(behind).unwrap_or(u32::MAX);
        let nth = if self.downwards {
            (self.count - 1).saturating_sub(behind)
        } else {
            behind
        };
        self.index.wrapping_add(nth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 1 << PAGE_SHIFT;

    fn pages(write: bool, pages: impl IntoIterator<Item = u64>) -> Vec<Touch> {
        let one = |(index, page)| Touch::new(write, page * PAGE, PAGE, index);
        (7..).zip(pages).map(one).collect()
    }

    fn merged(all: &[Touch]) -> Vec<Touch> {
        let mut merged: Vec<Touch> = Vec::new();
        for next in all {
            if !merged.last_mut().is_some_and(|last| last.takes(next)) {
                merged.push(*next);
            }
        }
        merged
    }

    #[test]
    fn neighbours_are_one_upwards_and_downwards() {
        for (order, first, last) in [([3, 4, 5, 6], 7, 10), ([6, 5, 4, 3], 10, 7)] {
            let all = merged(&pages(true, order));
            let [touch] = all.as_slice() else {
                panic!("{all:?}");
            };
            assert_eq!((touch.address, touch.bytes()), (3 * PAGE, 4 * PAGE));
            assert_eq!((touch.index_of(3), touch.index_of(6)), (first, last));
        }
    }

    #[test]
    fn others_are_not() {
        assert_eq!(merged(&pages(true, [3, 4, 3])).len(), 2);
        assert_eq!(merged(&pages(true, [4, 3, 4])).len(), 2);
        assert_eq!(merged(&pages(true, [4, 4])).len(), 2);
        let read = Touch::new(false, 4 * PAGE, PAGE, 8);
        let longer = Touch::new(true, 4 * PAGE, 2 * PAGE, 8);
        let later = Touch::new(true, 4 * PAGE, PAGE, 9);
        for next in [read, longer, later] {
            assert!(!Touch::new(true, 3 * PAGE, PAGE, 7).takes(&next));
        }
    }
}
