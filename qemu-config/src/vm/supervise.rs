//! A child process: started, watched, ended.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::text::{Tail, for_each_line};

/// Lines of a child's standard error that are kept.
const KEPT_LINES: usize = 20;
/// How long a killed process may take to go. Only a process that is stuck in the kernel takes
/// longer, and nothing can be done about that one.
const KILL_TIME: Duration = Duration::from_secs(10);

type Status = Arc<(Mutex<Option<ExitStatus>>, Condvar)>;

/// A child that is killed, at the latest, when this is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    pid: u32,
    /// Names the process even after its number has been given to another one.
    pidfd: OwnedFd,
    status: Status,
    messages: Tail,
    reader: Option<JoinHandle<()>>,
    stdout: Option<ChildStdout>,
}

impl Process {
    /// Starts `command` with nothing on standard input, in a process group of its own: Ctrl-C is
    /// for the launcher, which then ends its children in order. `on_exit` is called on a thread
    /// of its own and must not block.
    pub(crate) fn spawn(
        name: &'static str,
        mut command: Command,
        on_exit: impl FnOnce(ExitStatus) + Send + 'static,
    ) -> io::Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let pid = child.id();
        let pidfd = Pid::from_raw(i32::try_from(pid).unwrap_or_default())
            .ok_or(rustix::io::Errno::SRCH)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()));
        let pidfd = match pidfd {
            Ok(pidfd) => pidfd,
            Err(errno) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(errno.into());
            }
        };
        let stdout = child.stdout.take();
        let stderr = child.stderr.take();
        let messages = Tail::new(KEPT_LINES);
        let kept = messages.clone();
        let status = Status::default();
        let told = Arc::clone(&status);
        // From here on the child is killed if anything fails.
        let mut process = Self {
            pid,
            pidfd,
            status,
            messages,
            reader: None,
            stdout,
        };
        std::thread::Builder::new()
            .name(format!("{name} wait"))
            .spawn(move || {
                // It can only fail if somebody else has waited for the child.
                if let Ok(status) = child.wait() {
                    *told.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
                    told.1.notify_all();
                    on_exit(status);
                }
            })?;
        if let Some(stderr) = stderr {
            process.reader = Some(
                std::thread::Builder::new()
                    .name(format!("{name} stderr"))
                    .spawn(move || {
                        for_each_line(stderr, |line| {
                            tracing::debug!("{name}: {line}");
                            kept.push(line);
                        });
                    })?,
            );
        }
        Ok(process)
    }

    /// Its number.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Its standard output, once.
    pub(crate) fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.stdout.take()
    }

    /// The last lines of its standard error.
    pub(crate) fn messages(&self) -> Vec<String> {
        self.messages.lines()
    }

    fn signal(&self, signal: Signal) {
        // It fails when the process has gone already.
        let _ = pidfd_send_signal(&self.pidfd, signal);
    }

    /// Waits for its end, for this long at most.
    pub(crate) fn wait(&self, limit: Duration) -> Option<ExitStatus> {
        let guard = self.status.0.lock().unwrap_or_else(PoisonError::into_inner);
        *self
            .status
            .1
            .wait_timeout_while(guard, limit, |status| status.is_none())
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }

    /// Asks it to end, and kills it when it has not done so in time.
    pub(crate) fn stop(&mut self, grace: Duration) -> Option<ExitStatus> {
        self.signal(Signal::TERM);
        self.wait(grace).or_else(|| self.kill())
    }

    /// Kills it. Afterwards its last messages are complete.
    pub(crate) fn kill(&mut self) -> Option<ExitStatus> {
        self.signal(Signal::KILL);
        let status = self.wait(KILL_TIME);
        self.finish();
        status
    }

    /// Waits until all that it wrote to standard error has been read, which is at once when it
    /// has ended.
    pub(crate) fn finish(&mut self) {
        if self.wait(Duration::ZERO).is_some()
            && let Some(reader) = self.reader.take()
        {
            let _ = reader.join();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.wait(Duration::ZERO).is_none() {
            self.kill();
        }
    }
}

/// Whether somebody has ended the process: a person, a CI, the kernel for want of memory.
pub(crate) fn was_ended(status: ExitStatus) -> bool {
    signal(status).is_some_and(|signal| {
        [Signal::KILL, Signal::TERM, Signal::INT]
            .iter()
            .any(|end| end.as_raw() == signal)
    })
}

/// The signal that ended a process.
fn signal(status: ExitStatus) -> Option<i32> {
    use std::os::unix::process::ExitStatusExt;
    match status.code() {
        // A sandbox or a shell around the program tells a signal so.
        Some(code @ 129..=192) => Some(code - 128),
        Some(_) => None,
        None => status.signal(),
    }
}

/// A status in words: `exited with status 1`, `was killed by signal 9`.
pub(crate) fn describe(status: ExitStatus) -> String {
    match (signal(status), status.code()) {
        (Some(signal), _) => format!("was killed by signal {signal}"),
        (None, Some(code)) => format!("exited with status {code}"),
        (None, None) => "ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::unbounded;

    const LIMIT: Duration = Duration::from_secs(30);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn the_end_is_told_and_messages_are_kept() {
        let (sender, ends) = unbounded();
        let mut process = Process::spawn("test", shell("echo why >&2; exit 3"), move |status| {
            let _ = sender.send(status);
        })
        .expect("starts");
        assert_eq!(ends.recv_timeout(LIMIT).expect("ends").code(), Some(3));
        assert_eq!(process.wait(LIMIT).expect("ended").code(), Some(3));
        process.finish();
        assert_eq!(process.messages(), ["why"]);
    }

    #[test]
    fn one_that_does_not_listen_is_killed() {
        let script = "trap '' TERM; echo ready; while :; do read x </dev/zero; done";
        let mut process = Process::spawn("test", shell(script), |_| {}).expect("starts");
        // The trap is set once it says so.
        let mut ready = [0; 5];
        io::Read::read_exact(&mut process.take_stdout().expect("is piped"), &mut ready)
            .expect("reads");
        let status = process.stop(Duration::from_millis(50)).expect("ends");
        assert_eq!(describe(status), "was killed by signal 9");
    }

    #[test]
    fn dropping_ends_it() {
        let (sender, ends) = unbounded();
        let process = Process::spawn("test", shell("exec sleep 1000"), move |status| {
            let _ = sender.send(status);
        })
        .expect("starts");
        drop(process);
        assert_eq!(
            describe(ends.recv_timeout(LIMIT).expect("ends")),
            "was killed by signal 9"
        );
    }

    #[test]
    fn a_status_is_told_in_words() {
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(
            describe(ExitStatus::from_raw(1 << 8)),
            "exited with status 1"
        );
        assert_eq!(
            describe(ExitStatus::from_raw(15)),
            "was killed by signal 15"
        );
        assert_eq!(
            describe(ExitStatus::from_raw(137 << 8)),
            "was killed by signal 9"
        );
    }

    #[test]
    fn being_ended_differs_from_ending() {
        use std::os::unix::process::ExitStatusExt;
        for ended in [9, 15, 2, 137 << 8] {
            assert!(was_ended(ExitStatus::from_raw(ended)), "{ended}");
        }
        // It ended by itself, or broke.
        for other in [0, 1 << 8, 6, 11, 134 << 8] {
            assert!(!was_ended(ExitStatus::from_raw(other)), "{other}");
        }
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        let missing = Command::new("/nonexistent/program");
        assert!(Process::spawn("test", missing, |_| {}).is_err());
    }
}
