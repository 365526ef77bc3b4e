//! Distributions of times that can be added and subtracted.

use std::collections::BTreeMap;

use hmmgpu_telemetry::snapshot::Latency;

/// Samples by the upper bound of their bucket in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Histogram(BTreeMap<u64, u64>);

impl Histogram {
    /// Takes samples in.
    pub(crate) fn add(&mut self, latency: &Latency) {
        for (bound, samples) in &latency.buckets {
            let sum = self.0.entry(*bound).or_default();
            *sum = sum.saturating_add(*samples);
        }
    }

    /// Takes another one's samples in.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (bound, samples) in &other.0 {
            let sum = self.0.entry(*bound).or_default();
            *sum = sum.saturating_add(*samples);
        }
    }

    /// The samples that came since `before`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let mut newer = self.clone();
        newer.0.retain(|bound, samples| {
            *samples = samples.saturating_sub(before.0.get(bound).copied().unwrap_or(0));
            *samples > 0
        });
        newer
    }

    /// The bound that this share of the samples does not exceed; nothing without samples.
    pub(crate) fn percentile(&self, percent: u64) -> Option<u64> {
        let samples: u128 = self.0.values().map(|samples| u128::from(*samples)).sum();
        let wanted = (samples * u128::from(percent)).div_ceil(100).max(1);
        let mut seen = 0;
        self.0.iter().find_map(|(bound, samples)| {
            seen += u128::from(*samples);
            (seen >= wanted).then_some(*bound)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(buckets: &[(u64, u64)]) -> Histogram {
        let mut histogram = Histogram::default();
        histogram.add(&Latency {
            buckets: buckets.to_vec(),
            ..Latency::default()
        });
        histogram
    }

    #[test]
    fn percentiles_are_bounds_of_buckets() {
        let histogram = of(&[(10, 98), (500, 1), (9000, 1)]);
        assert_eq!(histogram.percentile(50), Some(10));
        assert_eq!(histogram.percentile(98), Some(10));
        assert_eq!(histogram.percentile(99), Some(500));
        assert_eq!(histogram.percentile(100), Some(9000));
        assert_eq!(of(&[]).percentile(50), None);
    }

    #[test]
    fn the_difference_is_what_came_since() {
        let before = of(&[(10, 5), (20, 1)]);
        let now = of(&[(10, 5), (20, 3), (40, 1)]);
        assert_eq!(now.since(&before), of(&[(20, 2), (40, 1)]));
    }
}
