//! How the model raises interrupts: a trait, so that it knows no transport.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use hmmgpu_contract::pci::MSIX_VECTORS;

/// Where one MSI-X vector goes.
pub trait Interrupt: Send {
    /// Signals the vector once. Called with locks of the device held: it must not block, and must
    /// not call the device.
    fn raise(&self);
}

/// One vector: its sink, and whether it was raised while there was none.
#[derive(Default)]
struct Vector {
    sink: Option<Box<dyn Interrupt>>,
    pending: bool,
}

/// The sinks of all vectors.
///
/// A vector without a sink is a masked one: what is raised there stays pending and goes out when
/// a sink comes, as the pending bit of an MSI-X table entry does.
pub(crate) struct Vectors {
    vectors: [Mutex<Vector>; MSIX_VECTORS as usize],
}

impl Vectors {
    pub(crate) fn new() -> Self {
        Self {
            vectors: std::array::from_fn(|_| Mutex::default()),
        }
    }

    /// Replaces the sink of `vector`; afterwards the one before is gone. Unknown vectors are
    /// ignored. Returns whether an interrupt that was pending has been raised.
    pub(crate) fn set(&self, vector: u32, sink: Option<Box<dyn Interrupt>>) -> bool {
        let Some(slot) = self.slot(vector) else {
            return false;
        };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        slot.sink = sink;
        match (&slot.sink, slot.pending) {
            (Some(sink), true) => {
                sink.raise();
                slot.pending = false;
                true
            }
            _ => false,
        }
    }

    /// Raises `vector`. Returns whether a sink took it; without one it stays pending.
    pub(crate) fn raise(&self, vector: u32) -> bool {
        let Some(slot) = self.slot(vector) else {
            return false;
        };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        match &slot.sink {
            Some(sink) => {
                sink.raise();
                true
            }
            None => {
                slot.pending = true;
                false
            }
        }
    }

    /// The pending bits, vector 0 in bit 0.
    pub(crate) fn pending_bits(&self) -> u64 {
        self.vectors
            .iter()
            .enumerate()
            .map(|(bit, slot)| {
                let slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
                u64::from(slot.pending) << bit
            })
            .sum()
    }

    /// Forgets what is pending, and the sinks too if asked.
    pub(crate) fn reset(&self, drop_sinks: bool) {
        for slot in &self.vectors {
            let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            slot.pending = false;
            if drop_sinks {
                slot.sink = None;
            }
        }
    }

    fn slot(&self, vector: u32) -> Option<&Mutex<Vector>> {
        self.vectors.get(usize::try_from(vector).ok()?)
    }
}

impl fmt::Debug for Vectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vectors")
            .field("pending", &self.pending_bits())
            .finish_non_exhaustive()
    }
}
