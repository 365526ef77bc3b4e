//! Slow work on memory, on a thread of its own: scrubbing VRAM after a reset, and populating
//! guest RAM and VRAM before an engine meets them. The first touch of 2 MiB costs as much as its copy
//! where the host has huge pages, and ten times as much where it has not.
//!
//! VRAM is populated from each block in use to [`AHEAD`] beyond it: a driver that allocates
//! upwards finds its memory there, and VRAM that nobody comes near costs the host nothing. An engine
//! is faster than populating, so that the first [`AT_REST`] are populated as soon as there is
//! a guest with RAM, which takes seconds to start before its driver comes.
//!
//! Guest RAM is populated from its beginning to its end, whether the guest comes to use it or not.
//! So that nothing of this drives a small host out of memory, it stops where less than a quarter of
//! the host's memory is available; what is left is populated by whoever touches it first.
//!
//! What was taken out of the DMA map is unmapped from the address space here as well: that takes
//! some 60 ms for each populated GiB, for which no client should wait.
//!
//! Work is done in steps of some milliseconds, the most urgent first: scrub, then unmapping, then
//! VRAM, then guest RAM. Guest RAM is held weakly, so that unmapping it cancels the rest by itself.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;

use hmmgpu_contract::VRAM_BLOCK_BYTES;

use crate::advise::{Want, advise};
use crate::dma::MAX_DMA_MAPS;
use crate::guest_memory::GuestMemory;
use crate::vram::Vram;

/// VRAM that is populated from the beginning of each block in use.
const AHEAD: u64 = 128 << 20;
/// VRAM that is populated from its beginning before anybody uses it.
const AT_REST: u64 = 512 << 20;
/// Guest RAM that is populated in one step: 5 to 20 ms. VRAM goes by
/// blocks.
const POPULATE_STEP: u64 = 4 << 20;
/// Guest RAM that is populated between two looks at how much memory the host has left; a multiple
/// of [`POPULATE_STEP`].
const LOOK_EVERY: usize = 64 << 20;
/// Blocks of VRAM that are populated between two such looks.
const LOOK_BLOCKS: usize = 32;
/// VRAM that is scrubbed in one step.
const SCRUB_STEP: u64 = 64 << 20;
/// Maps smaller than this are not populated: firmware and ROMs, which come and go in storms.
const SMALLEST_RAM: usize = 1 << 20;
/// Populating jobs that are remembered; beyond it the oldest is given up, which costs only speed.
const MAX_RAM_JOBS: usize = 1024;

/// Guest RAM that is unmapped in one step.
const UNMAP_STEP: usize = 64 << 20;
/// Regions that may wait for being unmapped: they hold file descriptors, like those of the DMA
/// map, of which there are at most as many.
const MAX_UNMAPPED: usize = MAX_DMA_MAPS / 4;

/// What is called when VRAM is scrubbed, or cannot be: the generation that asked, and the result.
type Scrubbed = Box<dyn Fn(u32, io::Result<()>) + Send>;
/// Tells whether the host has memory to spare.
pub(crate) type HasRoom = Box<dyn Fn() -> bool + Send>;

struct RamJob {
    region: Weak<GuestMemory>,
    size: usize,
    want: Want,
    offset: usize,
}

impl RamJob {
    /// Bytes that it is yet to populate.
    fn left(&self) -> u64 {
        self.size.saturating_sub(self.offset) as u64
    }
}

/// A region that is to be unmapped, which it is below the offset.
struct UnmapJob {
    region: Arc<GuestMemory>,
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
    unmap: VecDeque<UnmapJob>,
    /// Blocks of VRAM that were asked for since the last scrub, by number.
    vram_asked: Vec<bool>,
    /// Those of them that are yet to be populated.
    vram: VecDeque<usize>,
    /// The next block that is populated before its use, and the one after the last.
    rest: Range<usize>,
    /// What was last mapped of a guest's RAM: while it is mapped, there is a guest.
    guest: Weak<GuestMemory>,
    ram: VecDeque<RamJob>,
    /// Bytes that are left of the job of which a step is being done.
    under_way: u64,
}

