//! What the scenarios have in common: the device, memory of a chosen order with a pattern, and
//! comparisons.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hmmgpu_uapi::{Migrate, Stats};

use crate::device::{Device, Outcome};
use crate::gpu::Gpu;
use crate::sys::memory::{Memory, PAGE, UNIT, UNIT_PAGES};
use crate::{pagemap, pattern, thp};

/// Why a scenario cannot be run here.
#[derive(Debug)]
pub(super) struct Skip(pub(super) String);

impl std::fmt::Display for Skip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// The device and the kernel's controls.
#[derive(Debug)]
pub(super) struct Setup {
    node: PathBuf,
    pub(super) device: Device,
    pub(super) controls: Rc<thp::Controls>,
}

/// Memory with a pattern.
#[derive(Debug)]
pub(super) struct Filled {
    pub(super) memory: Memory,
    pub(super) seed: u64,
}

/// Bound of what the kernel does after the fact.
const SOON: Duration = Duration::from_secs(10);

/// How often a request is made before what it still skips counts as stuck.
const TRIES: usize = 20;

/// Repeats a request until `bytes` have moved or nothing more is skipped. The kernel skips a page
/// to which somebody else holds a reference for a moment: about one in tens of thousands, and no
/// mistake of the driver's. What is skipped every time is.
///
/// The result has the bytes of all requests that moved, those that were there before the first,
/// and those that the last one skipped.
fn insist(bytes: u64, mut request: impl FnMut() -> Result<Outcome>) -> Result<Outcome> {
    let mut all = request()?;
    for _ in 1..TRIES {
        if all.moved >= bytes || all.skipped == 0 {
            break;
        }
        std::thread::yield_now();
        let again = request()?;
        all.moved += again.moved;
        all.skipped = again.skipped;
    }
    Ok(all)
}

impl Setup {
    pub(super) fn new(node: &Path) -> Result<Setup> {
        Ok(Setup {
            node: node.to_owned(),
            device: Device::open(node)?,
            controls: Rc::new(thp::Controls::take()?),
        })
    }

    /// The same for a forked child: an inherited device means the memory of the parent.
    pub(super) fn reopened(&self) -> Result<Setup> {
        Ok(Setup {
            node: self.node.clone(),
            device: Device::open(&self.node)?,
            controls: self.controls.clone(),
        })
    }

    /// The device node.
    pub(super) fn node(&self) -> &Path {
        &self.node
    }

    /// A GPU for jobs on this process's memory.
    pub(super) fn gpu(&self) -> Result<Gpu> {
        Gpu::open(&self.node)
    }

    /// Memory of whole units in folios of this order, really, with a pattern.
    pub(super) fn filled(&self, order: u8, units: usize) -> Result<Filled> {
        if !thp::available(order) {
            return Err(Skip(format!("this kernel has no order {order}")).into());
        }
        self.controls.only(order)?;
        let memory = Memory::anonymous(units * UNIT).context("cannot map memory")?;
        let mut filled = Filled {
            memory,
            seed: u64::from(order) + 1,
        };
        let all = filled.all();
        filled
            .memory
            .populate(all.clone())
            .context("cannot allocate memory")?;
        filled.fill(all.clone());
        let share = pagemap::share_of_order(&filled.memory, all, order)?;
        ensure!(
            share == 1.0,
            "only {:.1} % of the memory is of order {order}: give the guest more",
            share * 100.0
        );
        Ok(filled)
    }

    /// Moves pages to the device; all of them have to move.
    pub(super) fn send(&self, filled: &Filled, pages: Range<usize>) -> Result<()> {
        let bytes = (pages.len() * PAGE) as u64;
        let outcome = insist(bytes, || {
            let outcome = self.device.to_device(&filled.memory, pages.clone());
            outcome.complete("MIGRATE_TO_DEVICE")
        })?;
        ensure!(
            outcome.moved == bytes && outcome.present == 0 && outcome.skipped == 0,
            "of {bytes} bytes to the device: {outcome:?}"
        );
        let away = pagemap::away(&filled.memory, pages.clone())?;
        ensure!(
            away == pages.len(),
            "{away} of {} pages are on the device",
            pages.len()
        );
        Ok(())
    }

    /// Moves pages home; `bytes` of them have to come.
    pub(super) fn fetch(
        &self,
        memory: &Memory,
        pages: Range<usize>,
        bytes: usize,
    ) -> Result<Outcome> {
        let outcome = insist(bytes as u64, || {
            let outcome = self.device.to_system(memory, pages.clone());
            outcome.complete("MIGRATE_TO_SYSTEM")
        })?;
        ensure!(
            outcome.moved == bytes as u64,
            "{bytes} bytes were to come home: {outcome:?}"
        );
        let away = pagemap::away(memory, pages)?;
        ensure!(away == 0, "{away} pages are still on the device");
        Ok(outcome)
    }

    /// Folios now in VRAM, by order.
    pub(super) fn in_vram(&self) -> Result<[u64; 10]> {
        Ok(self.device.stats()?.vram_folios)
    }

    /// What the driver counted while `action` ran.
    pub(super) fn counted(&self, action: impl FnOnce() -> Result<()>) -> Result<Counted> {
        let before = self.device.stats()?;
        action()?;
        let after = self.device.stats()?;
        Ok(Counted { before, after })
    }

