//! Running a program to its end: output into a log and to whoever follows it, an end when the
//! user has had enough, and an error that shows what matters of the log.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::ImageError;
use crate::context::Context;

/// How often a quiet program's end and the user's patience are looked at.
const POLL: Duration = Duration::from_millis(100);
/// What a program gets to clean up after an interruption.
const GRACE: Duration = Duration::from_secs(5);
/// Lines of the log that an error shows.
const TAIL: usize = 15;
/// A line is cut here: a program that prints no line end must not fill the memory.
const LINE_LIMIT: u64 = 16 * 1024;

/// What an interruption means to a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnInterrupt {
    /// It is stopped.
    Stop,
    /// It goes on to its end, because stopped midway it leaves something broken; then the
    /// interruption counts.
    Finish,
}

/// Runs `command` with its output (both streams) into `log`, each line also to `follow`. The log
/// goes when all went well. The program is started by the calling thread, so `--die-with-parent`
/// holds until it has ended.
pub(crate) fn run(
    context: &Context,
    what: &str,
    command: &mut Command,
    log: &Path,
    follow: impl FnMut(&str),
) -> Result<(), ImageError> {
    run_with(context, what, command, log, OnInterrupt::Stop, follow)
}

/// [`run`], with a choice of what an interruption means.
pub(crate) fn run_with(
    context: &Context,
    what: &str,
    command: &mut Command,
    log: &Path,
    on_interrupt: OnInterrupt,
    mut follow: impl FnMut(&str),
) -> Result<(), ImageError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|e| ImageError::io("create a pipe for", &program)(e.into()))?;
    let clone = writer
        .try_clone()
        .map_err(ImageError::io("run", &program))?;
    let mut output = BufWriter::new(File::create(log).map_err(ImageError::io("create", log))?);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(clone)
        // Its own group, so that Ctrl-C reaches it through us only, and in order.
        .process_group(0)
        .spawn()
        .map_err(ImageError::io("run", &program))?;
    // The command keeps its ends of the pipe open until it is told otherwise.
    command.stdout(Stdio::null()).stderr(Stdio::null());

    let (sender, lines) = mpsc::channel();
    let pump = std::thread::spawn(move || {
        let mut reader = BufReader::new(File::from(reader));
        let mut line = Vec::new();
        loop {
            line.clear();
            let mut limited = std::io::Read::take(&mut reader, LINE_LIMIT);
            match limited.read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {
                    let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                    if sender.send(text).is_err() {
                        return;
                    }
                }
            }
        }
    });

    let mut told = false;
    let mut tail = VecDeque::new();
    let mut ended: Option<(ExitStatus, Instant)> = None;
    let status = loop {
        match lines.recv_timeout(POLL) {
            Ok(line) => {
                match writeln!(output, "{line}") {
                    Err(error) if on_interrupt == OnInterrupt::Stop => {
                        stop(&mut child);
                        return Err(ImageError::io("write", log)(error));
                    }
                    // What it does counts more than what it says.
                    Err(_) | Ok(()) => {}
                }
                follow(&line);
                if tail.len() == TAIL {
                    tail.pop_front();
                }
                tail.push_back(line);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => match ended {
                Some((status, _)) => break status,
                // All output is there; the program may still be on its way out.
                None => std::thread::sleep(POLL.min(Duration::from_millis(5))),
            },
        }
        if context.interrupted() && on_interrupt == OnInterrupt::Finish && !told {
            told = true;
            context
                .progress
                .note(&format!("{what}: interrupted; this has to end first"));
        }
        if context.interrupted() && on_interrupt == OnInterrupt::Stop {
            stop(&mut child);
            return Err(ImageError::Interrupted {
                what: what.to_owned(),
            });
        }
        if ended.is_none() {
            let status = child
                .try_wait()
                .map_err(ImageError::io("wait for", &program))?;
            ended = status.map(|s| (s, Instant::now()));
        } else if ended.is_some_and(|(_, at)| at.elapsed() > GRACE) {
            // Something that the program left in the background holds the pipe.
            break ended.map(|(s, _)| s).unwrap_or_default();
        }
    };
    let flushed = output.flush();
    if on_interrupt == OnInterrupt::Stop {
        flushed.map_err(ImageError::io("write", log))?;
    }
    drop(lines);
    if pump.is_finished() {
        let _ = pump.join();
    }
    if status.success() {
        let _ = std::fs::remove_file(log);
        return context.check_interrupted(what);
    }
    let text = std::fs::read(log).map_err(ImageError::io("read", log))?;
    Err(ImageError::Command {
        what: what.to_owned(),
        status: status.to_string(),
        hint: hint(&String::from_utf8_lossy(&text)),
        log: log.to_owned(),
        tail: tail.into(),
    })
}

