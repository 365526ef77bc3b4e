//! Accesses of a worker against invalidations.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use crate::gate::Gate;

/// One page of virtual memory: its entry in the page table, what is kept of that, and the memory
/// that it is mapped to.
struct Machine {
    /// The entry is valid.
    entry: AtomicBool,
    /// The TLB has it.
    gate: Gate<bool>,
    /// Every access by the worker is a read of it, and its next owner writes it: an access that is
    /// in flight then, or comes later, is a race that the checker reports.
    page: UnsafeCell<u32>,
    /// What its next owner has written is to be seen by nobody who came through the old entry.
    taken: AtomicBool,
}

impl Machine {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            entry: AtomicBool::new(true),
            gate: Gate::new(false),
            page: UnsafeCell::new(7),
            taken: AtomicBool::new(false),
        })
    }

    /// One piece of work; whether it was allowed.
    fn access(&self) -> bool {
        let mut inside = self.gate.enter();
        let kept = inside.content().expect("inside");
        // A walk, when nothing is kept. What it finds is kept.
        *kept = *kept || self.entry.load(Ordering::Acquire);
        if *kept {
            self.page.with(|page| {
                // SAFETY: the checker finds any write that is not ordered with this read.
                #[allow(unsafe_code)]
                let found = unsafe { *page };
                assert_eq!(found, 7);
            });
            assert!(!self.taken.load(Ordering::Relaxed));
        }
        *kept
    }

    /// What a driver does that gives the page to somebody else.
    fn take_away(&self) {
        self.entry.store(false, Ordering::Release);
        self.gate.first(|kept| *kept = false);
        self.taken.store(true, Ordering::Relaxed);
        self.page.with_mut(|page| {
            // SAFETY: the checker finds any access that is not ordered with this write.
            #[allow(unsafe_code)]
            unsafe {
                *page = 8;
            }
        });
    }
}

#[test]
fn no_access_through_an_old_entry_after_an_invalidation() {
    loom::model(|| {
        let machine = Machine::new();
        let worker = thread::spawn({
            let machine = machine.clone();
            move || {
                let allowed = [machine.access(), machine.access()];
                assert!(allowed != [false, true], "it was mapped again by nobody");
            }
        });
        machine.take_away();
        assert!(!machine.access());
        worker.join().expect("worker");
    });
}

#[test]
fn two_who_go_first_and_a_worker_all_get_their_turn() {
    loom::model(|| {
        let gate = Arc::new(Gate::new(0));
        let others: Vec<_> = (0..2)
            .map(|_| {
                let gate = gate.clone();
                thread::spawn(move || gate.first(|count| *count += 1))
            })
            .collect();
        let mut inside = gate.enter();
        *inside.content().expect("inside") += 10;
        drop(inside);
        for other in others {
            other.join().expect("other");
        }
        assert_eq!(gate.first(|count| *count), 12);
    });
}

#[test]
fn a_worker_does_not_overtake_one_who_waits() {
    // However often the worker comes back: between two of its pieces, one who waits gets in. So
    // from the moment that one waits, the worker begins no piece before it.
    loom::model(|| {
        let gate = Arc::new(Gate::new(0));
        let first = gate.enter();
        let waiter = thread::spawn({
            let gate = gate.clone();
            move || gate.first(|content| *content = 1)
        });
        // The other threads run here, or not: whether the waiter waits already is seen below.
        thread::yield_now();
        let waited = gate.waits();
        drop(first);
        let found = *gate.enter().content().expect("inside");
        assert!(!waited || found == 1, "overtaken");
        waiter.join().expect("waiter");
    });
}
