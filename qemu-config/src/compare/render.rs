//! A comparison as text: a table for a terminal, or Markdown.

use std::fmt::Write;

use super::comparison::{Compared, Comparison, RowComparison, Verdict};
use super::sides::Side;
use super::words::{coloured, legend, name, summary, told};
use crate::text::printable;

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
    use crate::compare::comparison::Settings;
    use crate::compare::sides::Boot;
    use crate::compare::verdict::{Input, compare};
    use crate::compare::warnings::Warning;

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
}
