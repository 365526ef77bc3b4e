//! The result, as JSON of schema `hmmgpu.bench/1`, and the doubts about it.

use std::collections::BTreeMap;

use hmmgpu_guest_protocol::bench::{Direction, Trigger};
use serde::Serialize;

use crate::vm::Environment;

/// Schema of the result.
pub const SCHEMA: &str = "hmmgpu.bench/1";

/// The result of a bench.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BenchResult {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// What it ran on.
    pub environment: Environment,
    /// One for each source order, direction and trigger.
    pub rows: Vec<Row>,
    /// Doubts, each with what to do.
    pub warnings: Vec<Warning>,
}

/// Memory of one source order, moved in one direction for one reason.
#[derive(Clone, Debug, PartialEq, Serialize)]
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
    /// Bytes that moved, in all counted rounds.
    pub bytes: u64,
    /// Counted rounds.
    pub repeats: u32,
    /// Bytes moved over the time in which a migration was under way, by the host's clock.
    pub migration_bytes_per_s: Stat,
    /// Bytes copied or filled over the time in which the engine was busy with them.
    pub engine_bytes_per_s: Stat,
    /// Share of the migration's time in which the engine was busy: the median.
    pub copy_share: f64,
    /// Time of one migration: a request, or a fault.
    pub latency_us: Percentiles,
    /// Folios that were split, by the guest's kernel or on the device, in all counted rounds.
    pub splits: u64,
    /// Every byte was right after every round, and there was a round.
    pub verified: bool,
}

/// A figure over the repeats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Stat {
    /// Median.
    pub median: f64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
}

impl Stat {
    /// Of these; zeros for none.
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
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
        Self { median, min, max }
    }
}

/// Percentiles of a time, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Percentiles {
    /// Half of them took no longer.
    pub p50: f64,
    /// All but one in a hundred took no longer.
    pub p99: f64,
}

/// A doubt about the result.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "warning", rename_all = "snake_case")]
pub enum Warning {
    /// The measurement ended early: what is there is right, but not all is there.
    Incomplete {
        /// Why.
        reason: String,
    },
    /// This kernel does not provide memory of that order.
    OrderSkipped {
        /// The order.
        source_order: u8,
        /// Why.
        reason: String,
    },
    /// Bytes were wrong, or were not compared.
    NotVerified {
        /// Which row.
        #[serde(flatten)]
        row: RowKey,
        /// Bytes that differed.
        mismatched_bytes: u64,
    },
    /// The device's telemetry has no window for a phase: it is not counted.
    WindowMissing {
        /// Which row.
        #[serde(flatten)]
        row: RowKey,
        /// The phase's mark.
        mark: u64,
    },
    /// Nothing moved in a phase: it is not counted.
    NothingMoved {
        /// Which row.
        #[serde(flatten)]
        row: RowKey,
        /// The phase's round.
        repeat: u32,
    },
    /// Less than 99 % of what was asked for moved.
    PartlyMoved {
        /// Which row.
        #[serde(flatten)]
        row: RowKey,
        /// Bytes asked for, in all counted rounds.
        asked_bytes: u64,
        /// Bytes that moved.
        moved_bytes: u64,
    },
    /// Guest and device count different bytes.
    CountsDiffer {
        /// Which row.
        #[serde(flatten)]
        row: RowKey,
        /// Bytes that moved, by the guest's count.
        guest_bytes: u64,
        /// By the spans that the device saw.
        span_bytes: u64,
        /// By what the engine copied and filled.
        engine_bytes: u64,
    },
    /// The source memory was not all of the order that was asked for.
    SourceShare {
        /// Which order.
        source_order: u8,
        /// Least share of all rounds.
        share: f64,
    },
    /// The rounds differ much.
    Noisy {
        /// Which row.
        #[serde(flatten)]
        row: RowKey,
        /// Largest migration throughput over the smallest.
        spread: f64,
    },
    /// Too few rounds for a median.
    FewRepeats {
        /// Rounds.
        repeats: u32,
    },
    /// The guest's kernel complained.
    KernelWarnings {
        /// The lines.
        lines: Vec<String>,
    },
    /// The device saw errors.
    DeviceErrors {
        /// Which, and how many.
        what: String,
    },
}

/// Which row a doubt is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct RowKey {
    /// See [`Row::source_order`].
    pub source_order: u8,
    /// See [`Row::direction`].
    pub direction: Direction,
    /// See [`Row::trigger`].
    pub trigger: Trigger,
}

