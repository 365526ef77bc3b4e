//! Running the job's command.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hmmgpu_guest_protocol::{Event, ExitStatus, Job, PORT_STDERR, PORT_STDIN, PORT_STDOUT};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, wait};
use rustix::termios::Winsize;

use crate::ports::Ports;
use crate::{bridge, report};

/// Where programs are looked for.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";
const HOME: &str = "/root";
/// The virtio console.
const TERMINAL: &str = "/dev/hvc0";
/// It appears when the host has announced it.
const PATIENCE: Duration = Duration::from_secs(30);
/// What shells answer for a program that cannot be run, and for one that is not there.
const CANNOT_RUN: i32 = 126;
const NOT_FOUND: i32 = 127;

/// Runs the command to its end; its output is with the host when this returns.
pub(crate) fn run(job: &Job, ports: &Ports) -> Result<ExitStatus> {
    let Some((program, arguments)) = job.argv.split_first() else {
        bail!("the job has no command");
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(HOME)
        .env_clear()
        .envs([
            ("PATH", PATH),
            ("HOME", HOME),
            ("USER", "root"),
            ("SHELL", "/bin/sh"),
        ])
        .env("TERM", if job.interactive { "linux" } else { "dumb" })
        .envs(job.env.iter().map(|(name, value)| (name, value)));
    if job.interactive {
        with_terminal(job, &mut command)
    } else {
        with_ports(ports, command, program)
    }
}

/// Input and both outputs through ports. The command gets pipes: ports can only be opened once,
/// and programs open `/dev/stderr` and the like.
fn with_ports(ports: &Ports, mut command: Command, program: &str) -> Result<ExitStatus> {
    let (input, to_command) = bridge::pipe()?;
    let (from_out, output) = bridge::pipe()?;
    let (from_err, errors) = bridge::pipe()?;
    let mut stderr = ports.output(PORT_STDERR)?;
    let stdout = ports.output(PORT_STDOUT)?;
    let stdin = ports.input(PORT_STDIN)?;
    let spawned = command.stdin(input).stdout(output).stderr(errors).spawn();
    // It holds this process's copies of the command's ends of the pipes.
    drop(command);
    let child = match spawned {
        Ok(child) => child,
        Err(error) => {
            report::event(&Event::Started)?;
            return cannot_start(&mut stderr, program, &error);
        }
    };
    report::event(&Event::Started)?;
    bridge::input(stdin, to_command);
    let out = bridge::Output::start(from_out, stdout)?;
    let err = bridge::Output::start(from_err, stderr)?;
    let status = reap_until(child.id())?;
    out.finish()?;
    err.finish()?;
    Ok(status)
}

/// The console as controlling terminal. Init leads the session and stays in the command's process
/// group; the kernel keeps PID 1 from signals that it does not handle, Ctrl-C's among them.
fn with_terminal(job: &Job, command: &mut Command) -> Result<ExitStatus> {
    let terminal = open_terminal()?;
    rustix::process::setsid().context("cannot begin a session")?;
    rustix::process::ioctl_tiocsctty(&terminal).context("cannot take the terminal")?;
    if let Some((rows, columns)) = job.terminal {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&terminal, size).context("cannot set the terminal's size")?;
    }
    let mut terminal = File::from(terminal);
    let copy = || terminal.try_clone().context("cannot share the terminal");
    command
        .stdin(copy()?)
        .stdout(copy()?)
        .stderr(Stdio::from(copy()?));
    let spawned = command.spawn();
    report::event(&Event::Started)?;
    match spawned {
        Ok(child) => reap_until(child.id()),
        Err(error) => {
            let program = command.get_program().to_string_lossy().into_owned();
            cannot_start(&mut terminal, &program, &error)
        }
    }
}

fn open_terminal() -> Result<OwnedFd> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        match rustix::fs::open(TERMINAL, flags, Mode::empty()) {
            Err(Errno::NOENT | Errno::NODEV) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(Errno::NOENT | Errno::NODEV) => {
                bail!("the machine has no virtio console for an interactive command")
            }
            opened => return opened.with_context(|| format!("cannot open {TERMINAL}")),
        }
    }
}

/// A command that cannot be started is the user's error: said as a shell does.
fn cannot_start(output: &mut impl Write, program: &str, error: &io::Error) -> Result<ExitStatus> {
    let (code, reason) = if error.kind() == io::ErrorKind::NotFound {
        (NOT_FOUND, "not found in the guest".to_owned())
    } else {
        (CANNOT_RUN, error.to_string())
    };
    writeln!(output, "hmmgpu: {program}: {reason}").context("cannot pass an error on")?;
    Ok(ExitStatus::Code(code))
}

/// Waits for a child and, as PID 1 has to, for every orphan that ends meanwhile.
fn reap_until(child: u32) -> Result<ExitStatus> {
    let child = i32::try_from(child)
        .ok()
        .and_then(Pid::from_raw)
        .context("process id")?;
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == child => {
                if let Some(code) = status.exit_status() {
                    return Ok(ExitStatus::Code(code));
                }
                if let Some(signal) = status.terminating_signal() {
                    return Ok(ExitStatus::Signal(signal));
                }
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait for the command"),
        }
    }
}
