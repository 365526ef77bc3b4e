//! Statistics on small samples: pure functions, nothing random in them.
//!
//! Two samples are compared by the Mann-Whitney test and by the estimate and the interval that
//! belong to it (Hodges and Lehmann, Moses). All three look at nothing but the order of the ratios
//! of every value of one sample to every value of the other, so that they hold whatever the
//! distribution of the noise is, and one outlier moves them little. For small samples the
//! distribution of the test's statistic is counted out, not approximated.

use std::f64::consts::SQRT_2;

/// Products of two sample sizes up to which the distribution is counted out; beyond, the normal
/// distribution is as good.
const COUNTED_OUT: usize = 10_000;

/// Distribution of the Mann-Whitney statistic where both samples come from the same distribution:
/// of the number of pairs, one value of each sample, of which the first is the larger.
#[derive(Clone, Debug)]
pub struct MannWhitney {
    pairs: usize,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    /// Probability of at most so many pairs.
    Counted(Vec<f64>),
    Normal {
        mean: f64,
        deviation: f64,
    },
}

impl MannWhitney {
    /// For samples of these sizes.
    pub fn new(first: usize, second: usize) -> Self {
        let pairs = first.saturating_mul(second);
        let kind = if pairs <= COUNTED_OUT {
            let mut sum = 0.0;
            let cumulated = probabilities(first, second).into_iter().map(|p| {
                sum += p;
                sum
            });
            Kind::Counted(cumulated.collect())
        } else {
            let mean = float(pairs) / 2.0;
            let deviation = (float(pairs) * float(first + second + 1) / 12.0).sqrt();
            Kind::Normal { mean, deviation }
        };
        Self { pairs, kind }
    }

    /// Probability of at most `count` pairs; for reasons of symmetry also that of at least all
    /// but `count`.
    pub fn at_most(&self, count: usize) -> f64 {
        if count >= self.pairs {
            return 1.0;
        }
        match &self.kind {
            Kind::Counted(cumulated) => cumulated[count].min(1.0),
            Kind::Normal { mean, deviation } => {
                // Half a pair for the step from whole numbers to a continuous distribution.
                let z = (float(count) + 0.5 - mean) / deviation;
                libm::erfc(-z / SQRT_2) / 2.0
            }
        }
    }

