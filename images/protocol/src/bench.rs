//! What `hmmgpu bench` asks of the guest program, and its answers, one JSON object a line on its
//! standard output.

use serde::{Deserialize, Serialize};

/// What the guest program is to measure; its only argument, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BenchPlan {
    /// Device node, for example `/dev/hmmgpu0`.
    pub device: String,
    /// What to measure, in this order.
    pub sources: Vec<Source>,
    /// Counted rounds for each source (one more is run first and not counted).
    pub repeats: u32,
    /// Bytes for each migrate ioctl; a multiple of 2 MiB.
    pub call_bytes: u64,
    /// Nothing is measured before the end of standard input, at which the host is ready.
    #[serde(default)]
    pub wait: bool,
    /// After each round, another one in which the driver copies nothing.
    #[serde(default)]
    pub floor: bool,
    /// Upstream's module `test_hmm`, a file in the guest: at orders 0 and 9 it is asked for the same
    /// after each round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_hmm: Option<String>,
}

/// Memory to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Folio order, 0 or 2 to 9.
    pub order: u8,
    /// Bytes to migrate in each round; a multiple of 2 MiB.
    pub size_bytes: u64,
}

/// Where memory went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// System memory to VRAM.
    SysToDev,
    /// VRAM to system memory.
    DevToSys,
}

/// Why memory went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// By request (an ioctl).
    Prefetch,
    /// The CPU touched it.
    CpuFault,
}

/// Who moved memory in a round. The same is asked of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// The driver, as it is.
    #[default]
    Driver,
    /// The driver, which does all but copy: data is lost, by intent.
    Floor,
    /// Upstream's `test_hmm`. The device has no part in it, so its rounds have no window.
    TestHmm,
}

/// One step of the measurement has ended, or the guest program has something to say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum BenchEvent {
    /// Progress: `done` of `total` steps; a step is one phase or one preparation.
    Progress {
        /// Steps done.
        done: u32,
        /// Steps in all.
        total: u32,
        /// What is being done, for a person.
        what: String,
    },
    /// The first 2 MiB have been to the device and are home again, before anything is measured.
    FirstMigration {
        /// Seconds since the kernel started.
        uptime: f64,
    },
    /// One phase: memory moved once in one direction, and was verified.
    Phase(Phase),
    /// A source order that this kernel cannot provide.
    Skipped {
        /// The order.
        source_order: u8,
        /// Why.
        reason: String,
    },
    /// What the driver has counted since it was loaded; nothing was under way meanwhile.
    Counters {
        /// Its counters, each name once for each order.
        counters: Vec<Counter>,
    },
    /// The end; without it the output is incomplete.
    Done,
}

/// A counter of the driver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// Its name, as in debugfs.
    pub name: String,
    /// Folio order, of those that are kept by order.
    pub order: Option<u8>,
    /// Its value.
    pub value: u64,
}

/// One phase of the measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// Who moved the memory.
    #[serde(default)]
    pub subject: Subject,
    /// Cookie of the window in the device's telemetry; 0: there is none.
    pub mark: u64,
    /// Folio order that the source memory was asked to have.
    pub source_order: u8,
    /// Round, from 0.
    pub repeat: u32,
    /// Not counted: the round before the first.
    pub warm_up: bool,
    /// Direction.
    pub direction: Direction,
    /// Trigger.
    pub trigger: Trigger,
    /// Bytes that were asked to move.
    pub bytes: u64,
    /// Bytes that the driver says moved (for CPU faults: that were on the device before).
    pub moved_bytes: u64,
    /// Share of the source memory that really was in folios of `source_order`, 0 to 1.
    pub source_share: f64,
    /// Folios of the source order that the kernel split meanwhile (its own per-size counter).
    pub source_splits: u64,
    /// Time of each call (ioctl, or first touch of a 2 MiB or 4 KiB unit that was on the device) by the guest's clock: sum in nanoseconds.
    pub guest_ns: u64,
    /// Calls.
    pub calls: u64,
    /// Doorbell writes meanwhile, by the driver's count.
    #[serde(default)]
    pub doorbells: u64,
    /// Every byte was compared with its pattern after this phase, and none differed.
    pub verified: bool,
    /// Bytes that differed.
    pub mismatched_bytes: u64,
}
