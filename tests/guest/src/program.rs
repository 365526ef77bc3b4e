//! The `hmmgpu` program as users run it, a process of its own.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
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
        let mut running = self.start_open(arguments, runtime)?;
        // Small inputs fit into the pipe; a program that does not read them is no error.
        let _ = running.say(input);
        running.stdin = None;
        Ok(running)
    }

    /// [`Program::start`], with its input still open: see [`Running::say`].
    pub fn start_open(&self, arguments: &[&str], runtime: &Path) -> Result<Running> {
        let mut child = Command::new(self.path())
            .args(arguments)
            .env("XDG_RUNTIME_DIR", runtime)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start hmmgpu")?;
        let stdout = child.stdout.take().context("no standard output")?;
        let stderr = child.stderr.take().context("no standard error")?;
        Ok(Running {
            stdin: child.stdin.take(),
            stdout: Stream::read(stdout),
            stderr: Stream::read(stderr),
            child,
            collected: false,
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

/// What a program writes, as it comes.
#[derive(Debug)]
struct Stream {
    lines: Receiver<String>,
    /// Lines that nobody waited for.
    seen: VecDeque<String>,
    thread: Option<JoinHandle<String>>,
}

impl Stream {
    fn read(pipe: impl Read + Send + 'static) -> Self {
        let (sender, lines) = channel();
        let thread = std::thread::spawn(move || {
            let mut all = String::new();
            let mut reader = BufReader::new(pipe);
            let mut line = Vec::new();
            while reader
                .read_until(b'\n', &mut line)
                .is_ok_and(|count| count > 0)
            {
                let text = String::from_utf8_lossy(&line).into_owned();
                all += &text;
                let _ = sender.send(text);
                line.clear();
            }
            all
        });
        Self {
            lines,
            seen: VecDeque::new(),
            thread: Some(thread),
        }
    }

    /// All of it. It has to have ended.
    fn collect(&mut self) -> String {
        let thread = self.thread.take();
        thread
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default()
    }
}

/// A running program; it and its process group are killed when the value is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Stream,
    stderr: Stream,
    /// It has ended, and nothing is left of it.
    collected: bool,
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
        // `run` and `shell` only warn of what the checker of VRAM finds.
        let checked = !self.stderr.contains("the checker of VRAM");
        if self.code == Some(code) && checked {
            return Ok(());
        }
        bail!(
            "hmmgpu ended with {:?}, expected were {code} and no checker's report\n--- stdout\n{}\n--- stderr\n{}",
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

    /// Writes to its standard input, if that was left open.
    pub fn say(&mut self, input: &[u8]) -> Result<()> {
        let stdin = self.stdin.as_mut().context("its input is closed")?;
        stdin.write_all(input)?;
        Ok(stdin.flush()?)
    }

    /// Waits until a line of its standard output contains `text`, and gives the line.
    pub fn wait_for_line(&mut self, text: &str, limit: Duration) -> Result<String> {
        self.wait_for(text, limit, |running| &mut running.stdout)
    }

    /// The same for its standard error.
    pub fn wait_for_message(&mut self, text: &str, limit: Duration) -> Result<String> {
        self.wait_for(text, limit, |running| &mut running.stderr)
    }

    fn wait_for(
        &mut self,
        text: &str,
        limit: Duration,
        stream: fn(&mut Running) -> &mut Stream,
    ) -> Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Stream { lines, seen, .. } = stream(self);
            match lines.recv_timeout(left) {
                Ok(line) if line.contains(text) => return Ok(line),
                Ok(line) => seen.push_back(line),
                Err(RecvTimeoutError::Timeout) => bail!(
                    "{text:?} did not come within {} s; it said {seen:?}",
                    limit.as_secs(),
                ),
                Err(RecvTimeoutError::Disconnected) => {
                    // Its output has ended, so it is about to; if not, it is made to.
                    let said = self.kill_and_collect();
                    let seen = &stream(self).seen;
                    bail!("it ended before it said {text:?}; it said {seen:?}\n--- stderr\n{said}",)
                }
            }
        }
    }

    /// Ends it unless it has ended, and gives its standard error.
    fn kill_and_collect(&mut self) -> String {
        if !self.ends_within(Duration::from_secs(10)).unwrap_or(false) {
            let _ = self.signal_group(Signal::KILL);
        }
        let _ = self.child.wait();
        self.collected = true;
        self.stderr.collect()
    }

    /// Sends a signal to the process alone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(self.pid(), signal)?)
    }

    /// Sends a signal to its process group, as a terminal does.
    pub fn signal_group(&self, signal: Signal) -> Result<()> {
        Ok(kill_process_group(self.pid(), signal)?)
    }

    /// Whether it has ended, or does within `limit`.
    pub fn ends_within(&self, limit: Duration) -> Result<bool> {
        readable(&pidfd_open(self.pid(), PidfdFlags::empty())?, limit)
    }

    /// Closes its input and waits for the end, which has to come within `limit`.
    pub fn finish(mut self, limit: Duration) -> Result<Finished> {
        self.stdin = None;
        if !self.ends_within(limit)? {
            let said = self.kill_and_collect();
            bail!(
                "hmmgpu did not end within {} s\n--- stderr\n{said}",
                limit.as_secs()
            );
        }
        let status = self.child.wait()?;
        self.collected = true;
        Ok(Finished {
            code: status.code(),
            stdout: self.stdout.collect(),
            stderr: self.stderr.collect(),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.collected {
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
