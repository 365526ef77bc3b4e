//! `hmmgpu shell`: a shell in a guest, at this terminal.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};

use anyhow::Context;
use hmmgpu_guest_protocol::Event;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use super::{
    Error, console_sink, guest_files, stdout_sink, tell_checks, tell_kernel_warnings, tell_step,
    vm_options,
};
use crate::cli::ShellArgs;
use crate::exit;
use crate::interrupt::Interrupt;
use crate::progress::Ui;
use crate::vm::{Stdin, Vm, VmEvent, VmIo, job};

pub(super) fn shell(args: &ShellArgs, ui: &Ui, interrupt: &Interrupt) -> Result<u8, Error> {
    if !io::stdin().is_terminal() {
        return Err(Error::Usage(
            "standard input is no terminal; for a script use: hmmgpu run -- sh < SCRIPT".into(),
        ));
    }
    let mut options = vm_options(&args.machine, "default", ui, interrupt)?;
    options.label = "shell".to_owned();
    let console = console_sink(&args.machine, ui)?;
    let terminal = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .context("cannot use the terminal")?;
    let typed = terminal.try_clone().context("cannot use the terminal")?;
    let vm = Vm::prepare(options)?;

    let mut job = job(["sh", "-l"], &args.machine.driver_params);
    job.interactive = true;
    if let Ok(size) = tcgetwinsize(&terminal) {
        // A terminal that does not know its size says zero.
        job.terminal =
            Some((size.ws_row, size.ws_col)).filter(|(rows, columns)| *rows > 0 && *columns > 0);
    }
    job.env.push((
        "TERM".into(),
        std::env::var("TERM").unwrap_or_else(|_| "vt100".into()),
    ));

    let mut raw: Option<RawTerminal> = None;
    let mut observer = |event: &VmEvent<'_>| {
        tell_step(event, ui);
        match event {
            VmEvent::Guest(Event::Started) => {
                ui.clear();
                ui.show_console(false);
                // Until here Ctrl-C ends the launcher; from here on it is the guest's.
                match RawTerminal::enter(&terminal) {
                    Ok(entered) => raw = Some(entered),
                    Err(error) => ui.warn(&format!("the terminal stays as it is: {error}")),
                }
            }
            VmEvent::Guest(Event::Exited { .. }) => raw = None,
            _ => {}
        }
    };
    let result = vm.run(
        &job,
        &guest_files(&args.files),
        VmIo {
            stdin: Stdin::Empty,
            stdout: Some(stdout_sink()),
            stderr: None,
            terminal: Some(typed),
            console: Some(console),
            observer: Some(&mut observer),
            remote: None,
        },
    );
    drop(raw);
    let outcome = result?;
    tell_kernel_warnings(&outcome.kernel_warnings, ui);
    tell_checks(&outcome.telemetry, ui);
    Ok(exit::of_guest(outcome.status))
}

/// The terminal gives every key as it is, until this is dropped.
struct RawTerminal {
    terminal: OwnedFd,
    before: Termios,
}

impl RawTerminal {
    fn enter(terminal: &OwnedFd) -> io::Result<Self> {
        let terminal = terminal.try_clone()?;
        let before = tcgetattr(&terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&terminal, OptionalActions::Now, &raw)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // A terminal that has gone needs no restoring.
        let _ = tcsetattr(&self.terminal, OptionalActions::Drain, &self.before);
    }
}
