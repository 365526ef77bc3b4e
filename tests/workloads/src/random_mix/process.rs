//! One process of the mix: its regions and its random operations.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use rustix::io::Errno;

use super::Counts;
use super::jobs::{self, Jobs};
use crate::device::{Device, Outcome};
use crate::gpu::{Gpu, Policy};
use crate::region::{Backing, Region};
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

/// What is done beside that when there are jobs.
const JOB_OPERATIONS: &[(&str, usize)] = &[
    ("gpu_fill", 24),
    ("gpu_copy", 16),
    ("gpu_checksum", 24),
    ("gpu_count", 6),
    ("gpu_advise", 6),
    ("gpu_prefetch", 8),
    // Most jobs shall find memory.
    ("map_holes", 16),
];

/// How long to go on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Limit {
    /// For so many operations of each process.
    Rounds(usize),
    /// Until a moment.
    Until(Instant),
}

impl Limit {
    /// So many operations of all processes.
    pub(super) fn rounds(rounds: usize, processes: u32) -> Limit {
        Limit::Rounds(rounds.div_ceil(processes as usize))
    }

    fn reached(self, round: usize) -> bool {
        match self {
            Limit::Rounds(rounds) => round >= rounds,
            Limit::Until(end) => Instant::now() >= end,
        }
    }
}

/// What a process is told.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    /// Name of the program, for messages.
    pub(super) program: &'static str,
    /// Seed of all processes.
    pub(super) seed: u64,
    /// Its number.
    pub(super) number: u32,
    /// The device, unless there is to be none.
    pub(super) node: Option<PathBuf>,
    /// Whether the GPU works, too.
    pub(super) jobs: bool,
    /// Whether to print operations before they are done.
    pub(super) trace: bool,
}

/// One process.
pub(super) struct Process {
    setting: Setting,
    rng: Rng,
    device: Option<Device>,
    jobs: Option<Jobs>,
    regions: Vec<Region>,
    histories: Vec<VecDeque<String>>,
    /// The region of the current operation.
    current: usize,
    next_slot: usize,
    counts: Counts,
}

impl Process {
    /// A process whose regions together have `bytes`.
    pub(super) fn new(setting: Setting, bytes: usize) -> Result<Process> {
        let node = setting.node.as_deref();
        let gpu = match node {
            Some(node) if setting.jobs => Some(Gpu::open(node)?),
            _ => None,
        };
        let mut process = Process {
            rng: Rng::new(setting.seed, u64::from(setting.number)),
            device: node.map(Device::open).transpose()?,
            jobs: gpu.map(Jobs::new).transpose()?,
            regions: Vec::new(),
            histories: Vec::new(),
            current: 0,
            next_slot: 0,
            counts: Counts::default(),
            setting,
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

    /// Does operations up to the limit, then verifies and unmaps everything.
    pub(super) fn run(&mut self, limit: Limit) -> Result<()> {
        let mut round = 0;
        while !limit.reached(round) {
            self.operation(round)
                .with_context(|| format!("round {round}, region {}", self.current))?;
            round += 1;
        }
        self.settle()?;
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
            self.say(line);
        }
    }

    fn say(&self, text: &str) {
        eprintln!(
            "{}: process {}: {text}",
            self.setting.program, self.setting.number
        );
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
        if self.setting.trace {
            self.say(&line);
        }
        let history = &mut self.histories[index];
        if history.len() == HISTORY {
            history.pop_front();
        }
        history.push_back(line);
        *self.counts.operations.entry(name.to_owned()).or_default() += 1;

        self.make_way(name)?;
        match name {
            "to_device" => self.send(range)?,
            "to_system" => self.fetch(range)?,
            "verify" if self.jobs.as_ref().is_some_and(|jobs| jobs.writes(index)) => {
                self.regions[index].sample(range);
            }
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
            other => self.job_operation(other, range)?,
        }
        Ok(())
    }

    /// Waits for the job that is under way, or lets it meet what is about to be done.
    fn make_way(&mut self, operation: &str) -> Result<()> {
        let Some(jobs) = &mut self.jobs else {
            return Ok(());
        };
        let settle = match operation {
            // Where the memory is changes nothing for the job, nor do other looks at it.
            "to_device" | "to_system" | "verify" | "collapse" | "fork" | "gpu_advise"
            | "gpu_prefetch" | "gpu_count" => false,
            "munmap" | "mprotect" | "mremap" if jobs.uses(self.current) => {
                let settle = self.rng.one_in(2);
                if !settle {
                    jobs.disturb();
                }
                settle
            }
            "gpu_fill" | "gpu_copy" | "gpu_checksum" => true,
            _ => jobs.uses(self.current),
        };
        if settle { self.settle() } else { Ok(()) }
    }

    fn settle(&mut self) -> Result<()> {
        match &mut self.jobs {
            Some(jobs) => jobs.settle(&mut self.regions, &mut self.counts),
            None => Ok(()),
        }
    }

    /// What the GPU does.
    fn job_operation(&mut self, name: &str, range: Range<usize>) -> Result<()> {
        let index = self.current;
        // What the GPU reads has to be known: what the kernel may drop at any time is written anew.
        if matches!(name, "gpu_copy" | "gpu_checksum") {
            for page in range.clone() {
                let region = &mut self.regions[index];
                if region.readable(page) && region.unsettled(page) {
                    let seed = self.rng.next();
                    region.write(page..page + 1, seed)?;
                    if region.unsettled(page) {
                        return Ok(());
                    }
                }
            }
        }
        let Some(jobs) = &mut self.jobs else {
            bail!("operation {name} is not known");
        };
        match name {
            "gpu_fill" => jobs.fill(&self.regions, index, range, self.rng.next()),
            "gpu_checksum" => jobs.checksum(&self.regions, index, range),
            "gpu_copy" => {
                let other = self.rng.below(self.regions.len());
                let room = self.regions[other].len();
                let pages = range.len().min(room);
                if other == index {
                    return Ok(());
                }
                let first = self.rng.below(room - pages + 1);
                let range = range.start..range.start + pages;
                jobs.copy(&self.regions, (index, range), (other, first))
            }
            "gpu_count" => jobs.count_up(&mut self.rng),
            "gpu_advise" => {
                let policy = Policy::ALL[self.rng.below(Policy::ALL.len())];
                jobs.advise(&self.regions[index], &range, policy)
            }
            "gpu_prefetch" => {
                let write = self.rng.one_in(2);
                jobs.prefetch(&self.regions[index], &range, write)
            }
            other => bail!("operation {other} is not known"),
        }
    }

    fn draw(&mut self) -> &'static str {
        let jobs = if self.jobs.is_some() {
            JOB_OPERATIONS
        } else {
            &[]
        };
        let all = || OPERATIONS.iter().chain(jobs);
        let mut ticket = self.rng.below(all().map(|(_, weight)| weight).sum());
        for &(name, weight) in all() {
            if ticket < weight {
                return name;
            }
            ticket -= weight;
        }
        OPERATIONS[0].0
    }