impl std::fmt::Display for RowKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let way = match self.direction {
            Direction::SysToDev => "to device",
            Direction::DevToSys => "home",
        };
        let why = match self.trigger {
            Trigger::Prefetch => "by request",
            Trigger::CpuFault => "by CPU fault",
        };
        write!(f, "order {} {way} {why}", self.source_order)
    }
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Incomplete { reason } => {
                write!(
                    f,
                    "the measurement is incomplete ({reason}); run it again for the rest"
                )
            }
            Self::OrderSkipped {
                source_order,
                reason,
            } => {
                write!(f, "order {source_order} was skipped: {reason}")
            }
            Self::NotVerified {
                row,
                mismatched_bytes: 0,
            } => {
                write!(f, "{row}: the data was not compared")
            }
            Self::NotVerified {
                row,
                mismatched_bytes,
            } => write!(
                f,
                "{row}: {mismatched_bytes} bytes are wrong; this is a bug in driver, device or kernel"
            ),
            Self::WindowMissing { row, mark } => write!(
                f,
                "{row}: the device's telemetry has no window {mark}; use fewer orders or repeats"
            ),
            Self::NothingMoved { row, repeat } => {
                write!(
                    f,
                    "{row}: nothing moved in round {repeat}; see the guest's log (hmmgpu run -- dmesg)"
                )
            }
            Self::PartlyMoved {
                row,
                asked_bytes,
                moved_bytes,
            } => write!(
                f,
                "{row}: only {moved_bytes} of {asked_bytes} bytes moved; more VRAM or guest memory may help"
            ),
            Self::CountsDiffer {
                row,
                guest_bytes,
                span_bytes,
                engine_bytes,
            } => write!(
                f,
                "{row}: the guest counts {guest_bytes} bytes, the device {span_bytes} in spans and {engine_bytes} in transfers"
            ),
            Self::SourceShare {
                source_order,
                share,
            } => write!(
                f,
                "order {source_order}: only {:.1} % of the source memory was of that order; more guest memory (--memory) makes large folios likelier",
                share * 100.0
            ),
            Self::Noisy { row, spread } => write!(
                f,
                "{row}: the fastest round was {spread:.1} times the slowest; is the host busy? more rounds (--repeat) help"
            ),
            Self::FewRepeats { repeats } => {
                write!(
                    f,
                    "{repeats} rounds are few for a median; --repeat 5 is usual"
                )
            }
            Self::KernelWarnings { lines } => {
                write!(f, "the guest's kernel gave {} warnings:", lines.len())?;
                for line in lines {
                    write!(f, "\n    | {}", crate::text::printable(line.as_bytes()))?;
                }
                Ok(())
            }
            Self::DeviceErrors { what } => write!(f, "the device saw errors: {what}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_min_and_max() {
        assert_eq!(Stat::of(&[]), Stat::default());
        assert_eq!(
            Stat::of(&[3.0]),
            Stat {
                median: 3.0,
                min: 3.0,
                max: 3.0
            }
        );
        assert_eq!(
            Stat::of(&[3.0, 1.0, 2.0]),
            Stat {
                median: 2.0,
                min: 1.0,
                max: 3.0
            }
        );
        assert_eq!(
            Stat::of(&[4.0, 1.0, 2.0, 3.0]),
            Stat {
                median: 2.5,
                min: 1.0,
                max: 4.0
            }
        );
    }

    #[test]
    fn the_keys_are_those_of_the_schema() {
        let result = BenchResult {
            schema: SCHEMA,
            environment: Environment::default(),
            rows: vec![Row {
                source_order: 9,
                direction: Direction::SysToDev,
                trigger: Trigger::Prefetch,
                source_share: 1.0,
                device_orders: BTreeMap::from([(9, 128), (0, 1)]),
                bytes: 1,
                repeats: 1,
                migration_bytes_per_s: Stat::default(),
                engine_bytes_per_s: Stat::default(),
                copy_share: 0.5,
                latency_us: Percentiles::default(),
                splits: 0,
                verified: true,
            }],
            warnings: vec![],
        };
        let json = serde_json::to_value(&result).expect("JSON");
        let keys = |value: &serde_json::Value| -> Vec<String> {
            let mut keys: Vec<String> = value
                .as_object()
                .expect("an object")
                .keys()
                .cloned()
                .collect();
            keys.sort();
            keys
        };
        assert_eq!(keys(&json), ["environment", "rows", "schema", "warnings"]);
        assert_eq!(
            keys(&json["environment"]),
            ["accel", "cmdline", "cpus", "kernel", "qemu", "revision"]
        );
        assert_eq!(
            keys(&json["rows"][0]),
            [
                "bytes",
                "copy_share",
                "device_orders",
                "direction",
                "engine_bytes_per_s",
                "latency_us",
                "migration_bytes_per_s",
                "repeats",
                "source_order",
                "source_share",
                "splits",
                "trigger",
                "verified"
            ]
        );
        assert_eq!(json["schema"], "hmmgpu.bench/1");
        let row = &json["rows"][0];
        assert_eq!(row["direction"], "sys_to_dev");
        assert_eq!(row["trigger"], "prefetch");
        assert_eq!(row["device_orders"]["9"], 128);
        assert_eq!(
            keys(&row["migration_bytes_per_s"]),
            ["max", "median", "min"]
        );
        assert_eq!(keys(&row["latency_us"]), ["p50", "p99"]);
        let warning = Warning::NotVerified {
            row: RowKey {
                source_order: 9,
                direction: Direction::DevToSys,
                trigger: Trigger::CpuFault,
            },
            mismatched_bytes: 4,
        };
        let json = serde_json::to_value(warning).expect("JSON");
        assert_eq!(
            (
                json["warning"].as_str(),
                json["trigger"].as_str(),
                json["mismatched_bytes"].as_u64()
            ),
            (Some("not_verified"), Some("cpu_fault"), Some(4))
        );
    }
}
