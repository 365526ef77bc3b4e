//! What all scenarios share: how long they go on, their random numbers, their verdict.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::tally::{Figure, Tally, Trouble};
use crate::device::Device;
use crate::pattern::mix;
use crate::rng::Rng;
use crate::thp;

/// A scenario goes on for so long until all of its troubles have met a migration. What is meant
/// to happen happens within seconds; kernels that check everything are much slower.
const GRACE: Duration = Duration::from_secs(120);
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

/// A running scenario.
#[derive(Debug)]
pub(super) struct Frame {
    node: PathBuf,
    seed: u64,
    begun: Instant,
    work: Duration,
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
            tally: Tally::new(troubles).context("cannot share memory with children")?,
            controls,
        })
    }

    /// Random numbers for a thread or process of this number.
    pub(super) fn rng(&self, stream: usize) -> Rng {
        Rng::new(self.seed, stream as u64)
    }

    /// The device node.
    pub(super) fn node(&self) -> &Path {
        &self.node
    }

    /// Opens the device.
    pub(super) fn device(&self) -> Result<Device> {
        Device::open(&self.node)
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
