//! A comparison as text: a table for a terminal, or Markdown.

use std::fmt::Write;
use std::mem::{Discriminant, discriminant};

use anstyle::{AnsiColor, Style};

use super::sides::Side;
use super::verdict::{Compared, Comparison, RowComparison, Verdict};
use super::warnings::Warning;
use crate::text::printable;

/// Of each kind of warning so many are told; the JSON has them all.
const ALIKE: usize = 3;

const HEADINGS: [&str; 10] = [
    "order", "way", "by", "A", "B", "B/A", "interval", "p50 A", "p50 B", "verdict",
];
/// Columns of text, to the left; figures go to the right.
const LEFT: [bool; 10] = [
    false, true, true, false, false, false, false, false, false, true,
];

/// For a terminal. Verdicts have colours, as escape sequences; who prints it takes them out where
/// they are not wanted.
pub fn table(comparison: &Comparison) -> String {
    let mut text = String::new();
    for (side, compared) in [(Side::A, &comparison.a), (Side::B, &comparison.b)] {
        line(&mut text, &format!("{side}  {}", describe(compared)));
    }
    text.push('\n');
    let lines: Vec<[String; 10]> = comparison.rows.iter().map(cells).collect();
    if lines.is_empty() {
        line(&mut text, "There is no row to compare.");
    } else {
        aligned(comparison, &lines, &mut text);
        text.push('\n');
        for order in &comparison.orders {
            let verdict = coloured(order.verdict);
            let rows = if order.rows == 1 { "row" } else { "rows" };
            line(
                &mut text,
                &format!(
                    "order {}: {verdict} ({:.2} x, {} {rows})",
                    order.source_order, order.ratio, order.rows
                ),
            );
        }
    }
    line(
        &mut text,
        &format!("\nVerdict: {}", summary(comparison, coloured)),
    );
    line(&mut text, &legend(comparison));
    if !comparison.warnings.is_empty() {
        text.push('\n');
        for warning in told(&comparison.warnings) {
            line(&mut text, &format!("warning: {warning}"));
        }
    }
    text
}

/// For a report or a comment.
pub fn markdown(comparison: &Comparison) -> String {
    let mut text = String::new();
    for (side, compared) in [(Side::A, &comparison.a), (Side::B, &comparison.b)] {
        line(
            &mut text,
            &format!("- {side}: {}", escaped(&describe(compared))),
        );
    }
    text.push('\n');
    if comparison.rows.is_empty() {
        line(&mut text, "There is no row to compare.");
    } else {
        line(&mut text, &format!("| {} |", HEADINGS.join(" | ")));
        let rules: Vec<&str> = LEFT
            .iter()
            .map(|left| if *left { ":--" } else { "--:" })
            .collect();
        line(&mut text, &format!("| {} |", rules.join(" | ")));
        for row in &comparison.rows {
            let mut cells = cells(row);
            if row.verdict == Verdict::Regression {
                cells[9] = format!("**{}**", cells[9]);
            }
            line(&mut text, &format!("| {} |", cells.join(" | ")));
        }
        line(
            &mut text,
            "\n| order | B/A | verdict |\n| --: | --: | :-- |",
        );
        for order in &comparison.orders {
            let verdict = name(order.verdict);
            line(
                &mut text,
                &format!(
                    "| {} | {:.2} | {verdict} |",
                    order.source_order, order.ratio
                ),
            );
        }
    }
    let bold = |verdict: Verdict| format!("**{}**", name(verdict));
    line(
        &mut text,
        &format!("\nVerdict: {}", summary(comparison, bold)),
    );
    line(&mut text, &format!("\n{}", legend(comparison)));
    if !comparison.warnings.is_empty() {
        line(&mut text, "\nWarnings:\n");
        for warning in told(&comparison.warnings) {
            line(&mut text, &format!("- {}", escaped(&warning)));
        }
    }
    text
}

fn line(text: &mut String, line: &str) {
    // Writing to a String does not fail.
    let _ = writeln!(text, "{line}");
}

fn describe(compared: &Compared) -> String {
    let boots = if compared.boots == 1 { "boot" } else { "boots" };
    let environment = &compared.environment;
    let parts = [
        &compared.name,
        &environment.kernel,
        &environment.qemu,
        &environment.accel,
    ]
    .map(|text| printable(text.as_bytes()));
    let [name, kernel, qemu, accel] = parts.map(|part| {
        if part.is_empty() {
            "?".to_owned()
        } else {
            part
        }
    });
    format!(
        "{name}: {} {boots}, Linux {kernel}, QEMU {qemu}, {accel}, {} CPUs, hmmgpu {}",
        compared.boots,
        environment.cpus,
        printable(environment.revision.as_bytes())
    )
}

