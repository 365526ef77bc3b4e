//! One test, in a process of its own.
//!
//! It says its verdict as TAP, and may say what it wants of the host and what it has counted; see
//! [`hmmgpu_guest_protocol::runner`].

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hmmgpu_guest_protocol::runner::{ASKS, COUNTED, HostRequest, TestEnd, TestEvent, TestResult};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::{harness, say};
use crate::bridge;
use crate::kmsg;

/// Status that a program of upstream's may end with when its only test is skipped.
const SKIPPED: i32 = 4;
/// A process that is killed ends within so long, unless it is stuck.
const MOMENT: Duration = Duration::from_secs(10);
/// Lines of a failed test that are told, of its beginning and of its end each. An assertion in a
/// loop can print one for each page.
const OUTPUT_LINES: usize = 10;
/// Lines of the kernel's log that are told with a test.
const KERNEL_LINES: usize = 60;
/// The same with one that is stuck.
const BLOCKED_LINES: usize = 200;
/// Longest line of either: a verdict on a page, and the operations before it.
const LINE: usize = 600;
/// Longest line that a test may print for the host to read.
const LONGEST: usize = 8192;

/// Runs a test, by this command, of this full name. One that has not ended within `limit` has
/// failed, and the kernel is asked which tasks are blocked. A line of the kernel's log is no warning
/// if it is `expected`.
pub(super) fn run(
    mut command: Command,
    name: &str,
    round: u32,
    limit: Duration,
    expected: impl Fn(&str) -> bool,
) -> Result<TestEnd> {
    let log = kmsg::Mark::now()?;
    let (mut output, writer) = bridge::pipe()?;
    rustix::io::ioctl_fionbio(&output, true).context("cannot read without waiting")?;
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone().context("cannot share a pipe")?)
        .stderr(writer)
        .process_group(0);
    let begun = Instant::now();
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot run {:?}", command.get_program()))?;
    // Its copies of the pipe's end are closed with it.
    drop(command);
    let mut said = Said::default();
    let status = follow(&mut child, &mut output, &mut said, begun + limit)?;
    let seconds = begun.elapsed().as_secs_f64();
    said.end();

    let (result, reason) = conclude(said.verdict.take(), status, limit);
    let failed = result == TestResult::Fail;
    let kernel = log.lines();
    let first = kernel
        .iter()
        .position(|line| kmsg::is_warning(line) && !expected(line));
    let kernel_log = match first {
        Some(first) => &kernel[first..kernel.len().min(first + KERNEL_LINES)],
        // The tasks that are blocked come last, and are many.
        None if status.is_none() => &kernel[kernel.len().saturating_sub(BLOCKED_LINES)..],
        None if failed => &kernel[kernel.len().saturating_sub(KERNEL_LINES)..],
        None => &[],
    };
    Ok(TestEnd {
        round,
        name: name.to_owned(),
        result,
        reason,
        seconds,
        seed: None,
        counted: std::mem::take(&mut said.counted),
        output: if failed { said.told() } else { Vec::new() },
        kernel_log: kernel_log.iter().map(|line| cut(line)).collect(),
        kernel_warned: first.is_some(),
    })
}

/// The verdict and its reason, from what the test said and how its process ended, if it did. The
/// process has to agree: one that says `ok` and breaks down behind it has failed.
fn conclude(
    said: Option<(TestResult, String)>,
    status: Option<ExitStatus>,
    limit: Duration,
) -> (TestResult, String) {
    let Some(status) = status else {
        let reason = format!("it did not end in {} s", limit.as_secs());
        return (TestResult::Fail, reason);
    };
    match said {
        None => (TestResult::Fail, format!("no verdict: {status}")),
        Some((TestResult::Pass, _)) if !status.success() => (
            TestResult::Fail,
            format!("it said 'ok' and then ended badly: {status}"),
        ),
        Some((TestResult::Skip, _)) if !status.success() && status.code() != Some(SKIPPED) => (
            TestResult::Fail,
            format!("it said that it is skipped and then ended badly: {status}"),
        ),
        Some(verdict) => verdict,
    }
}

/// Reads what the test prints until it ends; none when it does not end in time. Processes that it
/// left may hold the pipe for ever: they are not waited for.
fn follow(
    child: &mut Child,
    output: &mut File,
    said: &mut Said,
    deadline: Instant,
) -> Result<Option<ExitStatus>> {
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .context("process id")?;
    let end = pidfd_open(pid, PidfdFlags::empty()).context("cannot watch a test")?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).context("time to wait")?;
        let (mut readable, mut ended) = (false, false);
        let mut fds = [
            PollFd::new(&*output, PollFlags::IN),
            PollFd::new(&end, PollFlags::IN),
        ];
        // Once all writers have closed it, the pipe has nothing to wait for.
        let watched = if said.closed {
            &mut fds[1..]
        } else {
            &mut fds[..]
        };
        match poll(watched, Some(&timeout)) {
            Ok(_) => {
                readable = !said.closed && !fds[0].revents().is_empty();
                ended = !fds[1].revents().is_empty();
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait for a test"),
        }
        if readable || ended {
            said.read(output)?;
        }
        for request in said.asked.drain(..) {
            say(&TestEvent::Asked { request })?;
        }
        if ended {
            return Ok(Some(child.wait().context("cannot wait for a test")?));
        }
        if left.is_zero() {
            blocked_tasks();
            let _ = kill_process_group(pid, Signal::KILL);
            // One that is stuck in the kernel does not even end now.
            let moment = Timespec::try_from(MOMENT).context("time to wait")?;
            let killed = poll(&mut [PollFd::new(&end, PollFlags::IN)], Some(&moment));
            if killed.is_ok_and(|ready| ready > 0) {
                let _ = child.wait();
            }
            return Ok(None);
        }
    }
}

