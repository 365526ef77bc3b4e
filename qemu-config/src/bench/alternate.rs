//! Two kernels, a boot of each by turns: A B A B.
//!
//! By turns, because a busy host drifts by more in an hour than two kernels differ; what slows it
//! down for a while so slows both alike. Two boots of one kernel never follow each other: a
//! disturbance of two boots' length hits one of each.

use std::time::{Duration, Instant};

use crate::bench::result::BenchResult;
use crate::compare::comparison::Settings;
use crate::compare::document::AlternatedBoot;
use crate::compare::sides::Side;
use crate::compare::statistics::{least_size, tail};

/// A side whose first boots all failed, so many, is given up.
const FIRST_FAILURES: usize = 2;

/// The fewest boots of each kernel with which a change in a single one of so many rows can be
/// told from chance.
pub fn usual_rounds(rows: usize, settings: Settings) -> usize {
    // Rows are far fewer than 2^32.
    let rows = u32::try_from(rows.max(1)).unwrap_or(u32::MAX);
    least_size(tail(settings.confidence) / f64::from(rows))
}

/// The boot that is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Of which kernel.
    pub side: Side,
    /// Which boot it is, from 1.
    pub boot: usize,
    /// Boots in all.
    pub of: usize,
    /// How long the rest may take, from what there was.
    pub left: Option<Duration>,
}

/// What came of a boot.
#[derive(Clone, Debug, PartialEq)]
pub struct Booted {
    /// What was measured.
    pub result: Option<BenchResult>,
    /// Why that is nothing, or not all.
    pub failure: Option<String>,
    /// Somebody wants it to end.
    pub interrupted: bool,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All boots were made.
    Complete,
    /// Somebody wanted it to end.
    Interrupted,
    /// Too many boots of a kernel failed for a comparison.
    GivenUp(Side),
}

/// Makes `rounds` boots of each kernel, by turns, as long as that can lead to a comparison.
pub fn alternate(
    rounds: usize,
    settings: Settings,
    mut boot: impl FnMut(Turn) -> Booted,
) -> (Vec<AlternatedBoot>, End) {
    let begin = Instant::now();
    let of = rounds * 2;
    let mut boots: Vec<AlternatedBoot> = Vec::new();
    for (made, side) in [Side::A, Side::B].into_iter().cycle().take(of).enumerate() {
        let turn = Turn {
            side,
            boot: made + 1,
            of,
            left: time_left(begin.elapsed(), made, of),
        };
        let booted = boot(turn);
        boots.push(AlternatedBoot {
            side,
            result: booted.result,
            failure: booted.failure,
        });
        if booted.interrupted {
            return (boots, End::Interrupted);
        }
        if is_hopeless(&boots, side, rounds, settings) {
            return (boots, End::GivenUp(side));
        }
    }
    (boots, End::Complete)
}

fn time_left(spent: Duration, made: usize, of: usize) -> Option<Duration> {
    let made = u32::try_from(made).ok().filter(|made| *made > 0)?;
    let left = u32::try_from(of).ok()?.saturating_sub(made);
    Some(spent.saturating_mul(left) / made)
}

/// Whether the side cannot get enough results any more.
fn is_hopeless(boots: &[AlternatedBoot], side: Side, rounds: usize, settings: Settings) -> bool {
    let of_side = || boots.iter().filter(|boot| boot.side == side);
    let made = of_side().count();
    let good = of_side()
        .filter(|boot| {
            boot.result
                .as_ref()
                .is_some_and(|result| !result.rows.is_empty())
        })
        .count();
    let enough = rounds.min(least_size(tail(settings.confidence)));
    good + (rounds - made) < enough || (good == 0 && made >= FIRST_FAILURES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::example;

    const SETTINGS: Settings = Settings {
        threshold: 0.05,
        confidence: 0.95,
    };

    fn measured() -> Booted {
        Booted {
            result: Some(example::result(vec![example::row(9, 9, 9e9)])),
            failure: None,
            interrupted: false,
        }
    }

    fn failed() -> Booted {
        Booted {
            result: None,
            failure: Some("lost".into()),
            interrupted: false,
        }
    }

    /// The sides of the boots, and the end.
    fn sides(rounds: usize, boot: impl FnMut(Turn) -> Booted) -> (String, End) {
        let (boots, end) = alternate(rounds, SETTINGS, boot);
        (
            boots.iter().map(|boot| boot.side.to_string()).collect(),
            end,
        )
    }

    #[test]
    fn the_kernels_take_turns() {
        let mut turns = Vec::new();
        let (order, end) = sides(3, |turn| {
            turns.push((turn.boot, turn.of, turn.left.is_some()));
            measured()
        });
        assert_eq!((order.as_str(), end), ("ABABAB", End::Complete));
        assert_eq!(turns[0], (1, 6, false), "nothing is known yet");
        assert_eq!(turns[5], (6, 6, true));
    }

    #[test]
    fn one_failure_does_not_end_it() {
        let boot = |turn: Turn| if turn.boot == 4 { failed() } else { measured() };
        assert_eq!(sides(5, boot), ("ABABABABAB".into(), End::Complete));
        let (boots, _) = alternate(5, SETTINGS, boot);
        assert_eq!(boots[3].failure.as_deref(), Some("lost"));
        assert_eq!(boots.iter().filter(|boot| boot.result.is_some()).count(), 9);
    }

    #[test]
    fn a_kernel_that_never_works_ends_it() {
        let boot = |turn: Turn| {
            if turn.side == Side::B {
                failed()
            } else {
                measured()
            }
        };
        assert_eq!(sides(7, boot), ("ABAB".into(), End::GivenUp(Side::B)));
    }

    #[test]
    fn too_few_results_for_a_comparison_end_it() {
        // Four of five are enough, three are not.
        let boot = |turn: Turn| {
            if turn.boot == 3 || turn.boot == 5 {
                failed()
            } else {
                measured()
            }
        };
        assert_eq!(sides(5, boot), ("ABABA".into(), End::GivenUp(Side::A)));
        // Whoever asks for a single round gets it.
        assert_eq!(sides(1, |_| measured()), ("AB".into(), End::Complete));
        assert_eq!(sides(1, |_| failed()), ("A".into(), End::GivenUp(Side::A)));
    }

    #[test]
    fn an_interrupt_keeps_what_there_is() {
        let boot = |turn: Turn| Booted {
            interrupted: turn.boot == 3,
            ..measured()
        };
        assert_eq!(sides(5, boot), ("ABA".into(), End::Interrupted));
    }

    #[test]
    fn the_usual_rounds_allow_a_verdict() {
        assert_eq!(usual_rounds(3, SETTINGS), 5);
        assert_eq!(usual_rounds(6, SETTINGS), 5);
        assert_eq!(usual_rounds(27, SETTINGS), 7);
    }

    #[test]
    fn the_time_that_is_left() {
        let minute = Duration::from_secs(60);
        assert_eq!(time_left(minute, 0, 10), None);
        assert_eq!(time_left(minute, 2, 10), Some(minute * 4));
        assert_eq!(time_left(minute, 10, 10), Some(Duration::ZERO));
    }
}
