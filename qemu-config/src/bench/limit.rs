//! What a migration could be at best: no faster than the kernel without any copy, and no faster than
//! the copy.

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
    let pairs: Vec<(Rates, f64)> = rounds
        .iter()
        .filter_map(|round| {
            let (_, floor) = floor.iter().find(|(repeat, _)| *repeat == round.repeat)?;
            Some((*round, *floor))
        })
        .collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(figures: &[(f64, f64)]) -> Vec<Rates> {
        let round = |(repeat, &(migration, engine))| Rates {
            repeat,
            migration,
            engine,
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
    fn an_engine_without_a_rate_is_no_limit() {
        let found = limit(&rounds(&[(1.0, 0.0)]), &[(0, 2.0)]).expect("a limit");
        assert_eq!((found.by, found.ratio.median), (LimitBy::Kernel, 0.5));
    }
}
