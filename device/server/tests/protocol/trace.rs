//! The trace: parsed back, and compared with the snapshot.

use std::collections::BTreeMap;
use std::path::Path;

use hmmgpu_contract::PAGE_SIZE;
use hmmgpu_contract::desc::{
    DIR_DEV_TO_SYS, DIR_SYS_TO_DEV, Desc, FALLBACK_SHARED, NOTE_ALLOC, NOTE_FREE,
    TRIGGER_CPU_FAULT, TRIGGER_PREFETCH,
};
use hmmgpu_model::mock::descriptors::{
    fallback, note, of_process, phases, process, span_begin, span_end, triggered,
};
use hmmgpu_server::{ServeError, Server, TraceOptions};
use hmmgpu_telemetry::snapshot::Snapshot;
use serde_json::Value;

use crate::common::*;
use crate::serve::{Running, options};
use crate::whole_path::{Driver, from_vram, to_vram};

/// Rounds of work; spans of two rounds overlap.
const ROUNDS: u64 = 50;

/// Migrations there and back, with all that a driver tells of them.
fn work(driver: &mut Driver) {
    driver.run(&[process(77, "a \"program\"")]);
    for round in 0..ROUNDS {
        let (there, back) = (2 * round + 1, 2 * round + 2);
        driver.run(&[
            of_process(span_begin(there, 4), 77),
            note(NOTE_ALLOC, 0, 4, 0, 77),
            to_vram(0),
            // The way back begins before the way there has ended.
            span_begin(back, 5),
            phases(there, [1, 2, 3, 4, 5]),
            span_end(there, 0, 4, DIR_SYS_TO_DEV, TRIGGER_PREFETCH),
            triggered(from_vram(0), TRIGGER_CPU_FAULT),
            fallback(9, 1, DIR_DEV_TO_SYS, TRIGGER_CPU_FAULT, FALLBACK_SHARED),
            span_end(back, 0, 4, DIR_DEV_TO_SYS, TRIGGER_CPU_FAULT),
            note(NOTE_FREE, 0, 4, 0, 0),
        ]);
    }
    // One that fails, where nothing is mapped.
    driver.run(&[Desc {
        src: 0x1000,
        ..to_vram(0)
    }]);
    driver.idle();
}

fn start(path: &Path) -> Running {
    Running::start_with(|options| {
        options.trace = Some(TraceOptions {
            path: path.to_owned(),
            label: "test".to_owned(),
        });
    })
}

/// A server that traces did the work: its trace, and its snapshot.
fn traced() -> (Vec<Value>, Snapshot) {
    let directory = tempfile::tempdir().expect("tempdir");
    let path = directory.path().join("trace.json");
    let server = start(&path);
    let socket = server.socket.clone();
    bounded(move || {
        let mut driver = Driver::new(&socket);
        work(&mut driver);
        driver.client.reset().expect("reset");
    });
    let snapshot = server.stop();
    let text = std::fs::read_to_string(&path).expect("a trace");
    (serde_json::from_str(&text).expect("JSON"), snapshot)
}

fn with<'a>(events: &'a [Value], key: &'a str, value: &'a str) -> impl Iterator<Item = &'a Value> {
    events.iter().filter(move |event| event[key] == value)
}

fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("no number: {value}"))
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("no text: {value}"))
        .to_owned()
}

/// Sums by order, direction and trigger.
type Sums = BTreeMap<(u64, String, String), [u64; 3]>;

fn sums(events: &[Value], cat: &str, keys: [&str; 3]) -> Sums {
    let mut sums = Sums::new();
    for event in with(events, "cat", cat) {
        let args = &event["args"];
        let class = (
            number(&args["order"]),
            text(&args["direction"]),
            text(&args["trigger"]),
        );
        let sum = sums.entry(class).or_default();
        for (sum, key) in sum.iter_mut().zip(keys) {
            *sum += args.get(key).map_or(1, number);
        }
    }
    sums
}

#[test]
fn slices_add_up_to_the_snapshot() {
    let (events, snapshot) = traced();
    let document = serde_json::to_value(&snapshot).expect("JSON");
    let rows = |what: &str, keys: [&str; 3]| -> Sums {
        let rows = document[what].as_array().expect("rows").iter();
        rows.map(|row| {
            let class = (
                number(&row["order"]),
                text(&row["direction"]),
                text(&row["trigger"]),
            );
            (class, keys.map(|key| number(&row[key])))
        })
        .collect()
    };
    let keys = ["folios", "bytes", "engine_ns"];
    let transfers = sums(&events, "transfer", keys);
    assert_eq!(transfers, rows("transfers", keys));
    let class = (0, "sys_to_dev".to_owned(), "prefetch".to_owned());
    assert_eq!(transfers[&class][1], ROUNDS * 4 * PAGE_SIZE);
    // A key that no event has counts the events.
    let spans = sums(&events, "span", ["count", "pages_asked", "pages_moved"]);
    assert_eq!(
        spans,
        rows("spans", ["count", "pages_asked", "pages_moved"])
    );
    assert_eq!(spans[&class], [ROUNDS, 4 * ROUNDS, 4 * ROUNDS]);
    let fallbacks: u64 = with(&events, "cat", "fallback")
        .map(|event| number(&event["args"]["folios"]))
        .sum();
    assert_eq!(fallbacks, ROUNDS);

    let trace = snapshot.trace.expect("a trace was written");
    assert_eq!((trace.events, trace.dropped), (events.len() as u64, 0));
    let end = events.last().expect("an end");
    assert_eq!(end["name"], "end of the trace");
    assert_eq!(number(&end["args"]["events"]), trace.events);
}

