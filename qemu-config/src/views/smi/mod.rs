//! `hmmgpu smi`: what the GPUs do, on one screen or for a program.

mod document;
mod events;
mod fields;
mod processes;
mod query;
mod table;

use std::path::{Path, PathBuf};
use std::time::Duration;

use hmmgpu_telemetry::control::Hello;
use hmmgpu_telemetry::snapshot::Snapshot;

use super::figures::Figures;
use crate::control::{Connection, ControlError, PATIENCE};

pub use document::document;
pub use events::{LastEvents, last_events};
pub use fields::help as fields_help;
pub use query::{Format, Query};
pub use table::table;

/// Time between the two snapshots that utilisation and throughput are made of.
pub const SAMPLE: Duration = Duration::from_millis(200);

/// A GPU, or why nothing is known of it.
#[derive(Debug)]
pub struct Gpu {
    /// Its control socket.
    pub control: PathBuf,
    /// What it says.
    pub state: Result<Sample, ControlError>,
}

/// What a GPU says.
#[derive(Debug)]
pub struct Sample {
    /// Its server.
    pub hello: Hello,
    /// The later of two snapshots.
    pub snapshot: Snapshot,
    figures: Figures,
}

impl Sample {
    /// Puts two snapshots of a GPU together.
    pub fn of(hello: Hello, before: &Snapshot, now: Snapshot) -> Self {
        Self {
            hello,
            figures: Figures::between(Some(before), &now),
            snapshot: now,
        }
    }

    /// Time that rates are over, in nanoseconds.
    pub fn interval_ns(&self) -> u64 {
        self.figures.interval_ns
    }
}

/// Asks the servers of these sockets, all for the same [`SAMPLE`] of time. Those where nobody
/// listens are left out, unless they were `named`.
pub fn sample(sockets: &[PathBuf], named: bool) -> Vec<Gpu> {
    let mut first = Vec::new();
    for path in sockets {
        let begun = begin(path);
        if named || !matches!(begun, Err(ControlError::NobodyListens(_))) {
            first.push((path.clone(), begun));
        }
    }
    if first.iter().any(|(_, begun)| begun.is_ok()) {
        std::thread::sleep(SAMPLE);
    }
    first
        .into_iter()
        .map(|(control, begun)| Gpu {
            control,
            state: begun.and_then(|(mut connection, before)| {
                let now = connection.snapshot(false)?;
                Ok(Sample::of(connection.hello().clone(), &before, now))
            }),
        })
        .collect()
}

fn begin(path: &Path) -> Result<(Connection, Snapshot), ControlError> {
    let mut connection = Connection::open(path, PATIENCE)?;
    let before = connection.snapshot(false)?;
    Ok((connection, before))
}

/// What the GPU is connected to, in two words.
pub(crate) fn link_state(snapshot: &Snapshot) -> &'static str {
    let link = &snapshot.link;
    if link.driver {
        "driver runs"
    } else if link.connected {
        "no driver yet"
    } else {
        "no VM"
    }
}
