//! Slow work on memory, on a thread of its own: scrubbing VRAM after a reset, and populating
//! guest RAM and VRAM before an engine meets them. The first touch of a page costs fifty times
//! its copy.
//!
//! Work is done in steps of some milliseconds, the most urgent first: scrub, then VRAM, then
//! guest RAM. Guest RAM is held weakly, so that unmapping it cancels the rest by itself.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;

use vm_memory::MmapRegion;

use crate::advise::{Want, advise};
use crate::vram::Vram;

/// VRAM that is kept populated beyond what was used so far.
const AHEAD: u64 = 256 << 20;
/// Populating goes on once less than this is left of [`AHEAD`].
const REFILL: u64 = AHEAD / 2;
/// Memory that is populated in one step: about 20 ms at the usual 0.2 GB/s.
const POPULATE_STEP: u64 = 4 << 20;
/// VRAM that is scrubbed in one step.
const SCRUB_STEP: u64 = 64 << 20;
/// Maps smaller than this are not populated: firmware and ROMs, which come and go in storms.
const SMALLEST_RAM: usize = 1 << 20;
/// Populating jobs that are remembered; beyond it the oldest is given up, which costs only speed.
const MAX_RAM_JOBS: usize = 1024;

/// What is called when VRAM is scrubbed, or cannot be: the generation that asked, and the result.
type Scrubbed = Box<dyn Fn(u32, io::Result<()>) + Send>;

struct RamJob {
    region: Weak<MmapRegion>,
    want: Want,
    offset: usize,
}

/// A scrub that was asked for by the reset that began a generation.
#[derive(Clone, Copy)]
struct ScrubJob {
    generation: u32,
    offset: u64,
}

struct Jobs {
    shutdown: bool,
    scrub: Option<ScrubJob>,
    /// VRAM below this is populated, or will be.
    vram_goal: u64,
    /// VRAM below this is populated.
    vram_done: u64,
    ram: VecDeque<RamJob>,
}

struct Shared {
    jobs: Mutex<Jobs>,
    wake: Condvar,
    vram: Arc<Vram>,
    /// A use of VRAM beyond this moves the goal.
    vram_trigger: AtomicU64,
}

