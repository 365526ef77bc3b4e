//! The figures themselves, for those who read or copy them.

use maud::{Markup, html};

use super::figure::{bytes, figure, percent, rate, seconds};
use super::section;
use crate::bench::counters::CounterCheck;
use crate::bench::result::{BenchResult, LimitBy, Row, Stat};
use crate::bench::table::{notes, orders};

/// Most lines of a table.
const MAX_LINES: usize = 1000;

/// Every row.
pub(super) fn rows(rows: &[Row]) -> Markup {
    let shown = Shown {
        limit: rows.iter().any(|row| row.limit_ratio.is_some()),
        test_hmm: rows.iter().any(|row| row.test_hmm_ratio.is_some()),
    };
    let body = html! {
        div.scroll tabindex="0" role="region" aria-label="All figures" {
            table {
                thead {
                    tr {
                        @for heading in [
                            "order", "way", "by", "device saw", "moved", "rounds", "migration", "slowest", "fastest",
                            "engine", "copy", "p50", "p99", "queue p50", "queue p99", "splits",
                        ] {
                            th scope="col" { (heading) }
                        }
                        @if shown.limit {
                            @for heading in ["floor", "limit", "limited by", "of limit"] { th scope="col" { (heading) } }
                        }
                        @if shown.test_hmm {
                            @for heading in ["test_hmm", "over it"] { th scope="col" { (heading) } }
                        }
                        th scope="col" { "data" }
                    }
                }
                tbody {
                    @for (index, row) in rows.iter().enumerate() { (line(index, row, shown)) }
                }
            }
        }
        p.small {
            "\"device saw\" is order:folios. p50 and p99 are the times that half, and 99 of 100, of the migrations did not exceed; \"queue\" is how long a copy waited in the ring."
        }
        @for note in notes(rows) { p.small { (note) } }
    };
    section(
        "figures",
        "All figures",
        "The same as in the JSON, rounded.",
        body,
    )
}

/// Columns that not every result has.
#[derive(Clone, Copy)]
struct Shown {
    limit: bool,
    test_hmm: bool,
}

/// A cell of the median of a figure that not every row has.
fn median(key: &str, stat: Option<&Stat>, shown: fn(f64) -> String) -> Markup {
    html! {
        td { @if let Some(stat) = stat { (figure(&format!("{key}/median"), stat.median, &shown(stat.median))) } }
    }
}

fn line(index: usize, row: &Row, shown: Shown) -> Markup {
    let key = |name: &str| format!("/rows/{index}/{name}");
    let (migration, engine) = (&row.migration_bytes_per_s, &row.engine_bytes_per_s);
    let of_us = |us: f64| seconds(us / 1e6);
    html! {
        tr.bad[!row.verified] {
            th scope="row" { (figure(&key("source_order"), row.source_order, &row.source_order.to_string())) }
            td.text { (row.key().way()) }
            td.text { (row.key().by()) }
            td.text { (orders(&row.device_orders)) }
            td { (figure(&key("bytes"), row.bytes, &bytes(row.bytes))) }
            td { (figure(&key("repeats"), row.repeats, &row.repeats.to_string())) }
            td { (figure(&key("migration_bytes_per_s/median"), migration.median, &rate(migration.median))) }
            td { (figure(&key("migration_bytes_per_s/min"), migration.min, &rate(migration.min))) }
            td { (figure(&key("migration_bytes_per_s/max"), migration.max, &rate(migration.max))) }
            td { (figure(&key("engine_bytes_per_s/median"), engine.median, &rate(engine.median))) }
            td { (figure(&key("copy_share"), row.copy_share, &percent(row.copy_share))) }
            td { (figure(&key("latency_us/p50"), row.latency_us.p50, &of_us(row.latency_us.p50))) }
            td { (figure(&key("latency_us/p99"), row.latency_us.p99, &of_us(row.latency_us.p99))) }
            td { (figure(&key("queue_wait_us/p50"), row.queue_wait_us.p50, &of_us(row.queue_wait_us.p50))) }
            td { (figure(&key("queue_wait_us/p99"), row.queue_wait_us.p99, &of_us(row.queue_wait_us.p99))) }
            td { (figure(&key("splits"), row.splits, &row.splits.to_string())) }
            @if shown.limit {
                (median(&key("floor_bytes_per_s"), row.floor_bytes_per_s.as_ref(), rate))
                (median(&key("limit_bytes_per_s"), row.limit_bytes_per_s.as_ref(), rate))
                td.text { (row.limit_by.map_or("", LimitBy::name)) }
                (median(&key("limit_ratio"), row.limit_ratio.as_ref(), percent))
            }
            @if shown.test_hmm {
                (median(&key("test_hmm_bytes_per_s"), row.test_hmm_bytes_per_s.as_ref(), rate))
                (median(&key("test_hmm_ratio"), row.test_hmm_ratio.as_ref(), |times| format!("{times:.1} x")))
            }
            td.text { @if row.verified { "verified" } @else { "NOT VERIFIED" } }
        }
    }
}

