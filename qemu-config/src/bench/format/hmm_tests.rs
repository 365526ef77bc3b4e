//! The layout of `benchmark_thp_migration` in the kernel's `hmm-tests.c`, so that the two can be
//! compared line by line.
//!
//! "With THP" is source memory of order 9, "without" of order 0, both moved by request. As there,
//! a time is the mean over the rounds for the whole buffer by the guest's own clock, and a "GB" is
//! 2^30 bytes. Upstream measures seven sizes and this bench one, so there is one table.

use std::fmt::Write;

use hmmgpu_guest_protocol::bench::{Direction, Trigger};

use crate::bench::result::{BenchResult, Row, RowKey, Stat};
use crate::bench::table::{TEST_HMM_NOTE, doubts};

const MIB: f64 = 1_048_576.0;
const GIB: f64 = 1_073_741_824.0;
/// Bytes of a folio of order 9.
const THP: u64 = 2 << 20;
/// For what one run does not tell.
const UNKNOWN: &str = "n/a";

/// One line of the table: a figure with and without THP, and by how much it is better, in percent.
struct Pair {
    thp: Option<f64>,
    regular: Option<f64>,
    improvement: Option<f64>,
}

/// A row's buffer in bytes and the mean time for it in milliseconds.
type Timed = (u64, f64);

/// The whole text: a table, and where `test_hmm` did the same work, another one of that.
pub(super) fn render(result: &BenchResult) -> String {
    let mut text = String::from(
        "\nHMM THP Migration Benchmark\n---------------------------\nSystem page size: 4096 bytes\n",
    );
    let against = result.rows.iter().any(|row| row.test_hmm_ratio.is_some());
    if against {
        text.push_str("\nDriver: hmmgpu\n");
    }
    table(result, ours, &mut text);
    if against {
        text.push_str("\nDriver: test_hmm\n");
        table(result, theirs, &mut text);
        text.push_str(TEST_HMM_NOTE);
        text.push('\n');
    }
    doubts(result, &mut text);
    text
}

/// By the guest's clock.
fn ours(row: &Row) -> Option<Timed> {
    let ms = row.guest_s.mean() * 1000.0;
    (row.repeats > 0 && ms > 0.0).then_some((row.round_bytes, ms))
}

/// The same of `test_hmm`.
fn theirs(row: &Row) -> Option<Timed> {
    let rates = &row.test_hmm_bytes_per_s.as_ref()?.samples;
    let seconds = rates.iter().map(|rate| bytes(row.round_bytes) / rate);
    let ms = Stat::of(seconds.collect()).mean() * 1000.0;
    (ms > 0.0).then_some((row.round_bytes, ms))
}

/// The table of what `timed` says of the rows.
fn table(result: &BenchResult, timed: fn(&Row) -> Option<Timed>, text: &mut String) {
    let row = |order: u8, direction: Direction| {
        let key = RowKey {
            source_order: order,
            direction,
            trigger: Trigger::Prefetch,
        };
        timed(result.rows.iter().find(|row| row.key() == key)?)
    };
    let [to_thp, home_thp, to_regular, home_regular] = [
        row(9, Direction::SysToDev),
        row(9, Direction::DevToSys),
        row(0, Direction::SysToDev),
        row(0, Direction::DevToSys),
    ];
    let there = [to_thp, home_thp, to_regular, home_regular];
    let sizes: Vec<u64> = there.iter().flatten().map(|(size, _)| *size).collect();
    let Some(&size) = sizes.first() else {
        text.push_str("\nNothing was measured at order 9 or 0.\n");
        return;
    };
    // Times of different sizes have nothing to say about each other.
    let same = sizes.iter().all(|other| *other == size);
    let pair = |thp, regular, better: fn(f64, f64) -> f64| Pair::of(thp, regular, same, better);
    let faster = |thp: f64, regular: f64| (regular - thp) / regular * 100.0;
    let more = |thp: f64, regular: f64| (thp - regular) / regular * 100.0;
    let lines = [
        (
            "Sys->Dev Migration ",
            pair(time(to_thp), time(to_regular), faster),
            Unit::Ms,
        ),
        (
            "Dev->Sys Migration ",
            pair(time(home_thp), time(home_regular), faster),
            Unit::Ms,
        ),
        (
            "S->D Throughput    ",
            pair(rate(to_thp), rate(to_regular), more),
            Unit::Gb,
        ),
        (
            "D->S Throughput    ",
            pair(rate(home_thp), rate(home_regular), more),
            Unit::Gb,
        ),
    ];
    // Writing to a String does not fail.
    let _ = writeln!(
        text,
        "\n=== {} ({:.1} MB) ===",
        name(size),
        bytes(size) / MIB
    );
    text.push_str("                     | With THP        | Without THP     | Improvement\n");
    text.push_str("---------------------------------------------------------------------\n");
    for (what, pair, unit) in lines {
        let _ = writeln!(
            text,
            "{what}  | {} | {} | {}",
            unit.cell(pair.thp),
            unit.cell(pair.regular),
            pair.improvement
                .map_or_else(|| UNKNOWN.to_owned(), |percent| format!("{percent:.1}%"))
        );
    }
    if !same {
        text.push_str("The two sizes differ: measure order 0 and 9 with one --size.\n");
    }
}