fn cells(row: &RowComparison) -> [String; 10] {
    let interval = match row.interval {
        Some((low, high)) => format!("{low:.2}-{high:.2}"),
        None => "-".into(),
    };
    [
        row.row.source_order.to_string(),
        row.row.way().into(),
        row.row.by().into(),
        rate(row.a.median_bytes_per_s),
        rate(row.b.median_bytes_per_s),
        format!("{:.2}", row.ratio),
        interval,
        time(row.a.latency_p50_us),
        time(row.b.latency_p50_us),
        name(row.verdict).into(),
    ]
}

fn rate(bytes_per_s: f64) -> String {
    if bytes_per_s >= 1e9 {
        format!("{:.2} GB/s", bytes_per_s / 1e9)
    } else {
        format!("{:.0} MB/s", bytes_per_s / 1e6)
    }
}

fn time(us: f64) -> String {
    if us >= 10_000.0 {
        format!("{:.1} ms", us / 1000.0)
    } else {
        format!("{us:.0} us")
    }
}

fn aligned(comparison: &Comparison, lines: &[[String; 10]], text: &mut String) {
    let heading = HEADINGS.map(str::to_owned);
    let all = || std::iter::once(&heading).chain(lines);
    let width = |column: usize| {
        let widths = all().map(|line| line[column].chars().count());
        widths.max().unwrap_or(0)
    };
    let widths: [usize; 10] = std::array::from_fn(width);
    for (index, cells) in all().enumerate() {
        let row = index.checked_sub(1).map(|index| &comparison.rows[index]);
        let mut shown = String::new();
        for (column, cell) in cells.iter().enumerate() {
            let (gap, width) = (if column == 0 { "" } else { "  " }, widths[column]);
            // A string, whatever is written, takes it.
            let _ = match row {
                Some(row) if column == 9 => write!(shown, "{gap}{}", coloured(row.verdict)),
                _ if LEFT[column] => write!(shown, "{gap}{cell:<width$}"),
                _ => write!(shown, "{gap}{cell:>width$}"),
            };
        }
        line(text, shown.trim_end());
    }
}

/// Its name, as it is told.
pub fn name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Regression => "REGRESSION",
        Verdict::Inconclusive => "inconclusive",
        Verdict::Slower => "slower, within threshold",
        Verdict::NoRegression => "no regression",
        Verdict::Faster => "faster, within threshold",
        Verdict::Improvement => "improvement",
    }
}

fn coloured(verdict: Verdict) -> String {
    let style = match verdict {
        Verdict::Regression => AnsiColor::Red.on_default().bold(),
        Verdict::Inconclusive | Verdict::Slower => AnsiColor::Yellow.on_default(),
        Verdict::Improvement => AnsiColor::Green.on_default().bold(),
        Verdict::NoRegression | Verdict::Faster => Style::new(),
    };
    format!("{style}{}{style:#}", name(verdict))
}

