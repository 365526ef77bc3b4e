//! The result, as JSON of schema `hmmgpu.bench/2`. What it says is in `docs/bench.md`.

use std::collections::BTreeMap;
use std::fmt;

use hmmgpu_guest_protocol::bench::{BenchPlan, Direction, Trigger};
use hmmgpu_telemetry::Checks;
use hmmgpu_telemetry::snapshot::Snapshot;
use serde::{Deserialize, Serialize};

use super::counters::CounterCheck;
use super::vram_history::VramHistory;
use super::warning::Warning;
use crate::vm::Environment;

/// Schema of the result.
pub const SCHEMA: &str = "hmmgpu.bench/2";

/// The result of a bench.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchResult {
    /// [`SCHEMA`].
    pub schema: String,
    /// What it ran on.
    pub environment: Environment,
    /// What was asked for.
    pub plan: BenchPlan,
    /// When the guest was ready, if both moments are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootTimes>,
    /// One for each source order, direction and trigger.
    pub rows: Vec<Row>,
    /// What must not be: the result cannot be trusted.
    pub errors: Vec<BenchError>,
    /// Doubts, each with what to do.
    pub warnings: Vec<Warning>,
    /// The driver's own counters beside the host's; empty if the driver did not tell them.
    pub counters: Vec<CounterCheck>,
    /// All that the device counted, without windows: the rows are made of those.
    pub telemetry: Option<Snapshot>,
    /// VRAM over the time of the bench.
    pub vram_history: Option<VramHistory>,
}

impl BenchResult {
    /// Something was measured, all of it, every byte was right, and nothing contradicts it.
    pub fn good(&self) -> bool {
        let incomplete = |warning: &Warning| matches!(warning, Warning::Incomplete { .. });
        !self.rows.is_empty()
            && self.rows.iter().all(|row| row.verified)
            && self.errors.is_empty()
            && !self.warnings.iter().any(incomplete)
    }
}

/// How long the guest took until it could be used, by its own clock, in seconds since its kernel
/// started.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BootTimes {
    /// User space ran.
    pub init_s: f64,
    /// The driver was loaded, and 2 MiB had been to the device and home.
    pub first_migration_s: f64,
}

impl fmt::Display for BootTimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "From the start of the guest's kernel: {:.2} s to user space, {:.2} s to the first 2 MiB \
             there and back",
            self.init_s, self.first_migration_s
        )
    }
}

/// Memory of one source order, moved in one direction for one reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Folio order that the source memory was asked to have.
    pub source_order: u8,
    /// Where it went.
    pub direction: Direction,
    /// Why it went.
    pub trigger: Trigger,
    /// Share of the source memory that was really in folios of that order: the least of all
    /// rounds, 0 to 1.
    pub source_share: f64,
    /// Folios that the device copied or filled, by their order, in all counted rounds.
    pub device_orders: BTreeMap<u8, u64>,
    /// Bytes that were asked to move in each round.
    pub round_bytes: u64,
    /// Bytes that moved, in all counted rounds.
    pub bytes: u64,
    /// Counted rounds.
    pub repeats: u32,
    /// Bytes moved over the time in which a migration was under way, by the host's clock.
    pub migration_bytes_per_s: Stat,
    /// Bytes copied or filled over the time in which the engine was busy with them.
    pub engine_bytes_per_s: Stat,
    /// Time of a round in which a migration was under way, in seconds of the host's clock.
    pub migration_s: Stat,
    /// Time that the guest's program waited in a round, in seconds of the guest's clock.
    pub guest_s: Stat,
    /// Share of the migration's time in which the engine was busy: the median.
    pub copy_share: f64,
    /// Time of one migration: a request, or a fault.
    pub latency_us: Percentiles,
    /// The same as a histogram: `[upper bound in nanoseconds, migrations]`, bounds growing by
    /// [`LATENCY_BUCKET_RATIO`](hmmgpu_telemetry::snapshot::LATENCY_BUCKET_RATIO), empty buckets
    /// left out.
    pub latency_buckets: Vec<(u64, u64)>,
    /// Time that a copy waited in the ring until the engine began with it.
    pub queue_wait_us: Percentiles,
    /// Where the time of a round went, by the driver's clock; nothing if the driver did not tell.
    pub phases: Option<PhaseTimes>,
    /// Folios that were split, by the guest's kernel or on the device, in all counted rounds.
    pub splits: u64,
    /// Large folios that did not move whole, in all counted rounds, as the driver says.
    pub fallbacks: Vec<Fallback>,
    /// Seconds for 2^30 bytes at the median of [`Row::migration_bytes_per_s`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s_per_gib: Option<f64>,
    /// Doorbell writes for each 2 MiB that moved, by the driver's count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doorbells_per_2mib: Option<f64>,
    /// The same calls with a driver that copies nothing, in rounds of their own, whose data is not
    /// verified: bytes over the time in which a migration was under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor_bytes_per_s: Option<Stat>,
    /// What the migration could be at best: the slower, by their medians, of the floor and of the
    /// engine's rate in the row's own rounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_bytes_per_s: Option<Stat>,
    /// Which of the two that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_by: Option<LimitBy>,
    /// The row's migration rate over the limit, round by round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_ratio: Option<Stat>,
    /// The same work by upstream's `test_hmm` in the same guest, in rounds between the others: bytes
    /// over the time that the guest's program waited, by the guest's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_hmm_bytes_per_s: Option<Stat>,
    /// The row's own rate by the same clock over that, round by round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_hmm_ratio: Option<Stat>,
    /// Every byte was right after every round, and there was a round.
    pub verified: bool,
}

