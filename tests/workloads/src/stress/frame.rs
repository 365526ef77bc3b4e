//! What all scenarios share: how long they go on, their random numbers, their verdict.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use anyhow::{Context, Result, ensure};
use hmmgpu_guest_protocol::runner::{ASKS, HostRequest};

use super::system::pause;
use super::tally::{Figure, Tally, Trouble};
use crate::device::Device;
use crate::pattern::mix;
use crate::rng::Rng;
use crate::thp;

/// A scenario goes on for so long until all of its troubles have met a migration. What is meant
/// to happen happens within seconds; kernels that check everything are much slower.
const GRACE: Duration = Duration::from_secs(120);
/// Device nodes that are looked for.
const NODES: u32 = 8;
/// Bound of what happens soon.
pub(super) const SOON: Duration = Duration::from_secs(30);

/// Why a scenario cannot be run here.
#[derive(Debug)]
pub(super) struct Skip(pub(super) String);

impl std::fmt::Display for Skip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// Why a scenario cannot be run here, as an error.
pub(super) fn skip(why: impl Into<String>) -> Skip {
    Skip(why.into())
}

/// Says what the host is to do; there is no answer.
pub(super) fn ask(request: HostRequest) {
    if let Ok(request) = serde_json::to_string(&request) {
        println!("{ASKS}{request}");
    }
}

/// A running scenario.
#[derive(Debug)]
pub(super) struct Frame {
    node: PathBuf,
    seed: u64,
    begun: Instant,
    work: Duration,
    /// The device may be away for a while.
    absent: AtomicBool,
    /// Held, to be shared, by whoever of this process makes requests.
    requests: RwLock<()>,
    /// Held, to be shared, by whoever of this process may send memory to the device.
    sending: RwLock<()>,
    /// Requests that this process has begun, and those that it forked from had before.
    begun_here: AtomicU64,
    /// What is counted.
    pub(super) tally: Tally,
    // Put back when the scenario ends.
    controls: thp::Controls,
}

impl Frame {
    /// For a scenario of this name with these troubles, which works for `work`, or longer if the
    /// troubles want it.
    pub(super) fn new(
        node: &Path,
        name: &str,
        seed: u32,
        work: Duration,
        troubles: &'static [Trouble],
    ) -> Result<Frame> {
        let controls = thp::Controls::take()?;
        // Memory that asks for large folios gets 2 MiB, and elsewhere 64 KiB where there are such.
        controls.set(|order| matches!(order, 4 | 9).then_some("madvise"))?;
        Ok(Frame {
            node: node.to_owned(),
            seed: seed_of(name, seed),
            begun: Instant::now(),
            work,
            absent: AtomicBool::new(false),
            requests: RwLock::default(),
            sending: RwLock::default(),
            begun_here: AtomicU64::new(0),
            tally: Tally::new(troubles).context("cannot share memory with children")?,
            controls,
        })
    }

    /// Random numbers for a thread or process of this number.
    pub(super) fn rng(&self, stream: usize) -> Rng {
        Rng::new(self.seed, stream as u64)
    }

    /// The device's node. One that has come back has another name as long as somebody has it open
    /// under the old one.
    pub(super) fn node(&self) -> PathBuf {
        if self.may_be_absent() && !self.node.exists() {
            let nodes = (0..NODES).map(|number| PathBuf::from(format!("/dev/hmmgpu{number}")));
            let other = nodes.into_iter().find(|path| path.exists());
            return other.unwrap_or_else(|| self.node.clone());
        }
        self.node.clone()
    }

    /// Opens the device.
    pub(super) fn device(&self) -> Result<Device> {
        Device::open(&self.node())
    }

    /// The device's address on the bus, as sysfs writes it.
    pub(super) fn pci_address(&self) -> Result<String> {
        let name = self.node.file_name().unwrap_or_default();
        let link = Path::new("/sys/class/misc").join(name).join("device");
        let path = link.canonicalize();
        let path = path.with_context(|| format!("cannot follow {}", link.display()))?;
        let address = path.file_name().unwrap_or_default();
        Ok(address.to_string_lossy().into_owned())
    }

