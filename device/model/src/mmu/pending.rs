//! The fault that a context's job waits for.
//!
//! The job begins to wait before its fault is shown to the driver, so that even the quickest
//! answer finds it. Who resolves the fault then tells the scheduler to look at the context again.

use crate::sync::{Mutex, MutexGuard, PoisonError};

/// What the driver has decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resolution {
    /// Translate again.
    Replay,
    /// End the job.
    Cancel {
        /// For the job record.
        detail: u32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    None,
    Waiting(u64),
    Resolved(Resolution),
}

/// At most one fault.
#[derive(Debug)]
pub(crate) struct PendingFault {
    state: Mutex<State>,
}

impl PendingFault {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State::None),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The job waits for the fault of this sequence number from now on.
    pub(crate) fn wait(&self, sequence: u64) {
        *self.state() = State::Waiting(sequence);
    }

    /// Resolves a fault, a replay of 0 any; `false` when it is not the one that is waited for.
    pub(crate) fn resolve(&self, sequence: u64, resolution: Resolution) -> bool {
        let mut state = self.state();
        let any = sequence == 0 && resolution == Resolution::Replay;
        let waits = match *state {
            State::Waiting(waited) => waited == sequence || any,
            State::None | State::Resolved(_) => false,
        };
        if waits {
            *state = State::Resolved(resolution);
        }
        waits
    }

    /// The resolution, once; `None` while the fault still waits, or there is none.
    pub(crate) fn take(&self) -> Option<Resolution> {
        let mut state = self.state();
        match *state {
            State::Resolved(resolution) => {
                *state = State::None;
                Some(resolution)
            }
            State::None | State::Waiting(_) => None,
        }
    }

    /// Nobody waits any more.
    pub(crate) fn forget(&self) {
        *self.state() = State::None;
    }
}
