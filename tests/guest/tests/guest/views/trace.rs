//! A trace that is read back.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use hmmgpu_telemetry::snapshot::{Direction, Snapshot, Trigger};
use serde::Deserialize;
use serde_json::Value;

/// An event of the trace event format, as far as it is of interest.
#[derive(Debug, Deserialize)]
struct Event {
    name: String,
    #[serde(default)]
    cat: String,
    ph: String,
    pid: u64,
    tid: u64,
    ts: Option<f64>,
    dur: Option<f64>,
    args: Value,
}

/// Order, direction and trigger.
type Class = (u8, Direction, Trigger);

/// The arguments of a migration.
#[derive(Debug, Deserialize)]
struct Span {
    order: u8,
    direction: Direction,
    trigger: Trigger,
    pages_asked: u64,
    pages_moved: u64,
}

/// The arguments of a transfer.
#[derive(Debug, Deserialize)]
struct Transfer {
    order: u8,
    direction: Direction,
    trigger: Trigger,
    kind: String,
    folios: u64,
    bytes: u64,
    engine_ns: u64,
}

/// Fails unless the trace is well-formed, and its slices add up to what the device has counted at
/// its end; or to less, where it says that it has dropped some.
pub(super) fn agrees(text: &[u8], told: &Snapshot) -> Result<()> {
    let events: Vec<Event> = serde_json::from_slice(text).context("the trace is no JSON")?;
    for event in &events {
        is_well_formed(event).with_context(|| format!("{event:?}"))?;
    }
    let end = events.last().context("an empty trace")?;
    ensure!(end.name == "end of the trace", "the last event is {end:?}");
    let trace = told.trace.as_ref().context("no trace by the snapshot")?;
    let dropped = end.args["dropped"].as_u64().context("no count of drops")?;
    ensure!(
        (events.len() as u64, dropped) == (trace.events, trace.dropped),
        "{} events and {dropped} dropped, by the snapshot {trace:?}",
        events.len()
    );

    let mut spans: BTreeMap<Class, [u64; 3]> = BTreeMap::new();
    for event in events.iter().filter(|event| event.cat == "span") {
        let span = Span::deserialize(&event.args).with_context(|| format!("{event:?}"))?;
        let class = (span.order, span.direction, span.trigger);
        add(&mut spans, class, [1, span.pages_asked, span.pages_moved]);
    }
    let mut transfers: BTreeMap<Class, [u64; 5]> = BTreeMap::new();
    for event in events.iter().filter(|event| event.cat == "transfer") {
        let moved = Transfer::deserialize(&event.args).with_context(|| format!("{event:?}"))?;
        let class = (moved.order, moved.direction, moved.trigger);
        let (folios, bytes, engine_ns) = (moved.folios, moved.bytes, moved.engine_ns);
        let sums = match &*moved.kind {
            "copy" => [folios, bytes, 0, 0, engine_ns],
            _ => [0, 0, folios, bytes, engine_ns],
        };
        add(&mut transfers, class, sums);
    }

    let rows = told.spans.iter().map(|row| {
        let sums = [row.count, row.pages_asked, row.pages_moved];
        ((row.order, row.direction, row.trigger), sums)
    });
    compare("migrations", &spans, &rows.collect(), dropped)?;
    let rows = told.transfers.iter().map(|row| {
        let moved = [row.folios, row.bytes, row.filled_folios, row.filled_bytes];
        let [folios, bytes, filled_folios, filled_bytes] = moved;
        let sums = [folios, bytes, filled_folios, filled_bytes, row.engine_ns];
        ((row.order, row.direction, row.trigger), sums)
    });
    compare("transfers", &transfers, &rows.collect(), dropped)
}

fn is_well_formed(event: &Event) -> Result<()> {
    ensure!(
        !event.name.is_empty() && event.pid > 0,
        "no name or process"
    );
    let is_time = |time: Option<f64>| time.is_some_and(|time| time.is_finite() && time >= 0.0);
    match &*event.ph {
        // A slice ends when or after it begins.
        "X" => ensure!(
            is_time(event.ts) && is_time(event.dur) && event.tid > 0,
            "no slice"
        ),
        "i" | "C" => ensure!(is_time(event.ts), "no time"),
        "M" => ensure!(event.args.is_object(), "nothing is said"),
        other => anyhow::bail!("an unknown phase {other}"),
    }
    Ok(())
}

fn add<const N: usize>(sums: &mut BTreeMap<Class, [u64; N]>, class: Class, more: [u64; N]) {
    let sums = sums.entry(class).or_insert([0; N]);
    for (sum, more) in sums.iter_mut().zip(more) {
        *sum += more;
    }
}

fn compare<const N: usize>(
    what: &str,
    traced: &BTreeMap<Class, [u64; N]>,
    told: &BTreeMap<Class, [u64; N]>,
    dropped: u64,
) -> Result<()> {
    ensure!(!told.is_empty(), "there were no {what}");
    if dropped == 0 {
        ensure!(
            traced == told,
            "{what} by the trace {traced:?}, by the snapshot {told:?}"
        );
        return Ok(());
    }
    for (class, sums) in traced {
        let most = told
            .get(class)
            .with_context(|| format!("no {what} {class:?}"))?;
        ensure!(
            sums.iter().zip(most).all(|(sum, most)| sum <= most),
            "{what} {class:?} by the trace {sums:?}, by the snapshot {most:?}"
        );
    }
    Ok(())
}