/// Large folios that did not move whole.
pub(super) fn fallbacks(rows: &[Row]) -> Markup {
    let found: Vec<_> = rows
        .iter()
        .enumerate()
        .flat_map(|(index, row)| {
            let inner = row.fallbacks.iter().enumerate();
            inner.map(move |(number, fallback)| (index, row, number, fallback))
        })
        .collect();
    let body = html! {
        @if found.is_empty() {
            p { "None: every large folio that the driver took in hand moved whole." }
        } @else {
            div.scroll tabindex="0" role="region" aria-label="Fallbacks" {
                table {
                    thead { tr { @for heading in ["memory", "wanted order", "why", "folios"] { th scope="col" { (heading) } } } }
                    tbody {
                        @for (index, row, number, fallback) in found.iter().take(MAX_LINES) {
                            tr {
                                th.text scope="row" { (row.key()) }
                                td { (fallback.order) }
                                td.text { (fallback.reason) }
                                td { (figure(&format!("/rows/{index}/fallbacks/{number}/folios"), fallback.folios, &fallback.folios.to_string())) }
                            }
                        }
                    }
                }
            }
        }
    };
    section(
        "fallbacks",
        "Fallbacks",
        "Folios of the size of a large page that the driver wanted to move whole and could not, with the reason. Smaller folios, which the kernel always splits, are not among them.",
        body,
    )
}

/// The driver's counters beside the host's.
pub(super) fn counters(counters: &[CounterCheck]) -> Markup {
    if counters.is_empty() {
        return html! {};
    }
    let count = |equal| counters.iter().filter(|check| check.equal == equal).count();
    let differ = count(Some(false));
    let body = html! {
        p {
            (count(Some(true))) " are equal, "
            @if differ > 0 { strong { (differ) " differ" } } @else { "none differs" }
            ", " (count(None)) " only the driver has."
        }
        details open[differ > 0] {
            summary { "The counters" }
            div.scroll tabindex="0" role="region" aria-label="Counters" {
                table {
                    thead { tr { @for heading in ["counter", "order", "driver", "host", ""] { th scope="col" { (heading) } } } }
                    tbody {
                        @for (index, check) in counters.iter().enumerate().take(MAX_LINES) {
                            tr.bad[check.equal == Some(false)] {
                                th.text scope="row" { (check.name) }
                                td { @if let Some(order) = check.order { (order) } }
                                td { (figure(&format!("/counters/{index}/driver"), check.driver, &check.driver.to_string())) }
                                td {
                                    @if let Some(host) = check.host {
                                        (figure(&format!("/counters/{index}/host"), host, &host.to_string()))
                                    }
                                }
                                td.text {
                                    @match check.equal {
                                        Some(true) => "equal",
                                        Some(false) => "DIFFERENT",
                                        None => "driver only",
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    };
    section(
        "counters",
        "Driver and host",
        "Both count what they do. Taken at the end of the bench, while nothing was under way.",
        body,
    )
}

/// What it ran on, and what was asked for.
pub(super) fn environment(result: &BenchResult) -> Markup {
    let environment = &result.environment;
    let cpus = environment.cpus.to_string();
    let call = bytes(result.plan.call_bytes);
    let entries = [
        ("Kernel", &environment.kernel),
        ("Kernel command line", &environment.cmdline),
        ("QEMU", &environment.qemu),
        ("Accelerator", &environment.accel),
        ("Virtual CPUs", &cpus),
        ("hmmgpu", &environment.revision),
        ("Memory for each request", &call),
        ("Schema", &result.schema),
    ];
    let boot = result.boot.map(|boot| boot.to_string());
    let body = html! {
        dl {
            @for (name, value) in entries {
                dt { (name) }
                dd { (super::known(value)) }
            }
            @if let Some(boot) = boot {
                dt { "Boot" }
                dd { (boot) }
            }
        }
    };
    section(
        "environment",
        "Environment",
        "Figures of different environments say little about each other.",
        body,
    )
}