/// The thread and what it is asked to do.
pub(crate) struct Background {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    pub(crate) fn start(vram: Arc<Vram>, scrubbed: Scrubbed) -> io::Result<Self> {
        let goal = AHEAD.min(vram.bytes());
        let shared = Arc::new(Shared {
            jobs: Mutex::new(Jobs {
                shutdown: false,
                scrub: None,
                vram_goal: goal,
                vram_done: 0,
                ram: VecDeque::new(),
            }),
            wake: Condvar::new(),
            vram,
            vram_trigger: AtomicU64::new(goal.saturating_sub(REFILL)),
        });
        let thread = std::thread::Builder::new()
            .name("hmmgpu-memory".to_owned())
            .spawn({
                let shared = shared.clone();
                move || run(&shared, &scrubbed)
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// VRAM below `end` is in use. Cheap unless the populated part comes to its end.
    pub(crate) fn vram_used(&self, end: u64) {
        if end <= self.shared.vram_trigger.load(Ordering::Relaxed) {
            return;
        }
        let mut jobs = self.shared.jobs();
        if jobs.scrub.is_none() {
            jobs.vram_goal = end.saturating_add(AHEAD).min(self.shared.vram.bytes());
            self.shared.set_trigger(jobs.vram_goal);
            self.shared.wake.notify_one();
        }
    }

    /// Guest RAM was mapped.
    pub(crate) fn ram_mapped(&self, region: &Arc<MmapRegion>, write: bool) {
        if region.size() < SMALLEST_RAM {
            return;
        }
        let mut jobs = self.shared.jobs();
        if jobs.ram.len() >= MAX_RAM_JOBS {
            jobs.ram.retain(|job| job.region.strong_count() > 0);
            if jobs.ram.len() >= MAX_RAM_JOBS {
                jobs.ram.pop_front();
            }
        }
        jobs.ram.push_back(RamJob {
            region: Arc::downgrade(region),
            want: if write {
                Want::Writable
            } else {
                Want::Readable
            },
            offset: 0,
        });
        self.shared.wake.notify_one();
    }

    /// Scrubs all of VRAM for `generation`; a scrub that is under way begins anew.
    pub(crate) fn scrub(&self, generation: u32) {
        let mut jobs = self.shared.jobs();
        jobs.scrub = Some(ScrubJob {
            generation,
            offset: 0,
        });
        self.shared.wake.notify_one();
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.shared.jobs().shutdown = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported by the panic hook already.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Background {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Background").finish_non_exhaustive()
    }
}

impl Shared {
    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_trigger(&self, goal: u64) {
        let trigger = if goal >= self.vram.bytes() {
            u64::MAX
        } else {
            goal.saturating_sub(REFILL)
        };
        self.vram_trigger.store(trigger, Ordering::Relaxed);
    }
}

/// One step of work, taken out of the jobs so that the lock is not held while it is done.
enum Step {
    Scrub(ScrubJob),
    PopulateVram(u64),
    PopulateRam(Arc<MmapRegion>, RamJob),
}

fn next_step(jobs: &mut Jobs) -> Option<Step> {
    if let Some(scrub) = jobs.scrub {
        return Some(Step::Scrub(scrub));
    }
    if jobs.vram_done < jobs.vram_goal {
        return Some(Step::PopulateVram(jobs.vram_done));
    }
    while let Some(job) = jobs.ram.pop_front() {
        if let Some(region) = job.region.upgrade() {
            return Some(Step::PopulateRam(region, job));
        }
    }
    None
}

fn run(shared: &Shared, scrubbed: &Scrubbed) {
    loop {
        let mut jobs = shared.jobs();
        let step = loop {
            if jobs.shutdown {
                return;
            }
            match next_step(&mut jobs) {
                Some(step) => break step,
                None => {
                    jobs = shared
                        .wake
                        .wait(jobs)
                        .unwrap_or_else(PoisonError::into_inner)
                }
            }
        };
        drop(jobs);
        match step {
            Step::Scrub(job) => scrub(shared, scrubbed, job),
            Step::PopulateVram(offset) => populate_vram(shared, offset),
            Step::PopulateRam(region, job) => populate_ram(shared, &region, job),
        }
    }
}

fn scrub(shared: &Shared, scrubbed: &Scrubbed, job: ScrubJob) {
    let vram = &shared.vram;
    let step = SCRUB_STEP.min(vram.bytes() - job.offset);
    let result = vram.scrub(job.offset, step);
    let end = job.offset + step;
    let finished = {
        let mut jobs = shared.jobs();
        match &mut jobs.scrub {
            // A later reset has asked for a scrub from the beginning.
            Some(current) if current.generation != job.generation => false,
            Some(current) if result.is_ok() && end < vram.bytes() => {
                current.offset = end;
                false
            }
            _ => {
                jobs.scrub = None;
                jobs.vram_done = 0;
                jobs.vram_goal = AHEAD.min(vram.bytes());
                shared.set_trigger(jobs.vram_goal);
                true
            }
        }
    };
    if finished {
        scrubbed(job.generation, result);
    }
}

fn populate_vram(shared: &Shared, offset: u64) {
    let region = shared.vram.region();
    let step = POPULATE_STEP.min(shared.vram.bytes() - offset);
    let populated = match (usize::try_from(offset), usize::try_from(step)) {
        (Ok(offset), Ok(step)) => advise(region, offset, step, Want::Writable),
        _ => false,
    };
    let mut jobs = shared.jobs();
    if jobs.scrub.is_some() {
        return;
    }
    // An old kernel, or a host short of memory: engines then populate by touching.
    jobs.vram_done = if populated { offset + step } else { u64::MAX };
}

fn populate_ram(shared: &Shared, region: &Arc<MmapRegion>, mut job: RamJob) {
    let step = usize::try_from(POPULATE_STEP).unwrap_or(usize::MAX);
    if job.offset == 0 {
        advise(region, 0, region.size(), Want::HugePages);
    }
    let populated = advise(region, job.offset, step, job.want);
    job.offset = job.offset.saturating_add(step);
    if populated && job.offset < region.size() {
        shared.jobs().ram.push_front(job);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, fstat, ftruncate, memfd_create};
    use std::fs::File;
    use std::sync::mpsc;
    use std::time::{Duration, Instant};
    use vm_memory::FileOffset;

    const LIMIT: Duration = Duration::from_secs(60);

    fn populated(file: &File) -> u64 {
        let blocks = fstat(file).unwrap().st_blocks;
        u64::try_from(blocks).unwrap() * 512
    }

    fn until(done: impl Fn() -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !done() {
            assert!(Instant::now() < deadline, "not done in time");
            std::thread::yield_now();
        }
    }

    #[test]
    fn vram_is_populated_ahead_scrubbed_and_populated_again() {
        let vram = Arc::new(Vram::new(1 << 30).unwrap());
        let file = vram.region().file_offset().unwrap().arc().clone();
        let (sender, receiver) = mpsc::channel();
        let report = Box::new(move |generation, result: io::Result<()>| {
            // The receiver goes first only when the test has failed already.
            let _ = sender.send((generation, result.is_ok(), populated(&file)));
        });
        let background = Background::start(vram.clone(), report).unwrap();
        let file = vram.region().file_offset().unwrap().arc().clone();
        until(|| populated(&file) >= AHEAD);
        background.vram_used(REFILL);
        background.vram_used(REFILL + 4096);
        until(|| populated(&file) >= AHEAD + REFILL);
        background.scrub(7);
        let (generation, well, left) = receiver.recv_timeout(LIMIT).unwrap();
        assert_eq!((generation, well, left), (7, true, 0));
        until(|| populated(&file) >= AHEAD);
    }

    #[test]
    fn guest_ram_is_populated_until_it_is_unmapped() {
        const SIZE: usize = 64 << 20;
        let ram = || {
            let file = File::from(memfd_create("ram", MemfdFlags::CLOEXEC).unwrap());
            ftruncate(&file, SIZE as u64).unwrap();
            let backing = FileOffset::new(file.try_clone().unwrap(), 0);
            (
                file,
                Arc::new(MmapRegion::from_file(backing, SIZE).unwrap()),
            )
        };
        let vram = Arc::new(Vram::new(64 << 20).unwrap());
        let background = Background::start(vram, Box::new(|_, _| {})).unwrap();
        let (_gone_file, gone) = ram();
        background.ram_mapped(&gone, true);
        let weak = Arc::downgrade(&gone);
        drop(gone);
        let (file, region) = ram();
        background.ram_mapped(&region, true);
        until(|| populated(&file) == SIZE as u64);
        // Jobs are done in order: the thread has let go of what was unmapped.
        assert_eq!(weak.strong_count(), 0);
    }
}
