//! The result as a table for people.

use std::collections::BTreeMap;
use std::fmt::Write;

use hmmgpu_guest_protocol::bench::{Direction, Trigger};

use super::result::{BenchResult, LimitBy, Row, Stat};
use crate::text::printable;
use crate::vm::Environment;

/// One line on what a result was measured on.
pub fn environment_line(environment: &Environment) -> String {
    let known = |text: &str| {
        if text.is_empty() {
            "?".to_owned()
        } else {
            // It comes from a guest, or from somebody's file.
            printable(text.replace(['\n', '\t'], " ").as_bytes())
        }
    };
    format!(
        "Linux {} on QEMU {}, {}, {} CPUs, hmmgpu {}; kernel command line: {}",
        known(&environment.kernel),
        known(&environment.qemu),
        known(&environment.accel),
        environment.cpus,
        known(&environment.revision),
        known(&environment.cmdline),
    )
}

/// A rate with three digits or so.
pub(crate) fn rate(bytes_per_s: f64) -> String {
    if bytes_per_s >= 1e9 {
        format!("{:.2} GB/s", bytes_per_s / 1e9)
    } else {
        format!("{:.0} MB/s", bytes_per_s / 1e6)
    }
}

/// Smallest and largest, in the unit of the median before them.
fn range(stat: &Stat) -> String {
    if stat.median >= 1e9 {
        format!("{:.2}-{:.2}", stat.min / 1e9, stat.max / 1e9)
    } else {
        format!("{:.0}-{:.0}", stat.min / 1e6, stat.max / 1e6)
    }
}

pub(crate) fn time(us: f64) -> String {
    if us >= 10_000.0 {
        format!("{:.1} ms", us / 1000.0)
    } else {
        format!("{us:.0} us")
    }
}

/// `order:folios`, the largest order first.
pub(crate) fn orders(orders: &BTreeMap<u8, u64>) -> String {
    let text: Vec<String> = orders
        .iter()
        .rev()
        .map(|(order, folios)| format!("{order}:{folios}"))
        .collect();
    if text.is_empty() {
        "-".into()
    } else {
        text.join(" ")
    }
}

/// A column of the table.
#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) heading: &'static str,
    /// Text goes to the left, figures go to the right.
    pub(crate) is_text: bool,
    pub(crate) cell: fn(&Row) -> String,
}

const fn text(heading: &'static str, cell: fn(&Row) -> String) -> Column {
    Column {
        heading,
        is_text: true,
        cell,
    }
}

const fn figure(heading: &'static str, cell: fn(&Row) -> String) -> Column {
    Column {
        heading,
        is_text: false,
        cell,
    }
}

const COLUMNS: &[Column] = &[
    figure("order", |row| row.source_order.to_string()),
    text("way", |row| row.key().way().into()),
    text("by", |row| row.key().by().into()),
    text("device saw", |row| orders(&row.device_orders)),
    figure("MiB", |row| ((row.bytes + (1 << 19)) >> 20).to_string()),
    figure("migration", |row| rate(row.migration_bytes_per_s.median)),
    figure("min-max", |row| range(&row.migration_bytes_per_s)),
    figure("engine", |row| rate(row.engine_bytes_per_s.median)),
    figure("copy", |row| format!("{:.0} %", row.copy_share * 100.0)),
    figure("p50", |row| time(row.latency_us.p50)),
    figure("p99", |row| time(row.latency_us.p99)),
    figure("splits", |row| row.splits.to_string()),
];
/// Where a floor was measured.
const LIMIT: &[Column] = &[
    figure("floor", |row| median(row.floor_bytes_per_s.as_ref())),
    figure("limit", |row| median(row.limit_bytes_per_s.as_ref())),
    text("limited by", |row| {
        row.limit_by.map_or("-", LimitBy::name).to_owned()
    }),
    figure("of limit", |row| {
        row.limit_ratio.as_ref().map_or_else(|| "-".into(), share)
    }),
];
/// Where test_hmm was measured.
const TEST_HMM: &[Column] = &[
    figure("test_hmm", |row| median(row.test_hmm_bytes_per_s.as_ref())),
    figure("over it", |row| {
        row.test_hmm_ratio
            .as_ref()
            .map_or_else(|| "-".into(), times)
    }),
];
const LAST: &[Column] = &[text("data", |row| {
    if row.verified {
        "verified".into()
    } else {
        "NOT VERIFIED".into()
    }
})];

/// The columns that these rows need.
pub(crate) fn columns(rows: &[Row]) -> Vec<&'static Column> {
    let any = |has: fn(&Row) -> bool| rows.iter().any(has);
    let some = |has, columns| if any(has) { columns } else { &[][..] };
    COLUMNS
        .iter()
        .chain(some(has_limit, LIMIT))
        .chain(some(has_test_hmm, TEST_HMM))
        .chain(LAST)
        .collect()
}

fn has_limit(row: &Row) -> bool {
    row.limit_ratio.is_some()
}

fn has_test_hmm(row: &Row) -> bool {
    row.test_hmm_ratio.is_some()
}

