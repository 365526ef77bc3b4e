//! Events for the host, and lines on the console.

use std::io::Write;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use hmmgpu_guest_protocol::Event;

use crate::ports::Port;

/// The port; also used by the panic hook, so it is global.
static PORT: Mutex<Option<Port>> = Mutex::new(None);

/// From now on events go to this port.
pub(crate) fn open(port: Port) {
    *PORT.lock().unwrap_or_else(PoisonError::into_inner) = Some(port);
}

/// Sends an event; it is with the host when this returns.
pub(crate) fn event(event: &Event) -> Result<()> {
    let mut line = serde_json::to_vec(event).context("cannot write an event")?;
    line.push(b'\n');
    let mut port = PORT.lock().unwrap_or_else(PoisonError::into_inner);
    let port = port
        .as_mut()
        .context("the port of the events is not open")?;
    port.write_all(&line).context("cannot send an event")
}

/// Says that init cannot go on; never fails or panics itself.
pub(crate) fn fatal(error: &str) {
    console(&format!("fatal: {error}"));
    let _ = event(&Event::Fatal {
        error: error.to_owned(),
    });
}

/// A line on the console.
pub(crate) fn console(line: &str) {
    let _ = writeln!(std::io::stderr(), "hmmgpu-init: {line}");
}
