//! One process of the mix: its regions and its random operations.

use std::collections::VecDeque;
use std::ops::Range;

use anyhow::{Context, Result, bail};
use rustix::io::Errno;

use super::Counts;
use super::region::{Backing, Region};
use crate::device::{Device, Outcome};
use crate::rng::Rng;
use crate::sys::fork::{Ended, fork};
use crate::sys::memory::{Access, UNIT, UNIT_PAGES};

/// Regions live here, far from where the kernel puts mappings by itself, so that addresses that
/// were unmapped stay free.
const ARENA: usize = 0x2000_0000_0000;
/// Distance of the places for regions; no region is as large.
const SLOT: usize = 64 << 20;
/// Operations of a region that are remembered.
const HISTORY: usize = 40;

/// What is done, with how often out of the sum of all.
const OPERATIONS: &[(&str, usize)] = &[
    ("to_device", 30),
    ("to_system", 8),
    ("verify", 14),
    ("write", 14),
    ("munmap", 5),
    ("map_holes", 4),
    ("mprotect", 6),
    ("fork", 5),
    ("mremap", 4),
    ("dontneed", 3),
    ("collapse", 3),
    ("free", 4),
];

/// One process.
pub(super) struct Process {
    number: u32,
    rng: Rng,
    device: Option<Device>,
    regions: Vec<Region>,
    histories: Vec<VecDeque<String>>,
    /// The region of the current operation.
    current: usize,
    next_slot: usize,
    counts: Counts,
    trace: bool,
}

impl Process {
    /// A process whose regions together have `bytes`.
    pub(super) fn new(
        seed: u64,
        number: u32,
        device: Option<Device>,
        bytes: usize,
        trace: bool,
    ) -> Result<Process> {
        let mut process = Process {
            number,
            rng: Rng::new(seed, u64::from(number)),
            device,
            regions: Vec::new(),
            histories: Vec::new(),
            current: 0,
            next_slot: 0,
            counts: Counts::default(),
            trace,
        };
        let mut left = bytes / UNIT;
        while left > 0 {
            let units = (1 + process.rng.below(4)).min(left);
            left -= units;
            let backing = match process.rng.below(4) {
                0 => Backing::Small,
                1 => Backing::Default,
                _ => Backing::Huge,
            };
            let address = process.place();
            process
                .regions
                .push(Region::new(address, units * UNIT_PAGES, backing)?);
            process.histories.push(VecDeque::new());
        }
        Ok(process)
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Does so many operations, then verifies and unmaps everything.
    pub(super) fn run(&mut self, rounds: usize) -> Result<()> {
        for round in 0..rounds {
            self.operation(round)
                .with_context(|| format!("round {round}, region {}", self.current))?;
        }
        for index in 0..self.regions.len() {
            self.current = index;
            let region = &mut self.regions[index];
            let pages = region.len();
            region.protect(0..pages, Access::Write)?;
            self.counts.verified_bytes += region
                .verify(0..pages)
                .with_context(|| format!("at the end, region {index}"))?;
        }
        self.regions.clear();
        Ok(())
    }

    /// Prints what was done to the region that failed.
    pub(super) fn print_history(&self) {
        for line in &self.histories[self.current] {
            eprintln!("hmmgpu-random-mix: process {}: {line}", self.number);
        }
    }

    /// A place for a region: aligned to 2 MiB three times out of four.
    fn place(&mut self) -> usize {
        let slot = ARENA + self.next_slot * SLOT;
        self.next_slot += 1;
        if self.rng.one_in(4) {
            slot + (1 + self.rng.below(UNIT_PAGES - 1)) * (UNIT / UNIT_PAGES)
        } else {
            slot
        }
    }

    /// Pages of a region: all, whole units, or any.
    fn range(&mut self, pages: usize) -> Range<usize> {
        match self.rng.below(3) {
            0 => 0..pages,
            1 => {
                let units = pages / UNIT_PAGES;
                let first = self.rng.below(units);
                let count = 1 + self.rng.below(units - first);
                first * UNIT_PAGES..(first + count) * UNIT_PAGES
            }
            _ => {
                let first = self.rng.below(pages);
                let count = 1 + self.rng.below((pages - first).min(2 * UNIT_PAGES));
                first..first + count
            }
        }
    }

    fn operation(&mut self, round: usize) -> Result<()> {
        self.current = self.rng.below(self.regions.len());
        let index = self.current;
        let name = self.draw();
        let range = self.range(self.regions[index].len());
        let line = format!(
            "round {round}: region {index} at {:#x}: {name} pages {}..{}",
            self.regions[index].memory().address(),
            range.start,
            range.end
        );
        if self.trace {
            eprintln!("hmmgpu-random-mix: process {}: {line}", self.number);
        }
        let history = &mut self.histories[index];
        if history.len() == HISTORY {
            history.pop_front();
        }
        history.push_back(line);
        *self.counts.operations.entry(name.to_owned()).or_default() += 1;

        match name {
            "to_device" => self.send(range)?,
            "to_system" => self.fetch(range)?,
            "verify" => self.counts.verified_bytes += self.regions[index].verify(range)?,
            "write" => {
                let seed = self.rng.next();
                self.counts.verified_bytes += self.regions[index].write(range, seed)?;
            }
            "munmap" => self.regions[index].unmap(range)?,
            "map_holes" => {
                self.regions[index].map_holes()?;
            }
            "mprotect" => {
                let access = match self.rng.below(4) {
                    0 => Access::None,
                    1 => Access::Read,
                    _ => Access::Write,
                };
                self.regions[index].protect(range, access)?;
            }
            "fork" => self.fork(range)?,
            "mremap" => {
                let address = self.place();
                self.regions[index].move_to(address)?;
            }
            "dontneed" => self.regions[index].drop_content(range)?,
            "collapse" => {
                // Only whole units can be collapsed.
                let all = 0..self.regions[index].len();
                self.counts.collapse_refused += self.regions[index].collapse(all);
            }
            "free" => self.regions[index].free_lazily(range)?,
            other => bail!("operation {other} is not known"),
        }
        Ok(())
    }

    fn draw(&mut self) -> &'static str {
        let sum = OPERATIONS.iter().map(|(_, weight)| weight).sum();
        let mut ticket = self.rng.below(sum);
        for &(name, weight) in OPERATIONS {
            if ticket < weight {
                return name;
            }
            ticket -= weight;
        }
        OPERATIONS[0].0
    }