/// What limits a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitBy {
    /// What the kernel does besides copying.
    Kernel,
    /// The copy.
    Engine,
}

impl LimitBy {
    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Engine => "engine",
        }
    }
}

impl Row {
    /// What tells it from the others.
    pub fn key(&self) -> RowKey {
        RowKey {
            source_order: self.source_order,
            direction: self.direction,
            trigger: self.trigger,
        }
    }
}

/// What tells a row from the others of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RowKey {
    /// See [`Row::source_order`].
    pub source_order: u8,
    /// See [`Row::direction`].
    pub direction: Direction,
    /// See [`Row::trigger`].
    pub trigger: Trigger,
}

impl RowKey {
    /// The direction in a word or two: `to device` or `home`.
    pub fn way(self) -> &'static str {
        match self.direction {
            Direction::SysToDev => "to device",
            Direction::DevToSys => "home",
        }
    }

    /// The trigger in a word or two: `request` or `CPU fault`.
    pub fn by(self) -> &'static str {
        match self.trigger {
            Trigger::Prefetch => "request",
            Trigger::CpuFault => "CPU fault",
        }
    }
}

impl fmt::Display for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "order {} {} by {}",
            self.source_order,
            self.way(),
            self.by()
        )
    }
}

/// A figure over the counted rounds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stat {
    /// Median.
    pub median: f64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
    /// One for each counted round, in the order of the rounds.
    pub samples: Vec<f64>,
}

impl Stat {
    /// Of these; zeros for none.
    pub fn of(samples: Vec<f64>) -> Self {
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max)) = (sorted.first(), sorted.last()) else {
            return Self::default();
        };
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Self {
            median,
            min,
            max,
            samples,
        }
    }

    /// Mean of the rounds; 0 for none.
    #[allow(clippy::cast_precision_loss)] // At most some thousand rounds.
    pub fn mean(&self) -> f64 {
        if self.samples.is_empty() {
            return 0.0;
        }
        self.samples.iter().sum::<f64>() / self.samples.len() as f64
    }
}

/// Percentiles of a time, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// Half of them took no longer.
    pub p50: f64,
    /// All but one in a hundred took no longer.
    pub p99: f64,
}

/// Where the time of a round went: seconds of the driver's clock, the mean of the counted rounds.
/// While the engine copies one part and the driver works on the next, the time counts for the latter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PhaseTimes {
    /// Finding and isolating pages.
    pub collect_s: f64,
    /// Allocating destinations.
    pub alloc_s: f64,
    /// Submitting copies and waiting for them, as far as the driver has nothing else to do.
    pub copy_s: f64,
    /// Putting the new pages in place of the old.
    pub commit_s: f64,
    /// Letting go of the old pages.
    pub finish_s: f64,
}

impl PhaseTimes {
    /// Names and seconds, in the order in which a migration goes through them.
    pub fn in_order(&self) -> [(&'static str, f64); 5] {
        [
            ("collect", self.collect_s),
            ("alloc", self.alloc_s),
            ("copy", self.copy_s),
            ("commit", self.commit_s),
            ("finish", self.finish_s),
        ]
    }
}

/// Large folios that did not move whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fallback {
    /// Order that was wanted.
    pub order: u8,
    /// Why, as in the device's telemetry.
    pub reason: String,
    /// Folios.
    pub folios: u64,
}

/// What must not be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "error", rename_all = "snake_case")]
pub enum BenchError {
    /// Driver and host count the same thing differently.
    CountersDiffer {
        /// The counter's name.
        name: String,
        /// Its folio order, of those that are kept by order.
        order: Option<u8>,
        /// By the driver.
        driver: u64,
        /// By the host.
        host: u64,
    },
    /// The checker of VRAM found errors of the driver; the reports are in the telemetry.
    VramMisused {
        /// What it did wrong, for example `read_free`.
        kind: String,
        /// How often.
        reports: u64,
    },
}

impl BenchError {
    /// What the checker of VRAM found.
    pub fn of_checks(checks: &Checks) -> impl Iterator<Item = Self> {
        checks
            .counts
            .iter()
            .map(|(kind, reports)| Self::VramMisused {
                kind: kind.name().to_owned(),
                reports: *reports,
            })
    }
}

impl fmt::Display for BenchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CountersDiffer {
                name,
                order,
                driver,
                host,
            } => {
                write!(f, "{}", crate::text::printable(name.as_bytes()))?;
                if let Some(order) = order {
                    write!(f, " of order {order}")?;
                }
                write!(
                    f,
                    ": the driver counts {driver} and the host {host}; one of them is wrong, so do not rely on this result"
                )
            }
            Self::VramMisused { kind, reports } => {
                let kind = crate::text::printable(kind.as_bytes());
                write!(
                    f,
                    "the checker of VRAM reports {kind} {reports} times: the driver is wrong, so do not rely on this result"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_min_and_max() {
        assert_eq!(Stat::of(vec![]), Stat::default());
        let stat = |samples: &[f64]| {
            let stat = Stat::of(samples.to_vec());
            assert_eq!(stat.samples, samples, "in the order of the rounds");
            (stat.median, stat.min, stat.max, stat.mean())
        };
        assert_eq!(stat(&[3.0]), (3.0, 3.0, 3.0, 3.0));
        assert_eq!(stat(&[3.0, 1.0, 2.0]), (2.0, 1.0, 3.0, 2.0));
        assert_eq!(stat(&[4.0, 1.0, 2.0, 3.0]), (2.5, 1.0, 4.0, 2.5));
    }
}
