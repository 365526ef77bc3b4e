//! A comparison as a document: JSON of schema `hmmgpu.compare/1`.

use serde::{Deserialize, Serialize};

use super::sides::{Unit, Values};
use super::statistics as stats;
use super::warnings::Warning;
use crate::bench::result::RowKey;
use crate::vm::Environment;

/// Schema of a comparison.
pub const SCHEMA: &str = "hmmgpu.compare/1";

/// What is asked of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// A loss of throughput up to this share is no regression.
    pub threshold: f64,
    /// Confidence of each row's interval. Half of what it leaves is the probability of an alarm
    /// where no row is slower.
    pub confidence: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            threshold: 0.05,
            confidence: 0.95,
        }
    }
}

/// What can be said of a row, of an order, of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// B is slower, not by chance, and by more than the threshold.
    Regression,
    /// There may be a regression or not: too few values, or too much noise.
    Inconclusive,
    /// B is slower, not by chance, but by no more than the threshold.
    Slower,
    /// B is not slower by more than the threshold.
    NoRegression,
    /// B is faster, not by chance, but by no more than the threshold.
    Faster,
    /// B is faster, not by chance, and by more than the threshold.
    Improvement,
}

/// A comparison of two sides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// [`SCHEMA`].
    pub schema: String,
    /// What was asked.
    pub settings: Settings,
    /// What a value of a sample stands for.
    pub unit: Unit,
    /// What is compared with.
    pub a: Compared,
    /// What is compared.
    pub b: Compared,
    /// One for each row that both sides have, verified, ascending by order.
    pub rows: Vec<RowComparison>,
    /// One for each order of the rows.
    pub orders: Vec<OrderVerdict>,
    /// Of all rows: the gravest. Inconclusive where there is no row.
    pub verdict: Verdict,
    /// Doubts.
    pub warnings: Vec<Warning>,
}

/// One side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// Its file or its kernel, as it was named.
    pub name: String,
    /// Boots with a result.
    pub boots: usize,
    /// What the first of them ran on.
    pub environment: Environment,
}

/// A row of both sides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RowComparison {
    /// Which row.
    #[serde(flatten)]
    pub row: RowKey,
    /// Of A.
    pub a: RowSide,
    /// Of B.
    pub b: RowSide,
    /// Migration throughput of B over that of A: the median of the ratios of each value of B to
    /// each of A.
    pub ratio: f64,
    /// Its interval of the asked confidence, for this row alone; `None`: too few values.
    pub interval: Option<(f64, f64)>,
    /// One-sided p-value of B being slower.
    pub p_slower: f64,
    /// The same, adjusted for the number of rows.
    pub p_slower_adjusted: f64,
    /// One-sided p-value of B being faster.
    pub p_faster: f64,
    /// The same, adjusted for the number of rows.
    pub p_faster_adjusted: f64,
    /// What can be said.
    pub verdict: Verdict,
    /// Where that is inconclusive: an estimate of how many more values of each side would do;
    /// `None`: more than can be measured.
    pub more: Option<usize>,
}

/// A row of one side.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RowSide {
    /// Values.
    pub values: usize,
    /// Median migration throughput, in bytes per second.
    pub median_bytes_per_s: f64,
    /// Robust standard deviation of the values over their median.
    pub spread: f64,
    /// Median time of one migration, in microseconds. Told, not judged.
    pub latency_p50_us: f64,
}

/// All rows of an order.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct OrderVerdict {
    /// Folio order of the source memory.
    pub source_order: u8,
    /// Rows.
    pub rows: usize,
    /// Geometric mean of their ratios.
    pub ratio: f64,
    /// The gravest of their verdicts.
    pub verdict: Verdict,
}

impl RowSide {
    /// The figures of these values.
    pub(super) fn of(values: &Values) -> Self {
        Self {
            values: values.bytes_per_s.len(),
            median_bytes_per_s: stats::median(&values.bytes_per_s).unwrap_or_default(),
            spread: stats::spread(&values.bytes_per_s).unwrap_or_default(),
            latency_p50_us: values.latency_p50_us,
        }
    }
}

impl Comparison {
    /// Every row of either side was judged, one way or the other.
    pub fn is_conclusive(&self) -> bool {
        let left_out = |warning: &Warning| {
            matches!(
                warning,
                Warning::OnlyIn { .. }
                    | Warning::NotVerified { .. }
                    | Warning::Incomplete { .. }
                    | Warning::BootFailed { .. }
                    | Warning::Interrupted { .. }
            )
        };
        !self.rows.is_empty()
            && self
                .rows
                .iter()
                .all(|row| row.verdict != Verdict::Inconclusive)
            && !self.warnings.iter().any(left_out)
    }

    /// There is a regression, a row whose data was wrong or not compared, or a result with errors.
    pub fn is_negative(&self) -> bool {
        let wrong = |warning: &Warning| {
            matches!(
                warning,
                Warning::NotVerified { .. } | Warning::ResultErrors { .. }
            )
        };
        self.verdict == Verdict::Regression || self.warnings.iter().any(wrong)
    }

    /// Rows with this verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.rows
            .iter()
            .filter(|row| row.verdict == verdict)
            .count()
    }
}
