//! Holds the guest's program back until the host is ready.
//!
//! The server populates the guest's memory while the guest boots, which takes a second or two for each
//! GiB, and goes on after that where there is much of it. That takes a core from two, and memory that it
//! has not reached is slow when an engine first touches it: the first rounds would be measured ten
//! times too slow.

use std::io::{self, PipeWriter};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::vm::Stdin;

/// Who makes no headway for so long is not waited for any more.
const STALL: Duration = Duration::from_secs(10);

/// The end of the program's standard input, for which it waits. Clones are the same gate.
#[derive(Clone, Debug)]
pub(super) struct Gate(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    input: Option<PipeWriter>,
    /// The program has come to it. Before that there may be no memory yet.
    reached: bool,
    /// Nobody will tell how much is left to do.
    unwatched: bool,
    /// The least that was left to do, and since when.
    least: Option<(u64, Instant)>,
}

impl Gate {
    /// A closed gate, and the standard input of the program that waits for it.
    pub(super) fn new() -> io::Result<(Self, Stdin)> {
        let (reader, writer) = io::pipe()?;
        let state = State {
            input: Some(writer),
            reached: false,
            unwatched: false,
            least: None,
        };
        let gate = Self(Arc::new(Mutex::new(state)));
        Ok((gate, Stdin::File(OwnedFd::from(reader))))
    }

    /// The program waits.
    pub(super) fn reached(&self) {
        let mut state = self.state();
        state.reached = true;
        state.open_if_unwatched();
    }

    /// Somebody tells how much is left to do, until what is returned is dropped. A program is not left
    /// waiting where nobody does; one that has yet to come may find the next who does.
    pub(super) fn watched(&self) -> Watched {
        self.state().unwatched = false;
        Watched(self.clone())
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody tells how much is left to do.
#[derive(Debug)]
pub(super) struct Watched(Gate);

impl Drop for Watched {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.unwatched = true;
        state.open_if_unwatched();
    }
}

impl Watched {
    /// So many bytes are yet to be populated now. Opens the gate when there are none, or when they
    /// do not get fewer. Returns whether the program waits at it.
    pub(super) fn holds(&self, bytes: u64, now: Instant) -> bool {
        let mut state = self.0.state();
        if !state.reached {
            return false;
        }
        let stalled = match state.least {
            Some((least, since)) if bytes >= least => now.duration_since(since) >= STALL,
            _ => {
                state.least = Some((bytes, now));
                false
            }
        };
        if bytes == 0 || stalled {
            state.input = None;
        }
        state.input.is_some()
    }
}

impl State {
    fn open_if_unwatched(&mut self) {
        if self.reached && self.unwatched {
            self.input = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;

    fn file(stdin: Stdin) -> File {
        match stdin {
            Stdin::File(fd) => File::from(fd),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn it_opens_when_nothing_is_left_to_do() {
        let (gate, stdin) = Gate::new().unwrap();
        let (now, watched) = (Instant::now(), gate.watched());
        assert!(!watched.holds(0, now), "there is no guest yet");
        gate.reached();
        assert!(watched.holds(1 << 30, now));
        assert!(watched.holds(1 << 29, now + STALL));
        assert!(!watched.holds(0, now + STALL));
        assert_eq!(file(stdin).read(&mut [0]).unwrap(), 0);
        assert!(!watched.holds(1 << 30, now + STALL), "once and for all");
    }

    #[test]
    fn it_opens_when_there_is_no_headway() {
        let (gate, stdin) = Gate::new().unwrap();
        let (now, watched) = (Instant::now(), gate.watched());
        gate.reached();
        assert!(watched.holds(100, now));
        assert!(watched.holds(100, now + STALL / 2));
        assert!(watched.holds(99, now + STALL));
        assert!(watched.holds(99, now + STALL * 3 / 2));
        assert!(!watched.holds(99, now + STALL * 2));
        assert_eq!(file(stdin).read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn nobody_waits_where_nobody_watches() {
        let now = Instant::now();
        let (gate, stdin) = Gate::new().unwrap();
        // The server of an accelerator that does not work, and that of the next.
        drop(gate.watched());
        let watched = gate.watched();
        gate.reached();
        assert!(watched.holds(1, now));
        drop(watched);
        assert_eq!(file(stdin).read(&mut [0]).unwrap(), 0);
        let (gate, stdin) = Gate::new().unwrap();
        drop(gate.watched());
        gate.reached();
        assert_eq!(file(stdin).read(&mut [0]).unwrap(), 0);
    }
}
