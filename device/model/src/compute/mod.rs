//! The compute engines: jobs on memory of address spaces.
//!
//! Engines are threads that share all contexts. A context that has work gets a [turn](run) on one
//! of them, which is bounded; one that waits for its driver, or for a fault to be resolved, is
//! with no engine. Nothing of a context is held between two steps of a job, so disabling it,
//! invalidating its translations, unmapping memory and reset wait for at most one step.

mod answer;
mod job;
mod kernels;
mod memory;
mod run;
mod schedule;
#[cfg(test)]
mod tests;
mod work;

use std::sync::{Arc, Mutex};

pub(crate) use self::memory::Halt;

use self::kernels::Scratch;
use self::run::Slot;
use self::schedule::Schedule;
use crate::shared::{Shared, lock};

/// What the engines share.
#[derive(Debug)]
pub(crate) struct Compute {
    schedule: Schedule,
    /// By context. Only the engine that a context has its turn with takes the lock.
    slots: Vec<Mutex<Slot>>,
}

impl Compute {
    pub(crate) fn new(contexts: u32) -> Self {
        Self {
            schedule: Schedule::new(contexts),
            slots: (0..contexts).map(|_| Mutex::default()).collect(),
        }
    }

    /// Something has happened to a context: a doorbell, the resolution of a fault, the beginning
    /// or the end of a run, or the function may master the bus again.
    pub(crate) fn wake(&self, context: u32) {
        self.schedule.wake(context);
    }

    /// Lets the engines' threads end. Runs have to be stopped before.
    pub(crate) fn shut_down(&self) {
        self.schedule.shut_down();
    }
}

/// The thread of one engine.
pub(crate) fn serve(shared: &Arc<Shared>) {
    let Compute { schedule, slots } = &shared.compute;
    let mut scratch = Scratch::new();
    while let Some(context) = schedule.next() {
        let after = lock(&slots[context as usize]).turn(shared, schedule, context, &mut scratch);
        schedule.done(context, after);
    }
}
