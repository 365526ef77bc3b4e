//! What is compared: of each side its boots, and of each boot the rounds of each row.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::statistics::median;
use crate::bench::result::{BenchResult, RowKey};
use crate::bench::warning::Warning as BenchWarning;
use crate::vm::Environment;

/// Most rounds of a row in one boot; `bench --repeat` takes no more.
const MAX_ROUNDS: usize = 1000;
/// Throughput that can be, in bytes per second.
const THROUGHPUT: std::ops::RangeInclusive<f64> = 1.0..=1e15;
/// Most boots of one side; `bench --rounds` takes no more.
pub const MAX_BOOTS: usize = 100;

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// What is compared with.
    A,
    /// What is compared.
    B,
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::B => "B",
        })
    }
}

/// One boot's result, as far as it is compared.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Boot {
    /// Which of its side's boots it is, from 0.
    pub number: usize,
    /// What it ran on.
    pub environment: Environment,
    /// The rows in which anything was measured.
    pub rows: BTreeMap<RowKey, Rounds>,
    /// Why it is not all there, if it is not.
    pub incomplete: Option<String>,
    /// Its errors: it cannot be trusted.
    pub errors: Vec<String>,
    /// Kinds of its other warnings that make figures doubtful.
    pub doubts: Vec<String>,
}

/// The counted rounds of a row in one boot.
#[derive(Clone, Debug, PartialEq)]
pub struct Rounds {
    /// Migration throughput of each, in bytes per second; positive, one at least.
    pub bytes_per_s: Vec<f64>,
    /// Bytes that were asked to move in each.
    pub bytes: u64,
    /// Median time of one migration, in microseconds.
    pub latency_p50_us: f64,
    /// Every byte was right.
    pub verified: bool,
}

impl Boot {
    /// Of the result of a side's boot with this number; the error says what is wrong with it.
    pub fn of(number: usize, result: &BenchResult) -> Result<Self, String> {
        let mut boot = Self {
            number,
            environment: result.environment.clone(),
            ..Self::default()
        };
        for row in &result.rows {
            let key = row.key();
            let samples = &row.migration_bytes_per_s.samples;
            if samples.len() > MAX_ROUNDS {
                return Err(format!("{key} has more than {MAX_ROUNDS} rounds"));
            }
            if !samples.iter().all(|sample| THROUGHPUT.contains(sample)) {
                return Err(format!("{key} has a throughput that cannot be"));
            }
            if samples.is_empty() {
                continue;
            }
            let rounds = Rounds {
                bytes_per_s: samples.clone(),
                bytes: row.round_bytes,
                latency_p50_us: row.latency_us.p50,
                verified: row.verified,
            };
            boot.rows.insert(key, rounds);
        }
        for warning in &result.warnings {
            match warning {
                BenchWarning::Incomplete { reason } => boot.incomplete = Some(reason.clone()),
                // Told from the rows, or of no effect on the figures.
                BenchWarning::NotVerified { .. }
                | BenchWarning::Noisy { .. }
                | BenchWarning::FewRepeats { .. }
                | BenchWarning::OrderSkipped { .. } => {}
                other => boot.doubts.push(kind(other)),
            }
        }
        boot.errors = result.errors.iter().map(ToString::to_string).collect();
        boot.doubts.sort();
        boot.doubts.dedup();
        Ok(boot)
    }
}

/// The name of a warning's kind, as in the JSON.
fn kind(warning: &BenchWarning) -> String {
    let json = serde_json::to_value(warning).unwrap_or_default();
    json["warning"].as_str().unwrap_or("other").to_owned()
}

/// What a value stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A boot: its value is the median of its rounds. What differs from boot to boot counts.
    Boot,
    /// A round of the only boot.
    Round,
}

impl Unit {
    /// Boots, where a side has more than one.
    pub fn of(a: &[Boot], b: &[Boot]) -> Self {
        if a.len().max(b.len()) > 1 {
            Self::Boot
        } else {
            Self::Round
        }
    }

    /// The most that can be measured.
    pub fn most(self) -> usize {
        match self {
            Self::Boot => MAX_BOOTS,
            Self::Round => MAX_ROUNDS,
        }
    }

    /// Its name for this many.
    pub fn name(self, count: usize) -> &'static str {
        match (self, count) {
            (Self::Boot, 1) => "boot",
            (Self::Boot, _) => "boots",
            (Self::Round, 1) => "round",
            (Self::Round, _) => "rounds",
        }
    }
}

/// A row's values of one side.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Values {
    /// One for each unit.
    pub bytes_per_s: Vec<f64>,
    /// Which boot of the side each is, or which round of the boot: from 0.
    pub numbers: Vec<usize>,
    /// Median of the boots' median times of one migration, in microseconds.
    pub latency_p50_us: f64,
    /// Bytes that were asked to move in each round, of the first boot.
    pub bytes: u64,
    /// Every byte was right, in every boot.
    pub verified: bool,
}

/// The values of a row; `None` where no boot of the side has it.
pub fn values(boots: &[Boot], row: RowKey, unit: Unit) -> Option<Values> {
    let found: Vec<(usize, &Rounds)> = boots
        .iter()
        .filter_map(|boot| Some((boot.number, boot.rows.get(&row)?)))
        .collect();
    let (_, first) = found.first()?;
    let latencies: Vec<f64> = found
        .iter()
        .map(|(_, rounds)| rounds.latency_p50_us)
        .collect();
    let (numbers, bytes_per_s) = match unit {
        Unit::Boot => found
            .iter()
            .filter_map(|(number, rounds)| Some((*number, median(&rounds.bytes_per_s)?)))
            .unzip(),
        Unit::Round => first.bytes_per_s.iter().copied().enumerate().unzip(),
    };
    Some(Values {
        bytes_per_s,
        numbers,
        latency_p50_us: median(&latencies)?,
        bytes: first.bytes,
        verified: found.iter().all(|(_, rounds)| rounds.verified),
    })
}
