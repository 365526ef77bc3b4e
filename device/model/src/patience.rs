//! How long an engine that has nothing to do looks for more before it sleeps. To be woken takes 40 to
//! 150 us, and a doorbell of the guest's time; to look takes a core.
//!
//! Work that came soon will come soon again: the engine looks for about as long as it lately had to.
//! It never keeps the core from anybody: it offers it between two looks, and sleeps once somebody
//! took it for long.

use std::time::{Duration, Instant};

/// An engine looks at least so long, without offering the core to others.
const SHORTEST: Duration = Duration::from_micros(20);
/// And at most so long. A migration of single pages submits 2 MiB once in 3 to 5 ms.
const LONGEST: Duration = Duration::from_millis(10);
/// Pauses of the CPU between two looks.
const PAUSES: u32 = 8;
/// Whoever offers the core and is back only after this is in somebody's way. Threads of QEMU that
/// need it for a moment take up to 0.5 ms.
const LENT: Duration = Duration::from_millis(1);

/// What an engine has learnt about its driver.
#[derive(Debug)]
pub(crate) struct Patience(Duration);

impl Default for Patience {
    fn default() -> Self {
        Self(Duration::from_micros(100))
    }
}

impl Patience {
    /// Begins to look.
    pub(crate) fn poll(&self) -> Poll {
        Poll {
            since: Instant::now(),
            longest: self.0,
            state: State::First,
        }
    }

    /// There is work, or may be.
    #[allow(clippy::needless_pass_by_value)] // It is over.
    pub(crate) fn ended(&mut self, poll: Poll) {
        self.learn(poll.since.elapsed(), poll.state == State::Lent);
    }

    /// Work came after so long; somebody else wanted the core meanwhile, or not.
    fn learn(&mut self, gap: Duration, wanted: bool) {
        self.0 = if wanted || gap > LONGEST {
            self.0 / 2
        } else {
            // Not all gaps are alike: to forget a long one takes a few times as long.
            (gap * 2).max(self.0.saturating_sub(gap / 2))
        };
        self.0 = self.0.clamp(SHORTEST, LONGEST);
    }
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// No look yet.
    First,
    Looking,
    /// Somebody else wants the core.
    Lent,
}

/// An engine that looks for work.
#[derive(Debug)]
pub(crate) struct Poll {
    since: Instant,
    longest: Duration,
    state: State,
}

impl Poll {
    /// Whether to look once more, which is the case at first; waits a moment before all but the
    /// first look.
    pub(crate) fn goes_on(&mut self) -> bool {
        if self.state == State::First {
            self.state = State::Looking;
            return true;
        }
        for _ in 0..PAUSES {
            std::hint::spin_loop();
        }
        let now = self.since.elapsed();
        if now >= SHORTEST && now < self.longest {
            std::thread::yield_now();
            if self.since.elapsed().saturating_sub(now) >= LENT {
                self.state = State::Lent;
                return false;
            }
        }
        now < self.longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn us(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    #[test]
    fn gaps_that_come_again_are_waited_for() {
        let mut patience = Patience::default();
        // A long one for many short ones, as a migration of single pages has them.
        for _ in 0..3 {
            patience.learn(us(3500), false);
            for _ in 0..500 {
                patience.learn(us(2), false);
            }
            assert!(patience.0 > us(3500), "{patience:?}");
        }
    }

    #[test]
    fn long_gaps_are_forgotten() {
        let mut patience = Patience(LONGEST);
        for _ in 0..100 {
            patience.learn(us(200), false);
        }
        assert_eq!(patience.0, us(400));
    }

    #[test]
    fn who_gets_nothing_to_do_looks_less_and_less() {
        let mut patience = Patience::default();
        patience.learn(us(6000), false);
        assert_eq!(patience.0, LONGEST);
        for _ in 0..9 {
            patience.learn(us(11_000), false);
        }
        assert_eq!(patience.0, SHORTEST);
    }

    #[test]
    fn who_is_in_the_way_looks_less() {
        let mut patience = Patience(LONGEST);
        patience.learn(us(1000), true);
        assert_eq!(patience.0, LONGEST / 2);
    }

    #[test]
    fn a_look_has_an_end() {
        let mut poll = Patience(SHORTEST).poll();
        assert!(poll.goes_on(), "one look at least");
        while poll.goes_on() {}
        assert!(poll.since.elapsed() >= SHORTEST || poll.state == State::Lent);
    }
}
