//! What one learns in ten seconds: whether to trust it, at which order memory moved, how fast, and
//! what share of that was the copy.

use std::fmt::Write;

use hmmgpu_guest_protocol::bench::{Direction, Trigger};
use maud::{Markup, html};

use super::figure::{figure, float, folio, percent, rate};
use crate::bench::result::{BenchResult, Row, RowKey};

/// Warnings that are shown without being asked for.
const SHOWN_WARNINGS: usize = 3;

/// Errors and doubts, or that there are none.
pub(super) fn verdict(result: &BenchResult) -> Markup {
    let unverified = result.rows.iter().filter(|row| !row.verified).count();
    let good = result.good();
    html! {
        div.verdict.good[good].bad[!good] role="status" {
            @if good {
                p { strong { "Good. " } "Every byte was right after every round" (counted(result)) "." }
            } @else {
                p {
                    strong { "Not to be relied on. " }
                    @if result.rows.is_empty() { "Nothing was measured. " }
                    @if unverified > 0 {
                        "The data of " (unverified) " of " (result.rows.len()) " rows was not right, or not compared. "
                    }
                    @if !result.errors.is_empty() { "Driver and host count differently. " }
                    "What is below shows what there is."
                }
            }
            @if !result.errors.is_empty() {
                ul.errors { @for error in &result.errors { li { "Error: " (error) } } }
            }
            // Many would push what one came for out of sight.
            @if result.warnings.len() > SHOWN_WARNINGS {
                details { summary { (result.warnings.len()) " warnings" } (warnings(result)) }
            } @else if !result.warnings.is_empty() {
                (warnings(result))
            }
        }
    }
}

fn warnings(result: &BenchResult) -> Markup {
    html! {
        ul.warnings { @for warning in &result.warnings { li { "Warning: " (warning) } } }
    }
}

fn counted(result: &BenchResult) -> &'static str {
    if result
        .counters
        .iter()
        .any(|check| check.equal == Some(true))
    {
        ", and driver and host count the same"
    } else {
        ""
    }
}

/// The row that a headline is about: of the largest order that moved whole, to the device by
/// request, else the first.
fn main_row(rows: &[Row]) -> Option<(usize, &Row)> {
    let wanted =
        |row: &Row| (row.direction, row.trigger) == (Direction::SysToDev, Trigger::Prefetch);
    let to_device = || rows.iter().enumerate().filter(|(_, row)| wanted(row));
    to_device()
        .filter(|(_, row)| moved_whole(row))
        .max_by_key(|(_, row)| row.source_order)
        .or_else(|| to_device().next())
        .or_else(|| rows.iter().enumerate().next())
}

fn find(rows: &[Row], key: RowKey) -> Option<(usize, &Row)> {
    rows.iter().enumerate().find(|(_, row)| row.key() == key)
}

/// Most of its bytes moved in folios of the source's order.
fn moved_whole(row: &Row) -> bool {
    let bytes = |order: u8, folios: u64| float(folios) * f64::from(order).exp2();
    let all: f64 = row
        .device_orders
        .iter()
        .map(|(order, folios)| bytes(*order, *folios))
        .sum();
    let own = row.device_orders.get(&row.source_order);
    own.is_some_and(|folios| bytes(row.source_order, *folios) * 2.0 >= all)
}

/// Orders in few words: `0, 2 to 8`.
pub(super) fn spell(orders: &[u8]) -> String {
    let mut text = String::new();
    let mut index = 0;
    while index < orders.len() {
        let first = orders[index];
        while index + 1 < orders.len() && orders[index + 1] == orders[index] + 1 {
            index += 1;
        }
        let gap = if text.is_empty() { "" } else { ", " };
        // Writing to a String does not fail.
        let _ = match orders[index] {
            last if last == first => write!(text, "{gap}{first}"),
            last if last == first + 1 => write!(text, "{gap}{first}, {last}"),
            last => write!(text, "{gap}{first} to {last}"),
        };
        index += 1;
    }
    text
}

/// The three answers.
pub(super) fn tiles(result: &BenchResult) -> Markup {
    let rows = &result.rows;
    let Some((index, row)) = main_row(rows) else {
        return html! {};
    };
    let order = row.source_order;
    let whole = moved_whole(row);
    let mut split: Vec<u8> = rows
        .iter()
        .filter(|row| row.source_order > 0 && !moved_whole(row))
        .map(|row| row.source_order)
        .collect();
    split.dedup();
    let home = |trigger| {
        let key = RowKey {
            source_order: order,
            direction: Direction::DevToSys,
            trigger,
        };
        find(rows, key)
    };
    let single = find(
        rows,
        RowKey {
            source_order: 0,
            ..row.key()
        },
    )
    .filter(|(_, single)| single.source_order != order);
    let homes: Vec<_> = [
        ("home by request", home(Trigger::Prefetch)),
        ("home by CPU fault", home(Trigger::CpuFault)),
    ]
    .into_iter()
    .filter_map(|(what, found)| found.map(|found| (what, found)))
    .filter(|(_, (_, home))| home.key() != row.key())
    .collect();
    let ratio = single
        .map(|(_, single)| single.migration_bytes_per_s.median)
        .filter(|rate| *rate > 0.0)
        .map(|rate| row.migration_bytes_per_s.median / rate);
    html! {
        div.tiles {
            div.tile {
                h2 { "Memory moved at" }
                p.big {
                    @if whole { "order " (order) } @else { "order 0" }
                }
                p {
                    @if whole && order > 0 { "whole folios of " (folio(order)) }
                    @else { "single pages of 4 KiB" }
                }
                @if !split.is_empty() {
                    p.small { "Folios of order " (spell(&split)) " were split to single pages first." }
                }
            }
            div.tile {
                h2 { "How fast, order " (order) }
                p.big { (rate_of(index, row)) }
                p { (row.key().way()) " by " (row.key().by()) }
                p.small {
                    @for (n, (what, (index, row))) in homes.iter().enumerate() {
                        @if n > 0 { ", " }
                        (rate_of(*index, row)) " " (what)
                    }
                }
                @if let Some(ratio) = ratio {
                    p.small { (format!("{ratio:.1}")) " times as fast as single pages" }
                }
            }
            div.tile {
                h2 { "Share of the copy" }
                p.big { (share_of(index, row)) }
                p { "of a migration at order " (order) ", " (row.key().way()) }
                @if let Some((index, single)) = single {
                    p.small { (share_of(index, single)) " with single pages: most of the rest is the kernel's work" }
                }
            }
        }
    }
}

fn rate_of(index: usize, row: &Row) -> Markup {
    let median = row.migration_bytes_per_s.median;
    let key = format!("/rows/{index}/migration_bytes_per_s/median");
    figure(&key, median, &rate(median))
}

fn share_of(index: usize, row: &Row) -> Markup {
    let key = format!("/rows/{index}/copy_share");
    figure(&key, row.copy_share, &percent(row.copy_share))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_spelled_shortly() {
        assert_eq!(spell(&[]), "");
        assert_eq!(spell(&[0, 2, 3, 4, 9]), "0, 2 to 4, 9");
        assert_eq!(spell(&[2, 3, 255]), "2, 3, 255");
    }
}
