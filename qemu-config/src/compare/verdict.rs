//! Judging: what is made of two sides' samples.

use std::collections::{BTreeMap, BTreeSet};

use super::comparison::{
    Compared, Comparison, OrderVerdict, RowComparison, RowSide, SCHEMA, Settings, Verdict,
};
use super::doubts;
use super::sides::{Boot, Unit, Values, values};
use super::statistics::{self as stats, MannWhitney, Relation, float};
use crate::bench::result::RowKey;
use crate::vm::Environment;

/// A side and its name.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// Its file or its kernel.
    pub name: &'a str,
    /// Its boots that have a result.
    pub boots: &'a [Boot],
}

/// Compares B with A: the boots of both, or, if each is a single one, their rounds. What keeps
/// rows from being compared is in the warnings.
pub fn compare(a: Input<'_>, b: Input<'_>, settings: Settings) -> Comparison {
    compare_by(Unit::of(a.boots, b.boots), a, b, settings)
}

/// [`compare`], with values that stand for `unit`.
pub fn compare_by(unit: Unit, a: Input<'_>, b: Input<'_>, settings: Settings) -> Comparison {
    let mut warnings = doubts::of_boots(a.boots, b.boots, unit);
    let mut pairs: Vec<(RowKey, Values, Values)> = Vec::new();
    for row in keys(a.boots, b.boots) {
        match (values(a.boots, row, unit), values(b.boots, row, unit)) {
            (Some(a), Some(b)) if a.verified && b.verified => pairs.push((row, a, b)),
            (a, b) => warnings.extend(doubts::of_missing(row, a.as_ref(), b.as_ref())),
        }
    }
    let rows = judge(&pairs, unit, settings);
    for (row, a, b) in &pairs {
        warnings.extend(doubts::of_row(*row, a, b, unit));
    }
    warnings.extend(doubts::of_power(&rows, unit, settings));
    let orders = orders(&rows);
    let verdict = gravest(rows.iter().map(|row| row.verdict));
    let side = |input: Input<'_>| Compared {
        name: input.name.to_owned(),
        boots: input.boots.len(),
        environment: input
            .boots
            .first()
            .map_or_else(Environment::default, |boot| boot.environment.clone()),
    };
    Comparison {
        schema: SCHEMA.to_owned(),
        settings,
        unit,
        a: side(a),
        b: side(b),
        rows,
        orders,
        verdict,
        warnings,
    }
}

/// All rows that any boot has, ascending.
fn keys(a: &[Boot], b: &[Boot]) -> BTreeSet<RowKey> {
    let boots = a.iter().chain(b);
    boots.flat_map(|boot| boot.rows.keys().copied()).collect()
}

/// The rows' comparisons. All rows together are one family of questions.
fn judge(pairs: &[(RowKey, Values, Values)], unit: Unit, settings: Settings) -> Vec<RowComparison> {
    // Most rows have the same number of values, and counting out takes a moment.
    let mut distributions: BTreeMap<(usize, usize), MannWhitney> = BTreeMap::new();
    let mut related: Vec<(&(RowKey, Values, Values), Relation)> = Vec::new();
    for pair in pairs {
        let (a, b) = (&pair.1.bytes_per_s, &pair.2.bytes_per_s);
        let distribution = distributions
            .entry((a.len(), b.len()))
            .or_insert_with(|| MannWhitney::new(a.len(), b.len()));
        if let Some(relation) = stats::relate(a, b, distribution, settings.confidence) {
            related.push((pair, relation));
        }
    }
    let adjusted = |p: fn(&Relation) -> f64| {
        stats::adjust(
            &related
                .iter()
                .map(|(_, relation)| p(relation))
                .collect::<Vec<_>>(),
        )
    };
    let slower = adjusted(|relation| relation.p_smaller);
    let faster = adjusted(|relation| relation.p_larger);
    let level = stats::tail(settings.confidence);
    let rows = related.iter().zip(slower).zip(faster);
    rows.map(|(((pair, relation), p_slower), p_faster)| {
        let (row, a, b) = pair;
        let verdict = verdict(
            relation,
            p_slower <= level,
            p_faster <= level,
            settings.threshold,
        );
        let count = a.bytes_per_s.len().min(b.bytes_per_s.len());
        let more = match verdict {
            Verdict::Inconclusive => more(relation, count, related.len(), unit, settings),
            _ => None,
        };
        RowComparison {
            row: *row,
            a: RowSide::of(a),
            b: RowSide::of(b),
            ratio: relation.ratio,
            interval: relation.interval,
            p_slower: relation.p_smaller,
            p_slower_adjusted: p_slower,
            p_faster: relation.p_larger,
            p_faster_adjusted: p_faster,
            verdict,
            more,
        }
    })
    .collect()
}

/// What can be said of a row, of which it is known whether chance is ruled out.
fn verdict(relation: &Relation, slower: bool, faster: bool, threshold: f64) -> Verdict {
    let least = 1.0 - threshold;
    if slower && relation.ratio < least {
        Verdict::Regression
    } else if slower {
        Verdict::Slower
    } else if faster && relation.ratio > 1.0 + threshold {
        Verdict::Improvement
    } else if faster {
        Verdict::Faster
    } else if relation.interval.is_some_and(|(low, _)| low >= least) {
        Verdict::NoRegression
    } else {
        Verdict::Inconclusive
    }
}

