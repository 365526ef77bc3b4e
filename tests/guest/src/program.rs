//! The `hmmgpu` program as users run it, a process of its own.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open};
use tempfile::TempDir;

/// Name of the program.
pub const NAME: &str = "hmmgpu";

/// The program, in a folder of its own.
///
/// A test has no build of another package's program to rely on, but it has the library, so the
/// test's own executable is the program: whoever calls it by this name gets the `hmmgpu` command.
#[derive(Debug)]
pub struct Program {
    folder: TempDir,
}

/// Whether this process was called as the `hmmgpu` program.
pub fn called_as_program() -> bool {
    std::env::args_os()
        .next()
        .is_some_and(|name| Path::new(&name).file_name() == Some(OsStr::new(NAME)))
}

impl Program {
    /// Makes this process's executable callable as `hmmgpu`.
    pub fn install() -> Result<Program> {
        let this = std::env::current_exe().context("cannot find this executable")?;
        let beside = this.parent().unwrap_or(Path::new("/"));
        let folder = tempfile::Builder::new()
            .prefix("hmmgpu-vm-tests-")
            .tempdir_in(beside)
            .with_context(|| format!("cannot make a folder in {}", beside.display()))?;
        let program = folder.path().join(NAME);
        // A link of the same file: its own path ends in the name, as a symbolic link's does not.
        std::fs::hard_link(&this, &program)
            .or_else(|_| std::fs::copy(&this, &program).map(drop))
            .context("cannot link this executable")?;
        Ok(Program { folder })
    }

    /// Path of the program.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join(NAME)
    }

    /// Starts it with these arguments and this input, in a process group of its own, with
    /// sockets and temporary files in `runtime`.
    pub fn start(&self, arguments: &[&str], input: &[u8], runtime: &Path) -> Result<Running> {
        let mut child = Command::new(self.path())
            .args(arguments)
            .env("XDG_RUNTIME_DIR", runtime)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start hmmgpu")?;
        let mut stdin = child.stdin.take().context("no standard input")?;
        // Small inputs fit into the pipe; a program that does not read them is no error.
        let _ = stdin.write_all(input);
        drop(stdin);
        let (line_sender, lines) = channel();
        let stdout = child.stdout.take().context("no standard output")?;
        let stdout = std::thread::spawn(move || {
            let mut all = String::new();
            let mut reader = BufReader::new(stdout);
            let mut line = Vec::new();
            while reader
                .read_until(b'\n', &mut line)
                .is_ok_and(|count| count > 0)
            {
                let text = String::from_utf8_lossy(&line).into_owned();
                all += &text;
                let _ = line_sender.send(text);
                line.clear();
            }
            all
        });
        let mut stderr = child.stderr.take().context("no standard error")?;
        let stderr = std::thread::spawn(move || {
            let mut all = Vec::new();
            let _ = stderr.read_to_end(&mut all);
            String::from_utf8_lossy(&all).into_owned()
        });
        Ok(Running {
            child,
            lines,
            seen: VecDeque::new(),
            stdout: Some(stdout),
            stderr: Some(stderr),
        })
    }

    /// Runs it to its end.
    pub fn run(
        &self,
        arguments: &[&str],
        input: &[u8],
        runtime: &Path,
        limit: Duration,
    ) -> Result<Finished> {
        self.start(arguments, input, runtime)?.finish(limit)
    }
}

/// A running program; it and its process group are killed when the value is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    seen: VecDeque<String>,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
}

impl Finished {
    /// Fails with everything it said, unless it ended with this code.
    pub fn expect_code(&self, code: i32) -> Result<()> {
        if self.code == Some(code) {
            return Ok(());
        }
        bail!(
            "hmmgpu ended with {:?} instead of {code}\n--- stdout\n{}\n--- stderr\n{}",
            self.code,
            self.stdout,
            self.stderr
        )
    }
}

impl Running {
    /// Its process.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Waits until a line of its standard output contains `text`.
    pub fn wait_for_line(&mut self, text: &str, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.contains(text) => return Ok(()),
                Ok(line) => self.seen.push_back(line),
                Err(RecvTimeoutError::Timeout) => bail!(
                    "{text:?} did not come within {} s; it said {:?}",
                    limit.as_secs(),
                    self.seen
                ),
                Err(RecvTimeoutError::Disconnected) => {
                    // Its output has ended, so it is about to; if not, it is made to.
                    let said = self.kill_and_collect();
                    bail!(
                        "it ended before it said {text:?}; it said {:?}\n--- stderr\n{said}",
                        self.seen,
                    )
                }
            }
        }
    }

    /// Ends it unless it has ended, and gives its standard error.
    fn kill_and_collect(&mut self) -> String {
        let ended = pidfd_open(self.pid(), PidfdFlags::empty())
            .is_ok_and(|pidfd| readable(&pidfd, Duration::from_secs(10)).unwrap_or(false));
        if !ended {
            let _ = self.signal_group(Signal::KILL);
        }
        let _ = self.child.wait();
        self.stdout = None;
        let said = self.stderr.take().and_then(|thread| thread.join().ok());
        said.unwrap_or_default()
    }

    /// Sends a signal to the process alone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(self.pid(), signal)?)
    }

    /// Sends a signal to its process group, as a terminal does.
    pub fn signal_group(&self, signal: Signal) -> Result<()> {
        Ok(kill_process_group(self.pid(), signal)?)
    }

    /// Waits for the end, which has to come within `limit`.
    pub fn finish(mut self, limit: Duration) -> Result<Finished> {
        let pidfd = pidfd_open(self.pid(), PidfdFlags::empty())?;
        if !readable(&pidfd, limit)? {
            let said = self.kill_and_collect();
            bail!(
                "hmmgpu did not end within {} s\n--- stderr\n{said}",
                limit.as_secs()
            );
        }
        let status = self.child.wait()?;
        let text = |thread: &mut Option<JoinHandle<String>>| {
            thread
                .take()
                .and_then(|thread| thread.join().ok())
                .unwrap_or_default()
        };
        Ok(Finished {
            code: status.code(),
            stdout: text(&mut self.stdout),
            stderr: text(&mut self.stderr),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.stdout.is_some() {
            let _ = self.signal_group(Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// Whether a file becomes readable in time.
pub(crate) fn readable(file: &impl std::os::fd::AsFd, limit: Duration) -> Result<bool> {
    let limit = Timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(limit.subsec_nanos()),
    };
    Ok(poll(&mut [PollFd::new(file, PollFlags::IN)], Some(&limit))? > 0)
}