    /// From now on the device may be away for a while.
    pub(super) fn expect_absence(&self) {
        self.absent.store(true, Ordering::SeqCst);
    }

    /// Whether the device may be away.
    pub(super) fn may_be_absent(&self) -> bool {
        self.absent.load(Ordering::SeqCst)
    }

    /// A request, or a job, begins.
    pub(super) fn begin(&self) {
        self.tally.add(Figure::Begun, 1);
        self.begun_here.fetch_add(1, Ordering::SeqCst);
    }

    /// Requests that this process has begun, and those that it forked from had before.
    pub(super) fn begun_here(&self) -> u64 {
        self.begun_here.load(Ordering::SeqCst)
    }

    /// Lets a thread of this process make requests until the guard is dropped.
    pub(super) fn requests(&self) -> RwLockReadGuard<'_, ()> {
        self.requests.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no request is under way, and keeps new ones back until the guard is dropped.
    pub(super) fn no_requests(&self) -> RwLockWriteGuard<'_, ()> {
        self.requests
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for something that happens soon.
    pub(super) fn wait(&self, what: &str, happened: impl Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + SOON;
        while !happened() {
            ensure!(
                Instant::now() < deadline,
                "waited for {what} for {} s",
                SOON.as_secs()
            );
            pause(5);
        }
        Ok(())
    }

    /// Lets a thread of this process send memory to the device until the guard is dropped.
    pub(super) fn sending(&self) -> RwLockReadGuard<'_, ()> {
        self.sending.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nothing is on its way to the device, and lets nothing go there until the guard is
    /// dropped. What is on the device may come home meanwhile.
    pub(super) fn nothing_sent(&self) -> RwLockWriteGuard<'_, ()> {
        self.sending.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A process that works as long as the scenario does ends within so long.
    pub(super) fn longest(&self) -> Duration {
        self.work + GRACE + SOON
    }

    /// Whether to go on.
    pub(super) fn running(&self) -> bool {
        let time = self.begun.elapsed();
        self.tally.get(Figure::Stop) == 0
            && (time < self.work || (time < self.work + GRACE && self.tally.prove().is_err()))
    }

    /// Somebody failed: everybody is to end.
    pub(super) fn stop(&self) {
        self.tally.add(Figure::Stop, 1);
    }

    /// Passes a result on; if it is a failure, everybody is to end.
    pub(super) fn watch<T>(&self, result: Result<T>) -> Result<T> {
        if result.is_err() {
            self.stop();
        }
        result
    }

    /// After all memory is gone: the verdict.
    pub(super) fn finish(self) -> Result<()> {
        self.tally.prove()?;
        let deadline = Instant::now() + SOON;
        let device = self.device()?;
        loop {
            let query = device.query()?;
            if query.vram_free_bytes == query.vram_bytes {
                break;
            }
            ensure!(
                Instant::now() < deadline,
                "{} bytes of VRAM are in use though nobody is left",
                query.vram_bytes - query.vram_free_bytes
            );
            std::thread::yield_now();
        }
        drop(self.controls);
        Ok(())
    }
}

/// Every scenario has numbers of its own for a seed.
fn seed_of(name: &str, seed: u32) -> u64 {
    name.bytes()
        .fold(u64::from(seed), |sum, byte| mix(sum ^ u64::from(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_repeat_and_differ_by_name_and_number() {
        assert_eq!(seed_of("kill", 1), seed_of("kill", 1));
        assert_ne!(seed_of("kill", 1), seed_of("kill", 2));
        assert_ne!(seed_of("kill", 1), seed_of("ksm", 1));
        assert_ne!(seed_of("ab", 1), seed_of("ba", 1));
    }
}
