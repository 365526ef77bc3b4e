//! A row: what was measured beside what, and what it should be.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Pair, Spread};

/// Schema of a line that is written.
pub const SCHEMA: &str = "hmmgpu.host-bench/1";

/// What the figure should be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// So much or more.
    AtLeast(f64),
    /// So much or less.
    AtMost(f64),
    /// From so much to so much.
    Between(f64, f64),
    /// It is shown for its own sake.
    None,
}

impl Target {
    /// Whether a figure is as it should be; `None` without a target.
    pub fn met(self, figure: f64) -> Option<bool> {
        match self {
            Self::AtLeast(least) => Some(figure >= least),
            Self::AtMost(most) => Some(figure <= most),
            Self::Between(least, most) => Some((least..=most).contains(&figure)),
            Self::None => None,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, ">= {least}"),
            Self::AtMost(most) => write!(f, "<= {most}"),
            Self::Between(least, most) => write!(f, "{least} to {most}"),
            Self::None => write!(f, "-"),
        }
    }
}

/// A row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// [`SCHEMA`].
    pub schema: String,
    /// What was measured.
    pub name: String,
    /// What it stands beside.
    pub beside: String,
    /// Unit of both sides.
    pub unit: String,
    /// What the median of the figures should be.
    pub target: Target,
    /// Our side, one for each pair.
    pub ours: Vec<f64>,
    /// The other side of the same pairs.
    pub theirs: Vec<f64>,
    /// Quotients of the pairs; without another side, our figures themselves.
    pub figures: Vec<f64>,
    /// Of the figures.
    pub spread: Spread,
}

impl Row {
    /// A row of pairs, each a rate of both sides; `None` of no pairs.
    pub fn of_pairs(
        name: &str,
        beside: &str,
        unit: &str,
        target: Target,
        pairs: &[Pair],
    ) -> Option<Self> {
        let figures: Vec<_> = pairs.iter().map(|[ours, theirs]| ours / theirs).collect();
        Some(Self {
            schema: SCHEMA.to_owned(),
            name: name.to_owned(),
            beside: beside.to_owned(),
            unit: unit.to_owned(),
            target,
            ours: pairs.iter().map(|pair| pair[0]).collect(),
            theirs: pairs.iter().map(|pair| pair[1]).collect(),
            spread: Spread::of(figures.iter().copied())?,
            figures,
        })
    }

    /// A row of figures that stand beside nothing; `None` of no figures.
    pub fn of_figures(name: &str, unit: &str, target: Target, figures: &[f64]) -> Option<Self> {
        Some(Self {
            schema: SCHEMA.to_owned(),
            name: name.to_owned(),
            beside: String::new(),
            unit: unit.to_owned(),
            target,
            ours: figures.to_vec(),
            theirs: Vec::new(),
            figures: figures.to_vec(),
            spread: Spread::of(figures.iter().copied())?,
        })
    }

    /// Whether it is worse than it was before by more than noise: the middle halves of the
    /// figures do not meet. Without a target more is better.
    pub fn worse_than(&self, before: &Self) -> bool {
        match self.target {
            Target::AtLeast(_) | Target::None => self.spread.high < before.spread.low,
            Target::AtMost(_) => self.spread.low > before.spread.high,
            // It may come nearer from either side.
            Target::Between(..) => {
                self.target.met(self.spread.median) == Some(false)
                    && before.target.met(before.spread.median) == Some(true)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(target: Target, figures: &[f64]) -> Row {
        Row::of_figures("a", "MiB", target, figures).expect("figures")
    }

    #[test]
    fn a_row_of_pairs_has_their_quotients() {
        let pairs = [[2.0, 4.0], [3.0, 4.0], [4.0, 4.0]];
        let row = Row::of_pairs("a", "b", "GB/s", Target::AtLeast(0.7), &pairs).expect("pairs");
        assert_eq!(row.figures, [0.5, 0.75, 1.0]);
        assert_eq!(row.target.met(row.spread.median), Some(true));
        let line = serde_json::to_string(&row).expect("JSON");
        assert_eq!(serde_json::from_str::<Row>(&line).expect("a row"), row);
        assert_eq!(
            Row::of_pairs("a", "b", "GB/s", Target::AtLeast(0.7), &[]),
            None
        );
    }

    #[test]
    fn worse_is_what_lies_beyond_the_spread() {
        let (least, most) = (Target::AtLeast(1.0), Target::AtMost(1.0));
        let before = [2.0, 3.0, 4.0];
        for (after, lower, higher) in [
            ([1.0, 2.0, 3.0], false, false),
            ([0.5, 1.0, 1.5], true, false),
            ([5.0, 6.0, 7.0], false, true),
        ] {
            assert_eq!(row(least, &after).worse_than(&row(least, &before)), lower);
            assert_eq!(row(most, &after).worse_than(&row(most, &before)), higher);
        }
    }
}
