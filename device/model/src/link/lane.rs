//! One way over the link, and its clock. It knows no other clock: times are handed to it.

use hmmgpu_telemetry::snapshot::LinkLane;

/// Longest delay that is made up for, in nanoseconds: some turns of others on the same core. A sleep that
/// took too long, or a page that the host had to find first, is no fault of the link; but after a long
/// pause of the host's the link does not carry everything at once.
const MAX_LATE_NS: u64 = 20_000_000;

/// One way over the link. It never idles faster than it works: a pause between two transfers stays a
/// pause.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// When it has carried all that it was given, by its own clock.
    free_ns: u64,
    /// Part of a nanosecond that is left over, in units of one over the rate.
    rest: u64,
    /// By how much the last one went on later than the link would have had it.
    late_ns: u64,
    /// Until when it was busy.
    ended_ns: u64,
    /// Since the link was set.
    bytes: u64,
    /// Time in which something was on the way, the host's work and the waiting together.
    busy_ns: u64,
}

impl Lane {
    /// When bytes are carried that began at `began_ns`, at a rate in bytes a second.
    pub(super) fn due(&mut self, rate: u64, began_ns: u64, bytes: u64) -> u64 {
        let rate = u128::from(rate.max(1));
        // Both are 64 bits wide: their product fits.
        let work = u128::from(bytes) * 1_000_000_000 + u128::from(self.rest);
        self.rest = u64::try_from(work % rate).unwrap_or(0);
        let takes_ns = u64::try_from(work / rate).unwrap_or(u64::MAX);
        let began_ns = began_ns.saturating_sub(self.late_ns);
        self.free_ns = self.free_ns.max(began_ns).saturating_add(takes_ns);
        self.free_ns
    }

    /// Whoever waited for `due_ns` since `began_ns`, or did not wait, goes on at `now_ns`; so many bytes
    /// began to be on their way then.
    pub(super) fn went_on(&mut self, due_ns: u64, began_ns: u64, now_ns: u64, bytes: u64) {
        self.knows(due_ns, now_ns);
        self.bytes += bytes;
        // Whoever does not wait leaves it busy. Engines of several queues share it: time counts once.
        let until_ns = now_ns.max(due_ns);
        self.busy_ns += until_ns.saturating_sub(began_ns.max(self.ended_ns));
        self.ended_ns = self.ended_ns.max(until_ns);
    }

    /// The other side knows at `now_ns` of what was due at `due_ns`: what comes next was on its way
    /// meanwhile.
    pub(super) fn knows(&mut self, due_ns: u64, now_ns: u64) {
        self.late_ns = now_ns.saturating_sub(due_ns).min(MAX_LATE_NS);
    }

    /// For a snapshot.
    pub(super) fn told(&self, rate: u64) -> LinkLane {
        LinkLane {
            bytes_per_second: rate,
            bytes: self.bytes,
            busy_ns: self.busy_ns,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1_000_000_000;

    /// An engine and its clock.
    struct Engine {
        lane: Lane,
        now: u64,
    }

    impl Engine {
        fn new() -> Self {
            let (lane, now) = (Lane::default(), 5 * GB);
            Self { lane, now }
        }

        /// Copies in so much time, and sleeps too long by so much where it has to wait.
        fn copy(&mut self, rate: u64, bytes: u64, copy_ns: u64, oversleep_ns: u64) {
            let began = self.now;
            let due = self.lane.due(rate, began, bytes);
            self.now += copy_ns;
            if self.now < due {
                self.now = due + oversleep_ns;
            }
            self.lane.went_on(due, began, self.now, bytes);
        }

        fn rate(&self) -> f64 {
            let lane = self.lane.told(0);
            #[allow(clippy::cast_precision_loss)] // Far below 2^53.
            let (bytes, ns) = (lane.bytes as f64, lane.busy_ns as f64);
            bytes * 1e9 / ns
        }
    }

    #[track_caller]
    fn assert_near(found: f64, wanted: u64) {
        #[allow(clippy::cast_precision_loss)]
        let quotient = found / wanted as f64;
        assert!((0.99..1.01).contains(&quotient), "{quotient}");
    }

    #[test]
    fn the_rate_is_kept_whatever_the_sizes_and_however_one_oversleeps() {
        for rate in [500_000_000, GB, 25 * GB, 375 * GB] {
            for bytes in [4096, 65_536, 2 << 20] {
                // As fast as can be, and with a sleep that is always 60 us too long.
                for oversleep in [0, 60_000] {
                    let mut engine = Engine::new();
                    // 20 ms at least, beside which the last sleep does not count.
                    for _ in 0..rate / bytes / 50 + 1000 {
                        engine.copy(rate, bytes, 0, oversleep);
                    }
                    assert_near(engine.rate(), rate);
                }
            }
        }
    }

    #[test]
    fn slow_copies_are_made_up_for_and_a_slow_host_is_seen() {
        let mut engine = Engine::new();
        // 2 MB at 10 GB/s are 200 us: every other copy takes longer than that.
        for number in 0..10_000 {
            let copy = if number % 2 == 0 { 250_000 } else { 100_000 };
            engine.copy(10 * GB, 2_000_000, copy, 0);
        }
        assert_near(engine.rate(), 10 * GB);
        let mut engine = Engine::new();
        for _ in 0..10_000 {
            engine.copy(10 * GB, 2_000_000, 400_000, 0);
        }
        assert_near(engine.rate(), 5 * GB);
    }

    #[test]
    fn a_pause_earns_nothing() {
        let mut engine = Engine::new();
        for _ in 0..1000 {
            engine.now += 10_000_000;
            let began = engine.now;
            // 100 us on the link, and 40 us too much sleep: made up for once, not saved up.
            engine.copy(GB, 100_000, 0, 40_000);
            assert!(engine.now - began >= 60_000);
        }
        assert_near(engine.rate(), GB);
    }

    #[test]
    fn after_a_long_delay_the_link_is_no_faster_than_the_delay_that_is_made_up_for() {
        let mut engine = Engine::new();
        engine.copy(GB, 1000, 500 * MAX_LATE_NS, 0);
        let began = engine.now;
        // 100 ms on the link.
        for _ in 0..100 {
            engine.copy(GB, 1_000_000, 0, 0);
        }
        assert_eq!(engine.now - began, 100_000_000 - MAX_LATE_NS);
    }
}
