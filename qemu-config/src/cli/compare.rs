//! Arguments of `hmmgpu compare`, and of every comparison.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::compare::comparison::Settings;

pub(super) const HELP: &str = "\
Examples:
  hmmgpu compare before.json after.json
  hmmgpu compare before.json after.json --threshold 10%
  hmmgpu compare before.json after.json --format markdown
  hmmgpu compare before.json after.json --json - | jq .verdict
  hmmgpu compare both.json            (of bench --kernel-a X --kernel-b Y --json both.json)

Exits with 0 when there is no regression, with 1 when there is one, the data of a row was not
verified or a result has errors, with 2 when a file cannot be read. A comparison that can say
neither says so, and exits with 0, or with 1 where --strict is given. Other exit codes: see 'hmmgpu --help'.";

/// See [`Command::Compare`](super::Command::Compare).
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// Result of 'hmmgpu bench' to compare with; - is standard input.
    #[arg(value_name = "A.json")]
    pub a: PathBuf,
    /// Result to compare. Without it, A.json holds two kernels that the bench alternated.
    #[arg(value_name = "B.json")]
    pub b: Option<PathBuf>,
    /// How the text is laid out.
    #[arg(long, value_enum, default_value_t = CompareFormat::Table)]
    pub format: CompareFormat,
    /// Write the comparison as JSON into this file; - is standard output, and the text goes to
    /// standard error.
    #[arg(long, value_name = "FILE|-")]
    pub json: Option<PathBuf>,
    /// How to judge.
    #[command(flatten)]
    pub judge: JudgeArgs,
}

/// How a comparison's text is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CompareFormat {
    /// For a terminal.
    Table,
    /// For a report or a comment.
    Markdown,
}

/// How a comparison judges.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Comparison")]
pub struct JudgeArgs {
    /// Loss of throughput that is no regression yet. [default: 5%]
    #[arg(long, value_name = "PERCENT", value_parser = threshold)]
    pub threshold: Option<f64>,
    /// Confidence of the intervals; half of what it leaves is the probability of an alarm where
    /// no row is slower. [default: 95%]
    #[arg(long, value_name = "PERCENT", value_parser = confidence)]
    pub confidence: Option<f64>,
    /// Exit with 1 also when a row can be judged neither way.
    #[arg(long)]
    pub strict: bool,
}

impl JudgeArgs {
    /// What is asked of a comparison.
    pub fn settings(&self) -> Settings {
        let usual = Settings::default();
        Settings {
            threshold: self.threshold.unwrap_or(usual.threshold),
            confidence: self.confidence.unwrap_or(usual.confidence),
        }
    }

    /// Any of them was given.
    pub fn is_given(&self) -> bool {
        self.threshold.is_some() || self.confidence.is_some() || self.strict
    }
}

fn threshold(text: &str) -> Result<f64, String> {
    percent(text)
        .filter(|share| (0.0..1.0).contains(share))
        .ok_or_else(|| format!("'{text}' is not a share of 0% to 99%; write for example 5%"))
}

fn confidence(text: &str) -> Result<f64, String> {
    percent(text)
        .filter(|share| (0.5..=0.9999).contains(share))
        .ok_or_else(|| {
            format!("'{text}' is not a confidence of 50% to 99.99%; write for example 95%")
        })
}

fn percent(text: &str) -> Option<f64> {
    let number = text.strip_suffix('%').unwrap_or(text).trim();
    number.parse::<f64>().ok().map(|percent| percent / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_in_percent() {
        assert_eq!(threshold("5%"), Ok(0.05));
        assert_eq!(threshold("2.5"), Ok(0.025));
        assert_eq!(threshold("0%"), Ok(0.0));
        assert_eq!(confidence("99 %"), Ok(0.99));
        for text in ["", "%", "-1%", "100%", "nan", "inf", "five"] {
            assert!(threshold(text).is_err(), "{text}");
        }
        for text in ["49%", "100%", "0.95", "nan"] {
            assert!(confidence(text).is_err(), "{text}");
        }
    }
}
