//! All that is known, as JSON.

use serde::Serialize;
use serde_json::{Value, json};

use super::{Gpu, Sample};
use crate::views::figures::Figures;
use crate::vm::REVISION;
use hmmgpu_telemetry::snapshot::Direction;

/// Schema of the document.
const SCHEMA: &str = "hmmgpu.smi/1";

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    revision: &'static str,
    timestamp: String,
    gpus: Vec<Entry<'a>>,
}

#[derive(Serialize)]
struct Entry<'a> {
    index: usize,
    control: String,
    /// Why there is no more than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<&'a hmmgpu_telemetry::control::Hello>,
    /// What two snapshots give.
    #[serde(skip_serializing_if = "Option::is_none")]
    sampled: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<&'a hmmgpu_telemetry::snapshot::Snapshot>,
}

/// The document, `hmmgpu.smi/1`: `gpus` holds, for each, its `index`, its socket (`control`), what
/// its `server` said of itself, rates over a short time (`sampled`), and the `snapshot`; or the
/// `error` that kept from asking it. On one line if it is one of many.
pub fn document(gpus: &[Gpu], one_line: bool) -> String {
    let mut entries = Vec::new();
    for (index, gpu) in gpus.iter().enumerate() {
        let sample: Option<&Sample> = gpu.state.as_ref().ok();
        entries.push(Entry {
            index,
            control: gpu.control.display().to_string(),
            error: gpu.state.as_ref().err().map(ToString::to_string),
            server: sample.map(|sample| &sample.hello),
            sampled: sample.map(|sample| sampled(&sample.figures)),
            snapshot: sample.map(|sample| &sample.snapshot),
        });
    }
    let document = Document {
        schema: SCHEMA,
        revision: REVISION,
        timestamp: super::query::timestamp(),
        gpus: entries,
    };
    let text = if one_line {
        serde_json::to_string(&document)
    } else {
        serde_json::to_string_pretty(&document)
    };
    // Strings, numbers and maps with strings as keys: there is nothing that JSON does not have.
    text.unwrap_or_default()
}

fn sampled(figures: &Figures) -> Value {
    json!({
        "interval_ns": figures.interval_ns,
        "copy_utilization": figures.copy_busy,
        "compute_utilization": figures.compute_busy,
        "sys_to_dev_bytes_per_s": figures.rate(Direction::SysToDev, None),
        "dev_to_sys_bytes_per_s": figures.rate(Direction::DevToSys, None),
        "dev_to_dev_bytes_per_s": figures.rate(Direction::DevToDev, None),
    })
}
