//! How the queues and the link are doing, for the snapshot.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hmmgpu_contract::regs::{ERROR_CONTEXT0, FAULT_QUEUE, INVALIDATION_QUEUE};
use hmmgpu_telemetry::Source;
use hmmgpu_telemetry::snapshot::{EngineState, Link, Queue, QueueKind};

use crate::dma::DmaView;
use crate::ring::{Ring, Word};
use crate::shared::{Shared, lock};

/// The transport's client.
#[derive(Debug, Default)]
pub(crate) struct Client {
    connected: AtomicBool,
    clients: AtomicU64,
}

impl Client {
    /// It is there, or has gone.
    pub(crate) fn connected(&self, connected: bool) {
        let was = self.connected.swap(connected, Ordering::Relaxed);
        if connected && !was {
            self.clients.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What telemetry calls a queue or context.
pub(crate) fn source(queue: u32) -> Source {
    let (kind, index) = match queue {
        INVALIDATION_QUEUE => (QueueKind::Invalidation, 0),
        FAULT_QUEUE => (QueueKind::Fault, 0),
        ERROR_CONTEXT0.. => (QueueKind::Compute, queue - ERROR_CONTEXT0),
        _ => (QueueKind::Copy, queue),
    };
    Source { kind, index }
}

/// Entries between producer and consumer; 0 where they cannot be reached, or make no sense.
fn depth(ring: &Ring, view: &DmaView<'_>) -> u32 {
    let consumer = ring.load(view, Word::Consumer);
    let pending = consumer.and_then(|consumer| ring.pending(view, consumer));
    pending.unwrap_or(0)
}

impl Shared {
    /// The link as it is.
    pub(crate) fn link(&self) -> Link {
        let msix = lock(&self.config).msix_enabled();
        Link {
            connected: self.client.connected.load(Ordering::Relaxed),
            clients: self.client.clients.load(Ordering::Relaxed),
            bus_master: self.may_master(),
            msix,
            driver: self.registers().enabled().next().is_some(),
        }
    }

    /// The queues that are enabled, with a look at their rings.
    pub(crate) fn queues(&self, view: &DmaView<'_>) -> Vec<Queue> {
        let enabled: Vec<_> = self.registers().enabled().collect();
        let may_look = self.may_master();
        let queue = |(number, ring, well): (u32, Ring, bool)| {
            let control = self.control(number);
            let Source { kind, index } = source(number);
            let (state, depth) = match well {
                true if may_look => (control.engine_state(), depth(&ring, view)),
                true => (control.engine_state(), 0),
                false => (EngineState::Stopped, 0),
            };
            Queue {
                kind,
                index,
                state,
                // One that was refused may have any.
                entries: 1_u32.checked_shl(ring.log2).unwrap_or(0),
                depth,
                busy_ns: control.busy_ns(),
            }
        };
        let mut queues: Vec<_> = enabled.into_iter().map(queue).collect();
        queues.sort_by_key(|queue| (queue.kind, queue.index));
        queues
    }
}
