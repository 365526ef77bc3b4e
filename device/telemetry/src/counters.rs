//! Counters off the engines' path: relaxed atomics, because nothing is ordered by them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Most offsets of unknown registers that are told apart. Stops a driver that probes all of a BAR
/// from filling the host's memory.
pub const UNKNOWN_REGISTER_OFFSETS: usize = 64;

/// Events that are not transfers.
#[derive(Debug, Default)]
pub struct Counters {
    /// Interrupts that a sink has taken.
    interrupts: AtomicU64,
    /// Doorbells received.
    doorbells: AtomicU64,
    /// Times that an engine went to sleep.
    engine_sleeps: AtomicU64,
    /// Fences that were written.
    fences: AtomicU64,
    /// DMA maps that were refused.
    dma_map_errors: AtomicU64,
    /// Virtual addresses that were translated.
    translations: AtomicU64,
    /// Translations that the TLB had.
    tlb_hits: AtomicU64,
    /// Walks of page tables.
    walks: AtomicU64,
    /// Invalidations that were carried out.
    invalidations: AtomicU64,
    /// Faults that had to wait for room in the fault queue.
    fault_queue_fulls: AtomicU64,
    /// Contexts that are enabled.
    contexts: AtomicU64,
    /// Most contexts that were enabled at any time.
    contexts_peak: AtomicU64,
    /// All accesses to unknown registers.
    unknown_accesses: AtomicU64,
    /// Accesses by offset, for the first offsets.
    unknown_offsets: Mutex<BTreeMap<u64, u64>>,
}

macro_rules! counter {
    ($($(#[doc = $doc:literal])* $name:ident, $count:ident;)*) => {$(
        $(#[doc = $doc])*
        pub fn $count(&self) {
            self.$name.fetch_add(1, Ordering::Relaxed);
        }

        pub(crate) fn $name(&self) -> u64 {
            self.$name.load(Ordering::Relaxed)
        }
    )*};
}

impl Counters {
    counter! {
        /// A sink has taken an interrupt.
        interrupts, interrupt;
        /// A doorbell was written.
        doorbells, doorbell;
        /// An engine goes to sleep.
        engine_sleeps, engine_sleep;
        /// A fence is written. Counted before, so that whoever sees it finds it counted.
        fences, fence;
        /// A DMA map was refused.
        dma_map_errors, dma_map_error;
        /// An INVALIDATE is done.
        invalidations, invalidation;
        /// A fault waits for room in the fault queue.
        fault_queue_fulls, fault_queue_full;
    }

    /// What an address space did since the last call: translations, how many of them the TLB had,
    /// and walks of page tables.
    pub fn translated(&self, translations: u64, tlb_hits: u64, walks: u64) {
        self.translations.fetch_add(translations, Ordering::Relaxed);
        self.tlb_hits.fetch_add(tlb_hits, Ordering::Relaxed);
        self.walks.fetch_add(walks, Ordering::Relaxed);
    }

    pub(crate) fn translations(&self) -> u64 {
        self.translations.load(Ordering::Relaxed)
    }

    pub(crate) fn tlb_hits(&self) -> u64 {
        self.tlb_hits.load(Ordering::Relaxed)
    }

    pub(crate) fn walks(&self) -> u64 {
        self.walks.load(Ordering::Relaxed)
    }

    /// So many contexts are enabled now.
    pub fn contexts_enabled(&self, now: u64) {
        self.contexts.store(now, Ordering::Relaxed);
        self.contexts_peak.fetch_max(now, Ordering::Relaxed);
    }

    pub(crate) fn contexts(&self) -> u64 {
        self.contexts.load(Ordering::Relaxed)
    }

    pub(crate) fn contexts_peak(&self) -> u64 {
        self.contexts_peak.load(Ordering::Relaxed)
    }

    /// A register that is not defined was read or written, or one in a way that is not defined.
    pub fn unknown_register(&self, offset: u64) {
        self.unknown_accesses.fetch_add(1, Ordering::Relaxed);
        let mut offsets = self
            .unknown_offsets
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = offsets.get_mut(&offset) {
            *count += 1;
        } else if offsets.len() < UNKNOWN_REGISTER_OFFSETS {
            offsets.insert(offset, 1);
        }
    }

    pub(crate) fn unknown_registers(&self) -> (Vec<(u64, u64)>, u64) {
        let offsets = self
            .unknown_offsets
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        (
            offsets.iter().map(|(k, v)| (*k, *v)).collect(),
            self.unknown_accesses.load(Ordering::Relaxed),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_registers_are_listed_up_to_the_bound_and_all_counted() {
        let counters = Counters::default();
        for offset in 0..100 {
            counters.unknown_register(offset);
            counters.unknown_register(offset);
        }
        let (offsets, all) = counters.unknown_registers();
        assert_eq!(offsets.len(), UNKNOWN_REGISTER_OFFSETS);
        assert!(offsets.iter().all(|(_, count)| *count == 2));
        assert_eq!(all, 200);
    }
}
