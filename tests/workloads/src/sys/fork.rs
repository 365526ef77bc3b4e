//! Child processes that share the parent's memory by copy-on-write.
// There is no safe fork: the child continues in a copy of a process whose other threads are
// gone. Programs that fork never start a thread.
#![allow(unsafe_code)]

use std::io;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, waitpid};

/// Exit status of a child that panicked.
pub(crate) const PANICKED: i32 = 101;

/// A child process; it is killed and reaped when the value is dropped.
#[derive(Debug)]
pub(crate) struct Child {
    pid: Pid,
    reaped: bool,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// With this exit status.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// Runs `child` in a forked process, which exits with what it returns.
pub(crate) fn fork(child: impl FnOnce() -> i32) -> io::Result<Child> {
    // SAFETY: the process has one thread, so the child's copy of every lock and of the heap is
    // in order.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child));
            // SAFETY: ends the process; nothing of the parent's is flushed or dropped twice.
            unsafe { libc::_exit(code.unwrap_or(PANICKED)) }
        }
        pid => Ok(Child {
            pid: Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidData)?,
            reaped: false,
        }),
    }
}

impl Child {
    /// Waits for the end.
    pub(crate) fn wait(mut self) -> io::Result<Ended> {
        self.reap()
    }

    /// Waits for the end; `None` when it did not come in time (the child is then killed).
    pub(crate) fn wait_for(mut self, limit: Duration) -> io::Result<Option<Ended>> {
        let pidfd = pidfd_open(self.pid, PidfdFlags::empty())?;
        let limit = Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(limit.subsec_nanos()),
        };
        let ready = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit))?;
        if ready == 0 {
            return Ok(None);
        }
        self.reap().map(Some)
    }

    /// Kills it; `wait` then tells how it ended.
    pub(crate) fn kill(&self) -> io::Result<()> {
        Ok(kill_process(self.pid, Signal::KILL)?)
    }

    fn reap(&mut self) -> io::Result<Ended> {
        loop {
            match waitpid(Some(self.pid), WaitOptions::empty()) {
                Err(rustix::io::Errno::INTR) | Ok(None) => {}
                Err(error) => return Err(error.into()),
                Ok(Some((_, status))) => {
                    self.reaped = true;
                    return Ok(match status.terminating_signal() {
                        Some(signal) => Ended::Signal(signal),
                        None => Ended::Code(status.exit_status().unwrap_or(-1)),
                    });
                }
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped {
            let _ = self.kill();
            let _ = self.reap();
        }
    }
}