    /// The largest count whose [`at_most`](Self::at_most) is no more than `share`; `None` where
    /// not even that of 0 is.
    fn quantile(&self, share: f64) -> Option<usize> {
        let (mut low, mut high) = (0, self.pairs);
        // Everything below `low` is fine, nothing from `high` on is.
        while low < high {
            let middle = low.midpoint(high);
            if self.at_most(middle) <= share {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low.checked_sub(1)
    }
}

/// Probability of each number of pairs, from 0 to all.
fn probabilities(first: usize, second: usize) -> Vec<f64> {
    // The largest value of all is one of the first sample with probability n / (n + m), and then
    // larger than all m of the second; what remains is the same question about one value less.
    let mut smaller: Vec<Vec<f64>> = vec![vec![1.0]; second + 1];
    for n in 1..=first {
        let mut these: Vec<Vec<f64>> = vec![vec![1.0]];
        for m in 1..=second {
            let share = float(n) / float(n + m);
            let of = |table: &[f64], pairs: Option<usize>| {
                pairs
                    .and_then(|pairs| table.get(pairs))
                    .copied()
                    .unwrap_or(0.0)
            };
            let probability = |pairs: usize| {
                share * of(&smaller[m], pairs.checked_sub(m))
                    + (1.0 - share) * of(&these[m - 1], Some(pairs))
            };
            let row = (0..=n * m).map(probability).collect();
            these.push(row);
        }
        smaller = these;
    }
    smaller.pop().unwrap_or_default()
}

/// How a sample relates to another one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Relation {
    /// The median of the ratios of each value of `b` to each of `a`.
    pub ratio: f64,
    /// Within which the true ratio is with at least the asked confidence; `None` where there are
    /// too few values for that.
    pub interval: Option<(f64, f64)>,
    /// Probability that values of `b` are as small as this, or smaller still, if they are no
    /// smaller in truth.
    pub p_smaller: f64,
    /// The same of being larger.
    pub p_larger: f64,
}

/// Relates `b` to `a`: positive values, at least one each. `distribution` is that of their sizes.
/// Ties count as evidence for nothing.
pub fn relate(
    a: &[f64],
    b: &[f64],
    distribution: &MannWhitney,
    confidence: f64,
) -> Option<Relation> {
    let mut ratios: Vec<f64> = a
        .iter()
        .flat_map(|a| b.iter().map(move |b| b / a))
        .collect();
    if ratios.is_empty() || !ratios.iter().all(|ratio| *ratio > 0.0) {
        return None;
    }
    ratios.sort_unstable_by(f64::total_cmp);
    let middle = ratios.len() / 2;
    let ratio = if ratios.len() % 2 == 1 {
        ratios[middle]
    } else {
        // Of two ratios the middle is the geometric one: so 1/2 and 2 have 1 between them.
        (ratios[middle - 1] * ratios[middle]).sqrt()
    };
    let cut = distribution.quantile(tail(confidence));
    let interval = cut.and_then(|cut| {
        // As many ratios lie outside, on either side, as may do so by chance.
        let low = *ratios.get(cut)?;
        let high = *ratios.get(ratios.len().checked_sub(cut + 1)?)?;
        Some((low, high))
    });
    let at_least_one = ratios.iter().filter(|ratio| **ratio >= 1.0).count();
    let at_most_one = ratios.iter().filter(|ratio| **ratio <= 1.0).count();
    Some(Relation {
        ratio,
        interval,
        p_smaller: distribution.at_most(at_least_one),
        p_larger: distribution.at_most(at_most_one),
    })
}

/// What a confidence leaves on either side.
pub fn tail(confidence: f64) -> f64 {
    (1.0 - confidence) / 2.0
}

/// The smallest p-value that samples of these sizes can have: 1 / C(first + second, first).
pub fn smallest_p(first: usize, second: usize) -> f64 {
    (1..=first).fold(1.0, |p, i| p * float(i) / float(second + i))
}

/// The smallest size of both samples for which [`smallest_p`] is no more than `share`.
pub fn least_size(share: f64) -> usize {
    // It falls by almost four with each step, so that the bound is never met.
    (1..500)
        .find(|size| smallest_p(*size, *size) <= share)
        .unwrap_or(500)
}

/// Adjusts p-values for their number (Benjamini and Hochberg): of those that are then no more
/// than `q`, a share of at most `q` is there by chance; and if none of the effects is real, the
/// probability that there is any is at most `q`.
pub fn adjust(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|a, b| p_values[*a].total_cmp(&p_values[*b]));
    let mut adjusted = vec![1.0; p_values.len()];
    let mut least: f64 = 1.0;
    for (index, &at) in order.iter().enumerate().rev() {
        least = least.min(p_values[at] * float(p_values.len()) / float(index + 1));
        adjusted[at] = least;
    }
    adjusted
}

/// Median; `None` for no values.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        len if len % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// Spread of positive values relative to their median, as a standard deviation would tell it for
/// normal noise, but from the median of the absolute deviations, so that outliers do not count.
pub fn spread(values: &[f64]) -> Option<f64> {
    let deviations = deviations(values)?;
    Some(TO_DEVIATION * median(&deviations)?)
}

/// A median absolute deviation times this is a standard deviation, for normal noise.
const TO_DEVIATION: f64 = 1.4826;
/// Deviations from the median, in (robust) standard deviations, that make an outlier.
const OUTLIER: f64 = 3.5;
/// Values that are needed to tell an outlier from a spread.
const OUTLIER_SAMPLES: usize = 5;
/// A value that is so near to the median is no outlier, however near the others are.
const NEAR: f64 = 0.02;

