//! `hmmgpu run`: a command in a guest.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::Context;
use hmmgpu_guest_protocol::Event;
use hmmgpu_telemetry::snapshot::Snapshot;

use super::output::Output;
use super::{
    Error, console_sink, guest_files, stdout_sink, tell_checks, tell_kernel_warnings, tell_step,
    vm_options,
};
use crate::cli::RunArgs;
use crate::exit;
use crate::interrupt::Interrupt;
use crate::progress::Ui;
use crate::vm::{Outcome, Stdin, Vm, VmError, VmEvent, VmIo, job, sink};

pub(super) fn run(args: &RunArgs, ui: &Ui, interrupt: &Interrupt) -> Result<u8, Error> {
    let mut options = vm_options(&args.machine, "default", ui, interrupt)?;
    options.label = "run".to_owned();
    let console = console_sink(&args.machine, ui)?;
    let telemetry = args.telemetry.as_deref();
    if telemetry == Some(Path::new("-")) {
        return Err(Error::Usage(
            "standard output is the command's: name a file for --telemetry".into(),
        ));
    }
    // Before the work, not after.
    let telemetry = telemetry.map(Output::open).transpose()?;
    // What is typed at a terminal is for the launcher (Ctrl-C), not for the guest.
    let stdin = if io::stdin().is_terminal() {
        Stdin::Empty
    } else {
        Stdin::File(
            io::stdin()
                .as_fd()
                .try_clone_to_owned()
                .context("cannot use standard input")?,
        )
    };
    let vm = Vm::prepare(options)?;
    let mut observer = |event: &VmEvent<'_>| {
        tell_step(event, ui);
        if let VmEvent::Guest(Event::Started) = event {
            // From here on the terminal is the command's.
            ui.clear();
            ui.show_console(false);
        }
    };
    let result = vm.run(
        &job(&args.command, &args.machine.driver_params),
        &guest_files(&args.files),
        VmIo {
            stdin,
            stdout: Some(stdout_sink()),
            stderr: Some(sink(io::stderr())),
            terminal: None,
            console: Some(console),
            observer: Some(&mut observer),
            remote: None,
        },
    );
    let told = telemetry.map(|output| tell_telemetry(output, &result));
    let outcome = result?;
    told.transpose()?;
    tell_kernel_warnings(&outcome.kernel_warnings, ui);
    tell_checks(&outcome.telemetry, ui);
    Ok(exit::of_guest(outcome.status))
}

/// Writes what each GPU has counted; also when the VM was lost, as far as the servers could still
/// say.
fn tell_telemetry(output: Output, result: &Result<Outcome, VmError>) -> anyhow::Result<()> {
    let counted: Vec<Option<&Snapshot>> = match result {
        Ok(outcome) => outcome.telemetry.iter().map(Some).collect(),
        Err(VmError::Failed(failure)) => failure.telemetry.iter().map(Option::as_ref).collect(),
        Err(_) => Vec::new(),
    };
    let mut document = serde_json::to_vec_pretty(&counted).context("cannot write telemetry")?;
    document.push(b'\n');
    output.write(&document)
}