/// What the columns mean that not every table has, each a line.
pub(crate) fn notes(rows: &[Row]) -> Vec<&'static str> {
    let mut notes = Vec::new();
    if rows.iter().any(has_limit) {
        notes.push(LIMIT_NOTE);
    }
    if rows.iter().any(has_test_hmm) {
        notes.push(TEST_HMM_NOTE);
    }
    notes
}

const LIMIT_NOTE: &str = "\"floor\" is the same with a copy that moves nothing, in rounds of its own, whose data is lost and not verified; \"limit\" is the slower of floor (kernel) and engine, \"of limit\" the median of the rounds (and smallest-largest).";
pub(crate) const TEST_HMM_NOTE: &str = "\"test_hmm\" is upstream's test module doing the same in the same guest, verified; \"over it\" compares by the guest's clock, round by round. It flatters hmmgpu: test_hmm's call to the device also reads everything back into the caller's memory, and its copies are done by the guest's CPU, which may be emulated.";

/// A rate that not every row has.
fn median(stat: Option<&Stat>) -> String {
    stat.map_or_else(|| "-".into(), |stat| rate(stat.median))
}

/// A factor: median, smallest and largest.
fn times(stat: &Stat) -> String {
    let Stat {
        median, min, max, ..
    } = stat;
    format!("{median:.1} x ({min:.1}-{max:.1})")
}

/// A share in percent: median, smallest and largest.
fn share(stat: &Stat) -> String {
    let [median, min, max] = [stat.median, stat.min, stat.max].map(|share| share * 100.0);
    format!("{median:.0} % ({min:.0}-{max:.0})")
}

/// The whole of it: environment, table, summary, doubts.
pub fn render(result: &BenchResult) -> String {
    let mut text = environment_line(&result.environment);
    text.push_str("\n\n");
    if result.rows.is_empty() {
        text.push_str("Nothing was measured.\n");
    } else {
        table(&result.rows, &mut text);
        summary(&result.rows, &mut text);
    }
    if let Some(boot) = result.boot {
        let _ = writeln!(text, "{boot}");
    }
    if !result.warnings.is_empty() || !result.errors.is_empty() {
        text.push('\n');
    }
    doubts(result, &mut text);
    text
}

/// What is wrong, and what is to be doubted, a line each.
pub(crate) fn doubts(result: &BenchResult, text: &mut String) {
    // Writing to a String does not fail.
    for error in &result.errors {
        let _ = writeln!(text, "error: {error}");
    }
    for warning in &result.warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
}

