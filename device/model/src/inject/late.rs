//! What happens later than whoever causes it can wait for: a thread with a list of times.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

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

/// Why a job does not go on, though nothing is wrong with it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Held {
    /// Until then; [`Event::Wake`] tells.
    Until(Instant),
    /// Until all faults are disarmed once more than so often.
    Cleared(u32),
}

impl Held {
    /// It does not go on yet.
    pub(crate) fn lasts(self, shared: &Shared) -> bool {
        match self {
            Self::Until(time) => Instant::now() < time,
            Self::Cleared(clears) => shared.inject.clears() == clears,
        }
    }
}

#[derive(Debug, Default)]
struct State {
    events: Vec<(Instant, Event)>,
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

    /// Lets an event happen after some time. Returns it if too many wait: then it is to happen now.
    pub(crate) fn put(&self, after: Duration, event: Event) -> Option<Event> {
        let mut state = self.state();
        if state.events.len() >= MAX_EVENTS {
            return Some(event);
        }
        state.events.push((Instant::now() + after, event));
        self.changed.notify_all();
        None
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
                None => self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some((place, due)) => {
                    let left = due.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        let (_, event) = state.events.swap_remove(place);
                        drop(state);
                        happens(event);
                        self.state()
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
    use super::*;

    #[test]
    fn events_come_in_the_order_of_their_times() {
        let late = Late::default();
        let interrupt = |vector| Event::Interrupt {
            vector,
            generation: 0,
        };
        for (ms, vector) in [(30, 3), (10, 1), (20, 2)] {
            assert!(
                late.put(Duration::from_millis(ms), interrupt(vector))
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
    fn events_are_bounded() {
        let late = Late::default();
        let event = || Event::Interrupt {
            vector: 0,
            generation: 0,
        };
        let hour = Duration::from_secs(3600);
        for _ in 0..MAX_EVENTS {
            assert!(late.put(hour, event()).is_none());
        }
        assert!(late.put(hour, event()).is_some());
    }
}