    /// Requests all memory to the device.
    pub(super) fn send_all(&mut self) -> Result<()> {
        for index in 0..self.regions.len() {
            self.current = index;
            self.send(0..self.regions[index].len())?;
        }
        Ok(())
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
        let use_device = self.rng.one_in(2);
        let parent_checks = self.rng.one_in(2);
        let child = fork(|| match self.in_child(range.clone(), seed, use_device) {
            Ok(()) => 0,
            Err(error) => {
                self.say(&format!("forked child: {error:#}"));
                1
            }
        })
        .context("cannot fork")?;
        match child.wait().context("cannot wait for the child")? {
            Ended::Code(0) => {}
            how => bail!("the forked child ended with {how:?}"),
        }
        let known = !self
            .jobs
            .as_ref()
            .is_some_and(|jobs| jobs.writes(self.current));
        if parent_checks && known {
            self.counts.verified_bytes += self.regions[self.current]
                .verify(range)
                .context("after a child wrote its copy")?;
        }
        Ok(())
    }

    fn in_child(&mut self, range: Range<usize>, seed: u64, use_device: bool) -> Result<()> {
        // The parent's job is the parent's. What it has written here by now stays as it is.
        let unknown = self
            .jobs
            .as_ref()
            .is_some_and(|jobs| jobs.writes(self.current));
        let has_jobs = self.jobs.is_some();
        if use_device {
            // The parent's descriptor means the parent's memory.
            self.device = self.setting.node.as_deref().map(Device::open).transpose()?;
            self.send(range.clone())
                .context("in the child, before it touched its memory")?;
        }
        let region = &mut self.regions[self.current];
        if unknown {
            let first = region.sample(range.clone());
            std::thread::yield_now();
            let second = region.sample(range.clone());
            ensure!(first == second, "the parent's job writes to the child");
            region.overwrite(range.clone(), seed);
        } else {
            region
                .verify(range.clone())
                .context("as the child sees it")?;
            region.write(range.clone(), seed)?;
            region
                .verify(range.clone())
                .context("what the child wrote")?;
        }
        let node = self
            .setting
            .node
            .as_deref()
            .filter(|_| has_jobs && use_device);
        if let Some(node) = node {
            let gpu = Gpu::open(node)?;
            let writable = |page: &usize| region.writable(*page);
            if let Some(first) = range.clone().find(writable) {
                let count = (first..range.end).take_while(writable).count();
                jobs::reads_right(&gpu, region, first..first + count)
                    .context("in the child, what the child wrote")?;
            }
        }
        Ok(())
    }
}
