//! The device while it is measured: VRAM over time, and what it has counted at a quiet moment.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use hmmgpu_telemetry::snapshot::Snapshot;

use super::gate::Gate;
use super::vram_history::{Recorder, VramHistory};
use crate::control::{Connection, PATIENCE};

/// Time between two looks: often enough for a picture, too seldom to be felt.
const INTERVAL: Duration = Duration::from_millis(250);

/// Asks a device's server for snapshots until it is dropped or finished. Clones of its [`Bell`]
/// ask for one more at the moment that they are rung.
#[derive(Debug)]
pub(super) struct Watch {
    thread: JoinHandle<Seen>,
    bell: Bell,
}

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// VRAM over time.
    pub(super) history: Option<VramHistory>,
    /// The snapshot of the quiet moment.
    pub(super) quiet: Option<Snapshot>,
}

/// Rung at the quiet moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Bell(Arc<Mutex<Option<Sender<()>>>>);

impl Bell {
    /// Asks whoever watches for a snapshot now.
    pub(super) fn ring(&self) {
        let bell = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = &*bell {
            // It is full when it has been rung already.
            let _ = sender.try_send(());
        }
    }
}

impl Watch {
    /// Watches the server with this control socket, and opens the gate when it has populated the
    /// guest's memory; tells `left` how many bytes there are before that. One that cannot be asked is
    /// not seen: a measurement does not fail for that.
    pub(super) fn start(
        control: PathBuf,
        bell: Bell,
        gate: &Gate,
        left: impl Fn(u64) + Send + 'static,
    ) -> Option<Self> {
        // Dropped with the thread's work, or with what cannot be a thread.
        let gate = gate.watched();
        let (sender, rings) = bounded(1);
        *bell.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        let thread = std::thread::Builder::new()
            .name("bench watch".into())
            .spawn(move || {
                let mut recorder = Recorder::default();
                let mut quiet = None;
                let mut connection = match Connection::open(&control, PATIENCE) {
                    Ok(connection) => connection,
                    Err(error) => {
                        tracing::warn!("VRAM is not watched: {error}");
                        return Seen::default();
                    }
                };
                loop {
                    let rung = match rings.recv_timeout(INTERVAL) {
                        Ok(()) => true,
                        Err(RecvTimeoutError::Timeout) => false,
                        Err(RecvTimeoutError::Disconnected) => break,
                    };
                    match connection.snapshot(false) {
                        Ok(snapshot) => {
                            recorder.add(&snapshot);
                            let bytes = snapshot.events.populating_bytes;
                            if gate.holds(bytes, Instant::now()) {
                                left(bytes);
                            }
                            if rung {
                                quiet = Some(snapshot);
                            }
                        }
                        Err(error) => {
                            // The server ends before the launcher does.
                            tracing::debug!("VRAM is not watched any more: {error}");
                            break;
                        }
                    }
                }
                Seen {
                    history: recorder.finish(),
                    quiet,
                }
            });
        match thread {
            Ok(thread) => Some(Self { thread, bell }),
            Err(error) => {
                tracing::warn!("VRAM is not watched: {error}");
                None
            }
        }
    }

    /// Ends it.
    pub(super) fn finish(self) -> Seen {
        let sender = self
            .bell
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(sender);
        self.thread.join().unwrap_or_default()
    }
}