/// Has the kernel log where tasks wait that cannot be interrupted, and what each CPU does.
fn blocked_tasks() {
    for key in ["w", "l"] {
        let _ = std::fs::write("/proc/sysrq-trigger", key);
    }
}

/// What a test has printed, as far as it matters.
#[derive(Debug, Default)]
struct Said {
    line: Vec<u8>,
    verdict: Option<(TestResult, String)>,
    first: Vec<String>,
    last: VecDeque<String>,
    left_out: u64,
    closed: bool,
    asked: Vec<HostRequest>,
    counted: BTreeMap<String, u64>,
}

impl Said {
    /// Takes all that is there.
    fn read(&mut self, output: &mut File) -> Result<()> {
        let mut buffer = [0; 16 * 1024];
        loop {
            match output.read(&mut buffer) {
                Ok(0) => {
                    self.closed = true;
                    return Ok(());
                }
                Ok(length) => self.take(&buffer[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("cannot read a test's output"),
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = LONGEST.saturating_sub(self.line.len());
            self.line.extend_from_slice(&part[..part.len().min(room)]);
            if part.ends_with(b"\n") {
                self.end();
            }
        }
    }

    /// A line is complete.
    fn end(&mut self) {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end();
        if let Some(verdict) = harness::verdict(line) {
            self.verdict = Some(verdict);
        } else if let Some(request) = after(line, ASKS) {
            self.asked.push(request);
        } else if let Some(counted) = after(line, COUNTED) {
            self.counted = counted;
        } else if harness::is_telling(line) {
            if self.first.len() < OUTPUT_LINES {
                self.first.push(cut(line));
                return;
            }
            if self.last.len() == OUTPUT_LINES {
                self.last.pop_front();
                self.left_out += 1;
            }
            self.last.push_back(cut(line));
        }
    }

    /// The lines that are told.
    fn told(self) -> Vec<String> {
        let mut lines = self.first;
        if self.left_out > 0 {
            lines.push(format!("({} lines left out)", self.left_out));
        }
        lines.extend(self.last);
        lines
    }
}

/// What follows a mark as JSON, if the line begins with it.
fn after<T: serde::de::DeserializeOwned>(line: &str, mark: &str) -> Option<T> {
    serde_json::from_str(line.strip_prefix(mark)?).ok()
}

fn cut(line: &str) -> String {
    line.chars().take(LINE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    const LIMIT: Duration = Duration::from_secs(7);

    fn said(text: &str, chunk: usize) -> Said {
        let mut said = Said::default();
        for part in text.as_bytes().chunks(chunk) {
            said.take(part);
        }
        said.end();
        said
    }

    #[test]
    fn a_verdict_counts_only_if_the_process_ends_well() {
        use TestResult::{Fail, Pass, Skip};
        let exit = |code: i32| Some(ExitStatus::from_raw(code << 8));
        let killed = Some(ExitStatus::from_raw(11));
        let of = |result, status| conclude(Some((result, "why".into())), status, LIMIT);
        for (result, status) in [(Pass, exit(0)), (Skip, exit(0)), (Skip, exit(4))] {
            assert_eq!(of(result, status), (result, "why".into()));
        }
        for status in [exit(0), exit(1), killed] {
            assert_eq!(of(Fail, status), (Fail, "why".into()));
        }
        for (result, status, word) in [
            (Pass, exit(1), "exit status: 1"),
            (Pass, exit(4), "exit status: 4"),
            (Pass, killed, "signal: 11"),
            (Skip, exit(1), "exit status: 1"),
            (Skip, killed, "signal: 11"),
            (Pass, None, "did not end"),
        ] {
            let (concluded, reason) = of(result, status);
            assert_eq!(concluded, Fail, "{result:?} {status:?}");
            assert!(reason.contains(word), "{reason}");
        }
        let (concluded, reason) = conclude(None, exit(0), LIMIT);
        assert_eq!(concluded, Fail);
        assert!(reason.contains("no verdict"), "{reason}");
    }

    #[test]
    fn output_is_read_however_it_is_cut() {
        let text = "TAP version 13\n# box.c:1: no lid\nnot ok 1 box.open\n# FAILED: 0 / 1 tests";
        for chunk in [1, 7, 1000] {
            let said = said(text, chunk);
            assert_eq!(said.verdict, Some((TestResult::Fail, String::new())));
            assert_eq!(said.told(), ["# box.c:1: no lid"]);
        }
    }

    #[test]
    fn what_it_wants_and_has_counted_is_no_output() {
        let text = "# asks the host: {\"unplug\":{\"gpu\":1}}\n# counted: {\"kill\":3}\nok 1 x\n";
        let said = said(text, 5);
        assert_eq!(said.asked, [HostRequest::Unplug { gpu: 1 }]);
        assert_eq!(said.counted["kill"], 3);
        assert!(said.told().is_empty());
    }

    #[test]
    fn output_is_bounded_and_the_verdict_is_found_behind_it() {
        let mut text = "# box.c:1: not equal\n".repeat(100_000);
        text.push_str(&"x".repeat(1 << 20));
        text.push_str("\nnot ok 1 box.open\n");
        let said = said(&text, 4096);
        assert!(said.verdict.is_some());
        let told = said.told();
        assert_eq!(told.len(), 2 * OUTPUT_LINES + 1);
        assert_eq!(told[0], "# box.c:1: not equal");
        let left_out = 100_001 - 2 * OUTPUT_LINES;
        assert_eq!(told[OUTPUT_LINES], format!("({left_out} lines left out)"));
        assert_eq!(told.last(), Some(&"x".repeat(LINE)), "the end is told");
    }
}
