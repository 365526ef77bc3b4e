//! A job that waits for its fault against the driver's answer, and the schedule of its context.

use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use crate::pending::{PendingFault, Resolution};
use crate::schedule::{After, Schedule};

const CANCEL: Resolution = Resolution::Cancel { detail: 5 };
const CONTEXT: u32 = 0;

/// What the driver can see of the fault queue: the sequence number of a fault, until it is taken.
struct Ring {
    sequence: Mutex<Option<u64>>,
    changed: Condvar,
}

impl Ring {
    fn put(&self, sequence: u64) {
        *self.sequence.lock().expect("lock") = Some(sequence);
        self.changed.notify_all();
    }

    fn take(&self) -> u64 {
        let mut sequence = self.sequence.lock().expect("lock");
        loop {
            match sequence.take() {
                Some(sequence) => return sequence,
                None => sequence = self.changed.wait(sequence).expect("lock"),
            }
        }
    }
}

/// A context whose job faults.
struct Machine {
    fault: PendingFault,
    schedule: Schedule,
    ring: Ring,
}

impl Machine {
    fn new() -> Arc<Self> {
        let machine = Self {
            fault: PendingFault::new(),
            schedule: Schedule::new(1),
            ring: Ring {
                sequence: Mutex::new(None),
                changed: Condvar::new(),
            },
        };
        machine.schedule.wake(CONTEXT);
        Arc::new(machine)
    }

    /// The invalidation engine's side.
    fn resolve(&self, sequence: u64, resolution: Resolution) -> bool {
        let resolved = self.fault.resolve(sequence, resolution);
        if resolved {
            self.schedule.wake(CONTEXT);
        }
        resolved
    }

    /// The driver's side: answers a fault as soon as it sees it.
    fn answer(&self, resolution: Resolution) -> bool {
        let sequence = self.ring.take();
        self.resolve(sequence, resolution)
    }

    /// The compute engine's side: a job that meets `faults` faults, one after the other. What it
    /// was told in the end; a wake that is lost leaves it asleep, which the checker reports.
    fn work(&self, faults: u64) -> Resolution {
        let mut reported = 0;
        loop {
            assert_eq!(self.schedule.next(), Some(CONTEXT));
            match self.fault.take() {
                Some(resolution) if resolution != Resolution::Replay || reported == faults => {
                    return resolution;
                }
                // Woken for nothing.
                None if reported > 0 => {}
                _ => {
                    reported += 1;
                    self.fault.wait(reported);
                    self.ring.put(reported);
                }
            }
            self.schedule.done(CONTEXT, After::Sleep);
        }
    }
}

#[test]
fn the_quickest_answer_is_not_lost() {
    loom::model(|| {
        let machine = Machine::new();
        let driver = thread::spawn({
            let machine = machine.clone();
            move || {
                assert!(machine.answer(Resolution::Replay));
                assert!(machine.answer(Resolution::Replay));
            }
        });
        assert_eq!(machine.work(2), Resolution::Replay);
        assert_eq!(machine.fault.take(), None, "once");
        driver.join().expect("driver");
    });
}

#[test]
fn one_of_two_answers_counts() {
    loom::model(|| {
        let machine = Machine::new();
        let driver = thread::spawn({
            let machine = machine.clone();
            move || {
                let sequence = machine.ring.take();
                let cancelled = machine.resolve(sequence, CANCEL);
                let replayed = machine.resolve(sequence, Resolution::Replay);
                (cancelled, replayed)
            }
        });
        assert_eq!(machine.work(1), CANCEL);
        assert_eq!(driver.join().expect("driver"), (true, false));
    });
}

#[test]
fn an_answer_to_a_fault_of_before_changes_nothing() {
    loom::model(|| {
        let machine = Machine::new();
        machine.fault.wait(1);
        let late = thread::spawn({
            let machine = machine.clone();
            move || machine.resolve(1, CANCEL)
        });
        // The context is disabled, and its next job faults.
        machine.fault.forget();
        machine.fault.wait(2);
        late.join().expect("driver");
        // Whether or not the late answer came before: the new fault waits for its own.
        assert_eq!(machine.fault.take(), None);
        assert!(machine.resolve(2, Resolution::Replay));
        assert_eq!(machine.fault.take(), Some(Resolution::Replay));
    });
}
