//! Distributions of times, put together.

use std::collections::BTreeMap;

use hmmgpu_telemetry::snapshot::{LATENCY_BUCKET_RATIO, Latency};

use super::result::Percentiles;
use super::rows::ratio;

/// Times of several distributions, put together.
#[derive(Default)]
pub(super) struct Times {
    /// Upper bound of a bucket in nanoseconds, and samples in it.
    buckets: BTreeMap<u64, u64>,
    /// Smallest and largest time.
    range: Option<(u64, u64)>,
}

impl Times {
    pub(super) fn add(&mut self, latency: &Latency) {
        if latency.count == 0 {
            return;
        }
        for (bound, samples) in &latency.buckets {
            *self.buckets.entry(*bound).or_default() += samples;
        }
        let (min, max) = self.range.unwrap_or((u64::MAX, 0));
        self.range = Some((min.min(latency.min_ns), max.max(latency.max_ns)));
    }

    /// As a list: `[upper bound in nanoseconds, samples]`.
    pub(super) fn buckets(&self) -> Vec<(u64, u64)> {
        let pairs = self.buckets.iter();
        pairs.map(|(bound, samples)| (*bound, *samples)).collect()
    }

    pub(super) fn percentiles(&self) -> Percentiles {
        Percentiles {
            p50: self.percentile(50),
            p99: self.percentile(99),
        }
    }

    /// In microseconds. Within a bucket, times are taken to be spread evenly.
    fn percentile(&self, percent: u64) -> f64 {
        let Some((min, max)) = self.range else {
            return 0.0;
        };
        let count: u64 = self.buckets.values().sum();
        let wanted = count.saturating_mul(percent).div_ceil(100).max(1);
        let mut seen = 0;
        for (&bound, &samples) in &self.buckets {
            if seen + samples >= wanted {
                let high = ratio(bound, 1);
                let low = high / LATENCY_BUCKET_RATIO;
                let ns = low + ratio(wanted - seen, samples) * (high - low);
                return ns.clamp(ratio(min, 1), ratio(max.max(min), 1)) / 1000.0;
            }
            seen += samples;
        }
        ratio(max, 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_stay_between_smallest_and_largest() {
        let mut times = Times::default();
        assert_eq!(times.percentiles(), Percentiles::default());
        times.add(&Latency {
            count: 1,
            min_ns: 700,
            max_ns: 700,
            buckets: vec![(1024, 1)],
            ..Latency::default()
        });
        assert_eq!(times.percentiles(), Percentiles { p50: 0.7, p99: 0.7 });
        assert_eq!(times.buckets(), [(1024, 1)]);
    }
}
