//! Charts of the rows: one panel for each direction and trigger, one line for each order.
//!
//! A line is a grid of label, plot and value. The plot is an SVG of the width that there is, with
//! places in percent and no text in it, so that a phone shows the same and nothing is squeezed.

use hmmgpu_guest_protocol::bench::{Direction, Trigger};
use hmmgpu_telemetry::snapshot::LATENCY_BUCKET_RATIO;
use maud::{Markup, html};

use super::figure::{LogAxis, figure, float, json, percent, place, rate, seconds};
use super::section;
use crate::bench::result::Row;

/// The copy's share on a real GPU: Intel's xe at 2 MiB faults, as its developers measured it.
const REAL_WITHOUT_THP: f64 = 0.24;
const REAL_WITH_THP: f64 = 0.83;
/// Most rounds that are drawn one by one.
const MAX_DOTS: usize = 200;

/// Panels, in the order in which they are shown.
const PANELS: [(Direction, Trigger, &str); 3] = [
    (
        Direction::SysToDev,
        Trigger::Prefetch,
        "To the device, by request",
    ),
    (Direction::DevToSys, Trigger::Prefetch, "Home, by request"),
    (Direction::DevToSys, Trigger::CpuFault, "Home, by CPU fault"),
];

/// One panel for each direction and trigger that has rows; `line` draws one row.
fn panels(rows: &[Row], axis: &Markup, line: impl Fn(usize, &Row) -> Markup) -> Markup {
    html! {
        div.panels {
            @for (direction, trigger, heading) in PANELS {
                @let ours: Vec<(usize, &Row)> = rows
                    .iter()
                    .enumerate()
                    .filter(|(_, row)| (row.direction, row.trigger) == (direction, trigger))
                    .collect();
                @if !ours.is_empty() {
                    figure {
                        figcaption { (heading) }
                        @for (index, row) in ours { (line(index, row)) }
                        (axis)
                    }
                }
            }
        }
    }
}

/// Label, plot and value of a row.
fn line(row: &Row, plot: &Markup, value: &Markup) -> Markup {
    html! {
        div.line {
            span.label { span.long { "order " } (row.source_order) }
            (plot)
            span.value { (value) }
        }
    }
}

/// A plot that says in words what it shows.
fn plot(words: &str, marks: &Markup) -> Markup {
    html! {
        svg.plot role="img" width="100%" height="22" {
            title { (words) }
            (marks)
        }
    }
}

/// Lines through a plot, at these percentages.
fn grid(places: &[f64]) -> Markup {
    html! {
        @for at in places {
            line.grid x1=(place(*at)) x2=(place(*at)) y1="0" y2="22" {}
        }
    }
}

/// The axis below a panel: places in percent, and what is there.
fn axis(ticks: &[(f64, String)]) -> Markup {
    html! {
        div.line.axis aria-hidden="true" {
            span.label { span.long { "order " } "0" }
            span.ticks {
                @for (at, text) in ticks {
                    // The outermost stay within the plot.
                    @let class = if *at < 8.0 { "first" } else if *at > 92.0 { "last" } else { "" };
                    span class=(class) style={ "left:" (place(*at)) } { (text) }
                }
            }
            span.value {}
        }
    }
}

fn log_ticks(axis: &LogAxis, text: impl Fn(f64) -> String) -> Vec<(f64, String)> {
    let ticks = axis.ticks();
    let shown = |tick: &f64| (axis.place(*tick), text(*tick));
    ticks.iter().map(shown).collect()
}

/// The axis of a share.
fn share_ticks() -> Vec<(f64, String)> {
    let tick = |at: f64| (at, format!("{at:.0} %"));
    [0.0, 50.0, 100.0].map(tick).into()
}

/// Round figures without a fraction: `1 GB/s`.
fn short(text: String) -> String {
    text.replace(".0 ", " ").replace(".00 ", " ")
}

