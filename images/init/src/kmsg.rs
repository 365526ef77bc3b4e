//! The kernel's log: warnings for the host, and lines for errors.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::Errno;

/// The host gets so many lines.
const LIMIT: usize = 100;
/// The longest record that the kernel gives out.
const RECORD: usize = 8192;

/// Words of lines that say that the kernel is in trouble.
const SIGNS: &[&str] = &[
    "WARNING:",
    "BUG:",
    "kernel BUG at",
    "Oops",
    "general protection fault",
    "detected stall",
    "self-detected stall",
    "rcu_preempt kthread starved",
    "soft lockup",
    "hard LOCKUP",
    "possible circular locking",
    "possible recursive locking",
    "possible irq lock inversion",
    "inconsistent lock state",
    "suspicious RCU usage",
    "INFO: trying to register non-static key",
    "KASAN",
    "KCSAN",
    "KFENCE",
    "UBSAN",
    "Bad page",
    "bad page",
    "list_add corruption",
    "list_del corruption",
    "refcount_t:",
    "Bad rss-counter",
    "Unable to handle kernel",
    "Out of memory: Killed",
    "page_counter underflow",
];

/// Follows the kernel's log from its beginning.
#[derive(Debug)]
pub(crate) struct Watcher {
    stop: Arc<OwnedFd>,
    thread: JoinHandle<Vec<String>>,
}

impl Watcher {
    pub(crate) fn start() -> Result<Self> {
        let log = open().context("cannot open /dev/kmsg")?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC).context("cannot create an eventfd")?;
        let stop = Arc::new(stop);
        let until = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut found = Vec::new();
            let mut collect = |line: &str| {
                if found.len() < LIMIT && is_warning(line) {
                    found.push(line.to_owned());
                }
            };
            loop {
                let mut fds = [
                    PollFd::new(&log, PollFlags::IN),
                    PollFd::new(&*until, PollFlags::IN),
                ];
                if !matches!(poll(&mut fds, None), Ok(_) | Err(Errno::INTR)) {
                    break;
                }
                let ending = !fds[1].revents().is_empty();
                drain(&log, &mut collect);
                if ending {
                    break;
                }
            }
            found
        });
        Ok(Self { stop, thread })
    }

    /// All warnings up to now.
    pub(crate) fn finish(self) -> Vec<String> {
        let _ = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes());
        self.thread.join().unwrap_or_default()
    }
}

/// A place in the log: its end when this was made.
#[derive(Debug)]
pub(crate) struct Mark(OwnedFd);

impl Mark {
    /// Here.
    pub(crate) fn now() -> Result<Self> {
        let log = open().context("cannot open /dev/kmsg")?;
        rustix::fs::seek(&log, SeekFrom::End(0)).context("cannot go to the end of the log")?;
        Ok(Self(log))
    }

    /// What the kernel has said since, as far as the log still holds it.
    pub(crate) fn lines(self) -> Vec<String> {
        let mut lines = Vec::new();
        drain(&self.0, &mut |line| lines.push(line.to_owned()));
        lines
    }
}

/// The last lines of the log with a word in them.
pub(crate) fn lines_with(word: &str) -> Vec<String> {
    let mut lines = Vec::new();
    if let Ok(log) = open() {
        drain(&log, &mut |line| {
            if line.contains(word) {
                lines.push(line.to_owned());
            }
        });
    }
    lines.split_off(lines.len().saturating_sub(20))
}

fn open() -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open("/dev/kmsg", flags, Mode::empty())
}

/// Reads all records that are there; each read gives one.
fn drain(log: &OwnedFd, each: &mut dyn FnMut(&str)) {
    let mut buffer = [0; RECORD];
    loop {
        match rustix::io::read(log, &mut buffer) {
            Ok(0) => return,
            Ok(length) => {
                let record = String::from_utf8_lossy(&buffer[..length]);
                if let Some(line) = message(&record) {
                    each(line);
                }
            }
            // Records were overwritten before they were read; go on with the next one.
            Err(Errno::PIPE | Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// The text of a record (`priority,sequence,time,flags;text` and lines of properties), if it is
/// the kernel's own: user space writes to the log too.
fn message(record: &str) -> Option<&str> {
    let (header, text) = record.split_once(';')?;
    let priority: u32 = header.split(',').next()?.parse().ok()?;
    if priority >> 3 != 0 {
        return None;
    }
    text.lines().next()
}

/// Whether a line says that the kernel is in trouble.
pub(crate) fn is_warning(line: &str) -> bool {
    let hung_task = line.contains("INFO: task") && line.contains("blocked for more than");
    // The allocator of small objects names its cache, not a place: "BUG kmalloc-64 (Tainted: ...): ".
    let slab = line.starts_with("BUG ");
    hung_task || slab || SIGNS.iter().any(|sign| line.contains(sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kernels_own_records_count() {
        assert_eq!(
            message("4,12,99,-;WARNING: CPU: 0\n SUBSYSTEM=x\n"),
            Some("WARNING: CPU: 0")
        );
        assert_eq!(message("12,12,99,-;WARNING: from a program\n"), None);
        assert_eq!(message("nonsense"), None);
    }

    #[test]
    fn warnings_are_told_from_the_rest() {
        for line in [
            "WARNING: CPU: 1 PID: 77 at mm/memory.c:100 f+0x1/0x2",
            "BUG: unable to handle page fault for address: 0",
            "watchdog: BUG: soft lockup - CPU#0 stuck for 22s!",
            "rcu: INFO: rcu_preempt self-detected stall on CPU",
            "INFO: task sh:12 blocked for more than 120 seconds.",
            "Oops: Oops: 0000 [#1] SMP",
            "INFO: trying to register non-static key.",
            "BUG kmalloc-64 (Tainted: G           O       ): Poison overwritten",
            "BUG task_struct (Not tainted): Object already free",
        ] {
            assert!(is_warning(line), "{line}");
        }
        for line in [
            "hmmgpu: loading out-of-tree module taints kernel.",
            "Linux version 7.3.4",
            "INFO: lockdep is turned off.",
            "debugfs: Directory 'hmmgpu' with parent '/' already present!",
            "DEBUG kmalloc-64 (Not tainted): none",
            "[Firmware Bug]: TSC ADJUST differs within socket(s)",
        ] {
            assert!(!is_warning(line), "{line}");
        }
    }
}
