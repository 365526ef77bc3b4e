//! The last events of a GPU.

use std::path::{Path, PathBuf};

use hmmgpu_telemetry::Event;
use hmmgpu_telemetry::control::Hello;
use serde::Serialize;

use crate::control::{Connection, ControlError, PATIENCE};
use crate::text::printable;
use crate::views::events;

/// Schema of the document.
const SCHEMA: &str = "hmmgpu.events/1";

/// The last events of a GPU.
#[derive(Debug, Serialize)]
pub struct LastEvents {
    schema: &'static str,
    control: PathBuf,
    server: Hello,
    started_ns: u64,
    events: Vec<Event>,
}

/// Asks the server of a control socket for them.
///
/// # Errors
/// See [`Connection::open`] and [`Connection::snapshot`].
pub fn last_events(control: &Path, last: usize) -> Result<LastEvents, ControlError> {
    let mut connection = Connection::open(control, PATIENCE)?;
    Ok(LastEvents {
        schema: SCHEMA,
        control: control.to_owned(),
        started_ns: connection.snapshot(false)?.started_ns,
        events: connection.events(last)?,
        server: connection.hello().clone(),
    })
}

impl LastEvents {
    /// A heading and a line for each; or a JSON document on one line.
    pub fn text(&self, json: bool) -> String {
        if json {
            // Strings and numbers: there is nothing that JSON does not have.
            let mut text = serde_json::to_string(self).unwrap_or_default();
            text.push('\n');
            return text;
        }
        let label = printable(self.server.label.as_bytes());
        let lines = events::lines(&self.events, self.started_ns);
        format!("{label}, pid {}\n{lines}", self.server.pid)
    }
}
