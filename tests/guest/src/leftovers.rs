//! What a run has started, and whether any of it is left.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::program::readable;

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: Pid,
    /// Its name.
    pub name: String,
    /// Its command line, words separated by blanks.
    pub command: String,
    /// When it started, in ticks since the host did: a number that is used again differs here.
    started: u64,
}

/// Everything that descends from a process, not itself.
pub fn descendants(root: Pid) -> Result<Vec<Process>> {
    let mut children: BTreeMap<i32, Vec<Process>> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc")
        .context("cannot read /proc")?
        .flatten()
    {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        // Processes come and go meanwhile.
        if let Some((parent, process)) = look(pid) {
            children.entry(parent).or_default().push(process);
        }
    }
    let mut found = Vec::new();
    let mut parents = vec![root.as_raw_nonzero().get()];
    while let Some(parent) = parents.pop() {
        for process in children.remove(&parent).unwrap_or_default() {
            parents.push(process.pid.as_raw_nonzero().get());
            found.push(process);
        }
    }
    Ok(found)
}

/// Waits until all of these processes have ended.
pub fn all_end(processes: &[Process], limit: Duration) -> Result<()> {
    for process in processes {
        let Ok(pidfd) = pidfd_open(process.pid, PidfdFlags::empty()) else {
            continue;
        };
        // Not another one that has got its number.
        let still = look(process.pid.as_raw_nonzero().get());
        if still.is_none_or(|(_, now)| now.started != process.started) {
            continue;
        }
        ensure!(
            readable(&pidfd, limit)?,
            "{} ({}) is still there: {}",
            process.name,
            process.pid.as_raw_nonzero(),
            process.command
        );
    }
    Ok(())
}

/// Fails unless the folder is empty.
pub fn nothing_in(folder: &Path) -> Result<()> {
    let left: Vec<_> = std::fs::read_dir(folder)?
        .flatten()
        .map(|entry| entry.path().display().to_string())
        .collect();
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

/// A process and its parent's number.
fn look(pid: i32) -> Option<(i32, Process)> {
    let folder = Path::new("/proc").join(pid.to_string());
    let stat = std::fs::read_to_string(folder.join("stat")).ok()?;
    // The name stands in parentheses and may contain anything, so look from the last one.
    let (head, tail) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = tail.split_whitespace().collect();
    let parent = fields.get(1)?.parse().ok()?;
    let started = fields.get(19)?.parse().ok()?;
    let command = std::fs::read(folder.join("cmdline")).ok()?;
    let command = String::from_utf8_lossy(&command).replace('\0', " ");
    let pid = Pid::from_raw(pid)?;
    Some((
        parent,
        Process {
            pid,
            name,
            command,
            started,
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn descendants_are_found_and_their_end_is_noticed() {
        let mut shell = Command::new("sh")
            .args(["-c", "read line; :"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let me = rustix::process::getpid();
        let pid = Pid::from_child(&shell);
        let mine: Vec<Process> = descendants(me)
            .unwrap()
            .into_iter()
            .filter(|process| process.pid == pid)
            .collect();
        assert_eq!(mine.len(), 1);
        let error = all_end(&mine, Duration::from_millis(1)).unwrap_err();
        assert!(error.to_string().contains("still there"), "{error}");
        drop(shell.stdin.take());
        shell.wait().unwrap();
        all_end(&mine, Duration::from_secs(10)).unwrap();
    }
}
