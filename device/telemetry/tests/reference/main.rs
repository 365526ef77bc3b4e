//! The committed reference of the telemetry is the one that the types give.

mod example;
mod schema;

use std::path::Path;

use hmmgpu_telemetry::control::{Hello, INTERVAL_MS, PROTOCOL, Reply, Request};
use hmmgpu_telemetry::snapshot::{LATENCY_BUCKET_RATIO, SCHEMA, Snapshot};
use hmmgpu_telemetry::{
    MAX_CHECK_REPORTS, MAX_EVENTS, MAX_OPEN_SPANS, MAX_PAGE_EVENTS, MAX_PROCESSES, MAX_WINDOW_ROWS,
    MAX_WINDOWS,
};

/// The page.
fn page() -> String {
    // What comments link to that is no type: the reader of a document has values, not names.
    let constants = [
        ("MAX_CHECK_REPORTS", MAX_CHECK_REPORTS.to_string()),
        ("MAX_PAGE_EVENTS", MAX_PAGE_EVENTS.to_string()),
        ("SCHEMA", format!("`{SCHEMA}`")),
        ("PROTOCOL", format!("`{PROTOCOL}`")),
        ("LATENCY_BUCKET_RATIO", format!("{LATENCY_BUCKET_RATIO:.4}")),
        ("MAX_PROCESSES", MAX_PROCESSES.to_string()),
        ("MAX_EVENTS", MAX_EVENTS.to_string()),
        ("MAX_WINDOWS", MAX_WINDOWS.to_string()),
        ("MAX_WINDOW_ROWS", MAX_WINDOW_ROWS.to_string()),
        (
            "INTERVAL_MS",
            format!("{} to {}", INTERVAL_MS.start(), INTERVAL_MS.end()),
        ),
    ];
    let mut types = schema::Types::new(&constants);
    let snapshot = types.sections::<Snapshot>();
    let control = [
        types.sections::<Hello>(),
        types.sections::<Request>(),
        types.sections::<Reply>(),
    ];
    include_str!("page.md")
        .replace("{schema}", SCHEMA)
        .replace("{protocol}", PROTOCOL)
        .replace("{max_open_spans}", &MAX_OPEN_SPANS.to_string())
        .replace("{max_windows}", &MAX_WINDOWS.to_string())
        .replace("{max_window_rows}", &MAX_WINDOW_ROWS.to_string())
        .replace("{example}", &example::document())
        .replace("{snapshot}", snapshot.trim_end())
        .replace("{control}", control.concat().trim_end())
}

#[test]
fn reference_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/telemetry.md");
    let page = page();
    if std::env::var_os("HMMGPU_BLESS").is_some() {
        std::fs::write(&path, &page).expect("docs/telemetry.md can be written");
    }
    let committed = std::fs::read_to_string(&path).expect("docs/telemetry.md can be read");
    assert!(
        committed == page,
        "docs/telemetry.md is stale: run `HMMGPU_BLESS=1 cargo test -p hmmgpu-telemetry` and \
         commit it"
    );
}

#[test]
fn nothing_of_the_source_leaks_into_the_page() {
    let page = page();
    for leak in [
        "crate::",
        "hmmgpu_telemetry::",
        "[`",
        "#/$defs",
        "{max",
        "{schema}",
    ] {
        let found = page.lines().find(|line| line.contains(leak));
        assert_eq!(found, None, "{leak}");
    }
}
