//! Doubts about a result, each with what to do.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::result::RowKey;

/// A doubt about the result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// A round of `test_hmm` did not move all, or not rightly: it is not compared with.
    TestHmm {
        /// Which row.
        #[serde(flatten)]
        row: RowKey,
        /// The round.
        repeat: u32,
        /// Bytes that moved.
        moved_bytes: u64,
        /// Bytes that differed.
        mismatched_bytes: u64,
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
    /// Driver and host could not be compared.
    CountersUnknown {
        /// Whose counters are not known: `driver` or `device`.
        who: String,
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

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
            Self::TestHmm {
                row,
                repeat,
                moved_bytes,
                mismatched_bytes,
            } => write!(
                f,
                "{row}: test_hmm moved {moved_bytes} bytes in round {repeat}, and {mismatched_bytes} were wrong; this round is not compared with, more guest memory may help"
            ),
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
            Self::CountersUnknown { who } => {
                let who = crate::text::printable(who.as_bytes());
                write!(
                    f,
                    "the {who} did not tell its counters, so driver and host were not compared; run it again"
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
