//! One thread that uses the GPU, and what it knows of its memory.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;

use super::region::Region;
use super::{Args, Counts};
use crate::device::any_node;
use crate::gpu::{Command, Gpu};
use crate::rng::Rng;

/// Rounds at the end, in which nothing may fail.
const GOOD_ROUNDS: u32 = 20;

/// Tells a thread what the others know.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// It has happened often enough.
    pub(super) enough: AtomicBool,
    /// The GPU has gone for good.
    pub(super) gone: AtomicBool,
}

/// One thread and what it has.
pub(super) struct Thread<'a> {
    args: &'a Args,
    told: &'a Told,
    gpu: Option<Gpu>,
    rng: Rng,
    regions: Vec<Region>,
    counts: Counts,
    /// Nothing may fail any more.
    strict: bool,
}

impl<'a> Thread<'a> {
    pub(super) fn new(args: &'a Args, told: &'a Told, number: u32) -> Result<Thread<'a>> {
        let number = u64::from(number);
        let regions = (0..args.regions)
            .map(|region| Region::new(number << 32 | u64::from(region)))
            .collect::<Result<Vec<_>>>()?;
        Ok(Thread {
            args,
            told,
            gpu: None,
            rng: Rng::new(args.seed, number),
            regions,
            counts: Counts::default(),
            strict: false,
        })
    }

    pub(super) fn run(mut self) -> Result<Counts> {
        let mut rounds = 0;
        while rounds < self.args.rounds || !self.told.enough.load(Ordering::Relaxed) {
            if self.told.gone.load(Ordering::Relaxed) {
                return self.last_look();
            }
            self.round()?;
            rounds += 1;
        }
        if self.args.gone {
            return self.last_look();
        }
        self.verify_all()?;
        // All is home now, or was mapped anew.
        self.strict = self.args.breaks();
        self.open()?;
        for _ in 0..GOOD_ROUNDS {
            self.round()?;
        }
        self.verify_all()?;
        Ok(self.counts)
    }

    /// Whether or not the GPU has gone: what was not there is as it was.
    fn last_look(mut self) -> Result<Counts> {
        self.verify_all()?;
        Ok(self.counts)
    }

    fn verify_all(&mut self) -> Result<()> {
        (0..self.regions.len()).try_for_each(|number| self.verify(number))
    }

    /// The GPU, opened anew if it has gone and come back.
    fn open(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(self.args.limit);
        while self.gpu.is_none() {
            ensure!(Instant::now() < deadline, "the GPU does not come back");
            if self.told.gone.load(Ordering::Relaxed) {
                return Ok(());
            }
            let opened = any_node()?.map(|node| Gpu::open(&node));
            match opened {
                Some(Ok(gpu)) => self.gpu = Some(gpu),
                Some(Err(error)) => ensure!(may_pass(&error), error),
                None => std::thread::yield_now(),
            }
        }
        Ok(())
    }

    fn round(&mut self) -> Result<()> {
        self.open()?;
        let Some(gpu) = self.gpu.take() else {
            return Ok(());
        };
        let number = self.rng.below(self.regions.len());
        self.counts.rounds += 1;
        let errno = match self.rng.below(8) {
            0..3 => self.send(&gpu, number),
            3 => self.fetch(&gpu, number),
            4 | 5 => self.verify(number).map(|()| None),
            6 => self.checksum(&gpu, number),
            _ => self.fill(&gpu, number),
        };
        let errno = errno.with_context(|| format!("region {number}"))?;
        if errno != Some(Errno::NODEV) {
            self.gpu = Some(gpu);
        } else if self.args.gone {
            self.told.gone.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Fails if this is not an error that a GPU that breaks may cause.
    fn failed(&mut self, operation: &str, errno: Errno) -> Result<Option<Errno>> {
        let name = match errno {
            // VRAM is full: nothing to do with it.
            Errno::NOSPC => return Ok(None),
            Errno::IO => "EIO",
            Errno::TIMEDOUT => "ETIMEDOUT",
            Errno::NODEV if self.args.may_go() => "ENODEV",
            _ => {
                return Err(std::io::Error::from(errno))
                    .with_context(|| format!("{operation} failed"));
            }
        };
        ensure!(
            !self.strict,
            "{operation} failed with {name} after the last time"
        );
        self.counts.error(operation, name);
        Ok(Some(errno))
    }

    fn send(&mut self, gpu: &Gpu, number: usize) -> Result<Option<Errno>> {
        let region = &mut self.regions[number];
        region.maybe_away = true;
        let outcome = gpu.device().to_device(region.memory(), region.all());
        self.counts.to_device_bytes += outcome.moved;
        outcome
            .error
            .map_or(Ok(None), |errno| self.failed("send", errno))
    }

    fn fetch(&mut self, gpu: &Gpu, number: usize) -> Result<Option<Errno>> {
        let region = &mut self.regions[number];
        let outcome = gpu.device().to_system(region.memory(), region.all());
        self.counts.to_system_bytes += outcome.moved;
        // What is skipped may still be there.
        if outcome.error.is_none() && outcome.skipped == 0 {
            region.maybe_away = false;
        }
        outcome
            .error
            .map_or(Ok(None), |errno| self.failed("fetch", errno))
    }

    /// Reads all of a region, which brings it home.
    fn verify(&mut self, number: usize) -> Result<()> {
        let region = &mut self.regions[number];
        let (read, lost) = region.verify()?;
        self.counts.verified_bytes += read;
        if lost == 0 {
            region.maybe_away = false;
            return Ok(());
        }
        ensure!(
            region.maybe_away,
            "{lost} pages are lost that were in system memory"
        );
        ensure!(
            self.args.may_lose() && !self.strict,
            "{lost} pages are lost without a reason"
        );
        self.counts.lost_pages += lost;
        region.renew()
    }

    fn checksum(&mut self, gpu: &Gpu, number: usize) -> Result<Option<Errno>> {
        let region = &mut self.regions[number];
        region.maybe_away = true;
        let (command, expected) = region.checksum();
        match job(gpu, command)? {
            Ok(value) => {
                ensure!(
                    value == expected,
                    "the GPU's checksum is {value:#x}, not {expected:#x}"
                );
                self.counts.jobs += 1;
                Ok(None)
            }
            Err(errno) => self.failed("checksum", errno),
        }
    }

    fn fill(&mut self, gpu: &Gpu, number: usize) -> Result<Option<Errno>> {
        let word = self.rng.next();
        let region = &mut self.regions[number];
        region.maybe_away = true;
        match job(gpu, region.fill(word))? {
            Ok(_) => {
                self.counts.jobs += 1;
                Ok(None)
            }
            Err(errno) => {
                // How far it came is not known.
                self.regions[number].renew()?;
                self.failed("fill", errno)
            }
        }
    }
}

/// An error of opening a GPU that is going, or coming back.
fn may_pass(error: &anyhow::Error) -> bool {
    let number = error
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::raw_os_error);
    matches!(
        number,
        Some(libc::EIO | libc::ETIMEDOUT | libc::ENODEV | libc::ENOENT | libc::ENXIO)
    )
}

/// Does a job: its value, or why it failed.
fn job(gpu: &Gpu, command: Command) -> Result<Result<u64, Errno>> {
    let job = match gpu.try_submit(command) {
        Ok(job) => job,
        Err(errno) => return Ok(Err(errno)),
    };
    match gpu.wait(job) {
        Ok(report) => Ok(report.error.map_or(Ok(report.value), Err)),
        Err(error) => match error.downcast_ref::<std::io::Error>() {
            Some(io) => match io.raw_os_error().map(Errno::from_raw_os_error) {
                Some(errno) => Ok(Err(errno)),
                None => Err(error),
            },
            None => Err(error),
        },
    }
}