#[test]
fn slices_of_a_track_do_not_overlap() {
    let (events, _) = traced();
    let mut tracks: BTreeMap<(u64, u64), Vec<(f64, f64)>> = BTreeMap::new();
    for event in with(&events, "ph", "X") {
        let (begin, length) = (event["ts"].as_f64(), event["dur"].as_f64());
        let (begin, length) = (begin.expect("ts"), length.expect("dur"));
        assert!(begin >= 0.0 && length >= 0.0, "{event}");
        let track = (number(&event["pid"]), number(&event["tid"]));
        tracks
            .entry(track)
            .or_default()
            .push((begin, begin + length));
    }
    for (track, mut slices) in tracks {
        slices.sort_by(|a, b| a.partial_cmp(b).expect("numbers"));
        for pair in slices.windows(2) {
            // Times have three places; what a float adds to that is less.
            assert!(pair[0].1 <= pair[1].0 + 1e-4, "{track:?}: {pair:?}");
        }
        // Each track has a name.
        assert!(
            with(&events, "name", "thread_name")
                .any(|event| (number(&event["pid"]), number(&event["tid"])) == track),
            "{track:?}"
        );
    }
    // Spans that overlap are on two.
    let lanes: std::collections::BTreeSet<u64> = with(&events, "cat", "span")
        .map(|event| number(&event["tid"]))
        .collect();
    assert_eq!(lanes.len(), 2);
}

#[test]
fn slices_say_what_they_are() {
    let (events, _) = traced();
    let there = with(&events, "name", "migrate sys_to_dev, order 0")
        .next()
        .expect("a span");
    let args = &there["args"];
    assert_eq!(args["process"], "a \"program\"");
    assert_eq!(args["pid"], 77);
    let times = [
        "collect_ns",
        "alloc_ns",
        "copy_ns",
        "commit_ns",
        "finish_ns",
    ];
    let times = times.map(|phase| number(&args["phases"][phase]));
    assert!(times.iter().all(|ns| *ns > 0), "{args}");
    assert!(times.is_sorted(), "{args}");
    // Who moves back was not told.
    let back = with(&events, "name", "migrate dev_to_sys, order 0").next();
    assert_eq!(back.expect("a span")["args"].get("pid"), None);

    let failed = with(&events, "cat", "transfer")
        .find(|event| event["args"]["status"] != "STATUS_OK")
        .expect("the failed one");
    assert_eq!(number(&failed["args"]["bytes"]), 0);
    let causes: Vec<_> = with(&events, "cat", "reset")
        .map(|event| text(&event["args"]["cause"]))
        .collect();
    assert!(
        causes.iter().any(|cause| cause == "vfio_user"),
        "{causes:?}"
    );
    let counters: Vec<&Value> = with(&events, "ph", "C").collect();
    let moved = |event: &&&Value| {
        event["name"] == "throughput, bytes/s" && event["args"]["sys_to_dev"].as_u64() > Some(0)
    };
    assert!(counters.iter().any(|event| moved(&event)), "{counters:?}");
    assert!(
        counters
            .iter()
            .any(|event| event["name"] == "VRAM by order, bytes"
                && event["args"]["order 0"].is_u64()),
        "{counters:?}"
    );
}

#[test]
fn it_can_be_opened_before_its_end() {
    let directory = tempfile::tempdir().expect("tempdir");
    let path = directory.path().join("trace.json");
    let server = start(&path);
    let socket = server.socket.clone();
    bounded(move || {
        let mut driver = Driver::new(&socket);
        work(&mut driver);
        // As a server that is killed leaves it: readers supply the end of the array. Only the
        // last line may be cut off.
        loop {
            let text = std::fs::read_to_string(&path).expect("a trace");
            let whole = text.rsplit_once(",\n").map_or("[", |(whole, _)| whole);
            let events: Vec<Value> = serde_json::from_str(&format!("{whole}\n]")).expect("JSON");
            if with(&events, "cat", "span").next().is_some() {
                return;
            }
            std::thread::yield_now();
        }
    });
    server.stop();
}

#[test]
fn a_file_that_cannot_be_written_is_refused_at_the_beginning() {
    let directory = tempfile::tempdir().expect("tempdir");
    for path in [directory.path().join("no/trace.json"), "/dev/null".into()] {
        let mut options = options(&directory.path().join("s"));
        options.trace = Some(TraceOptions {
            path: path.clone(),
            label: String::new(),
        });
        let error = Server::bind(&options).expect_err("refused");
        assert!(matches!(error, ServeError::Trace { .. }), "{error:?}");
        assert!(error.to_string().contains(&path.display().to_string()));
        assert!(!options.socket.exists());
    }
}