/// Ends the program and all of its group: first politely, so that it can clean up.
fn stop(child: &mut Child) {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let Some(group) = group else { return };
    let _ = kill_process_group(group, Signal::TERM);
    let until = Instant::now() + GRACE;
    while Instant::now() < until {
        if !matches!(child.try_wait(), Ok(None)) {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = kill_process_group(group, Signal::KILL);
    let _ = child.wait();
}

/// The likely cause of a failure, from what programs say in the C locale.
fn hint(log: &str) -> Option<String> {
    const CAUSES: &[(&[&str], &str)] = &[
        (
            &["No space left on device", "Disk quota exceeded"],
            "the disk is full: free some room, or set HMMGPU_CACHE to a folder on a larger disk",
        ),
        (
            &[
                "Temporary failure resolving",
                "Could not resolve",
                "Couldn't resolve host",
                "Could not connect",
                "Network is unreachable",
                "Connection timed out",
                "Connection failed",
                "spurious network error",
            ],
            "the network or the server cannot be reached: look at the connection and run again \
             (HMMGPU_MIRROR names another Debian mirror)",
        ),
        (
            &[
                "Hash Sum mismatch",
                "File has unexpected size",
                "unexpected end of file",
            ],
            "a download came broken: run again (HMMGPU_MIRROR names another Debian mirror)",
        ),
        (
            &[
                "NO_PUBKEY",
                "isn't signed by",
                "is not signed",
                "no valid OpenPGP",
            ],
            "the packages' signature cannot be checked: install debian-archive-keyring",
        ),
        (
            &[
                "Unable to locate package",
                "has no installation candidate",
                "' was not found",
            ],
            "the mirror lacks a package: try another by HMMGPU_MIRROR",
        ),
        (
            &[
                "Unable to acquire the dpkg frontend lock",
                "Could not get lock",
            ],
            "another package manager is at work: run again when it has ended",
        ),
    ];
    CAUSES
        .iter()
        .find(|(signs, _)| signs.iter().any(|sign| log.contains(sign)))
        .map(|(_, cause)| (*cause).to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{PidfdFlags, pidfd_open};

    use super::*;
    use crate::context::tests::Recorder;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_goes_to_whoever_follows_and_the_log_goes_away() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut lines = Vec::new();
        run(
            &Context::silent(),
            "thing",
            &mut shell("echo one; echo two >&2"),
            &log,
            |line| lines.push(line.to_owned()),
        )
        .unwrap();
        assert_eq!(lines, ["one", "two"]);
        assert!(!log.exists());
    }

    #[test]
    fn a_failure_shows_the_end_of_the_log_and_keeps_it() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let error = run(
            &Context::silent(),
            "making the thing",
            &mut shell("seq 1 100; echo 'No space left on device'; exit 3"),
            &log,
            |_| {},
        )
        .unwrap_err()
        .to_string();
        assert!(error.contains("making the thing"), "{error}");
        assert!(error.contains("disk is full"), "{error}");
        assert!(error.contains("| 100\n"), "{error}");
        assert!(!error.contains("| 50\n"), "{error}");
        assert!(error.contains(&log.display().to_string()), "{error}");
        assert!(std::fs::read_to_string(&log).unwrap().starts_with("1\n2\n"));
    }

    #[test]
    fn an_interruption_ends_the_whole_group() {
        let folder = tempfile::tempdir().unwrap();
        let context = Context::silent();
        let cancel = context.cancel.clone();
        let mut descendant = None;
        let error = run(
            &context,
            "thing",
            // The shell and a child of its own; both would run on for long.
            &mut shell("sleep 600 & echo $!; wait"),
            &folder.path().join("log"),
            |line| {
                let pid = line.parse().ok().and_then(Pid::from_raw).unwrap();
                descendant = Some(pidfd_open(pid, PidfdFlags::empty()).unwrap());
                cancel.store(true, Ordering::SeqCst);
            },
        )
        .unwrap_err();
        assert!(matches!(error, ImageError::Interrupted { .. }), "{error}");
        // Readable once the process has ended.
        let descendant = descendant.unwrap();
        let mut fds = [PollFd::new(&descendant, PollFlags::IN)];
        let bound = Timespec {
            tv_sec: 60,
            tv_nsec: 0,
        };
        assert_eq!(poll(&mut fds, Some(&bound)).unwrap(), 1, "it still runs");
    }

    #[test]
    fn what_must_not_be_stopped_goes_on_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let (notes, told) = std::sync::mpsc::channel();
        let context = Context::with_progress(std::sync::Arc::new(Recorder::notes_to(notes)));
        let cancel = context.cancel.clone();
        // It goes on only after it was told that an interruption has happened.
        let go_on = folder.path().join("go-on");
        let end = folder.path().join("end");
        let script = format!(
            "trap 'exit 9' TERM INT; mkfifo {go}; echo ready; read line <{go}; echo $line >{end}",
            go = go_on.display(),
            end = end.display()
        );
        let release = std::thread::spawn({
            let go_on = go_on.clone();
            move || {
                let note = told.recv_timeout(Duration::from_secs(60));
                std::fs::write(go_on, "ended\n").unwrap();
                note
            }
        });
        let error = run_with(
            &context,
            "thing",
            &mut shell(&script),
            &folder.path().join("log"),
            OnInterrupt::Finish,
            |_| cancel.store(true, Ordering::SeqCst),
        )
        .unwrap_err();
        assert!(matches!(error, ImageError::Interrupted { .. }), "{error}");
        assert_eq!(std::fs::read_to_string(end).unwrap(), "ended\n");
        let note = release.join().unwrap().expect("the user is told");
        assert!(note.contains("has to end first"), "{note}");
    }

    #[test]
    fn a_log_that_cannot_be_written_ends_the_program() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("pid");
        // More output than any buffer on the way holds; every write to /dev/full fails.
        let script = format!("echo $$ > {}; exec yes", mark.display());
        let error = run(
            &Context::silent(),
            "thing",
            &mut shell(&script),
            Path::new("/dev/full"),
            |_| {},
        )
        .unwrap_err();
        assert!(error.to_string().contains("HMMGPU_CACHE"), "{error}");
        let pid = std::fs::read_to_string(mark).unwrap();
        assert!(!Path::new("/proc").join(pid.trim()).exists());
    }

    #[test]
    fn a_missing_program_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let error = run(
            &Context::silent(),
            "thing",
            &mut Command::new("/nonexistent/program"),
            &folder.path().join("log"),
            |_| {},
        )
        .unwrap_err();
        assert!(
            error.to_string().contains("/nonexistent/program"),
            "{error}"
        );
    }
}
