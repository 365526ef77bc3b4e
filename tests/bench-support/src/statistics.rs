//! Median and quartiles.

use serde::{Deserialize, Serialize};

/// Median and quartiles of some figures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// A quarter of the figures is below.
    pub low: f64,
    /// Half of them is.
    pub median: f64,
    /// Three quarters are.
    pub high: f64,
}

impl Spread {
    /// Of these figures, interpolated between two where none is in the place; `None` of none.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut figures: Vec<_> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        let last = figures.len().checked_sub(1)?;
        let quarter = |quarters: usize| {
            let (place, rest) = (last * quarters / 4, last * quarters % 4);
            let above = figures[(place + 1).min(last)];
            #[allow(clippy::cast_precision_loss)] // 0 to 3.
            let share = rest as f64 / 4.0;
            figures[place] + (above - figures[place]) * share
        };
        Some(Self {
            low: quarter(1),
            median: quarter(2),
            high: quarter(3),
        })
    }
}

/// Median of some figures; 0 of none.
pub fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    Spread::of(figures).map_or(0.0, |spread| spread.median)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_are_interpolated() {
        let spread = |figures: &[f64]| {
            Spread::of(figures.iter().copied()).map(|found| [found.low, found.median, found.high])
        };
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[2.0]), Some([2.0, 2.0, 2.0]));
        assert_eq!(spread(&[3.0, 1.0]), Some([1.5, 2.0, 2.5]));
        assert_eq!(spread(&[5.0, 4.0, 3.0, 2.0, 1.0]), Some([2.0, 3.0, 4.0]));
        assert_eq!(median([]), 0.0);
    }
}
