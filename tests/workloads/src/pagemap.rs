//! What really backs memory, from `/proc/self/pagemap` and `/proc/kpageflags`.
//!
//! smaps will not do: it counts a mapping by its page table, so it shows huge pages for folios
//! that are on a device, and knows nothing of the sizes in between.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};

use crate::sys::memory::{Memory, PAGE};

/// Where a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Nowhere yet.
    Hole,
    /// In memory, in this page frame.
    Frame(u64),
    /// On the device, or on its way.
    Away,
    /// Swapped out.
    Swapped,
}

const PRESENT: u64 = 1 << 63;
const SWAP: u64 = 1 << 62;
const SOFT_DIRTY: u64 = 1 << 55;
const FRAME: u64 = (1 << 55) - 1;
/// Of an entry that is no frame: the kind of swap. Swap files have the lower half of the numbers.
const KIND: u64 = (1 << 5) - 1;
const SWAP_FILES: u64 = 16;

const COMPOUND_HEAD: u64 = 1 << 15;
const COMPOUND_TAIL: u64 = 1 << 16;

/// Where each page is. Frame numbers need root.
pub(crate) fn places(memory: &Memory, pages: Range<usize>) -> Result<Vec<Place>> {
    let place = |entry: u64| {
        if entry & PRESENT != 0 {
            Place::Frame(entry & FRAME)
        } else if entry & SWAP == 0 {
            Place::Hole
        } else if entry & KIND < SWAP_FILES {
            Place::Swapped
        } else {
            Place::Away
        }
    };
    Ok(entries(memory, pages)?.into_iter().map(place).collect())
}

/// Whether each page was written since the kernel was told to forget that.
pub(crate) fn soft_dirty(memory: &Memory, pages: Range<usize>) -> Result<Vec<bool>> {
    let entries = entries(memory, pages)?;
    Ok(entries
        .iter()
        .map(|entry| entry & SOFT_DIRTY != 0)
        .collect())
}

fn entries(memory: &Memory, pages: Range<usize>) -> Result<Vec<u64>> {
    let file = File::open("/proc/self/pagemap").context("cannot open /proc/self/pagemap")?;
    let mut raw = vec![0; pages.len() * 8];
    let offset = (memory.page_address(pages.start) / PAGE * 8) as u64;
    file.read_exact_at(&mut raw, offset)
        .context("cannot read /proc/self/pagemap")?;
    Ok(words(&raw).collect())
}

/// How many of the pages are on the device.
pub(crate) fn away(memory: &Memory, pages: Range<usize>) -> Result<usize> {
    count(memory, pages, Place::Away)
}

/// How many of the pages are swapped out.
pub(crate) fn swapped(memory: &Memory, pages: Range<usize>) -> Result<usize> {
    count(memory, pages, Place::Swapped)
}

fn count(memory: &Memory, pages: Range<usize>, wanted: Place) -> Result<usize> {
    let places = places(memory, pages)?;
    Ok(places.iter().filter(|&&place| place == wanted).count())
}

/// Which share (0 to 1) of the pages is backed by folios of exactly this order, each mapped
/// whole and in its natural place.
pub(crate) fn share_of_order(memory: &Memory, pages: Range<usize>, order: u8) -> Result<f64> {
    let first = memory.page_address(pages.start) / PAGE;
    let places = places(memory, pages)?;
    let mut flags = Flags::open()?;
    let len = 1usize << order;
    // Units begin where the virtual address is a multiple of their size.
    let mut index = first.next_multiple_of(len) - first;
    let mut matching = 0;
    while index + len <= places.len() {
        if flags.is_folio(&places[index..index + len], order)? {
            matching += len;
        }
        index += len;
    }
    #[allow(clippy::cast_precision_loss)] // counts of pages are far below 2^52
    Ok(matching as f64 / places.len() as f64)
}

/// Flags of page frames, read in blocks: a call for every frame would take longer than the
/// migration that is to be measured.
struct Flags {
    file: File,
    blocks: BTreeMap<u64, Vec<u64>>,
}

/// Frames that are read at once.
const BLOCK: u64 = 1024;

impl Flags {
    fn open() -> Result<Flags> {
        let file = File::open("/proc/kpageflags")
            .context("cannot open /proc/kpageflags: root is needed")?;
        Ok(Flags {
            file,
            blocks: BTreeMap::new(),
        })
    }

    /// The flags of a frame; none beyond the last frame.
    fn of(&mut self, frame: u64) -> Result<u64> {
        let start = frame / BLOCK * BLOCK;
        if !self.blocks.contains_key(&start) {
            let block = self.read(start)?;
            self.blocks.insert(start, block);
        }
        let index = usize::try_from(frame - start).unwrap_or(usize::MAX);
        Ok(self.blocks[&start].get(index).copied().unwrap_or(0))
    }

    fn read(&self, start: u64) -> Result<Vec<u64>> {
        let mut raw = vec![0; usize::try_from(BLOCK * 8).unwrap_or(0)];
        let mut filled = 0;
        while filled < raw.len() {
            let offset = start * 8 + filled as u64;
            match self.file.read_at(&mut raw[filled..], offset) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("cannot read /proc/kpageflags"),
            }
        }
        Ok(words(&raw[..filled]).collect())
    }

    /// Whether these consecutive pages are one whole folio of this order.
    fn is_folio(&mut self, places: &[Place], order: u8) -> Result<bool> {
        let Place::Frame(head) = places[0] else {
            return Ok(false);
        };
        let frames = head..head + places.len() as u64;
        let contiguous = places
            .iter()
            .zip(frames.clone())
            .all(|(&place, frame)| place == Place::Frame(frame));
        if !contiguous {
            return Ok(false);
        }
        if order == 0 {
            return Ok(self.of(head)? & (COMPOUND_HEAD | COMPOUND_TAIL) == 0);
        }
        if self.of(head)? & COMPOUND_HEAD == 0 || self.of(frames.end)? & COMPOUND_TAIL != 0 {
            return Ok(false);
        }
        for frame in head + 1..frames.end {
            if self.of(frame)? & COMPOUND_TAIL == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn words(raw: &[u8]) -> impl Iterator<Item = u64> {
    raw.chunks_exact(8)
        .map(|bytes| u64::from_ne_bytes(bytes.try_into().unwrap_or_default()))
}
