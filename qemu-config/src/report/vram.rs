//! VRAM over the time of the bench.

use std::collections::BTreeMap;
use std::fmt::Write;

use maud::{Markup, html};

use super::figure::{bytes, figure, float};
use super::section;
use crate::bench::vram_history::{VramCells, VramHistory, VramSample};

/// Height of the two pictures in units of their own.
const HEIGHT: f64 = 128.0;
const USED_HEIGHT: f64 = 40.0;

/// The class of an order's colour.
fn class(order: u8, split: bool) -> &'static str {
    match (order, split) {
        (_, true) => "split",
        (0, _) => "order0",
        (1..=8, _) => "between",
        (_, _) => "order9",
    }
}

/// Map and amount over time.
pub(super) fn section_of(history: &VramHistory) -> Markup {
    section(
        "vram",
        "VRAM over time",
        "What the driver said was where: time goes to the right, VRAM from offset 0 at the top to its end at the bottom; a cell has the colour of the largest folio in it. Below, the bytes in use.",
        body(history),
    )
}

fn body(history: &VramHistory) -> Markup {
    let (Some(first), Some(last)) = (history.samples.first(), history.samples.last()) else {
        return html! { p { "No sample was taken." } };
    };
    let peak = history
        .samples
        .iter()
        .map(|sample| sample.used_bytes)
        .max()
        .unwrap_or(0);
    let span = (last.time_s - first.time_s).max(1e-9);
    let columns: Vec<(f64, f64, &VramSample)> = history
        .samples
        .iter()
        .enumerate()
        .map(|(index, sample)| {
            let left = (sample.time_s - first.time_s) / span * 1000.0;
            // A sample holds until the next one.
            let right = history
                .samples
                .get(index + 1)
                .map_or(1000.0, |next| (next.time_s - first.time_s) / span * 1000.0);
            (left, (right - left).max(1.0), sample)
        })
        .collect();
    html! {
        p.legend {
            span.key { i.swatch.order9 {} "order 9 and larger" }
            span.key { i.swatch.between {} "orders 1 to 8" }
            span.key { i.swatch.order0 {} "order 0" }
            span.key { i.swatch.split {} "left by a split" }
            span.key { i.swatch.free {} "free" }
        }
        figure.map {
            svg.cells role="img" width="100%" height="220" viewBox="0 0 1000 128" preserveAspectRatio="none" {
                title { "VRAM map over time" }
                desc { (history.samples.len()) " samples of " (bytes(history.vram_bytes)) " of VRAM; at most " (bytes(peak)) " were in use." }
                @for (class, path) in map(&columns, HEIGHT) { path class=(class) d=(path) {} }
            }
            svg.cells role="img" width="100%" height="56" viewBox="0 0 1000 40" preserveAspectRatio="none" {
                title { "VRAM in use over time, by order" }
                desc { "At most " (bytes(peak)) "." }
                @for (class, path) in used(&columns, peak) { path class=(class) d=(path) {} }
            }
            div.time {
                span { "0 s" }
                span { "at most "
                    (figure("/vram_history/vram_bytes", history.vram_bytes, &format!("{} of {}", bytes(peak), bytes(history.vram_bytes))))
                    " in use" }
                span { (format!("{span:.1} s")) }
            }
        }
    }
}

/// Paths of the map, one for each class.
fn map(columns: &[(f64, f64, &VramSample)], height: f64) -> BTreeMap<&'static str, String> {
    let mut paths: BTreeMap<&str, String> = BTreeMap::new();
    for (left, width, sample) in columns {
        let all: u64 = sample.cells.iter().map(|run| u64::from(run.cells)).sum();
        let scale = height / float(all.max(1));
        let mut top = 0.0;
        for run in &sample.cells {
            let tall = f64::from(run.cells) * scale;
            if let VramCells {
                order: Some(order),
                split,
                ..
            } = *run
            {
                add(
                    paths.entry(class(order, split)).or_default(),
                    *left,
                    top,
                    *width,
                    tall,
                );
            }
            top += tall;
        }
    }
    paths
}

/// Paths of the amounts, stacked, the smallest order at the bottom.
fn used(columns: &[(f64, f64, &VramSample)], peak: u64) -> BTreeMap<&'static str, String> {
    let mut paths: BTreeMap<&str, String> = BTreeMap::new();
    let scale = USED_HEIGHT / float(peak.max(1));
    for (left, width, sample) in columns {
        let mut top = USED_HEIGHT;
        for (order, bytes) in &sample.orders {
            let tall = (float(*bytes) * scale).min(top);
            top -= tall;
            if tall > 0.0 {
                add(
                    paths.entry(class(*order, false)).or_default(),
                    *left,
                    top,
                    *width,
                    tall,
                );
            }
        }
    }
    paths
}

/// A rectangle.
fn add(path: &mut String, left: f64, top: f64, width: f64, height: f64) {
    // Writing to a String does not fail.
    let _ = write!(
        path,
        "M{left:.1} {top:.2}h{width:.1}v{height:.2}h-{width:.1}z"
    );
}
