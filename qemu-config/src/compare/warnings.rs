//! Doubts about a comparison, each with what to do.

use serde::{Deserialize, Serialize};

use super::sides::{Side, Unit};
use crate::bench::result::RowKey;
use crate::size::Size;
use crate::text::printable;

/// A doubt about a comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "warning", rename_all = "snake_case")]
pub enum Warning {
    /// Each side is one boot: what differs from boot to boot is in no interval.
    OneBoot,
    /// Few values: a change in few rows cannot be told from chance, or none can.
    TooFewSamples {
        /// What a value stands for.
        unit: Unit,
        /// Values of the row with the fewest, of A.
        a: usize,
        /// Of B.
        b: usize,
        /// Rows that are compared.
        rows: usize,
        /// Rows that have to change together to be told from chance; more than `rows`: no
        /// change can be told.
        rows_needed: usize,
        /// With so many more on each side one row is enough.
        more: usize,
    },
    /// Some rows can be judged neither way.
    Inconclusive {
        /// What a value stands for.
        unit: Unit,
        /// How many rows.
        rows: usize,
        /// Estimate of how many more values on each side would do for all of them; `None`: more
        /// than can be measured.
        more: Option<usize>,
    },
    /// The values of a row differ much among themselves.
    Noisy {
        /// Which row.
        #[serde(flatten)]
        row: RowKey,
        /// Of which side.
        side: Side,
        /// Robust standard deviation over the median.
        spread: f64,
    },
    /// Values far from all others of their row.
    Outliers {
        /// Which row.
        #[serde(flatten)]
        row: RowKey,
        /// Of which side.
        side: Side,
        /// What a value stands for.
        unit: Unit,
        /// Which boots or rounds, from 0.
        numbers: Vec<usize>,
    },
    /// The two sides ran on different things; the kernel is no warning.
    EnvironmentDiffers {
        /// A field of the environment.
        what: String,
        /// Of A.
        a: String,
        /// Of B.
        b: String,
    },
    /// The boots of one side ran on different things.
    EnvironmentVaries {
        /// Which side.
        side: Side,
        /// A field of the environment.
        what: String,
        /// All values.
        values: Vec<String>,
    },
    /// The rounds of the two sides moved different amounts.
    SizeDiffers {
        /// Which row.
        #[serde(flatten)]
        row: RowKey,
        /// Bytes a round, of A.
        a_bytes: u64,
        /// Of B.
        b_bytes: u64,
    },
    /// The data of a row was wrong or not compared: the row is not judged.
    NotVerified {
        /// Which row.
        #[serde(flatten)]
        row: RowKey,
        /// Of which side.
        side: Side,
    },
    /// Only one side has a row: it is not judged.
    OnlyIn {
        /// Which row.
        #[serde(flatten)]
        row: RowKey,
        /// Which side has it.
        side: Side,
    },
    /// A boot has a part of its result.
    Incomplete {
        /// Of which side.
        side: Side,
        /// Which boot of the side, from 0.
        boot: usize,
        /// Why.
        reason: String,
    },
    /// A boot has no result.
    BootFailed {
        /// Of which side.
        side: Side,
        /// Which boot of the side, from 0.
        boot: usize,
        /// Why.
        reason: String,
    },
    /// The alternation ended before its last boot.
    Interrupted {
        /// Boots that were to be.
        planned: usize,
        /// Boots that were.
        made: usize,
    },
    /// A boot's result has errors: it cannot be trusted.
    ResultErrors {
        /// Of which side.
        side: Side,
        /// Which boot of the side, from 0.
        boot: usize,
        /// What is wrong.
        errors: Vec<String>,
    },
    /// Results have doubts of their own.
    ResultWarnings {
        /// Of which side.
        side: Side,
        /// Kinds of the bench's warnings.
        kinds: Vec<String>,
    },
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OneBoot => f.write_str(
                "each side is one boot: what differs from boot to boot, or from hour to hour, may show as a difference; alternate boots: hmmgpu bench --kernel-a X --kernel-b Y",
            ),
            Self::TooFewSamples { unit, a, b, rows, rows_needed, more } => {
                let count = if a == b { a.to_string() } else { format!("{a} and {b}") };
                let units = unit.name(*a.max(b));
                if rows_needed > rows {
                    write!(f, "{count} {units} a side tell no change from chance")?;
                } else {
                    write!(
                        f,
                        "{count} {units} a side tell a change from chance only where {rows_needed} of {rows} rows change together"
                    )?;
                }
                write!(f, "; with {more} more a side, in a single row ({})", unit.option())
            }
            Self::Inconclusive { unit, rows, more } => {
                write!(f, "rows without a verdict: {rows}; ")?;
                match more {
                    Some(more) => write!(
                        f,
                        "about {more} more {} a side would do ({})",
                        unit.name(*more),
                        unit.option()
                    ),
                    None => f.write_str("the noise is too large for more measuring to help: use a quieter host or a larger --threshold"),
                }
            }
            Self::Noisy { row, side, spread } => write!(
                f,
                "{row}, {side}: the values spread by {:.0} %; is the host busy?",
                spread * 100.0
            ),
            Self::Outliers { row, side, unit, numbers } => {
                let shown: Vec<String> =
                    numbers.iter().take(SHOWN).map(|number| (number + 1).to_string()).collect();
                let rest = numbers.len().saturating_sub(SHOWN);
                write!(f, "{row}, {side}: {} {}", unit.name(numbers.len()), shown.join(", "))?;
                if rest > 0 {
                    write!(f, " and {rest} more")?;
                }
                f.write_str(if numbers.len() == 1 { " is" } else { " are" })?;
                f.write_str(" far from the others; they count, but move ratio and interval little")
            }
            Self::EnvironmentDiffers { what, a, b } => write!(
                f,
                "{what} differs, and may be the reason for a difference: A has '{}', B has '{}'",
                printable(a.as_bytes()),
                printable(b.as_bytes())
            ),
            Self::EnvironmentVaries { side, what, values } => {
                let values: Vec<String> =
                    values.iter().map(|value| printable(value.as_bytes())).collect();
                write!(f, "{what} differs among the boots of {side}: {}", values.join(", "))
            }
            Self::SizeDiffers { row, a_bytes, b_bytes } => write!(
                f,
                "{row}: a round of A is {}, one of B {}; measure both with the same --size",
                Size(*a_bytes),
                Size(*b_bytes)
            ),
            Self::NotVerified { row, side } => write!(
                f,
                "{row}, {side}: the data was not verified; the row is not judged"
            ),
            Self::OnlyIn { row, side } => write!(f, "{row}: only {side} has it; it is not judged"),
            Self::Incomplete { side, boot, reason } => write!(
                f,
                "boot {} of {side} is incomplete: {}",
                boot + 1,
                printable(reason.as_bytes())
            ),
            Self::BootFailed { side, boot, reason } => write!(
                f,
                "boot {} of {side} failed: {}",
                boot + 1,
                printable(reason.as_bytes())
            ),
            Self::Interrupted { planned, made } => write!(
                f,
                "the comparison is incomplete: it ended after {made} of {planned} boots"
            ),
            Self::ResultErrors { side, boot, errors } => {
                let first = errors.first().map_or("", String::as_str);
                write!(
                    f,
                    "the result of boot {} of {side} cannot be trusted: {}",
                    boot + 1,
                    printable(first.as_bytes())
                )?;
                match errors.len() {
                    0 | 1 => Ok(()),
                    many => write!(f, " (and {} more errors)", many - 1),
                }
            }
            Self::ResultWarnings { side, kinds } => {
                let kinds: Vec<String> =
                    kinds.iter().map(|kind| printable(kind.as_bytes())).collect();
                write!(
                    f,
                    "results of {side} have warnings of their own ({}); see them in the result",
                    kinds.join(", ")
                )
            }
        }
    }
}

/// Outliers that are named.
const SHOWN: usize = 10;

impl Unit {
    /// How to get more of it.
    fn option(self) -> &'static str {
        match self {
            Self::Boot => "--rounds",
            Self::Round => "bench --repeat",
        }
    }
}
