//! Results and snapshots: JSON that anybody may have written.

use std::path::Path;

use hmmgpu::bench::file;
use hmmgpu::bench::result::BenchResult;
use hmmgpu::compare::comparison::{Settings, Verdict};
use hmmgpu::compare::read::compare_alternation_text;
use hmmgpu::compare::render;
use hmmgpu::compare::sides::Boot;
use hmmgpu::compare::verdict::{Input, compare};
use hmmgpu_server::prometheus_text;
use hmmgpu_telemetry::control::{Hello, Reply};
use hmmgpu_telemetry::snapshot::Snapshot;

/// A text as each of the documents that tools read. Holds: what is read is written and read back
/// as the same; a page and a table can be made of it, in which no text of it is markup; compared
/// with itself a result is no regression.
pub fn result(data: &[u8]) {
    let path = Path::new("r.json");
    if let Ok(result) = file::parse(data, path) {
        let text = serde_json::to_vec(&result).expect("what was read is written");
        let again = file::parse(&text, path).expect("what was written is read");
        assert_eq!(again, result);
        let page = hmmgpu::report::render(&result);
        assert!(!page.contains("<script"), "markup of the result's");
        compare_with_itself(&result);
    }
    if let Ok(comparison) = compare_alternation_text(data, path, Settings::default()) {
        render::table(&comparison);
        render::markdown(&comparison);
    }
    if let Ok(snapshot) = serde_json::from_slice::<Snapshot>(data) {
        let text = serde_json::to_vec(&snapshot).expect("what was read is written");
        let again: Snapshot = serde_json::from_slice(&text).expect("what was written is read");
        assert_eq!(again, snapshot);
        let exposed = prometheus_text(&[(0, snapshot)]);
        assert!(exposed.is_empty() || exposed.ends_with('\n'));
    }
    // What a client of the control socket reads.
    if let Ok(reply) = serde_json::from_slice::<Reply>(data) {
        let text = serde_json::to_vec(&reply).expect("what was read is written");
        let again: Reply = serde_json::from_slice(&text).expect("what was written is read");
        assert_eq!(again, reply);
    }
    let _ = serde_json::from_slice::<Hello>(data);
}

fn compare_with_itself(result: &BenchResult) {
    let Ok(boot) = Boot::of(0, result) else {
        return;
    };
    let boots = [boot];
    let side = |name| Input {
        name,
        boots: &boots,
    };
    let comparison = compare(side("a"), side("b"), Settings::default());
    assert_ne!(
        comparison.verdict,
        Verdict::Regression,
        "slower than itself"
    );
    render::table(&comparison);
    render::markdown(&comparison);
}