/// About how many more values of each side would allow a verdict: the interval narrows with the
/// square root of their number.
fn more(
    relation: &Relation,
    count: usize,
    rows: usize,
    unit: Unit,
    settings: Settings,
) -> Option<usize> {
    let level = stats::tail(settings.confidence);
    let Some((low, high)) = relation.interval else {
        return Some(stats::least_size(level).saturating_sub(count).max(1));
    };
    let half = (high / low).ln() / 2.0;
    let at = relation.ratio.ln();
    // How far it may reach: down to the threshold, or, where B seems slower, up to 1.
    let reach = (at - (1.0 - settings.threshold).ln()).max(-at);
    let needed = float(count) * (half / reach).powi(2);
    if needed.is_nan() || needed > float(unit.most()) {
        return None;
    }
    // It is small and not negative.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let needed = needed.ceil() as usize;
    let needed = if needed <= count {
        // Narrow enough for a row alone, but it is one of many.
        stats::least_size(level / float(rows))
    } else {
        needed
    };
    Some(needed.saturating_sub(count).max(1))
}

fn gravest(verdicts: impl Iterator<Item = Verdict>) -> Verdict {
    let (mut best, mut worst): (Option<Verdict>, Option<Verdict>) = (None, None);
    for verdict in verdicts {
        best = Some(best.map_or(verdict, |best| best.max(verdict)));
        worst = Some(worst.map_or(verdict, |worst| worst.min(verdict)));
    }
    match (worst, best) {
        // Nothing grave: what is good is worth telling.
        (Some(Verdict::NoRegression), Some(best)) => best,
        (Some(worst), _) => worst,
        (None, _) => Verdict::Inconclusive,
    }
}

