//! A lock between one that takes it again and again, and those that go first.
//!
//! A worker is inside for each piece of work, and nearly always. Whoever has to change what the
//! worker uses goes first: from the moment that they wait, nobody new gets in, so that they wait
//! for at most one piece. An ordinary mutex would let the worker in again and again.

use crate::sync::{Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Debug)]
struct State<T> {
    /// `None` while somebody is inside, who has it.
    content: Option<T>,
    /// Those who go first and wait, or are about to.
    first: usize,
    /// All who sleep.
    sleeping: usize,
}

/// The lock, and what it protects.
#[derive(Debug)]
pub(crate) struct Gate<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

impl<T> Gate<T> {
    pub(crate) fn new(content: T) -> Self {
        Self {
            state: Mutex::new(State {
                content: Some(content),
                first: 0,
                sleeping: 0,
            }),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sleep<'a>(&self, mut state: MutexGuard<'a, State<T>>) -> MutexGuard<'a, State<T>> {
        state.sleeping += 1;
        let mut state = self
            .changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner);
        state.sleeping -= 1;
        state
    }

    /// A call of the system is saved when nobody sleeps, which is nearly always.
    fn wake(&self, state: &State<T>) {
        if state.sleeping > 0 {
            self.changed.notify_all();
        }
    }

    /// Whether somebody who goes first waits, for tests that have to begin there.
    #[cfg(test)]
    pub(crate) fn waits(&self) -> bool {
        self.lock().first > 0
    }

    /// Waits until nobody is inside and nobody goes first.
    pub(crate) fn enter(&self) -> Inside<'_, T> {
        let mut state = self.lock();
        loop {
            if state.first == 0
                && let content @ Some(_) = state.content.take()
            {
                return Inside {
                    gate: self,
                    content,
                };
            }
            state = self.sleep(state);
        }
    }

    /// Waits for whoever is inside, before anybody else gets in, and changes what they use.
    pub(crate) fn first<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let mut state = self.lock();
        state.first += 1;
        loop {
            if let Some(content) = &mut state.content {
                let result = change(content);
                state.first -= 1;
                self.wake(&state);
                return result;
            }
            state = self.sleep(state);
        }
    }
}

/// Being inside. Dropping it lets others in.
#[derive(Debug)]
pub(crate) struct Inside<'a, T> {
    gate: &'a Gate<T>,
    /// `None` only while it is dropped.
    content: Option<T>,
}

impl<T> Inside<'_, T> {
    /// What the gate protects.
    pub(crate) fn content(&mut self) -> Option<&mut T> {
        self.content.as_mut()
    }
}

impl<T> Drop for Inside<'_, T> {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        state.content = self.content.take();
        self.gate.wake(&state);
    }
}