    fn send(&mut self, range: Range<usize>) -> Result<()> {
        let Some(device) = &self.device else {
            return Ok(());
        };
        let outcome = device.to_device(self.regions[self.current].memory(), range);
        self.counts.to_device_bytes += outcome.moved;
        self.refusable(outcome, "MIGRATE_TO_DEVICE")
    }

    fn fetch(&mut self, range: Range<usize>) -> Result<()> {
        let Some(device) = &self.device else {
            return Ok(());
        };
        let outcome = device.to_system(self.regions[self.current].memory(), range);
        self.counts.to_system_bytes += outcome.moved;
        self.refusable(outcome, "MIGRATE_TO_SYSTEM")
    }

    /// Full is a clean answer; anything else is a failure.
    fn refusable(&mut self, outcome: Outcome, call: &str) -> Result<()> {
        if matches!(outcome.error, Some(Errno::NOSPC | Errno::NOMEM)) {
            self.counts.refused += 1;
            return Ok(());
        }
        outcome.complete(call).map(drop)
    }

    /// A child verifies and writes its copy; then the parent's must be as before.
    fn fork(&mut self, range: Range<usize>) -> Result<()> {
        let seed = self.rng.next();
        let migrate = self.rng.one_in(2);
        let parent_checks = self.rng.one_in(2);
        let child = fork(|| match self.in_child(range.clone(), seed, migrate) {
            Ok(()) => 0,
            Err(error) => {
                eprintln!(
                    "hmmgpu-random-mix: forked child of process {}: {error:#}",
                    self.number
                );
                1
            }
        })
        .context("cannot fork")?;
        match child.wait().context("cannot wait for the child")? {
            Ended::Code(0) => {}
            how => bail!("the forked child ended with {how:?}"),
        }
        if parent_checks {
            self.counts.verified_bytes += self.regions[self.current]
                .verify(range)
                .context("after a child wrote its copy")?;
        }
        Ok(())
    }

    fn in_child(&mut self, range: Range<usize>, seed: u64, migrate: bool) -> Result<()> {
        if migrate {
            self.send(range.clone())
                .context("in the child, before it touched its memory")?;
        }
        let region = &mut self.regions[self.current];
        region
            .verify(range.clone())
            .context("as the child sees it")?;
        region.write(range.clone(), seed)?;
        region
            .verify(range)
            .context("what the child wrote")
            .map(drop)
    }
}
