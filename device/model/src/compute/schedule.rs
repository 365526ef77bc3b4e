//! Which context is worked on next.
//!
//! Contexts take turns: one that has work is in a queue, and each engine takes the first of it. A
//! context that sleeps, or waits for a fault, is in no queue and costs nothing until it is woken.
//! A wake that comes during a turn is not lost: the context gets another one.
//!
//! The lock here is taken with others held, those of the registers for one, and takes none.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Where a context is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Nowhere; it has nothing to do until it is woken.
    Asleep,
    /// In the queue.
    Queued,
    /// With an engine.
    Working {
        /// It was woken meanwhile.
        woken: bool,
    },
}

/// What a context wants after its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// Another turn, after those of others.
    Again,
    /// To be woken.
    Sleep,
}

#[derive(Debug)]
struct State {
    places: Vec<Place>,
    queue: VecDeque<u32>,
    shutdown: bool,
}

/// The queue of contexts.
#[derive(Debug)]
pub(crate) struct Schedule {
    state: Mutex<State>,
    changed: Condvar,
    /// Length of the queue, for engines that would give way.
    queued: AtomicUsize,
}

impl Schedule {
    /// All of `contexts` are asleep.
    pub(crate) fn new(contexts: u32) -> Self {
        Self {
            state: Mutex::new(State {
                places: vec![Place::Asleep; contexts as usize],
                queue: VecDeque::new(),
                shutdown: false,
            }),
            changed: Condvar::new(),
            queued: AtomicUsize::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, state: &mut State, context: u32) {
        state.places[context as usize] = Place::Queued;
        state.queue.push_back(context);
        self.queued.store(state.queue.len(), Ordering::Relaxed);
    }

    /// Gives a context a turn, or another one.
    pub(crate) fn wake(&self, context: u32) {
        let mut state = self.state();
        match &mut state.places[context as usize] {
            Place::Asleep => self.push(&mut state, context),
            Place::Queued => {}
            Place::Working { woken } => *woken = true,
        }
        drop(state);
        // All, because an engine that waits for something else sleeps here as well.
        self.changed.notify_all();
    }

    /// Takes the next context for a turn, when there is one; `None` when all is over.
    pub(crate) fn next(&self) -> Option<u32> {
        let mut state = self.state();
        loop {
            if state.shutdown {
                return None;
            }
            if let Some(context) = state.queue.pop_front() {
                self.queued.store(state.queue.len(), Ordering::Relaxed);
                state.places[context as usize] = Place::Working { woken: false };
                return Some(context);
            }
            state = self.wait(state);
        }
    }

    /// Ends the turn of a context.
    pub(crate) fn done(&self, context: u32, after: After) {
        let mut state = self.state();
        let woken = state.places[context as usize] == (Place::Working { woken: true });
        if after == After::Again || woken {
            self.push(&mut state, context);
            drop(state);
            self.changed.notify_all();
        } else {
            state.places[context as usize] = Place::Asleep;
        }
    }

    /// Whether a context waits for its turn.
    pub(crate) fn others_wait(&self) -> bool {
        self.queued.load(Ordering::Relaxed) > 0
    }

    /// Sleeps while `blocked`, which changes only before a wake of some context.
    pub(crate) fn wait_while(&self, blocked: impl Fn() -> bool) {
        let mut state = self.state();
        while !state.shutdown && blocked() {
            state = self.wait(state);
        }
    }

    /// No context gets a turn any more.
    pub(crate) fn shut_down(&self) {
        self.state().shutdown = true;
        self.changed.notify_all();
    }
}