impl Jobs {
    /// Asks for VRAM before its use.
    fn rest(&mut self) {
        let blocks = usize::try_from(AT_REST / VRAM_BLOCK_BYTES).unwrap_or(usize::MAX);
        self.rest = 0..blocks.min(self.vram_asked.len());
    }
}

struct Shared {
    jobs: Mutex<Jobs>,
    wake: Condvar,
    vram: Arc<Vram>,
    /// Blocks of VRAM whose use is known, by number. Set and cleared under the lock of the jobs.
    vram_used: Box<[AtomicBool]>,
}

/// The thread and what it is asked to do.
pub(crate) struct Background {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    pub(crate) fn start(
        vram: Arc<Vram>,
        scrubbed: Scrubbed,
        has_room: HasRoom,
    ) -> io::Result<Self> {
        let blocks = vram.bytes().div_ceil(VRAM_BLOCK_BYTES);
        let blocks = usize::try_from(blocks).map_err(io::Error::other)?;
        let shared = Arc::new(Shared {
            jobs: Mutex::new(Jobs {
                shutdown: false,
                scrub: None,
                unmap: VecDeque::new(),
                vram_asked: vec![false; blocks],
                vram: VecDeque::new(),
                rest: 0..0,
                guest: Weak::new(),
                ram: VecDeque::new(),
                under_way: 0,
            }),
            wake: Condvar::new(),
            vram,
            vram_used: (0..blocks).map(|_| AtomicBool::new(false)).collect(),
        });
        let thread = std::thread::Builder::new()
            .name("hmmgpu-memory".to_owned())
            .spawn({
                let shared = shared.clone();
                move || run(&shared, &scrubbed, &has_room)
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// A range of VRAM is in use. Cheap unless a block of it comes into use.
    pub(crate) fn vram_used(&self, offset: u64, bytes: u64) {
        let used = &self.shared.vram_used;
        let number = |block: u64| usize::try_from(block).unwrap_or(usize::MAX);
        let end = offset.saturating_add(bytes).div_ceil(VRAM_BLOCK_BYTES);
        let blocks = number(offset / VRAM_BLOCK_BYTES)..number(end).min(used.len());
        for block in blocks {
            if !used[block].load(Ordering::Relaxed) {
                self.shared.populate_from(block);
            }
        }
    }

    /// Bytes of guest RAM and VRAM that are yet to be populated.
    pub(crate) fn populating(&self) -> u64 {
        let jobs = self.shared.jobs();
        let rest = jobs.rest.clone().filter(|block| !jobs.vram_asked[*block]);
        let blocks = (jobs.vram.len() + rest.count()) as u64;
        let mapped = |job: &&RamJob| job.region.strong_count() > 0;
        let ram = jobs.ram.iter().filter(mapped).map(RamJob::left);
        blocks * VRAM_BLOCK_BYTES + ram.sum::<u64>() + jobs.under_way
    }

    /// Guest RAM was mapped.
    pub(crate) fn ram_mapped(&self, region: &Arc<GuestMemory>, write: bool) {
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
        if jobs.guest.strong_count() == 0 {
            jobs.rest();
        }
        jobs.guest = Arc::downgrade(region);
        jobs.ram.push_back(RamJob {
            region: Arc::downgrade(region),
            size: region.size(),
            want: if write {
                Want::Writable
            } else {
                Want::Readable
            },
            offset: 0,
        });
        self.shared.wake.notify_one();
    }

    /// Unmaps regions that nobody uses any more; small ones at once.
    pub(crate) fn unmap(&self, regions: impl Iterator<Item = Arc<GuestMemory>>) {
        for region in regions.filter(|region| region.size() >= SMALLEST_RAM) {
            let mut jobs = self.shared.jobs();
            if jobs.unmap.len() < MAX_UNMAPPED {
                jobs.unmap.push_back(UnmapJob { region, offset: 0 });
                self.shared.wake.notify_one();
            } else {
                drop(jobs);
                drop(region);
            }
        }
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

    /// Asks for what is populated when `block` comes into use.
    fn populate_from(&self, block: usize) {
        const BLOCKS: usize = (AHEAD / VRAM_BLOCK_BYTES) as usize;
        let mut jobs = self.jobs();
        // What is asked for now would be given back at the end of the scrub.
        if jobs.scrub.is_some() {
            return;
        }
        self.vram_used[block].store(true, Ordering::Relaxed);
        let Jobs {
            vram_asked, vram, ..
        } = &mut *jobs;
        for (block, asked) in vram_asked.iter_mut().enumerate().skip(block).take(BLOCKS) {
            if !std::mem::replace(asked, true) {
                vram.push_back(block);
            }
        }
        self.wake.notify_one();
    }

    /// Nothing of VRAM is populated any more, nor in use.
    fn forget_vram(&self, jobs: &mut Jobs) {
        jobs.vram.clear();
        jobs.vram_asked.fill(false);
        for used in &self.vram_used {
            used.store(false, Ordering::Relaxed);
        }
        jobs.rest = 0..0;
        if jobs.guest.strong_count() > 0 {
            jobs.rest();
        }
    }
}

/// One step of work, taken out of the jobs so that the lock is not held while it is done.
enum Step {
    Scrub(ScrubJob),
    Unmap(UnmapJob),
    PopulateVram(usize),
    PopulateRam(Arc<GuestMemory>, RamJob),
}

fn next_step(jobs: &mut Jobs) -> Option<Step> {
    if let Some(scrub) = jobs.scrub {
        return Some(Step::Scrub(scrub));
    }
    if let Some(job) = jobs.unmap.pop_front() {
        return Some(Step::Unmap(job));
    }
    if let Some(block) = jobs.vram.pop_front() {
        return Some(Step::PopulateVram(block));
    }
    for block in jobs.rest.by_ref() {
        if !std::mem::replace(&mut jobs.vram_asked[block], true) {
            return Some(Step::PopulateVram(block));
        }
    }
    while let Some(job) = jobs.ram.pop_front() {
        if let Some(region) = job.region.upgrade() {
            return Some(Step::PopulateRam(region, job));
        }
    }
    None
}

fn run(shared: &Shared, scrubbed: &Scrubbed, has_room: &HasRoom) {
    let mut told = false;
    let mut blocks = 0_usize;
    loop {
        let mut jobs = shared.jobs();
        let step = loop {
            if jobs.shutdown {
                return;
            }
            let step = next_step(&mut jobs);
            jobs.under_way = match &step {
                Some(Step::PopulateVram(_)) => VRAM_BLOCK_BYTES,
                Some(Step::PopulateRam(_, job)) => job.left(),
                _ => 0,
            };
            match step {
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
            Step::Unmap(job) => unmap(shared, job),
            Step::PopulateVram(block) => {
                if blocks.is_multiple_of(LOOK_BLOCKS) && !has_room() {
                    // What is asked for later may find more room.
                    blocks = 0;
                    let mut jobs = shared.jobs();
                    jobs.rest = 0..0;
                    jobs.vram.push_front(block);
                    let Jobs {
                        vram, vram_asked, ..
                    } = &mut *jobs;
                    vram.drain(..).for_each(|block| vram_asked[block] = false);
                } else {
                    blocks += 1;
                    populate_vram(shared, block);
                }
            }
            Step::PopulateRam(region, job) => {
                let look = job.offset.is_multiple_of(LOOK_EVERY);
                if !look || has_room() {
                    populate_ram(shared, &region, job);
                } else if !std::mem::replace(&mut told, true) {
                    tracing::info!(
                        "less than a quarter of the host's memory is available: guest RAM is not \
                         populated ahead of its use any more"
                    );
                }
            }
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
                shared.forget_vram(&mut jobs);
                true
            }
        }
    };
    if finished {
        scrubbed(job.generation, result);
    }
}

fn unmap(shared: &Shared, mut job: UnmapJob) {
    // Piece by piece, so that neither a scrub nor a change of the address space waits for long.
    // Whatever the host does not take is done at once, when the region is dropped.
    let _ = advise(&job.region, job.offset, UNMAP_STEP, Want::Discarded);
    job.offset = job.offset.saturating_add(UNMAP_STEP);
    if job.offset < job.region.size() {
        shared.jobs().unmap.push_front(job);
    }
}

fn populate_vram(shared: &Shared, block: usize) {
    let offset = (block as u64).saturating_mul(VRAM_BLOCK_BYTES);
    if shared
        .vram
        .advise(offset, VRAM_BLOCK_BYTES, Want::Writable)
        .is_err()
    {
        // An old kernel, or a host short of memory: engines then populate by touching.
        shared.jobs().vram.clear();
    }
}

fn populate_ram(shared: &Shared, region: &Arc<GuestMemory>, mut job: RamJob) {
    let step = usize::try_from(POPULATE_STEP).unwrap_or(usize::MAX);
    if job.offset == 0 {
        // It is as good without, only slower.
        let _ = advise(region, 0, region.size(), Want::HugePages);
    }
    let populated = advise(region, job.offset, step, job.want).is_ok();
    job.offset = job.offset.saturating_add(step);
    if populated && job.offset < region.size() {
        let mut jobs = shared.jobs();
        jobs.under_way = 0;
        jobs.ram.push_front(job);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lost::Lost;
    use rustix::fs::{MemfdFlags, fstat, ftruncate, memfd_create};
    use std::fs::File;
    use std::sync::atomic::AtomicUsize;
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

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
    fn vram_is_populated_around_its_use_and_not_after_a_scrub() {
        const VRAM: u64 = 1 << 30;
        const PAGE: u64 = 4096;
        let vram = Arc::new(Vram::new(VRAM).unwrap());
        let (sender, receiver) = mpsc::channel();
        let scrubbed = vram.clone();
        let report = Box::new(move |generation, result: io::Result<()>| {
            // The receiver goes first only when the test has failed already.
            let _ = sender.send((generation, result.is_ok(), scrubbed.populated()));
        });
        let background = Background::start(vram.clone(), report, Box::new(|| true)).unwrap();
        let idle = || background.shared.jobs().vram.is_empty();
        // The end of VRAM alone, then all of a window, then what a second block adds to it.
        background.vram_used(VRAM - PAGE, PAGE);
        until(|| vram.populated() >= VRAM_BLOCK_BYTES);
        background.vram_used(VRAM_BLOCK_BYTES - PAGE, PAGE);
        until(|| vram.populated() >= VRAM_BLOCK_BYTES + AHEAD);
        background.vram_used(PAGE, VRAM_BLOCK_BYTES);
        until(|| vram.populated() >= 2 * VRAM_BLOCK_BYTES + AHEAD);
        assert!(idle());
        assert_eq!(vram.populated(), 2 * VRAM_BLOCK_BYTES + AHEAD);
        for generation in [7, 8] {
            background.scrub(generation);
            let reported = receiver.recv_timeout(LIMIT).unwrap();
            assert_eq!(reported, (generation, true, 0));
            assert!(idle());
            background.vram_used(0, PAGE);
            until(|| vram.populated() >= AHEAD);
        }
    }

    #[test]
    fn vram_is_not_populated_when_the_host_is_short_of_memory() {
        let vram = Arc::new(Vram::new(64 << 20).unwrap());
        let (sender, receiver) = mpsc::channel();
        let has_room = Box::new(move || {
            // The receiver goes first only when the test has failed already.
            let _ = sender.send(());
            false
        });
        let background = Background::start(vram.clone(), Box::new(|_, _| {}), has_room).unwrap();
        background.vram_used(0, 4096);
        receiver.recv_timeout(LIMIT).unwrap();
        until(|| background.populating() == 0);
        assert_eq!(vram.populated(), 0);
    }

    fn ram(size: usize) -> (File, Arc<GuestMemory>) {
        let file = File::from(memfd_create("ram", MemfdFlags::CLOEXEC).unwrap());
        ftruncate(&file, size as u64).unwrap();
        let lost = Arc::new(Lost::new().unwrap());
        let mapped = GuestMemory::map(file.try_clone().unwrap(), 0, size, true, &lost);
        (file, Arc::new(mapped.unwrap()))
    }

    fn start(has_room: impl Fn() -> bool + Send + 'static) -> Background {
        let vram = Arc::new(Vram::new(64 << 20).unwrap());
        Background::start(vram, Box::new(|_, _| {}), Box::new(has_room)).unwrap()
    }

    #[test]
    fn regions_are_unmapped_by_the_thread_as_long_as_few_wait() {
        let vram = Arc::new(Vram::new(64 << 20).unwrap());
        let (hold, held) = mpsc::channel::<()>();
        let busy = Box::new(move |_, _| {
            // Ends when the other side is dropped.
            let _ = held.recv();
        });
        let background = Background::start(vram, busy, Box::new(|| false)).unwrap();
        background.scrub(1);
        let waiting = (0..=MAX_UNMAPPED).map(|_| {
            let (_, region) = ram(SMALLEST_RAM);
            let weak = Arc::downgrade(&region);
            background.unmap(std::iter::once(region));
            weak
        });
        let mut waiting: Vec<_> = waiting.collect();
        let beyond = waiting.pop().unwrap();
        assert_eq!(beyond.strong_count(), 0);
        assert!(waiting.iter().all(|weak| weak.strong_count() == 1));
        drop(hold);
        until(|| waiting.iter().all(|weak| weak.strong_count() == 0));
    }

    #[test]
    fn vram_is_populated_before_its_use_while_there_is_a_guest() {
        const VRAM: u64 = 64 << 20;
        let vram = Arc::new(Vram::new(VRAM).unwrap());
        let (sender, receiver) = mpsc::channel();
        let report = Box::new(move |_, _| {
            // The receiver goes first only when the test has failed already.
            let _ = sender.send(());
        });
        let background = Background::start(vram.clone(), report, Box::new(|| true)).unwrap();
        let (_ram, region) = ram(SMALLEST_RAM);
        background.ram_mapped(&region, true);
        until(|| vram.populated() == VRAM);
        background.scrub(1);
        receiver.recv_timeout(LIMIT).unwrap();
        until(|| vram.populated() == VRAM);
        drop(region);
        background.scrub(2);
        receiver.recv_timeout(LIMIT).unwrap();
        assert!(background.shared.jobs().rest.is_empty());
        assert_eq!(vram.populated(), 0);
    }

    #[test]
    fn guest_ram_is_populated_until_it_is_unmapped() {
        const SIZE: usize = 64 << 20;
        let background = start(|| true);
        let (_gone_file, gone) = ram(SIZE);
        background.ram_mapped(&gone, true);
        let weak = Arc::downgrade(&gone);
        drop(gone);
        let (file, region) = ram(SIZE);
        background.ram_mapped(&region, true);
        until(|| populated(&file) == SIZE as u64);
        until(|| background.populating() == 0);
        // Jobs are done in order: the thread has let go of what was unmapped.
        assert_eq!(weak.strong_count(), 0);
    }

    #[test]
    fn guest_ram_is_not_populated_when_the_host_gets_short_of_memory() {
        let (sender, receiver) = mpsc::channel();
        let looks = AtomicUsize::new(0);
        let background = start(move || {
            // The receiver goes first only when the test has failed already.
            let _ = sender.send(());
            looks.fetch_add(1, Ordering::Relaxed) < 2
        });
        let (file, region) = ram(3 * LOOK_EVERY);
        let (later_file, later) = ram(LOOK_EVERY);
        background.ram_mapped(&region, true);
        background.ram_mapped(&later, true);
        assert!(background.populating() > 0);
        // Once for VRAM, twice for the first, once for the other: what comes after that is not
        // populated.
        for _ in 0..4 {
            receiver.recv_timeout(LIMIT).unwrap();
        }
        drop(background);
        assert_eq!(populated(&file), LOOK_EVERY as u64);
        assert_eq!(populated(&later_file), 0);
    }
}
