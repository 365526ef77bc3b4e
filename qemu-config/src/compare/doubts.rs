//! Looking for reasons to doubt a comparison.

use std::collections::BTreeMap;

use super::comparison::{RowComparison, Settings, Verdict};
use super::sides::{Boot, Side, Unit, Values};
use super::statistics as stats;
use super::warnings::Warning;
use crate::bench::result::RowKey;

/// A spread of more than this is worth a word.
const NOISY: f64 = 0.10;

/// What boots ran on, and what they say of themselves.
pub(super) fn of_boots(a: &[Boot], b: &[Boot], unit: Unit) -> Vec<Warning> {
    let mut warnings = Vec::new();
    if unit == Unit::Round {
        warnings.push(Warning::OneBoot);
    }
    environments(a, b, &mut warnings);
    for (side, boots) in [(Side::A, a), (Side::B, b)] {
        for boot in boots {
            if let Some(reason) = &boot.incomplete {
                warnings.push(Warning::Incomplete {
                    side,
                    boot: boot.number,
                    reason: reason.clone(),
                });
            }
        }
        let wrong = boots.iter().filter(|boot| !boot.errors.is_empty());
        warnings.extend(wrong.map(|boot| Warning::ResultErrors {
            side,
            boot: boot.number,
            errors: boot.errors.clone(),
        }));
        let mut kinds: Vec<String> = boots.iter().flat_map(|boot| boot.doubts.clone()).collect();
        kinds.sort();
        kinds.dedup();
        if !kinds.is_empty() {
            warnings.push(Warning::ResultWarnings { side, kinds });
        }
    }
    warnings
}

/// The kernel may differ between the sides, nothing else; within a side all is the same.
fn environments(a: &[Boot], b: &[Boot], warnings: &mut Vec<Warning>) {
    let (a, b) = (fields(a), fields(b));
    for (side, fields) in [(Side::A, &a), (Side::B, &b)] {
        for (what, values) in fields.iter().filter(|(_, values)| values.len() > 1) {
            warnings.push(Warning::EnvironmentVaries {
                side,
                what: what.clone(),
                values: values.clone(),
            });
        }
    }
    for (what, of_a) in a.iter().filter(|(what, _)| *what != "kernel") {
        let first = |values: &[String]| values.first().cloned().unwrap_or_default();
        let of_b = b.get(what).map(|values| first(values));
        if let Some(of_b) = of_b.filter(|of_b| *of_b != first(of_a)) {
            warnings.push(Warning::EnvironmentDiffers {
                what: what.clone(),
                a: first(of_a),
                b: of_b,
            });
        }
    }
}

/// Every field of the boots' environments, with the different values it has.
fn fields(boots: &[Boot]) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for boot in boots {
        let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(&boot.environment) else {
            continue;
        };
        for (what, value) in fields {
            let value = match value {
                serde_json::Value::String(text) => text,
                other => other.to_string(),
            };
            let values = found.entry(what).or_default();
            if !values.contains(&value) {
                values.push(value);
            }
        }
    }
    found
}

/// Why a row cannot be compared.
pub(super) fn of_missing(row: RowKey, a: Option<&Values>, b: Option<&Values>) -> Vec<Warning> {
    match (a, b) {
        (Some(_), None) => vec![Warning::OnlyIn { row, side: Side::A }],
        (None, Some(_)) => vec![Warning::OnlyIn { row, side: Side::B }],
        _ => [(Side::A, a), (Side::B, b)]
            .into_iter()
            .filter(|(_, values)| values.is_some_and(|values| !values.verified))
            .map(|(side, _)| Warning::NotVerified { row, side })
            .collect(),
    }
}

/// Of the values of a row.
pub(super) fn of_row(row: RowKey, a: &Values, b: &Values, unit: Unit) -> Vec<Warning> {
    let mut warnings = Vec::new();
    if a.bytes != b.bytes {
        warnings.push(Warning::SizeDiffers {
            row,
            a_bytes: a.bytes,
            b_bytes: b.bytes,
        });
    }
    for (side, values) in [(Side::A, a), (Side::B, b)] {
        let spread = stats::spread(&values.bytes_per_s).unwrap_or_default();
        if spread > NOISY {
            warnings.push(Warning::Noisy { row, side, spread });
        }
        let outliers = stats::outliers(&values.bytes_per_s);
        if !outliers.is_empty() {
            let numbers = outliers.iter().map(|at| values.numbers[*at]).collect();
            warnings.push(Warning::Outliers {
                row,
                side,
                unit,
                numbers,
            });
        }
    }
    warnings
}

