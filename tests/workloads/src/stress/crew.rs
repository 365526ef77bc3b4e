//! Threads of one process: workers, each with memory of its own whose every byte is known, and
//! movers, which migrate all of that meanwhile.
//!
//! A worker alone touches, drops and unmaps its memory. That is not only so that its content is
//! known: a touch that brings a device folio of 2 MiB home while another thread drops it meets a
//! mistake of the kernel (zap_huge_pmd_folio() and PMD migration entries, docs/stress.md) that no
//! driver can avoid. Requests of the movers are the driver's to get right.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, anyhow};
use hmmgpu_uapi::Migrate;
use rustix::io::Errno;

use super::frame::{Frame, Skip};
use super::system::{is, pause};
use super::tally::Figure;
use crate::device::{Device, Outcome};
use crate::gpu::{Command, Gpu};
use crate::pagemap;
use crate::region::{Backing, Region};
use crate::rng::Rng;
use crate::sys::memory::{PAGE, UNIT, UNIT_PAGES};

/// Memory lies here, far from where the kernel puts mappings by itself.
const ARENA: usize = 0x2900_0000_0000;
/// Distance of two workers' memory.
const WORKER: usize = 1 << 34;
/// Distance of the places for a worker's regions; no region is as large.
const SLOT: usize = 64 << 20;
/// Places of each worker that have no region at first.
const SPARE: usize = 2;
/// Units of one request, at most.
const REQUEST: usize = 4;
/// Operations that are told after a failure.
const HISTORY: usize = 12;
/// Streams of random numbers: those of a process, of which its movers have the second half.
const PROCESS: usize = 64;
const MOVERS: usize = PROCESS / 2;

/// What a crew is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crew {
    /// Threads with memory.
    pub(super) workers: usize,
    /// Threads that migrate.
    pub(super) movers: usize,
    /// Each worker's regions: how they are backed, and their units of 2 MiB.
    pub(super) regions: &'static [(Backing, usize)],
}

/// A crew for most troubles.
pub(super) const USUAL: Crew = Crew {
    workers: 2,
    movers: 1,
    regions: &[(Backing::Huge, 4), (Backing::Huge, 2), (Backing::Small, 1)],
};

/// What a mutex guards. A thread that panics with it ends the scenario anyway.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What further threads do.
pub(super) type Extra<'a> = &'a (dyn Fn() -> Result<()> + Sync);