fn orders(rows: &[RowComparison]) -> Vec<OrderVerdict> {
    let mut orders: BTreeMap<u8, Vec<&RowComparison>> = BTreeMap::new();
    for row in rows {
        orders.entry(row.row.source_order).or_default().push(row);
    }
    let order = |(source_order, rows): (u8, Vec<&RowComparison>)| {
        let logs: f64 = rows.iter().map(|row| row.ratio.ln()).sum();
        OrderVerdict {
            source_order,
            rows: rows.len(),
            ratio: (logs / float(rows.len())).exp(),
            verdict: gravest(rows.iter().map(|row| row.verdict)),
        }
    };
    orders.into_iter().map(order).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::example::{result, row};
    use crate::bench::result::{BenchResult, Stat};
    use crate::compare::warnings::Warning;

    /// A result of one row, of order 9, with these rounds.
    fn rounds(samples: &[f64]) -> BenchResult {
        let mut made = result(vec![row(9, 9, 1e9)]);
        made.rows[0].repeats = u32::try_from(samples.len()).expect("few");
        made.rows[0].migration_bytes_per_s =
            Stat::of(samples.iter().map(|sample| sample * 1e9).collect());
        made
    }

    fn compared(a: &[f64], b: &[f64], threshold: f64) -> Comparison {
        let boot = |samples| [Boot::of(0, &rounds(samples)).expect("is right")];
        let (a, b) = (boot(a), boot(b));
        let settings = Settings {
            threshold,
            ..Settings::default()
        };
        let of = |name, boots| Input { name, boots };
        compare(of("a", &a), of("b", &b), settings)
    }

    const CALM: [f64; 5] = [1.00, 1.01, 0.99, 1.005, 0.995];

    fn scaled(factor: f64) -> Vec<f64> {
        CALM.iter().map(|sample| sample * factor).collect()
    }

    /// A boot for each factor, of as many times the usual speed.
    fn boots(factors: &[f64]) -> Vec<Boot> {
        let boot = |(number, factor): (usize, &f64)| {
            Boot::of(number, &rounds(&scaled(*factor))).expect("is right")
        };
        factors.iter().enumerate().map(boot).collect()
    }

    #[test]
    fn verdicts_at_the_edges_of_the_threshold() {
        for (factor, threshold, expected) in [
            (0.80, 0.05, Verdict::Regression),
            // The ratio of samples that are scaled is the factor, to the last digit or nearly.
            (0.949, 0.05, Verdict::Regression),
            (0.951, 0.05, Verdict::Slower),
            (0.97, 0.0, Verdict::Regression),
            (0.80, 0.25, Verdict::Slower),
            (1.00, 0.05, Verdict::NoRegression),
            (1.00, 0.0, Verdict::Inconclusive),
            (1.03, 0.05, Verdict::Faster),
            (1.049, 0.05, Verdict::Faster),
            (1.051, 0.05, Verdict::Improvement),
        ] {
            let comparison = compared(&CALM, &scaled(factor), threshold);
            let [row] = &comparison.rows[..] else {
                panic!("{comparison:?}")
            };
            assert_eq!(row.verdict, expected, "{factor} {threshold}");
            assert_eq!(comparison.verdict, expected);
            assert_eq!(comparison.orders[0].verdict, expected);
            assert!((row.ratio / factor - 1.0).abs() < 1e-6, "{}", row.ratio);
            assert_eq!(comparison.is_negative(), expected == Verdict::Regression);
            assert_eq!(
                comparison.is_conclusive(),
                expected != Verdict::Inconclusive
            );
        }
    }

    #[test]
    fn too_few_rounds_say_how_many_more() {
        let comparison = compared(&CALM[..3], &scaled(0.5)[..3], 0.05);
        let row = &comparison.rows[0];
        assert_eq!((row.verdict, row.interval), (Verdict::Inconclusive, None));
        assert_eq!(row.more, Some(1), "four a side have an interval of 95 %");
        assert!(comparison.warnings.contains(&Warning::TooFewSamples {
            unit: Unit::Round,
            a: 3,
            b: 3,
            rows: 1,
            rows_needed: 2,
            more: 1
        }));
        assert!(!comparison.is_conclusive() && !comparison.is_negative());
    }

    #[test]
    fn noise_says_how_many_more() {
        let wild = [0.6, 0.8, 1.0, 1.2, 1.4];
        let comparison = compared(&wild, &wild, 0.05);
        let row = &comparison.rows[0];
        assert_eq!(row.verdict, Verdict::Inconclusive);
        let more = row.more.expect("an estimate");
        assert!((100..1000).contains(&more), "{more}");
        // With that many and the same noise there is a verdict.
        let many: Vec<f64> = wild.iter().cycle().take(5 + more).copied().collect();
        let comparison = compared(&many, &many, 0.05);
        assert_eq!(comparison.rows[0].verdict, Verdict::NoRegression);
        let none = compared(&wild, &wild, 0.0);
        assert_eq!(none.rows[0].more, None, "equal is never proved");
    }

    #[test]
    fn nobody_is_asked_for_more_boots_than_there_can_be() {
        // The same noise that some hundred more rounds would do for.
        let wild = boots(&[0.6, 0.8, 1.0, 1.2, 1.4]);
        let input = |name, boots| Input { name, boots };
        let comparison = compare(input("a", &wild), input("b", &wild), Settings::default());
        assert_eq!(comparison.rows[0].verdict, Verdict::Inconclusive);
        assert_eq!(comparison.rows[0].more, None);
    }

    #[test]
    fn boots_are_what_counts_where_there_are_several() {
        // Rounds differ little, boots much: of 50 values each a rank test would be sure.
        let (a, b) = (boots(&[0.7, 1.0, 1.3, 1.1]), boots(&[0.6, 0.9, 1.2, 1.0]));
        let input = |name, boots| Input { name, boots };
        let comparison = compare(input("a", &a), input("b", &b), Settings::default());
        assert_eq!(comparison.unit, Unit::Boot);
        assert_eq!((comparison.rows[0].a.values, comparison.a.boots), (4, 4));
        assert_eq!(comparison.verdict, Verdict::Inconclusive);
        assert!((comparison.rows[0].a.median_bytes_per_s / 1.05e9 - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_single_boot_of_several_is_one_value() {
        // Of an alternation that ended early: its rounds are no proof.
        let (a, b) = (boots(&[1.0]), boots(&[0.5]));
        let input = |name, boots| Input { name, boots };
        let (a, b) = (input("a", &a), input("b", &b));
        let by_boot = compare_by(Unit::Boot, a, b, Settings::default());
        assert_eq!(by_boot.verdict, Verdict::Inconclusive);
        assert_eq!(by_boot.rows[0].a.values, 1);
        assert!(!by_boot.warnings.contains(&Warning::OneBoot));
        let by_round = compare(a, b, Settings::default());
        assert_eq!(by_round.verdict, Verdict::Regression);
        assert!(by_round.warnings.contains(&Warning::OneBoot));
    }

    #[test]
    fn the_gravest_verdict_is_that_of_all() {
        use Verdict::{Faster, Improvement, Inconclusive, NoRegression, Regression, Slower};
        for (verdicts, expected) in [
            (&[Improvement, Regression, Inconclusive][..], Regression),
            (&[NoRegression, Inconclusive, Slower], Inconclusive),
            (&[Improvement, Slower], Slower),
            (&[NoRegression, Faster], Faster),
            (&[NoRegression, Improvement], Improvement),
            (&[], Inconclusive),
        ] {
            assert_eq!(gravest(verdicts.iter().copied()), expected, "{verdicts:?}");
        }
    }

    #[test]
    fn a_comparison_is_read_as_it_was_written() {
        let comparison = compared(&CALM, &scaled(0.9), 0.05);
        let json = serde_json::to_value(&comparison).expect("JSON");
        assert_eq!(json["schema"], "hmmgpu.compare/1");
        assert_eq!(json["verdict"], "regression");
        assert_eq!(json["rows"][0]["source_order"], 9);
        assert_eq!(json["rows"][0]["trigger"], "prefetch");
        assert_eq!(json["warnings"][0]["warning"], "one_boot");
        let again: Comparison = serde_json::from_value(json).expect("reads");
        assert_eq!(again, comparison);
    }
}
