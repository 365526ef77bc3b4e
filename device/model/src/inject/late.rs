//! What happens later than whoever causes it can wait for: a thread with a list of times.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::armed::Hit;
use crate::mmu::UntoldFault;
use crate::shared::Shared;

/// Most events that wait. Bounds what a fault that delays can make the device keep; beyond it,
/// events come at once.
const MAX_EVENTS: usize = 4096;

/// What happens late.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// An interrupt is raised, if the device is still at this generation.
    Interrupt {
        /// Its vector.
        vector: u32,
        /// When it should have been raised.
        generation: u32,
    },
    /// A fault goes into the fault queue.
    Fault(UntoldFault),
    /// A context can go on.
    Wake(u32),
}

/// Why a job does not go on, though nothing is wrong with it: until all is disarmed, at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    /// When it goes on, if it does; [`Event::Wake`] tells.
    pub(crate) until: Option<Instant>,
    /// What it is held for.
    pub(crate) hit: Hit,
}

impl Held {
    /// It does not go on yet.
    pub(crate) fn lasts(self, shared: &Shared) -> bool {
        let Self { until, hit } = self;
        shared.inject.stands(&hit) && until.is_none_or(|until| Instant::now() < until)
    }
}

#[derive(Debug, Default)]
struct State {
    events: Vec<(Instant, Event)>,
    /// One that was taken out of them happens.
    happening: bool,
    shutdown: bool,
}

/// Events that are yet to happen.
#[derive(Debug, Default)]
pub(crate) struct Late {
    state: Mutex<State>,
    changed: Condvar,
}

impl Late {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets an event happen after some time. Returns it if too many wait, or what delays it does
    /// not stand any more: then it is to happen now.
    pub(crate) fn put(
        &self,
        after: Duration,
        event: Event,
        stands: impl FnOnce() -> bool,
    ) -> Option<Event> {
        let mut state = self.state();
        // Under the lock: what no longer stands is seen either here or by who hurries.
        if state.events.len() >= MAX_EVENTS || !stands() {
            return Some(event);
        }
        state.events.push((Instant::now() + after, event));
        self.changed.notify_all();
        None
    }

    /// Hands all events to `happens` before their time has come, but in its order. When this
    /// returns, none is under way.
    pub(crate) fn hurry(&self, mut happens: impl FnMut(Event)) {
        let mut state = self.state();
        let mut events = std::mem::take(&mut state.events);
        while state.happening {
            state = self.wait(state);
        }
        drop(state);
        events.sort_by_key(|(due, _)| *due);
        events.into_iter().for_each(|(_, event)| happens(event));
    }

    /// Forgets all events.
    pub(crate) fn forget(&self) {
        self.state().events.clear();
    }

    /// Ends [`Self::serve`].
    pub(crate) fn shut_down(&self) {
        self.state().shutdown = true;
        self.changed.notify_all();
    }

    /// Hands events to `happens` when their time has come, until it is shut down.
    pub(crate) fn serve(&self, mut happens: impl FnMut(Event)) {
        let mut state = self.state();
        while !state.shutdown {
            let next = state
                .events
                .iter()
                .enumerate()
                .min_by_key(|(_, (due, _))| *due)
                .map(|(place, (due, _))| (place, *due));
            state = match next {
                None => self.wait(state),
                Some((place, due)) => {
                    let left = due.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        let (_, event) = state.events.swap_remove(place);
                        state.happening = true;
                        drop(state);
                        happens(event);
                        let mut state = self.state();
                        state.happening = false;
                        self.changed.notify_all();
                        state
                    } else {
                        self.changed
                            .wait_timeout(state, left)
                            .unwrap_or_else(PoisonError::into_inner)
                            .0
                    }
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::mock::until;

    #[test]
    fn events_come_in_the_order_of_their_times() {
        let late = Late::default();
        let interrupt = |vector| Event::Interrupt {
            vector,
            generation: 0,
        };
        for (ms, vector) in [(30, 3), (10, 1), (20, 2)] {
            assert!(
                late.put(Duration::from_millis(ms), interrupt(vector), || true)
                    .is_none()
            );
        }
        let mut found = Vec::new();
        late.serve(|event| {
            if let Event::Interrupt { vector, .. } = event {
                found.push(vector);
            }
            if found.len() == 3 {
                late.shut_down();
            }
        });
        assert_eq!(found, [1, 2, 3]);
    }

    #[test]
    fn whoever_hurries_waits_for_what_happens() {
        let late = Late::default();
        let event = |vector| Event::Interrupt {
            vector,
            generation: 0,
        };
        for (seconds, vector) in [(0, 0), (300, 3), (100, 1), (200, 2)] {
            late.put(Duration::from_secs(seconds), event(vector), || true);
        }
        let (begun, over) = (AtomicBool::new(false), AtomicBool::new(false));
        let mut hurried = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                late.serve(|_| {
                    begun.store(true, Ordering::SeqCst);
                    // Once those that wait are taken.
                    until("hurry", || late.state().events.is_empty()).unwrap();
                    (0..1000).for_each(|_| std::thread::yield_now());
                    over.store(true, Ordering::SeqCst);
                });
            });
            until("an event", || begun.load(Ordering::SeqCst)).unwrap();
            late.hurry(|event| {
                assert!(over.load(Ordering::SeqCst));
                if let Event::Interrupt { vector, .. } = event {
                    hurried.push(vector);
                }
            });
            late.shut_down();
        });
        assert_eq!(hurried, [1, 2, 3]);
    }

    #[test]
    fn events_are_bounded() {
        let late = Late::default();
        let event = || Event::Interrupt {
            vector: 0,
            generation: 0,
        };
        let hour = Duration::from_secs(3600);
        for _ in 0..MAX_EVENTS {
            assert!(late.put(hour, event(), || true).is_none());
        }
        assert!(late.put(hour, event(), || true).is_some());
        late.forget();
        assert!(late.put(hour, event(), || true).is_none());
        assert!(late.put(hour, event(), || false).is_some());
    }
}