fn table(rows: &[Row], text: &mut String) {
    let columns = columns(rows);
    let headings = columns.iter().map(|column| column.heading.to_owned());
    let mut lines: Vec<Vec<String>> = vec![headings.collect()];
    lines.extend(
        rows.iter()
            .map(|row| columns.iter().map(|column| (column.cell)(row)).collect()),
    );
    let widths: Vec<usize> = (0..lines[0].len())
        .map(|column| {
            lines
                .iter()
                .map(|line| line[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut order = None;
    for (index, line) in lines.iter().enumerate() {
        if index > 0 {
            let this = rows[index - 1].source_order;
            // A gap between the orders, not before the first.
            if order.is_some_and(|order| order != this) && rows.len() > 3 {
                text.push('\n');
            }
            order = Some(this);
        }
        let mut shown = String::new();
        for (column, cell) in line.iter().enumerate() {
            let width = widths[column];
            let gap = if column == 0 { "" } else { "  " };
            let _ = if columns[column].is_text {
                write!(shown, "{gap}{cell:<width$}")
            } else {
                write!(shown, "{gap}{cell:>width$}")
            };
        }
        text.push_str(shown.trim_end());
        text.push('\n');
    }
}

/// Median migration throughput of order 9 over that of order 0.
pub fn order_ratio(rows: &[Row], direction: Direction, trigger: Trigger) -> Option<f64> {
    let of = |order: u8| {
        rows.iter()
            .find(|row| {
                (row.source_order, row.direction, row.trigger) == (order, direction, trigger)
            })
            .map(|row| row.migration_bytes_per_s.median)
            .filter(|rate| *rate > 0.0)
    };
    Some(of(9)? / of(0)?)
}

fn summary(rows: &[Row], text: &mut String) {
    text.push('\n');
    let ratios: Vec<String> = [
        ("to device", Direction::SysToDev, Trigger::Prefetch),
        ("home by request", Direction::DevToSys, Trigger::Prefetch),
        ("home by CPU fault", Direction::DevToSys, Trigger::CpuFault),
    ]
    .into_iter()
    .filter_map(|(name, direction, trigger)| {
        order_ratio(rows, direction, trigger).map(|ratio| format!("{ratio:.1} x {name}"))
    })
    .collect();
    if !ratios.is_empty() {
        let _ = writeln!(
            text,
            "Order 9 over order 0, migration throughput: {}",
            ratios.join(", ")
        );
    }
    let between = |row: &&Row| (2..=8).contains(&row.source_order);
    if rows.iter().any(|row| between(&row)) {
        let whole = rows.iter().filter(between).any(|row| {
            row.direction == Direction::SysToDev
                && row
                    .device_orders
                    .keys()
                    .any(|order| *order == row.source_order)
        });
        text.push_str(if whole {
            "Orders 2 to 8: this kernel moved some of these folios whole.\n"
        } else {
            "Orders 2 to 8: the kernel split every folio to order 0 before it moved; only orders 0 and 9 move whole.\n"
        });
    }
    text.push_str(
        "\"device saw\" is order:folios; \"copy\" is the engine's share of the migration's time; p50 and p99 are of one request or fault.\n",
    );
    for note in notes(rows) {
        let _ = writeln!(text, "{note}");
    }
    let doorbells = rows.iter().filter_map(|row| row.doorbells_per_2mib);
    if let Some(most) = doorbells.max_by(f64::total_cmp) {
        let _ = writeln!(text, "Doorbell writes for each 2 MiB: {most:.3} at most");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::example::{result, row, with_limit, with_test_hmm};
    use crate::bench::result::BootTimes;
    use crate::bench::warning::Warning;

    #[test]
    fn the_whole_table() {
        let text = render(&BenchResult {
            boot: Some(BootTimes {
                init_s: 4.0,
                first_migration_s: 4.756,
            }),
            ..result(vec![row(0, 0, 3e8), row(9, 9, 9e9)])
        });
        let expected = "\
Linux 7.3.4 on QEMU 11.1.3, tcg, 2 CPUs, hmmgpu v0.1.0; kernel command line: console=ttyS0 init_on_alloc=0

order  way        by       device saw   MiB  migration     min-max     engine  copy    p50       p99  splits  data
    0  to device  request  0:128       1280   300 MB/s     150-600  8.00 GB/s  76 %  12 us  123.5 ms       3  verified
    9  to device  request  9:128       1280  9.00 GB/s  4.50-18.00  8.00 GB/s  76 %  12 us  123.5 ms       3  verified

Order 9 over order 0, migration throughput: 30.0 x to device
\"device saw\" is order:folios; \"copy\" is the engine's share of the migration's time; p50 and p99 are of one request or fault.
Doorbell writes for each 2 MiB: 0.050 at most
From the start of the guest's kernel: 4.00 s to user space, 4.76 s to the first 2 MiB there and back
";
        assert_eq!(text, expected);
    }

    #[test]
    fn what_a_guest_or_a_file_says_does_not_steer_the_terminal() {
        let mut result = result(vec![row(0, 0, 3e8)]);
        result.environment.cmdline = "quiet \u{1b}[31m\u{1b}]0;pwn\u{7}x".into();
        let text = render(&result);
        assert!(
            !text.contains('\u{1b}') && !text.contains('\u{7}'),
            "{text:?}"
        );
    }

    #[test]
    fn the_limit_has_columns_where_it_was_measured() {
        let text = render(&result(vec![row(0, 0, 3e8), with_limit(row(9, 9, 4e9))]));
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let lines: Vec<String> = text.lines().skip(2).take(3).map(words).collect();
        assert!(
            lines[0].ends_with("splits floor limit limited by of limit data"),
            "{text}"
        );
        assert!(lines[1].ends_with("3 - - - - verified"), "{text}");
        assert!(
            lines[2].ends_with("3 16.00 GB/s 8.00 GB/s engine 50 % (25-100) verified"),
            "{text}"
        );
        assert!(text.contains("not verified"), "{text}");
    }

    #[test]
    fn test_hmm_has_columns_and_a_word_of_warning() {
        let text = render(&result(vec![with_test_hmm(row(9, 9, 4e9))]));
        assert!(
            text.contains("splits  test_hmm            over it  data"),
            "{text}"
        );
        // 256 MiB in 84 ms of the guest's clock, 42 ms to 168 ms.
        assert!(
            text.contains("3  268 MB/s  11.9 x (6.0-23.8)  verified"),
            "{text}"
        );
        assert!(text.contains("It flatters hmmgpu"), "{text}");
        assert!(!text.contains("floor"), "{text}");
    }

    #[test]
    fn orders_between_get_a_hint() {
        let text = render(&result(vec![row(4, 0, 3e8)]));
        assert!(
            text.contains("the kernel split every folio to order 0"),
            "{text}"
        );
        let text = render(&result(vec![row(4, 4, 3e8)]));
        assert!(text.contains("moved some of these folios whole"), "{text}");
        assert!(!render(&result(vec![row(9, 9, 3e8)])).contains("Orders 2 to 8"));
    }

    #[test]
    fn wrong_data_and_doubts_stand_out() {
        let mut result = result(vec![Row {
            verified: false,
            ..row(9, 9, 3e8)
        }]);
        result.warnings.push(Warning::FewRepeats { repeats: 1 });
        let text = render(&result);
        assert!(text.contains("NOT VERIFIED"), "{text}");
        assert!(text.contains("warning: 1 rounds are few"), "{text}");
    }

    #[test]
    fn no_rows_are_no_table() {
        assert!(render(&result(vec![])).contains("Nothing was measured."));
    }

    #[test]
    fn mixed_device_orders_are_listed_large_first() {
        assert_eq!(orders(&BTreeMap::from([(0, 512), (9, 127)])), "9:127 0:512");
    }
}