/// Upstream's name for a buffer of this size.
fn name(size: u64) -> String {
    let count = match size / THP {
        1 => "Single",
        2 => "Two",
        4 => "Four",
        8 => "Eight",
        128 => "One twenty eight",
        other => return format!("{other} THP Size"),
    };
    format!("{count} THP Size")
}

/// Mean time for the whole buffer, in milliseconds.
fn time(timed: Option<Timed>) -> Option<f64> {
    timed.map(|(_, ms)| ms)
}

/// The buffer over the mean time, in GiB/s.
fn rate(timed: Option<Timed>) -> Option<f64> {
    timed.map(|(size, ms)| bytes(size) / GIB / (ms / 1000.0))
}

#[allow(clippy::cast_precision_loss)] // A round has far fewer than 2^53 bytes.
fn bytes(bytes: u64) -> f64 {
    bytes as f64
}

impl Pair {
    fn of(thp: Option<f64>, regular: Option<f64>, same: bool, better: fn(f64, f64) -> f64) -> Self {
        let improvement = match (thp, regular) {
            (Some(thp), Some(regular)) if same => Some(better(thp, regular)),
            _ => None,
        };
        Self {
            thp,
            regular,
            improvement,
        }
    }
}

enum Unit {
    Ms,
    Gb,
}

impl Unit {
    /// Upstream writes the number and then as many spaces as make its usual numbers line up.
    fn cell(&self, figure: Option<f64>) -> String {
        match (self, figure) {
            (Self::Ms, Some(ms)) => format!("{ms:.3} ms       "),
            (Self::Gb, Some(gb)) => format!("{gb:.2} GB/s     "),
            (_, None) => format!("{UNKNOWN:<15}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::example::{result, row, with_test_hmm};

    /// A row whose rounds of 256 MiB take these milliseconds of the guest's clock.
    fn taking(order: u8, direction: Direction, ms: &[f64]) -> Row {
        Row {
            direction,
            guest_s: Stat::of(ms.iter().map(|ms| ms / 1000.0).collect()),
            ..row(order, order, 1e9)
        }
    }

    #[test]
    fn the_layout_is_upstreams() {
        let text = render(&result(vec![
            taking(0, Direction::SysToDev, &[900.0, 1100.0]),
            taking(0, Direction::DevToSys, &[500.0]),
            taking(9, Direction::SysToDev, &[20.0, 30.0]),
            taking(9, Direction::DevToSys, &[50.0]),
        ]));
        let expected = "
HMM THP Migration Benchmark
---------------------------
System page size: 4096 bytes

=== One twenty eight THP Size (256.0 MB) ===
                     | With THP        | Without THP     | Improvement
---------------------------------------------------------------------
Sys->Dev Migration   | 25.000 ms        | 1000.000 ms        | 97.5%
Dev->Sys Migration   | 50.000 ms        | 500.000 ms        | 90.0%
S->D Throughput      | 10.00 GB/s      | 0.25 GB/s      | 3900.0%
D->S Throughput      | 5.00 GB/s      | 0.50 GB/s      | 900.0%
";
        assert_eq!(text, expected);
    }

    #[test]
    fn test_hmm_has_a_table_of_its_own() {
        let rows = [0, 9].map(|order| with_test_hmm(taking(order, Direction::SysToDev, &[25.0])));
        let text = render(&result(rows.into()));
        let (ours, theirs) = text.split_once("Driver: test_hmm").expect("two tables");
        assert!(ours.contains("Driver: hmmgpu\n"), "{text}");
        assert!(
            ours.contains("Sys->Dev Migration   | 25.000 ms        | 25.000 ms        | 0.0%\n"),
            "{text}"
        );
        assert!(
            theirs.contains("Sys->Dev Migration   | 1000.000 ms        | 1000.000 ms "),
            "{text}"
        );
        assert!(
            theirs.contains("S->D Throughput      | 0.25 GB/s"),
            "{text}"
        );
        assert!(theirs.contains("It flatters hmmgpu"), "{text}");
    }

    #[test]
    fn what_was_not_measured_is_marked() {
        let text = render(&result(vec![taking(9, Direction::SysToDev, &[25.0])]));
        assert!(
            text.contains("Sys->Dev Migration   | 25.000 ms        | n/a             | n/a\n"),
            "{text}"
        );
        assert!(text.contains("Dev->Sys Migration   | n/a "), "{text}");
        let text = render(&result(vec![row(4, 0, 1e9)]));
        assert!(
            text.contains("Nothing was measured at order 9 or 0"),
            "{text}"
        );
    }

    #[test]
    fn different_sizes_are_not_compared() {
        let mut small = taking(0, Direction::SysToDev, &[25.0]);
        small.round_bytes = 2 << 20;
        let text = render(&result(vec![
            small,
            taking(9, Direction::SysToDev, &[25.0]),
        ]));
        assert!(text.contains("with one --size"), "{text}");
        assert!(!text.contains('%'), "{text}");
    }

    #[test]
    fn buffers_are_called_as_upstream_calls_them() {
        assert_eq!(name(THP), "Single THP Size");
        assert_eq!(name(3 * THP), "3 THP Size");
        assert_eq!(name(128 * THP), "One twenty eight THP Size");
    }
}