/// Migration throughput, with every round.
pub(super) fn throughput(rows: &[Row]) -> Markup {
    let figures = rows.iter().flat_map(|row| {
        let stat = &row.migration_bytes_per_s;
        [stat.min, stat.max]
    });
    let Some(log) = LogAxis::over(figures) else {
        return html! {};
    };
    let ticks = log_ticks(&log, |tick| short(rate(tick)));
    let places: Vec<f64> = ticks.iter().map(|(at, _)| *at).collect();
    let each = |index: usize, row: &Row| {
        let stat = &row.migration_bytes_per_s;
        let words = format!(
            "order {}: median {}, from {} to {} in {} rounds",
            row.source_order,
            rate(stat.median),
            rate(stat.min),
            rate(stat.max),
            row.repeats
        );
        let key = format!("/rows/{index}/migration_bytes_per_s");
        let marks = html! {
            (grid(&places))
            line.range x1=(place(log.place(stat.min))) x2=(place(log.place(stat.max))) y1="11" y2="11"
                data-key={ (key) "/min" } data-value=(json(stat.min)) {}
            @for sample in stat.samples.iter().take(MAX_DOTS) {
                circle.sample cx=(place(log.place(*sample))) cy="11" r="2.5" {}
            }
            circle.median cx=(place(log.place(stat.median))) cy="11" r="5"
                data-key={ (key) "/max" } data-value=(json(stat.max)) {}
        };
        let value = figure(&format!("{key}/median"), stat.median, &rate(stat.median));
        line(row, &plot(&words, &marks), &value)
    };
    section(
        "throughput",
        "Throughput by folio order",
        "Bytes moved over the time in which a migration was under way, by the host's clock. The large dot is the median, small dots are the rounds, the bar goes from the slowest to the fastest. The axis is logarithmic.",
        panels(rows, &axis(&ticks), each),
    )
}

/// The engine's share of a migration.
pub(super) fn copy_share(rows: &[Row]) -> Markup {
    let ticks = share_ticks();
    let places = [0.0, 25.0, 50.0, 75.0, 100.0];
    let each = |index: usize, row: &Row| {
        let reference = match row.source_order {
            0 => Some((REAL_WITHOUT_THP, "without THP")),
            9 => Some((REAL_WITH_THP, "with THP")),
            _ => None,
        };
        let mut words = format!(
            "order {}: the copy is {} of the migration",
            row.source_order,
            percent(row.copy_share)
        );
        if let Some((share, how)) = reference {
            words += &format!("; on a real GPU {how}: {}", percent(share));
        }
        let marks = html! {
            (grid(&places))
            rect.bar x="0" y="4" height="14" rx="2" width=(place((row.copy_share * 100.0).clamp(0.0, 100.0))) {}
            @if let Some((share, _)) = reference {
                line.real x1=(place(share * 100.0)) x2=(place(share * 100.0)) y1="0" y2="22" {}
            }
        };
        let key = format!("/rows/{index}/copy_share");
        let value = figure(&key, row.copy_share, &percent(row.copy_share));
        line(row, &plot(&words, &marks), &value)
    };
    let body = html! {
        p.legend {
            span.key { i.swatch.copy {} "this bench" }
            span.key { i.tick {} "a real GPU (xe, faults of 2 MiB): 24 % without THP, 83 % with" }
        }
        (panels(rows, &axis(&ticks), each))
    };
    section(
        "copy-share",
        "Share of the copy",
        "Of the time of a migration, how much the engine was busy with copying. What is left is the kernel's work (finding, locking and replacing pages, of which large folios need little), and time in which the engine waited for it, as on a busy host.",
        body,
    )
}

