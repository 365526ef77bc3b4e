//! The result in Markdown.

use std::fmt::Write;

use crate::bench::result::BenchResult;
use crate::bench::table::{columns, environment_line, notes};

/// Environment, table, errors and doubts.
pub(super) fn render(result: &BenchResult) -> String {
    let mut text = escape(&environment_line(&result.environment));
    text.push_str("\n\n");
    if result.rows.is_empty() {
        text.push_str("Nothing was measured.\n");
    } else {
        let columns = columns(&result.rows);
        let headings = columns.iter().map(|column| column.heading.to_owned());
        line(headings, &mut text);
        let rules = columns.iter().map(|column| match column.is_text {
            true => "---".to_owned(),
            false => "---:".to_owned(),
        });
        line(rules, &mut text);
        for row in &result.rows {
            let cells = columns.iter().map(|column| escape(&(column.cell)(row)));
            line(cells, &mut text);
        }
        for note in notes(&result.rows) {
            // Writing to a String does not fail.
            let _ = writeln!(text, "\n{}", escape(note));
        }
    }
    let errors = result
        .errors
        .iter()
        .map(|error| ("error", error.to_string()));
    let warnings = result
        .warnings
        .iter()
        .map(|warning| ("warning", warning.to_string()));
    for (index, (kind, what)) in errors.chain(warnings).enumerate() {
        if index == 0 {
            text.push('\n');
        }
        // Writing to a String does not fail.
        let _ = writeln!(text, "- **{kind}**: {}", escape(&what));
    }
    text
}

fn line(cells: impl Iterator<Item = String>, text: &mut String) {
    for cell in cells {
        let _ = write!(text, "| {cell} ");
    }
    text.push_str("|\n");
}

/// Text in which nothing is markup, on one line.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\\' | '|' | '`' | '*' | '_' | '[' | ']' | '#' | '~' => {
                escaped.push('\\');
                escaped.push(character);
            }
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            character if character.is_control() => escaped.push(' '),
            character => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::example::{result, row, with_limit};
    use crate::bench::warning::Warning;

    #[test]
    fn the_whole_text() {
        let mut made = result(vec![row(0, 0, 3e8), row(9, 9, 9e9)]);
        made.warnings.push(Warning::FewRepeats { repeats: 2 });
        let expected = "\
Linux 7.3.4 on QEMU 11.1.3, tcg, 2 CPUs, hmmgpu v0.1.0; kernel command line: console=ttyS0 init\\_on\\_alloc=0

| order | way | by | device saw | MiB | migration | min-max | engine | copy | p50 | p99 | splits | data |
| ---: | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |
| 0 | to device | request | 0:128 | 1280 | 300 MB/s | 150-600 | 8.00 GB/s | 76 % | 12 us | 123.5 ms | 3 | verified |
| 9 | to device | request | 9:128 | 1280 | 9.00 GB/s | 4.50-18.00 | 8.00 GB/s | 76 % | 12 us | 123.5 ms | 3 | verified |

- **warning**: 2 rounds are few for a median; --repeat 5 is usual
";
        assert_eq!(render(&made), expected);
    }

    #[test]
    fn the_limit_is_there_where_it_was_measured() {
        let text = render(&result(vec![with_limit(row(9, 9, 4e9))]));
        assert!(
            text.contains("| 16.00 GB/s | 8.00 GB/s | engine | 50 % (25-100) | verified |\n"),
            "{text}"
        );
        assert!(text.contains("\n\n\"floor\" is the same"), "{text}");
    }

    #[test]
    fn text_of_others_is_no_markup() {
        let mut made = result(vec![]);
        made.environment.kernel = "<b>|x|\n# `y`".into();
        let text = render(&made);
        assert!(
            text.starts_with("Linux &lt;b&gt;\\|x\\| \\# \\`y\\` on QEMU"),
            "{text}"
        );
        assert!(text.contains("Nothing was measured."));
    }
}
