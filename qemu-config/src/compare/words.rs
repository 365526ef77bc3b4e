//! What a comparison says in words: its verdicts, its summary, its warnings.

use std::mem::{Discriminant, discriminant};

use anstyle::{AnsiColor, Style};

use super::comparison::{Comparison, Verdict};
use super::sides::Unit;
use super::statistics::tail;
use super::warnings::Warning;

/// Of each kind of warning so many are told; the JSON has them all.
const ALIKE: usize = 3;

/// Its name, as it is told.
pub(super) fn name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Regression => "REGRESSION",
        Verdict::Inconclusive => "inconclusive",
        Verdict::Slower => "slower, within threshold",
        Verdict::NoRegression => "no regression",
        Verdict::Faster => "faster, within threshold",
        Verdict::Improvement => "improvement",
    }
}

pub(super) fn coloured(verdict: Verdict) -> String {
    let style = match verdict {
        Verdict::Regression => AnsiColor::Red.on_default().bold(),
        Verdict::Inconclusive | Verdict::Slower => AnsiColor::Yellow.on_default(),
        Verdict::Improvement => AnsiColor::Green.on_default().bold(),
        Verdict::NoRegression | Verdict::Faster => Style::new(),
    };
    format!("{style}{}{style:#}", name(verdict))
}

/// One line on all of it.
pub(super) fn summary(comparison: &Comparison, shown: impl Fn(Verdict) -> String) -> String {
    let rows = comparison.rows.len();
    let count = |verdict: Verdict| comparison.count(verdict);
    let beyond = format!("beyond {} %", percent(comparison.settings.threshold));
    let open = count(Verdict::Inconclusive);
    match comparison.verdict {
        Verdict::Regression => {
            let mut orders: Vec<u8> = comparison
                .rows
                .iter()
                .filter(|row| row.verdict == Verdict::Regression)
                .map(|row| row.row.source_order)
                .collect();
            orders.dedup();
            let orders: Vec<String> = orders.iter().map(u8::to_string).collect();
            let plural = if orders.len() == 1 { "order" } else { "orders" };
            format!(
                "{} {beyond} in {} of {rows} rows, {plural} {}",
                shown(Verdict::Regression),
                count(Verdict::Regression),
                orders.join(", ")
            )
        }
        Verdict::Inconclusive if rows == 0 => {
            format!(
                "{}: there is no row to compare",
                shown(Verdict::Inconclusive)
            )
        }
        Verdict::Inconclusive => {
            let more = comparison
                .warnings
                .iter()
                .find_map(|warning| match warning {
                    Warning::Inconclusive { more, .. } => *more,
                    _ => None,
                });
            let more = more.map_or_else(String::new, |more| {
                format!(": about {more} more {} a side", comparison.unit.name(more))
            });
            format!(
                "no regression {beyond} was found, but {open} of {rows} rows {} {}{more}",
                if open == 1 { "is" } else { "are" },
                shown(Verdict::Inconclusive)
            )
        }
        Verdict::Slower => format!(
            "no regression {beyond}; {} of {rows} rows {}",
            count(Verdict::Slower),
            shown(Verdict::Slower)
        ),
        Verdict::NoRegression | Verdict::Faster => {
            format!("{} {beyond} in {rows} rows", shown(Verdict::NoRegression))
        }
        Verdict::Improvement => format!(
            "{} {beyond} in {} of {rows} rows, and no regression",
            shown(Verdict::Improvement),
            count(Verdict::Improvement)
        ),
    }
}

/// What the figures are.
pub(super) fn legend(comparison: &Comparison) -> String {
    let settings = comparison.settings;
    let values = match comparison.unit {
        Unit::Boot => "the medians of boots",
        Unit::Round => "the rounds of one boot",
    };
    format!(
        "B/A is migration throughput, from {values}, with its {} % interval (exact Mann-Whitney); if no row is slower, \
         the chance of any alarm is at most {} %.",
        percent(settings.confidence),
        percent(tail(settings.confidence))
    )
}

fn percent(share: f64) -> String {
    // Up to three digits behind the point, and none that are 0.
    let text = format!("{:.3}", share * 100.0);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Some of each kind.
pub(super) fn told(warnings: &[Warning]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut kinds: Vec<(Discriminant<Warning>, usize)> = Vec::new();
    for warning in warnings {
        // The summary has told it.
        if matches!(warning, Warning::Inconclusive { more: Some(_), .. }) {
            continue;
        }
        let kind = discriminant(warning);
        let at = kinds
            .iter()
            .position(|(known, _)| *known == kind)
            .unwrap_or_else(|| {
                kinds.push((kind, 0));
                kinds.len() - 1
            });
        kinds[at].1 += 1;
        if kinds[at].1 <= ALIKE {
            lines.push(warning.to_string());
        } else if kinds[at].1 == ALIKE + 1 {
            let alike = warnings
                .iter()
                .filter(|other| discriminant(*other) == kind)
                .count();
            lines.push(format!(
                "... and {} more of this kind; --json has them all",
                alike - ALIKE
            ));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::example;
    use crate::compare::sides::Side;

    #[test]
    fn many_warnings_of_a_kind_are_cut_short() {
        let row = example::row(9, 9, 9e9).key();
        let noisy = Warning::Noisy {
            row,
            side: Side::A,
            spread: 0.2,
        };
        let mut warnings = vec![noisy; 5];
        warnings.insert(2, Warning::OneBoot);
        let lines = told(&warnings);
        assert_eq!(lines.len(), 5, "{lines:?}");
        assert_eq!(
            lines.last().map(String::as_str),
            Some("... and 2 more of this kind; --json has them all")
        );
    }

    #[test]
    fn shares_are_short() {
        assert_eq!(
            [percent(0.05), percent(0.025), percent(0.9999)],
            ["5", "2.5", "99.99"]
        );
    }
}