impl Crew {
    /// Works until the scenario has done enough; `operation` is repeated by every worker, and
    /// `extras` get a thread each. At the end every byte is compared.
    pub(super) fn race(
        self,
        frame: &Frame,
        operation: impl Fn(&mut Worker<'_>) -> Result<()> + Sync,
        extras: &[Extra<'_>],
    ) -> Result<()> {
        self.race_as(frame, 0, 0, operation, extras)
    }

    /// The same for one of several processes, with memory from the place of worker `first` on and
    /// random numbers of its own.
    pub(super) fn race_as(
        self,
        frame: &Frame,
        first: usize,
        process: usize,
        operation: impl Fn(&mut Worker<'_>) -> Result<()> + Sync,
        extras: &[Extra<'_>],
    ) -> Result<()> {
        let stream = process * PROCESS;
        let mut workers = (first..first + self.workers)
            .map(|number| Worker::new(frame, number, stream + number, self.regions))
            .collect::<Result<Vec<_>>>()?;
        let places: Vec<_> = workers.iter().flat_map(Worker::places).collect();
        let movers = (0..self.movers)
            .map(|number| Mover::new(frame, stream + MOVERS + number, places.clone()))
            .collect::<Result<Vec<_>>>()?;
        std::thread::scope(|scope| {
            let operation = &operation;
            let mut threads = Vec::new();
            for mut mover in movers {
                threads.push(scope.spawn(move || frame.watch(mover.run().context("a mover"))));
            }
            for worker in &mut workers {
                threads.push(scope.spawn(move || frame.watch(worker.run(operation))));
            }
            for extra in extras {
                threads.push(scope.spawn(move || frame.watch(extra())));
            }
            let mut result = Ok(());
            for thread in threads {
                let ended = thread
                    .join()
                    .unwrap_or_else(|_| Err(anyhow!("a thread panicked")));
                result = result.and(ended);
            }
            result
        })
    }
}

/// A thread with memory of its own.
pub(super) struct Worker<'a> {
    pub(super) frame: &'a Frame,
    pub(super) number: usize,
    pub(super) rng: Rng,
    pub(super) regions: Vec<Region>,
    /// Which place each region is in.
    slots: Vec<usize>,
    history: VecDeque<String>,
}

impl<'a> Worker<'a> {
    pub(super) fn new(
        frame: &'a Frame,
        number: usize,
        stream: usize,
        layout: &[(Backing, usize)],
    ) -> Result<Worker<'a>> {
        let mut regions = Vec::new();
        for (slot, (backing, units)) in layout.iter().enumerate() {
            let address = ARENA + number * WORKER + slot * SLOT;
            regions.push(Region::new(address, units * UNIT_PAGES, *backing)?);
        }
        Ok(Worker {
            frame,
            number,
            rng: frame.rng(stream),
            slots: (0..regions.len()).collect(),
            regions,
            history: VecDeque::new(),
        })
    }

    /// Addresses of some pages of a region.
    pub(super) fn addresses(&self, region: usize, pages: &Range<usize>) -> Range<usize> {
        addresses(&self.regions[region], pages)
    }

    /// Where its memory may be: one range for each place, of the length of the longest region.
    pub(super) fn places(&self) -> Vec<Range<usize>> {
        let longest = self.regions.iter().map(Region::len).max().unwrap_or(0) * PAGE;
        (0..self.regions.len() + SPARE)
            .map(|slot| ARENA + self.number * WORKER + slot * SLOT)
            .map(|start| start..start + longest)
            .collect()
    }

    /// Repeats an operation until the scenario has done enough, and compares everything then.
    pub(super) fn run(&mut self, operation: &dyn Fn(&mut Worker<'_>) -> Result<()>) -> Result<()> {
        for region in 0..self.regions.len() {
            self.write(region, 0..self.regions[region].len())?;
        }
        let mut count = 0;
        while self.frame.running() {
            operation(self).map_err(|error| self.told(count, error))?;
            count += 1;
        }
        self.verify_all().map_err(|error| self.told(count, error))
    }

    /// What went wrong, and after it, in case that it has to be cut, what was done, the latest first.
    fn told(&self, count: u32, error: anyhow::Error) -> anyhow::Error {
        if error.is::<Skip>() {
            return error;
        }
        let last: Vec<_> = self.history.iter().rev().map(String::as_str).collect();
        anyhow!(
            "{error:#}; by worker {} in operation {count}; its last ones, the latest first: {}",
            self.number,
            last.join(", ")
        )
    }

    /// Remembers what is done, for the message of a failure.
    fn note(&mut self, what: &str, region: usize, pages: &Range<usize>) {
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history
            .push_back(format!("{what} {region}:{}..{}", pages.start, pages.end));
    }

    /// Any region.
    pub(super) fn any_region(&mut self) -> usize {
        self.rng.below(self.regions.len())
    }

    /// Some pages of a region: whole units of 2 MiB as often as not.
    pub(super) fn any_pages(&mut self, region: usize) -> Range<usize> {
        some_pages(&mut self.rng, self.regions[region].len())
    }

    /// Compares pages that can be read.
    pub(super) fn verify(&mut self, region: usize, pages: Range<usize>) -> Result<()> {
        self.note("verify", region, &pages);
        let compared = self.regions[region].verify(pages)?;
        self.frame.tally.add(Figure::Verified, compared);
        Ok(())
    }

    /// Compares everything.
    pub(super) fn verify_all(&mut self) -> Result<()> {
        for region in 0..self.regions.len() {
            self.verify(region, 0..self.regions[region].len())?;
        }
        Ok(())
    }

    /// Writes pages, looking at what they held before.
    pub(super) fn write(&mut self, region: usize, pages: Range<usize>) -> Result<()> {
        self.note("write", region, &pages);
        let seed = self.rng.next();
        let compared = self.regions[region].write(pages, seed)?;
        self.frame.tally.add(Figure::Verified, compared);
        Ok(())
    }

    /// Writes or compares some pages: what goes on beside the trouble.
    pub(super) fn usual(&mut self) -> Result<()> {
        let region = self.any_region();
        let pages = self.any_pages(region);
        if self.rng.one_in(2) {
            self.write(region, pages)
        } else {
            self.verify(region, pages)
        }
    }

    /// Makes a trouble to some pages of a region.
    pub(super) fn trouble<T>(
        &mut self,
        name: &'static str,
        region: usize,
        pages: Range<usize>,
        make: impl FnOnce(&mut Region, Range<usize>) -> Result<T>,
    ) -> Result<T> {
        self.note(name, region, &pages);
        trouble(self.frame, name, &mut self.regions[region], pages, make)
    }

    /// An address that a region can be moved to: a place that is free, and now and then not
    /// aligned to 2 MiB. It is that region's from now on.
    pub(super) fn take_place(&mut self, region: usize) -> usize {
        let slots = self.regions.len() + SPARE;
        let free: Vec<_> = (0..slots)
            .filter(|slot| !self.slots.contains(slot))
            .collect();
        let slot = free[self.rng.below(free.len())];
        self.slots[region] = slot;
        let shift = if self.rng.one_in(3) {
            (1 + self.rng.below(UNIT_PAGES - 1)) * PAGE
        } else {
            0
        };
        ARENA + self.number * WORKER + slot * SLOT + shift
    }
}

/// Writes or compares some pages, and makes no trouble.
pub(super) fn usual(worker: &mut Worker<'_>) -> Result<()> {
    worker.usual()
}

/// Makes a trouble to some pages of a region.
pub(super) fn trouble<T>(
    frame: &Frame,
    name: &'static str,
    region: &mut Region,
    pages: Range<usize>,
    make: impl FnOnce(&mut Region, Range<usize>) -> Result<T>,
) -> Result<T> {
    let on_device = pagemap::away(region.memory(), pages.clone())?;
    let before = frame.tally.moment();
    let made = make(region, pages).context(name)?;
    frame.tally.happened(name, before, on_device);
    Ok(made)
}

/// Addresses of some pages of a region.
pub(super) fn addresses(region: &Region, pages: &Range<usize>) -> Range<usize> {
    let start = region.memory().address();
    start + pages.start * PAGE..start + pages.end * PAGE
}

/// Some of so many pages: whole units of 2 MiB as often as not.
pub(super) fn some_pages(rng: &mut Rng, pages: usize) -> Range<usize> {
    let units = pages / UNIT_PAGES;
    if units > 0 && rng.one_in(2) {
        let first = rng.below(units);
        let count = 1 + rng.below(REQUEST.min(units - first));
        return first * UNIT_PAGES..(first + count) * UNIT_PAGES;
    }
    let start = rng.below(pages);
    start..start + 1 + rng.below((pages - start).min(UNIT_PAGES + UNIT_PAGES / 4))
}

/// A thread or process that migrates whatever is in some places.
pub(super) struct Mover<'a> {
    frame: &'a Frame,
    open: Option<(Device, Gpu)>,
    rng: Rng,
    places: Vec<Range<usize>>,
}

/// What a request and a job of a device say that has gone, and the system of its node.
const GONE: &[Errno] = &[Errno::NODEV, Errno::NXIO, Errno::NOENT];

impl<'a> Mover<'a> {
    pub(super) fn new(
        frame: &'a Frame,
        stream: usize,
        places: Vec<Range<usize>>,
    ) -> Result<Mover<'a>> {
        Ok(Mover {
            frame,
            open: Some((frame.device()?, Gpu::open(&frame.node())?)),
            rng: frame.rng(stream),
            places,
        })
    }

    /// Migrates until the scenario has done enough.
    pub(super) fn run(&mut self) -> Result<()> {
        while self.frame.running() {
            match self.step() {
                Err(error) if self.frame.may_be_absent() && is_gone(&error) => self.open_again()?,
                done => done?,
            }
        }
        Ok(())
    }

    /// Waits for the device to come back.
    fn open_again(&mut self) -> Result<()> {
        // As long as somebody has it open it cannot have its old name.
        self.open = None;
        while self.frame.running() {
            let opened = self.frame.device();
            let opened = opened.and_then(|device| Ok((device, Gpu::open(&self.frame.node())?)));
            match opened {
                Ok(opened) => {
                    self.open = Some(opened);
                    break;
                }
                Err(error) if is_gone(&error) => pause(5),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends something to the device, by a request or by a job, and mostly requests it home.
    fn step(&mut self) -> Result<()> {
        let range = any_range(&mut self.rng, &self.places);
        let Some((device, gpu)) = &self.open else {
            return Ok(());
        };
        let _requests = self.frame.requests();
        let sending = self.frame.sending();
        if self.rng.one_in(6) {
            job(self.frame, gpu, &range)?;
        } else {
            to_device(self.frame, device, &range)?;
        }
        drop(sending);
        if self.rng.one_in(3) {
            return Ok(());
        }
        let range = if self.rng.one_in(4) {
            any_range(&mut self.rng, &self.places)
        } else {
            range
        };
        to_system(self.frame, device, &range)
    }
}

fn is_gone(error: &anyhow::Error) -> bool {
    GONE.iter().any(|errno| is(error, *errno))
}

fn any_range(rng: &mut Rng, places: &[Range<usize>]) -> Range<usize> {
    let place = &places[rng.below(places.len())];
    let pages = some_pages(rng, place.len() / PAGE);
    place.start + pages.start * PAGE..place.start + pages.end * PAGE
}

/// Reads some memory by the mirror. Memory that is not mapped, or may not be read, ends the job
/// with EFAULT; its sum means nothing, because workers write meanwhile.
fn job(frame: &Frame, gpu: &Gpu, range: &Range<usize>) -> Result<()> {
    frame.begin();
    let report = gpu.attempt(Command::Checksum {
        src: range.start as u64,
        words: (range.len().min(UNIT) / 8) as u64,
    });
    frame.tally.add(Figure::Ended, 1);
    let report = report.context("a job")?;
    frame.tally.add(Figure::Jobs, 1);
    match report.error {
        None | Some(Errno::FAULT) => Ok(()),
        Some(_) => report.complete().map(drop),
    }
}

/// Requests a range to the device. That VRAM is full is a clean answer.
pub(super) fn to_device(frame: &Frame, device: &Device, range: &Range<usize>) -> Result<()> {
    frame.begin();
    let outcome = device.to_device_raw(request(range));
    frame.tally.add(Figure::Ended, 1);
    take(frame, Figure::ToDevice, outcome, "MIGRATE_TO_DEVICE")
}

/// Requests a range home. That memory is full is a clean answer.
pub(super) fn to_system(frame: &Frame, device: &Device, range: &Range<usize>) -> Result<()> {
    frame.begin();
    let outcome = device.to_system_raw(request(range));
    frame.tally.add(Figure::Ended, 1);
    take(frame, Figure::ToSystem, outcome, "MIGRATE_TO_SYSTEM")
}

fn take(frame: &Frame, figure: Figure, outcome: Outcome, call: &str) -> Result<()> {
    frame.tally.add(figure, outcome.moved / PAGE as u64);
    if matches!(outcome.error, Some(Errno::NOSPC | Errno::NOMEM)) {
        frame.tally.add(Figure::Refused, 1);
        return Ok(());
    }
    outcome.complete(call).map(drop)
}

fn request(range: &Range<usize>) -> Migrate {
    Migrate {
        addr: range.start as u64,
        size: range.len() as u64,
        ..Migrate::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_stay_within_the_region() {
        let mut rng = Rng::new(1, 1);
        for pages in [1, 511, UNIT_PAGES, 4 * UNIT_PAGES] {
            let mut whole = 0;
            for _ in 0..1000 {
                let some = some_pages(&mut rng, pages);
                assert!(!some.is_empty() && some.end <= pages, "{some:?} of {pages}");
                whole += u32::from(
                    some.start.is_multiple_of(UNIT_PAGES) && some.len().is_multiple_of(UNIT_PAGES),
                );
            }
            assert_eq!(whole > 300, pages >= UNIT_PAGES);
        }
    }
}
