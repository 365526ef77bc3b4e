//! A job that waits for its fault against the driver's answer.

use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use crate::pending::{PendingFault, Resolution};

const CANCEL: Resolution = Resolution::Cancel { detail: 5 };

/// A number that somebody waits for; it stays until it is taken.
struct Signal {
    value: Mutex<u64>,
    changed: Condvar,
}

impl Signal {
    fn new() -> Self {
        Self {
            value: Mutex::new(0),
            changed: Condvar::new(),
        }
    }

    fn set(&self, value: u64) {
        *self.value.lock().expect("lock") = value;
        self.changed.notify_all();
    }

    fn take(&self) -> u64 {
        let mut value = self.value.lock().expect("lock");
        while *value == 0 {
            value = self.changed.wait(value).expect("lock");
        }
        std::mem::take(&mut value)
    }
}

/// A context whose job faults.
struct Machine {
    fault: PendingFault,
    /// Sequence number of the fault, for the driver.
    told: Signal,
    /// The scheduler's: the context is to be looked at.
    woken: Signal,
}

impl Machine {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            fault: PendingFault::new(),
            told: Signal::new(),
            woken: Signal::new(),
        })
    }

    /// The engine's side of a fault, up to where the driver can see it.
    fn report(&self, sequence: u64) {
        self.fault.wait(sequence);
        self.told.set(sequence);
    }

    /// The invalidation engine's side.
    fn resolve(&self, sequence: u64, resolution: Resolution) -> bool {
        let resolved = self.fault.resolve(sequence, resolution);
        if resolved {
            self.woken.set(1);
        }
        resolved
    }

    /// The driver's side: answers the fault as soon as it sees it.
    fn answer(&self, resolution: Resolution) -> bool {
        let sequence = self.told.take();
        self.resolve(sequence, resolution)
    }

    /// The scheduler's side: what the job does next, when it is woken.
    fn woken(&self) -> Option<Resolution> {
        self.woken.take();
        self.fault.take()
    }
}

#[test]
fn the_quickest_answer_is_not_lost() {
    loom::model(|| {
        let machine = Machine::new();
        let driver = thread::spawn({
            let machine = machine.clone();
            move || assert!(machine.answer(Resolution::Replay))
        });
        machine.report(1);
        assert_eq!(machine.woken(), Some(Resolution::Replay));
        assert_eq!(machine.fault.take(), None, "once");
        driver.join().expect("driver");
    });
}

#[test]
fn one_of_two_answers_counts() {
    loom::model(|| {
        let machine = Machine::new();
        machine.report(1);
        let cancel = thread::spawn({
            let machine = machine.clone();
            move || machine.resolve(1, CANCEL)
        });
        let replayed = machine.resolve(1, Resolution::Replay);
        let cancelled = cancel.join().expect("driver");
        assert!(replayed != cancelled);
        let expected = if replayed { Resolution::Replay } else { CANCEL };
        assert_eq!(machine.woken(), Some(expected));
    });
}

#[test]
fn an_answer_to_a_fault_of_before_changes_nothing() {
    loom::model(|| {
        let machine = Machine::new();
        machine.report(1);
        let late = thread::spawn({
            let machine = machine.clone();
            move || machine.resolve(1, CANCEL)
        });
        // The context is disabled, and its next job faults.
        machine.fault.forget();
        machine.report(2);
        late.join().expect("driver");
        // Whether or not the late answer came before: the new fault waits for its own.
        assert_eq!(machine.fault.take(), None);
        assert!(machine.resolve(2, Resolution::Replay));
        assert_eq!(machine.woken(), Some(Resolution::Replay));
    });
}
