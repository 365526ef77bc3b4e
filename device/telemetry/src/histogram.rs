//! A distribution of times: constant memory, any number of samples.

use hdrhistogram::Histogram;

use crate::snapshot::{LATENCY_BUCKET_RATIO, Latency};

/// Longest time that is told apart from longer ones: one hour.
const LONGEST_NS: u64 = 3_600_000_000_000;
/// Upper bound of the first bucket of the snapshot.
const FIRST_BUCKET_NS: u64 = 256;

/// Times in nanoseconds. Percentiles are right to 1 %; the sum, the smallest and the largest time
/// exactly.
#[derive(Clone, Debug)]
pub(crate) struct Times {
    histogram: Histogram<u64>,
    sum: u64,
    min: u64,
    max: u64,
}

impl Times {
    pub(crate) fn new() -> Self {
        // The bounds are constants that the crate accepts; without a histogram only the
        // percentiles would be missing, so a default one stands in rather than a panic.
        let histogram = Histogram::new_with_bounds(1, LONGEST_NS, 2)
            .or_else(|_| Histogram::new(2))
            .unwrap_or_else(|_| unreachable!("2 significant digits are valid"));
        Self {
            histogram,
            sum: 0,
            min: u64::MAX,
            max: 0,
        }
    }

    pub(crate) fn record(&mut self, ns: u64) {
        self.record_even(ns, 1);
    }

    /// `count` times that are `sum_ns` in all, as if they were even.
    pub(crate) fn record_even(&mut self, sum_ns: u64, count: u64) {
        let Some(ns) = sum_ns.checked_div(count) else {
            return;
        };
        self.histogram.saturating_record_n(ns, count);
        self.sum = self.sum.saturating_add(sum_ns);
        self.min = self.min.min(ns);
        self.max = self.max.max(ns);
    }

    pub(crate) fn latency(&self) -> Latency {
        let count = self.histogram.len();
        if count == 0 {
            return Latency::default();
        }
        let at = |percentile| {
            self.histogram
                .value_at_percentile(percentile)
                .clamp(self.min, self.max)
        };
        Latency {
            count,
            sum_ns: self.sum,
            min_ns: self.min,
            max_ns: self.max,
            p50_ns: at(50.0),
            p90_ns: at(90.0),
            p99_ns: at(99.0),
            p999_ns: at(99.9),
            buckets: self
                .histogram
                .iter_log(FIRST_BUCKET_NS, LATENCY_BUCKET_RATIO)
                .filter(|step| step.count_since_last_iteration() > 0)
                .map(|step| (step.value_iterated_to(), step.count_since_last_iteration()))
                .collect(),
        }
    }
}