    /// Brings home what is mapped now: the allocator's memory goes to the device as well when it is
    /// near what a GPU works on.
    pub(super) fn bring_home(&self) -> Result<()> {
        let maps = std::fs::read_to_string("/proc/self/maps").context("cannot read the maps")?;
        for line in maps.lines().filter(|line| !line.contains("[v")) {
            let range = line
                .split_once([' '])
                .and_then(|(range, _)| range.split_once('-'));
            let (start, end) = range.context("/proc/self/maps has no ranges")?;
            let addr = u64::from_str_radix(start, 16)?;
            let request = Migrate {
                addr,
                size: u64::from_str_radix(end, 16)? - addr,
                ..Migrate::default()
            };
            let outcome = self.device.to_system_raw(request);
            outcome.complete("MIGRATE_TO_SYSTEM of all memory")?;
        }
        Ok(())
    }

    /// Fails unless all of VRAM is free and no context is in use, soon.
    pub(super) fn nothing_is_used(&self) -> Result<()> {
        self.no_contexts()?;
        self.vram_is_free()
    }

    /// Fails unless no context is in use, soon: a process that has ended may have left work behind
    /// that is just being ended, too.
    pub(super) fn no_contexts(&self) -> Result<()> {
        let deadline = Instant::now() + SOON;
        loop {
            let contexts = self.device.stats()?.contexts;
            if contexts == 0 {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{contexts} contexts are in use");
            std::thread::yield_now();
        }
    }

    /// Fails unless all of VRAM is free. Freed pages may still be on their way through the
    /// kernel's per-CPU batches for a moment, hence the patience.
    pub(super) fn vram_is_free(&self) -> Result<()> {
        let deadline = Instant::now() + SOON;
        loop {
            let query = self.device.query()?;
            if query.vram_free_bytes == query.vram_bytes {
                break;
            }
            ensure!(
                Instant::now() < deadline,
                "{} bytes of VRAM are in use: {:?} folios by order",
                query.vram_bytes - query.vram_free_bytes,
                self.in_vram()?
            );
            std::thread::yield_now();
        }
        let folios = self.in_vram()?;
        ensure!(
            folios.iter().all(|&count| count == 0),
            "VRAM is free, but the statistics show folios in it: {folios:?}"
        );
        Ok(())
    }
}

/// Statistics around an action.
#[derive(Debug)]
pub(super) struct Counted {
    before: Stats,
    after: Stats,
}

impl Counted {
    /// Checks folios by order, all orders at once: `expected` lists those that are not zero.
    pub(super) fn expect(
        &self,
        what: &str,
        counter: impl Fn(&Stats) -> [u64; 10],
        expected: &[(usize, u64)],
    ) -> Result<()> {
        let (before, after) = (counter(&self.before), counter(&self.after));
        let found: Vec<(usize, u64)> = (0..10)
            .map(|order| (order, after[order].wrapping_sub(before[order])))
            .filter(|&(_, count)| count != 0)
            .collect();
        ensure!(
            found == expected,
            "{what}: (order, folios) {found:?}, expected {expected:?}"
        );
        Ok(())
    }

    /// How much a counter grew.
    pub(super) fn grew(&self, counter: impl Fn(&Stats) -> u64) -> u64 {
        counter(&self.after).wrapping_sub(counter(&self.before))
    }
}

impl Filled {
    /// All pages.
    pub(super) fn all(&self) -> Range<usize> {
        0..self.memory.pages()
    }

    /// Pages of one unit.
    pub(super) fn unit(&self, unit: usize) -> Range<usize> {
        unit * UNIT_PAGES..(unit + 1) * UNIT_PAGES
    }

    /// Writes the pattern.
    pub(super) fn fill(&mut self, pages: Range<usize>) {
        for page in pages {
            let base = pattern::page_base(self.seed, page);
            pattern::fill(self.memory.words_mut(page), base);
        }
    }

    /// Compares every byte.
    pub(super) fn verify(&self, pages: Range<usize>) -> Result<()> {
        for page in pages {
            let base = pattern::page_base(self.seed, page);
            let wrong = pattern::differing_bytes(self.memory.words(page), base);
            ensure!(wrong == 0, "page {page}: {wrong} bytes differ");
        }
        Ok(())
    }
}

/// Every byte of these pages is zero.
pub(super) fn verify_zero(memory: &Memory, pages: Range<usize>) -> Result<()> {
    for page in pages {
        let wrong = pattern::nonzero_bytes(memory.words(page));
        ensure!(wrong == 0, "page {page}: {wrong} bytes are not zero");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(moved: u64, present: u64, skipped: u64) -> Outcome {
        Outcome {
            moved,
            present,
            skipped,
            error: None,
        }
    }

    #[test]
    fn a_page_that_is_skipped_once_gets_another_try() {
        let mut answers = [outcome(96, 0, 4), outcome(4, 96, 0)].into_iter();
        let all = insist(100, || answers.next().context("asked too often")).unwrap();
        assert_eq!((all.moved, all.present, all.skipped), (100, 0, 0));
        // Nothing was skipped: nothing to repeat.
        let mut answers = [outcome(50, 50, 0)].into_iter();
        let all = insist(100, || answers.next().context("asked too often")).unwrap();
        assert_eq!((all.moved, all.present), (50, 50));
    }

    #[test]
    fn a_page_that_never_moves_is_told() {
        let mut asked = 0;
        let all = insist(100, || {
            asked += 1;
            Ok(outcome(if asked == 1 { 96 } else { 0 }, 0, 4))
        })
        .unwrap();
        assert_eq!((all.moved, all.skipped, asked), (96, 4, TRIES));
    }
}
