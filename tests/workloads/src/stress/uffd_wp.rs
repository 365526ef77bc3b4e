//! Writes to memory are held by userfaultfd while its pages migrate.
//!
//! The bit that holds a write is kept in page table entries of every kind, also in those of
//! memory on the device (`pte_swp_mkuffd_wp()`, `pmd_swp_mkuffd_wp()`). A migration that lost it
//! would let a write through that nobody is told of.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::crew::{USUAL, Worker, lock};
use super::frame::{Frame, skip};
use super::tally::{Trouble, to_memory, trouble};
use crate::sys::memory::PAGE;
use crate::sys::uffd::Guard;

pub(super) const TROUBLES: &[Trouble] = &[to_memory("write_protect"), trouble("held_write")];

/// How often whoever lets writes through looks whether it is over.
const LOOK: Duration = Duration::from_millis(50);

/// Who holds writes, and what is known of them.
struct Held {
    guard: Guard,
    /// Pages that are protected, and a write to which nobody was told of.
    protected: Mutex<HashSet<usize>>,
    /// Workers that may wait for a write to be let through.
    working: AtomicU64,
}

pub(super) fn run(frame: &Frame) -> Result<()> {
    let Ok(guard) = Guard::new() else {
        bail!(skip("this kernel has no userfaultfd"));
    };
    let held = Held {
        guard,
        protected: Mutex::default(),
        working: AtomicU64::new(0),
    };
    let serve = || held.serve(frame);
    USUAL.race(frame, |worker| held.operation(worker), &[&serve])
}

impl Held {
    /// Lets writes through, as long as somebody may wait for one.
    fn serve(&self, frame: &Frame) -> Result<()> {
        loop {
            // In this order: a worker counts itself first, and looks then whether it is over.
            let over = !frame.running();
            if over && self.working.load(Ordering::SeqCst) == 0 {
                return Ok(());
            }
            let before = frame.tally.moment();
            let Some(address) = self.guard.held(LOOK).context("userfaultfd")? else {
                continue;
            };
            frame.tally.happened("held_write", before, 0);
            lock(&self.protected).remove(&address);
            self.guard
                .protect(address, PAGE, false)
                .context("letting a write through")?;
        }
    }

    fn operation(&self, worker: &mut Worker<'_>) -> Result<()> {
        self.working.fetch_add(1, Ordering::SeqCst);
        let result = match worker.frame.running() {
            true => self.step(worker),
            false => Ok(()),
        };
        self.working.fetch_sub(1, Ordering::SeqCst);
        result
    }

    fn step(&self, worker: &mut Worker<'_>) -> Result<()> {
        let region = worker.any_region();
        let pages = worker.any_pages(region);
        let range = worker.addresses(region, &pages);
        match worker.rng.below(6) {
            0 | 1 => {
                let all = worker.regions[region].memory();
                // Again and again: it does no harm.
                let registered = self.guard.register(all.address(), all.len());
                registered.context("UFFDIO_REGISTER")?;
                lock(&self.protected).extend(range.clone().step_by(PAGE));
                worker.trouble("write_protect", region, pages, |_, _| {
                    self.guard
                        .protect(range.start, range.len(), true)
                        .context("UFFDIO_WRITEPROTECT")
                })
            }
            2..=4 => {
                worker.write(region, pages)?;
                let protected = lock(&self.protected);
                let missed = range.step_by(PAGE).find(|page| protected.contains(page));
                ensure!(
                    missed.is_none(),
                    "a write to the page at {missed:#x?} was not held"
                );
                Ok(())
            }
            _ => worker.verify(region, pages),
        }
    }
}