/// Where the values are that are far from all others, by the distance of their logarithms.
pub fn outliers(values: &[f64]) -> Vec<usize> {
    let (Some(deviations), Some(spread)) = (deviations(values), spread(values)) else {
        return Vec::new();
    };
    if values.len() < OUTLIER_SAMPLES {
        return Vec::new();
    }
    let far = |deviation: &f64| *deviation > NEAR && *deviation > OUTLIER * spread;
    let deviations = deviations.iter().enumerate();
    deviations
        .filter(|(_, deviation)| far(deviation))
        .map(|(at, _)| at)
        .collect()
}

/// Distance of each value's logarithm from their median.
fn deviations(values: &[f64]) -> Option<Vec<f64>> {
    let logs: Vec<f64> = values.iter().map(|value| value.ln()).collect();
    let middle = median(&logs)?;
    Some(logs.iter().map(|log| (log - middle).abs()).collect())
}

/// As a float; counts here are far below 2^53, where it is exact.
#[allow(clippy::cast_precision_loss)]
pub(super) fn float(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() <= 1e-9 * b.abs().max(1e-12), "{a} is not {b}");
    }

    /// The distribution by its definition: every way to deal the ranks to the samples.
    fn by_hand(first: usize, second: usize) -> Vec<f64> {
        let mut counts = vec![0.0; first * second + 1];
        let mut ways = 0.0;
        for dealt in 0u32..1 << (first + second) {
            if dealt.count_ones() as usize != first {
                continue;
            }
            let is_first = |rank: usize| dealt >> rank & 1 == 1;
            let pairs = (0..first + second)
                .filter(|rank| is_first(*rank))
                .map(|rank| (0..rank).filter(|below| !is_first(*below)).count())
                .sum::<usize>();
            counts[pairs] += 1.0;
            ways += 1.0;
        }
        counts.iter().map(|count| count / ways).collect()
    }

    #[test]
    fn the_distribution_is_that_of_all_ways_to_deal() {
        for (first, second) in [(1, 1), (1, 4), (3, 2), (5, 5), (4, 7), (7, 4)] {
            let expected = by_hand(first, second);
            let found = probabilities(first, second);
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(&expected) {
                close(*found, *expected);
            }
        }
    }

    #[test]
    fn known_tails_of_five_and_five() {
        let distribution = MannWhitney::new(5, 5);
        close(distribution.at_most(0), 1.0 / 252.0);
        close(distribution.at_most(2), 4.0 / 252.0);
        close(distribution.at_most(3), 7.0 / 252.0);
        close(distribution.at_most(25), 1.0);
        assert_eq!(distribution.quantile(0.025), Some(2));
        assert_eq!(distribution.quantile(1.0 / 252.0), Some(0), "just reached");
        assert_eq!(distribution.quantile(0.0039), None);
        assert_eq!(MannWhitney::new(3, 3).quantile(0.025), None);
    }

    #[test]
    fn large_samples_go_over_into_the_normal_distribution() {
        let counted = MannWhitney::new(100, 100);
        assert!(matches!(counted.kind, Kind::Counted(_)));
        let normal = MannWhitney::new(100, 101);
        assert!(matches!(normal.kind, Kind::Normal { .. }));
        // The same number of standard deviations below the mean, in both.
        for below in [0.0, 1.0, 2.0, 3.0] {
            let at = |distribution: &MannWhitney, second: f64| {
                let mean = 50.0 * second;
                let deviation = (100.0 * second * (101.0 + second) / 12.0).sqrt();
                // Positive and far below 2^32.
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                let count = (mean - below * deviation) as usize;
                distribution.at_most(count)
            };
            let (counted, normal) = (at(&counted, 100.0), at(&normal, 101.0));
            assert!((counted / normal - 1.0).abs() < 0.05, "{counted} {normal}");
        }
    }

    #[test]
    fn the_relation_of_known_samples() {
        let a = [1.0, 2.0, 4.0, 8.0, 16.0];
        let b = a.map(|value| value * 2.0);
        let distribution = MannWhitney::new(5, 5);
        let relation = relate(&a, &b, &distribution, 0.95).expect("positive");
        close(relation.ratio, 2.0);
        // Of the 25 ratios the third and the third from above.
        let (low, high) = relation.interval.expect("enough values");
        close(low, 0.25);
        close(high, 16.0);
        // 10 ratios are below 1, 4 are 1, 15 above: ties are on nobody's side.
        close(relation.p_larger, distribution.at_most(10));
        close(relation.p_smaller, distribution.at_most(19));
    }

    #[test]
    fn interval_and_p_value_agree() {
        // All of b below all of a but for `over` pairs.
        let distribution = MannWhitney::new(5, 5);
        for (top, expected) in [(9.5, true), (10.5, true), (12.5, false), (14.5, false)] {
            let a = [10.0, 11.0, 12.0, 13.0, 14.0];
            let b = [5.0, 6.0, 7.0, 8.0, top];
            let relation = relate(&a, &b, &distribution, 0.95).expect("positive");
            let (_, high) = relation.interval.expect("enough values");
            assert_eq!(high < 1.0, relation.p_smaller <= tail(0.95), "{top}");
            assert_eq!(high < 1.0, expected, "{top}");
        }
    }

    #[test]
    fn too_few_values_have_a_ratio_but_no_interval() {
        let relation = relate(&[1.0, 1.0], &[2.0, 2.0], &MannWhitney::new(2, 2), 0.95);
        let relation = relation.expect("positive");
        assert_eq!((relation.ratio, relation.interval), (2.0, None));
        close(relation.p_larger, 1.0 / 6.0);
    }

    #[test]
    fn what_is_not_positive_has_no_ratio() {
        let distribution = MannWhitney::new(1, 1);
        for (a, b) in [(0.0, 0.0), (1.0, 0.0), (1.0, f64::NAN), (-1.0, 1.0)] {
            assert_eq!(relate(&[a], &[b], &distribution, 0.95), None, "{a} {b}");
        }
        assert_eq!(relate(&[], &[1.0], &MannWhitney::new(0, 1), 0.95), None);
    }

    #[test]
    fn sizes_that_can_reach_a_level() {
        close(smallest_p(5, 5), 1.0 / 252.0);
        close(smallest_p(2, 4), 1.0 / 15.0);
        assert_eq!(least_size(0.025 / 3.0), 5);
        assert_eq!(least_size(0.025 / 27.0), 7);
        assert_eq!(least_size(0.0), 500);
    }

    #[test]
    fn p_values_are_adjusted_for_their_number() {
        assert_eq!(adjust(&[]), Vec::<f64>::new());
        let adjusted = adjust(&[0.04, 0.01, 0.03, 0.5]);
        for (found, expected) in adjusted.iter().zip([0.16 / 3.0, 0.04, 0.16 / 3.0, 0.5]) {
            close(*found, expected);
        }
    }

    #[test]
    fn spread_and_outliers() {
        let calm = [100.0, 101.0, 99.0, 100.0, 102.0, 98.0];
        assert!(spread(&calm).is_some_and(|spread| spread < 0.03));
        assert_eq!(outliers(&calm), Vec::<usize>::new());
        let mut one = calm;
        one[3] = 60.0;
        assert_eq!(outliers(&one), [3]);
        assert!(spread(&one).is_some_and(|spread| spread < 0.03));
        // Nearly equal values make no outlier of one that is nearly equal as well.
        assert!(outliers(&[100.0, 100.0, 100.0, 100.0, 101.0]).is_empty());
        assert_eq!(outliers(&[100.0, 100.0, 100.0, 100.0, 110.0]), [4]);
        assert!(outliers(&[1.0, 1.0, 9.0]).is_empty(), "too few to tell");
        assert_eq!(spread(&[]), None);
    }
}