/// One line on all of it.
fn summary(comparison: &Comparison, shown: impl Fn(Verdict) -> String) -> String {
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
fn legend(comparison: &Comparison) -> String {
    let settings = comparison.settings;
    let values = match comparison.unit {
        super::sides::Unit::Boot => "the medians of boots",
        super::sides::Unit::Round => "the rounds of one boot",
    };
    format!(
        "B/A is migration throughput, from {values}, with its {} % interval (exact Mann-Whitney); if no row is slower, \
         the chance of any alarm is at most {} %.",
        percent(settings.confidence),
        percent(super::statistics::tail(settings.confidence))
    )
}

fn percent(share: f64) -> String {
    // Up to three digits behind the point, and none that are 0.
    let text = format!("{:.3}", share * 100.0);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Some of each kind.
fn told(warnings: &[Warning]) -> Vec<String> {
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

/// Text from elsewhere must not make Markdown.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(
            character,
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '#'
        ) {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::example::{result, row};
    use crate::bench::result::{BenchResult, Stat};
    use crate::compare::sides::Boot;
    use crate::compare::verdict::{Input, Settings, compare};

    fn made(factors: [f64; 2]) -> BenchResult {
        let mut made = result(vec![row(0, 0, 3e8), row(9, 9, 9e9)]);
        for (row, factor) in made.rows.iter_mut().zip(factors) {
            let median = row.migration_bytes_per_s.median * factor;
            let near = [1.0, 1.01, 0.99, 1.0, 1.02];
            row.migration_bytes_per_s = Stat::of(near.map(|near| near * median).to_vec());
        }
        made
    }

    fn compared(factors: [f64; 2]) -> Comparison {
        let boot = |result: BenchResult| [Boot::of(0, &result).expect("is right")];
        let (a, b) = (boot(made([1.0, 1.0])), boot(made(factors)));
        let of = |name, boots| Input { name, boots };
        let names = ["be|fore.json", "\u{1b}[2Jafter_x.json"];
        compare(of(names[0], &a), of(names[1], &b), Settings::default())
    }

    /// Without escape sequences.
    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn the_table_tells_rows_orders_and_the_whole() {
        let text = table(&compared([1.0, 0.9]));
        assert!(
            text.contains("\u{1b}[1m\u{1b}[31mREGRESSION\u{1b}[0m"),
            "{text:?}"
        );
        let text = plain(&text);
        for line in [
            "B  after_x.json: 1 boot, Linux 7.3.4, QEMU 11.1.3, tcg, 2 CPUs, hmmgpu v0.1.0",
            "order  way        by              A          B   B/A   interval  p50 A  p50 B  verdict",
            "    9  to device  request  9.00 GB/s  8.10 GB/s  0.90  0.88-0.92  12 us  12 us  REGRESSION",
            "order 0: no regression (1.00 x, 1 row)",
            "order 9: REGRESSION (0.90 x, 1 row)",
            "Verdict: REGRESSION beyond 5 % in 1 of 2 rows, order 9",
        ] {
            let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(
                text.lines().any(|found| words(found) == words(line)),
                "{line}\n{text}"
            );
        }
        assert!(text.contains("warning: each side is one boot"), "{text}");
    }

    #[test]
    fn the_columns_stand_below_each_other() {
        let text = plain(&table(&compared([1.0, 1.2])));
        let lines: Vec<&str> = text
            .lines()
            .skip_while(|line| !line.starts_with("order  way"))
            .collect();
        let at = |line: &str, word: &str| line.find(word);
        assert_eq!(at(lines[0], "verdict"), at(lines[1], "no regression"));
        assert_eq!(at(lines[0], "verdict"), at(lines[2], "improvement"));
        assert!(
            text.contains("Verdict: improvement beyond 5 % in 1 of 2 rows, and no regression"),
            "{text}"
        );
    }

    #[test]
    fn markdown_has_no_escape_sequences_and_no_foreign_marks() {
        let text = markdown(&compared([1.0, 0.9]));
        assert!(!text.contains('\u{1b}'), "{text:?}");
        for line in [
            "- A: be\\|fore.json: 1 boot, Linux 7.3.4, QEMU 11.1.3, tcg, 2 CPUs, hmmgpu v0.1.0",
            "| 9 | to device | request | 9.00 GB/s | 8.10 GB/s | 0.90 | 0.88-0.92 | 12 us | 12 us | **REGRESSION** |",
            "| 0 | 1.00 | no regression |",
            "Verdict: **REGRESSION** beyond 5 % in 1 of 2 rows, order 9",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(text.contains("- B: after\\_x.json"), "{text}");
    }

    #[test]
    fn what_is_inconclusive_says_how_many_more() {
        let mut comparison = compared([1.0, 1.0]);
        comparison.verdict = Verdict::Inconclusive;
        comparison.rows[0].verdict = Verdict::Inconclusive;
        comparison.warnings.push(Warning::Inconclusive {
            unit: comparison.unit,
            rows: 1,
            more: Some(12),
        });
        let text = plain(&table(&comparison));
        let line = "Verdict: no regression beyond 5 % was found, but 1 of 2 rows is inconclusive: about 12 more rounds a side";
        assert!(text.contains(line), "{text}");
        assert!(!text.contains("warning: rows without"), "told once\n{text}");
        comparison.rows.clear();
        let text = plain(&table(&comparison));
        assert!(text.contains("there is no row to compare"), "{text}");
    }

    #[test]
    fn many_warnings_of_a_kind_are_cut_short() {
        let comparison = compared([1.0, 1.0]);
        let row = comparison.rows[0].row;
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
