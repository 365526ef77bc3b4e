//! What a migration is compared with: the limit, which is the slower of the kernel without any copy
//! and the copy alone, and upstream's `test_hmm`.

use super::result::{LimitBy, Stat};

/// Rates of a counted round, in bytes a second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    /// Its number.
    pub(super) repeat: u32,
    /// Of the migration.
    pub(super) migration: f64,
    /// Of the engine.
    pub(super) engine: f64,
    /// Of the migration, by the guest's clock.
    pub(super) guest: f64,
}

/// The limit of a row.
#[derive(Debug, PartialEq)]
pub(super) struct Limit {
    /// Rates of the rounds without copies.
    pub(super) floor: Stat,
    /// The limit in the rounds of the row.
    pub(super) limit: Stat,
    /// What limits.
    pub(super) by: LimitBy,
    /// Migration over limit.
    pub(super) ratio: Stat,
}

/// The limit of these rounds, from the rates of those without copies, by the number of the round.
/// Which of floor and engine it is, is decided by the medians: the slower of two samples would be
/// below both, and flatter the ratio. Each round is then compared with its own sample, which was
/// taken right before or after it; a round without one counts for nothing here.
pub(super) fn limit(rounds: &[Rates], floor: &[(u32, f64)]) -> Option<Limit> {
    let pairs = pairs(rounds, floor);
    let floor = Stat::of(pairs.iter().map(|(_, floor)| *floor).collect());
    let engine = Stat::of(pairs.iter().map(|(round, _)| round.engine).collect());
    // A device that did not tell its time with these bytes sets no limit.
    let (by, limit) = if engine.median > 0.0 && engine.median < floor.median {
        (LimitBy::Engine, engine)
    } else {
        (LimitBy::Kernel, floor.clone())
    };
    let over = pairs.iter().zip(&limit.samples);
    let ratio: Vec<f64> = over
        .filter(|(_, limit)| **limit > 0.0)
        .map(|((round, _), limit)| round.migration / limit)
        .collect();
    (!ratio.is_empty()).then(|| Limit {
        floor,
        limit,
        by,
        ratio: Stat::of(ratio),
    })
}

/// Rates of `test_hmm`, and the own ones by the same clock over them, round by round.
pub(super) fn against(rounds: &[Rates], theirs: &[(u32, f64)]) -> Option<(Stat, Stat)> {
    let pairs = pairs(rounds, theirs);
    let ratio = pairs.iter().map(|(round, theirs)| round.guest / theirs);
    let ratio = Stat::of(ratio.collect());
    let rates = Stat::of(pairs.iter().map(|(_, theirs)| *theirs).collect());
    (!pairs.is_empty()).then_some((rates, ratio))
}

/// Rounds that have another one of the same number beside them, with its rate.
fn pairs(rounds: &[Rates], others: &[(u32, f64)]) -> Vec<(Rates, f64)> {
    let pair = |round: &Rates| {
        let same = |(repeat, rate): &&(u32, f64)| *repeat == round.repeat && *rate > 0.0;
        let (_, other) = others.iter().find(same)?;
        Some((*round, *other))
    };
    rounds.iter().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(figures: &[(f64, f64)]) -> Vec<Rates> {
        let round = |(repeat, &(migration, engine))| Rates {
            repeat,
            migration,
            engine,
            guest: migration / 2.0,
        };
        (0..).zip(figures).map(round).collect()
    }

    #[test]
    fn the_slower_one_is_the_limit() {
        let rounds = rounds(&[(4.0, 8.0), (6.0, 10.0), (3.0, 6.0)]);
        let found = limit(&rounds, &[(0, 20.0), (1, 30.0), (2, 7.0)]).expect("a limit");
        assert_eq!(found.by, LimitBy::Engine);
        assert_eq!(found.floor.samples, [20.0, 30.0, 7.0]);
        assert_eq!(found.limit.samples, [8.0, 10.0, 6.0]);
        assert_eq!(found.ratio.samples, [0.5, 0.6, 0.5]);

        let found = limit(&rounds, &[(0, 5.0), (1, 8.0), (2, 4.0)]).expect("a limit");
        assert_eq!(found.by, LimitBy::Kernel);
        assert_eq!(found.limit, found.floor);
        assert_eq!(found.ratio.samples, [0.8, 0.75, 0.75]);
        assert_eq!(found.ratio.median, 0.75);
    }

    #[test]
    fn rounds_are_paired_by_their_number() {
        let rounds = rounds(&[(1.0, 100.0), (2.0, 100.0), (3.0, 100.0)]);
        let found = limit(&rounds, &[(2, 6.0), (1, 2.0), (7, 0.1)]).expect("a limit");
        assert_eq!(found.floor.samples, [2.0, 6.0]);
        assert_eq!(found.ratio.samples, [1.0, 0.5]);
        assert_eq!(limit(&rounds, &[(7, 1.0)]), None);
        assert_eq!(limit(&rounds, &[]), None);
    }

    #[test]
    fn test_hmm_is_compared_by_the_guests_clock() {
        let rounds = rounds(&[(8.0, 9.0), (4.0, 9.0), (6.0, 9.0)]);
        let (rates, ratio) = against(&rounds, &[(0, 2.0), (2, 0.5), (1, 0.0)]).expect("rates");
        assert_eq!(rates.samples, [2.0, 0.5]);
        assert_eq!(ratio.samples, [2.0, 6.0]);
        assert_eq!(against(&rounds, &[(1, 0.0)]), None);
    }

    #[test]
    fn an_engine_without_a_rate_is_no_limit() {
        let found = limit(&rounds(&[(1.0, 0.0)]), &[(0, 2.0)]).expect("a limit");
        assert_eq!((found.by, found.ratio.median), (LimitBy::Kernel, 0.5));
    }
}