/// Of what so many values can tell.
pub(super) fn of_power(rows: &[RowComparison], unit: Unit, settings: Settings) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let fewest = |values: fn(&RowComparison) -> usize| rows.iter().map(values).min().unwrap_or(0);
    let (a, b) = (fewest(|row| row.a.values), fewest(|row| row.b.values));
    let level = stats::tail(settings.confidence);
    // All of them would have to have the smallest p-value there is.
    let needed = stats::smallest_p(a, b) * stats::float(rows.len()) / level;
    if needed > 1.0 {
        // Levels are far from 0 and rows are few.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let rows_needed = needed.ceil() as usize;
        let least = stats::least_size(level / stats::float(rows.len()));
        warnings.push(Warning::TooFewSamples {
            unit,
            a,
            b,
            rows: rows.len(),
            rows_needed,
            more: least.saturating_sub(a.min(b)).max(1),
        });
    }
    let open: Vec<&RowComparison> = rows
        .iter()
        .filter(|row| row.verdict == Verdict::Inconclusive)
        .collect();
    if !open.is_empty() {
        let more = open.iter().map(|row| row.more);
        warnings.push(Warning::Inconclusive {
            unit,
            rows: open.len(),
            more: more
                .collect::<Option<Vec<_>>>()
                .and_then(|more| more.into_iter().max()),
        });
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::super::comparison::Comparison;
    use super::super::verdict::{Input, compare};
    use super::*;
    use crate::bench::example::{result, row};
    use crate::bench::result::{BenchError, BenchResult, Stat};
    use crate::bench::warning::Warning as BenchWarning;

    fn made() -> BenchResult {
        let mut made = result(vec![row(0, 0, 3e8), row(9, 9, 9e9)]);
        for row in &mut made.rows {
            let median = row.migration_bytes_per_s.median;
            let near = [1.0, 1.01, 0.99, 1.0, 1.02];
            row.migration_bytes_per_s = Stat::of(near.map(|near| near * median).to_vec());
        }
        made
    }

    fn compared(a: &[BenchResult], b: &[BenchResult]) -> Comparison {
        let boots = |results: &[BenchResult]| -> Vec<Boot> {
            let boot = |(number, result)| Boot::of(number, result).expect("is right");
            results.iter().enumerate().map(boot).collect()
        };
        let (a, b) = (boots(a), boots(b));
        let of = |name, boots| Input { name, boots };
        compare(of("a", &a), of("b", &b), Settings::default())
    }

    /// Doubts about the example as A and a changed one as B.
    fn doubts(change: impl FnOnce(&mut BenchResult)) -> (Vec<Warning>, Comparison) {
        let mut b = made();
        change(&mut b);
        let comparison = compared(&[made()], &[b]);
        let mut warnings = comparison.warnings.clone();
        assert_eq!(warnings.remove(0), Warning::OneBoot);
        for warning in &warnings {
            assert!(!warning.to_string().is_empty());
        }
        (warnings, comparison)
    }

    #[test]
    fn what_is_the_same_is_not_doubted() {
        assert_eq!(doubts(|_| ()).0, []);
        let other_kernel = |result: &mut BenchResult| result.environment.kernel = "7.2".into();
        assert_eq!(doubts(other_kernel).0, []);
    }

    #[test]
    fn each_difference_of_environments_is_named() {
        let (warnings, _) = doubts(|result| {
            result.environment.accel = "kvm\u{1b}[31m".into();
            result.environment.cpus = 4;
            result.environment.revision = "v0.2.0".into();
            // That the other one does not say is no difference.
            result.environment.link = Some("c2c".into());
        });
        let named: Vec<&str> = warnings
            .iter()
            .map(|warning| match warning {
                Warning::EnvironmentDiffers { what, .. } => what.as_str(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(named, ["accel", "cpus", "revision"]);
        assert!(
            warnings[0]
                .to_string()
                .ends_with("A has 'tcg', B has 'kvm'")
        );
    }

    #[test]
    fn boots_of_a_side_ran_on_the_same() {
        let mut other = made();
        other.environment.accel = "kvm".into();
        let comparison = compared(&[made(), other], &[made(), made()]);
        assert!(comparison.warnings.contains(&Warning::EnvironmentVaries {
            side: Side::A,
            what: "accel".into(),
            values: vec!["tcg".into(), "kvm".into()]
        }));
        assert!(!comparison.warnings.contains(&Warning::OneBoot));
    }

    #[test]
    fn rows_that_cannot_be_compared_are_told_and_left_out() {
        let (warnings, comparison) = doubts(|result| {
            result.rows[0].source_order = 4;
            result.rows[1].verified = false;
        });
        let keys: Vec<RowKey> = [row(0, 0, 1.0), row(4, 4, 1.0), row(9, 9, 1.0)]
            .iter()
            .map(crate::bench::result::Row::key)
            .collect();
        assert_eq!(
            warnings,
            [
                Warning::OnlyIn {
                    row: keys[0],
                    side: Side::A
                },
                Warning::OnlyIn {
                    row: keys[1],
                    side: Side::B
                },
                Warning::NotVerified {
                    row: keys[2],
                    side: Side::B
                },
            ]
        );
        assert!(comparison.rows.is_empty());
        assert_eq!(comparison.verdict, Verdict::Inconclusive);
        assert!(
            comparison.is_negative(),
            "wrong data is worse than slow data"
        );
    }

    #[test]
    fn noise_outliers_and_sizes() {
        let (warnings, _) = doubts(|result| {
            let calm = &mut result.rows[0].migration_bytes_per_s;
            calm.samples[3] /= 2.0;
            let wild = [0.5, 0.8, 1.0, 1.3, 2.0].map(|wild| wild * 9e9);
            result.rows[1].migration_bytes_per_s = Stat::of(wild.to_vec());
            result.rows[1].round_bytes /= 2;
        });
        let keys = [row(0, 0, 1.0).key(), row(9, 9, 1.0).key()];
        assert!(warnings.contains(&Warning::Outliers {
            row: keys[0],
            side: Side::B,
            unit: Unit::Round,
            numbers: vec![3]
        }));
        assert!(warnings.iter().any(|warning| matches!(
            warning,
            Warning::Noisy { row, side: Side::B, spread } if *row == keys[1] && *spread > 0.3
        )));
        assert!(warnings.contains(&Warning::SizeDiffers {
            row: keys[1],
            a_bytes: 256 << 20,
            b_bytes: 128 << 20
        }));
        let outliers = warnings
            .iter()
            .find(|warning| matches!(warning, Warning::Outliers { .. }));
        let text = outliers.map(ToString::to_string).unwrap_or_default();
        assert!(text.contains("B: round 4 is far"), "{text}");
    }

    #[test]
    fn results_with_doubts_of_their_own() {
        let (warnings, _) = doubts(|result| {
            result.warnings = vec![
                BenchWarning::Incomplete {
                    reason: "the VM was lost".into(),
                },
                BenchWarning::DeviceErrors { what: "x".into() },
                BenchWarning::FewRepeats { repeats: 2 },
            ];
        });
        assert_eq!(
            warnings,
            [
                Warning::Incomplete {
                    side: Side::B,
                    boot: 0,
                    reason: "the VM was lost".into()
                },
                Warning::ResultWarnings {
                    side: Side::B,
                    kinds: vec!["device_errors".into()]
                },
            ]
        );
    }

    #[test]
    fn a_result_with_errors_is_not_good_whatever_its_figures_say() {
        let (warnings, comparison) = doubts(|result| {
            result.errors = vec![BenchError::CountersDiffer {
                name: "folios.to_device".into(),
                order: Some(9),
                driver: 1,
                host: 2,
            }];
        });
        let [Warning::ResultErrors { side, boot, errors }] = &warnings[..] else {
            panic!("{warnings:?}");
        };
        assert_eq!((*side, *boot), (Side::B, 0));
        assert!(errors[0].contains("folios.to_device"), "{errors:?}");
        assert_ne!(comparison.verdict, Verdict::Regression);
        assert!(comparison.is_negative());
    }

    #[test]
    fn five_rounds_of_many_rows_tell_a_change_of_several() {
        let rows = |factor: f64| {
            let mut made = made();
            let row = made.rows[0].clone();
            made.rows = (0..9)
                .map(|order| {
                    let mut row = row.clone();
                    row.source_order = order;
                    let samples = &row.migration_bytes_per_s.samples;
                    row.migration_bytes_per_s =
                        Stat::of(samples.iter().map(|sample| sample * factor).collect());
                    row
                })
                .collect();
            made
        };
        let comparison = compared(&[rows(1.0)], &[rows(0.9)]);
        assert!(comparison.warnings.contains(&Warning::TooFewSamples {
            unit: Unit::Round,
            a: 5,
            b: 5,
            rows: 9,
            rows_needed: 2,
            more: 1
        }));
        assert_eq!(
            comparison.count(Verdict::Regression),
            9,
            "all of them changed"
        );
    }
}