/// Where the driver's time goes.
pub(super) fn phases(rows: &[Row]) -> Markup {
    if rows.iter().all(|row| row.phases.is_none()) {
        return html! {};
    }
    let ticks = share_ticks();
    let each = |index: usize, row: &Row| {
        let Some(phases) = &row.phases else {
            return line(row, &plot("not known", &html! {}), &html! { "-" });
        };
        let parts = phases.in_order();
        let total: f64 = parts.iter().map(|(_, seconds)| seconds).sum();
        let share = |part: f64| {
            if total > 0.0 {
                part / total * 100.0
            } else {
                0.0
            }
        };
        let named: Vec<String> = parts
            .iter()
            .map(|(name, part)| format!("{name} {} ({:.0} %)", seconds(*part), share(*part)))
            .collect();
        let words = format!("order {}: {}", row.source_order, named.join(", "));
        let mut left = 0.0;
        let marks = html! {
            @for (name, part) in parts {
                @let width = share(part);
                rect class={ "phase " (name) } x=(place(left)) y="3" height="16" width=(place(width))
                    data-key={ "/rows/" (index) "/phases/" (name) "_s" } data-value=(json(part)) {}
                @let () = left += width;
            }
        };
        line(row, &plot(&words, &marks), &html! { (seconds(total)) })
    };
    let body = html! {
        p.legend {
            @for (name, what) in [
                ("collect", "collect: find and isolate pages"),
                ("alloc", "alloc: destinations"),
                ("copy", "copy: submit and wait"),
                ("commit", "commit: replace the old pages"),
                ("finish", "finish: let go of them"),
            ] {
                span.key { i class={ "swatch " (name) } {} (what) }
            }
        }
        (panels(rows, &axis(&ticks), each))
    };
    section(
        "phases",
        "Where the time goes",
        "The phases of a migration by the driver's clock; beside each bar the time of a whole round (the mean). While the engine copies one part, the driver already works on the next: that time is not in copy, which is what the driver waits for.",
        body,
    )
}

/// Times of single migrations.
pub(super) fn latency(rows: &[Row]) -> Markup {
    let bounds = rows.iter().flat_map(|row| {
        let inner = row.latency_buckets.iter().map(|(bound, _)| float(*bound));
        inner.flat_map(|bound| [bound, bound / LATENCY_BUCKET_RATIO])
    });
    let Some(log) = LogAxis::over(bounds.map(|ns| ns / 1e9)) else {
        return html! {};
    };
    let ticks = log_ticks(&log, |tick| short(seconds(tick)));
    let places: Vec<f64> = ticks.iter().map(|(at, _)| *at).collect();
    let each = |index: usize, row: &Row| {
        let most = row
            .latency_buckets
            .iter()
            .map(|(_, samples)| *samples)
            .max();
        let most = float(most.unwrap_or(0)).max(1.0);
        let (p50, p99) = (row.latency_us.p50 / 1e6, row.latency_us.p99 / 1e6);
        let words = format!(
            "order {}: half of the migrations took at most {}, 99 of 100 at most {}",
            row.source_order,
            seconds(p50),
            seconds(p99)
        );
        let marks = html! {
            (grid(&places))
            @for (bound, samples) in &row.latency_buckets {
                @let high = log.place(float(*bound) / 1e9);
                @let low = log.place(float(*bound) / LATENCY_BUCKET_RATIO / 1e9);
                // Rare ones stay visible.
                @let height = (float(*samples) / most * 18.0).max(1.5);
                rect.bucket x=(place(low)) width=(place((high - low).max(0.4)))
                    y=(format!("{:.1}", 20.0 - height)) height=(format!("{height:.1}")) {}
            }
            line.p50 x1=(place(log.place(p50))) x2=(place(log.place(p50))) y1="1" y2="21" {}
            line.p99 x1=(place(log.place(p99))) x2=(place(log.place(p99))) y1="1" y2="21" {}
        };
        let value = figure(
            &format!("/rows/{index}/latency_us/p50"),
            row.latency_us.p50,
            &seconds(p50),
        );
        line(row, &plot(&words, &marks), &value)
    };
    let body = html! {
        p.legend {
            span.key { i.swatch.bucket {} "migrations that took so long" }
            span.key { i.tick.p50 {} "half took no longer (the figure beside)" }
            span.key { i.tick.p99 {} "99 of 100 took no longer" }
        }
        (panels(rows, &axis(&ticks), each))
    };
    section(
        "latency",
        "Time of one migration",
        "How long a request, or a fault, took by the host's clock. Each line is scaled to its own tallest bar; the axis is logarithmic.",
        body,
    )
}
