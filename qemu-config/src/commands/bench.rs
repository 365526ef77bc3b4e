//! `hmmgpu bench`: migration throughput for each folio order.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use hmmgpu_guest_protocol::ExitStatus;
use hmmgpu_guest_protocol::bench::BenchEvent;

use super::lines::{LineTail, Lines};
use super::output::Output;
use super::{Error, console_sink, tell_step, vm_options};
use crate::bench::plan::plan;
use crate::bench::result::{BenchResult, SCHEMA, Warning};
use crate::bench::{rows::rows, table};
use crate::cli::BenchArgs;
use crate::exit;
use crate::interrupt::Interrupt;
use crate::progress::Ui;
use crate::vm::{FailureKind, Vm, VmError, VmEvent, VmIo, job, sink};

/// The guest's program.
const PROGRAM: &str = "hmmgpu-bench-guest";
/// Longest line of the guest's program that is read.
const MAX_EVENT: usize = 1 << 20;
/// Most events that are kept: far beyond every plan.
const MAX_EVENTS: usize = 100_000;

pub(super) fn bench(args: &BenchArgs, ui: &Ui, interrupt: &Interrupt) -> Result<u8, Error> {
    let mut options = vm_options(&args.machine, "bench", ui, interrupt)?;
    options.label = "bench".to_owned();
    let profile = &options.profile;
    if profile.gpus != 1 {
        return Err(Error::Usage(format!(
            "the bench measures one GPU and this machine has {}: add --gpus 1",
            profile.gpus
        )));
    }
    let plan = plan(
        args.size,
        &args.orders,
        args.repeat,
        args.call_size,
        profile.vram,
        profile.memory,
    )
    .map_err(Error::Usage)?;
    // Before minutes of work, not after.
    let json = args.json.as_deref().map(Output::open).transpose()?;
    let console = console_sink(&args.machine, ui)?;
    let plan = serde_json::to_string(&plan).context("cannot write the plan")?;

    let vm = Vm::prepare(options)?;
    let events = Arc::new(Mutex::new(EventReader::new(ui.clone())));
    let reader = Arc::clone(&events);
    let output = sink(Lines::new(MAX_EVENT, move |line: &[u8]| {
        let mut reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
        reader.take(line);
        Ok(())
    }));
    let messages = Arc::new(Mutex::new(LineTail::new()));
    let mut observer = |event: &VmEvent<'_>| {
        tell_step(event, ui);
        if let VmEvent::Guest(hmmgpu_guest_protocol::Event::Started) = event {
            ui.step("Measuring");
        }
    };
    let result = vm.run(
        &job([PROGRAM, plan.as_str()], &args.machine.driver_params),
        &[],
        VmIo {
            stdout: Some(output),
            stderr: Some(messages.clone()),
            console: Some(console),
            observer: Some(&mut observer),
            ..VmIo::default()
        },
    );
    ui.clear();
    let (events, done, nonsense) = {
        let mut reader = events.lock().unwrap_or_else(PoisonError::into_inner);
        (
            std::mem::take(&mut reader.events),
            reader.done,
            reader.nonsense.take(),
        )
    };
    let said = messages
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .lines();

    let (telemetry, environment, mut warnings, failure) = match result {
        Ok(outcome) => {
            let mut warnings = Vec::new();
            if !outcome.kernel_warnings.is_empty() {
                warnings.push(Warning::KernelWarnings {
                    lines: outcome.kernel_warnings,
                });
            }
            if outcome.status != ExitStatus::Code(0) || !done {
                let how = match outcome.status {
                    ExitStatus::Code(code) => format!("exited with status {code}"),
                    ExitStatus::Signal(signal) => format!("was ended by signal {signal}"),
                };
                let said = said
                    .last()
                    .map(|line| format!(": {line}"))
                    .unwrap_or_default();
                let reason = format!("{PROGRAM} {how}{said}");
                warnings.push(Warning::Incomplete { reason });
            }
            let telemetry = outcome.telemetry.into_iter().next();
            (telemetry, outcome.environment, warnings, None)
        }
        // What was measured before stays.
        Err(VmError::Failed(failure)) if !events.is_empty() => {
            let reason = failure.kind.to_string();
            let telemetry = failure.telemetry.first().cloned().flatten();
            let environment = failure.environment.clone();
            (
                telemetry,
                environment,
                vec![Warning::Incomplete { reason }],
                Some(failure),
            )
        }
        Err(error) => return Err(error.into()),
    };
    if let Some(line) = nonsense {
        warnings.push(Warning::Incomplete {
            reason: format!("{PROGRAM} said '{line}'"),
        });
    }
    for line in &said {
        ui.note(&format!("{PROGRAM}: {line}"));
    }
    let (rows, doubts) = rows(&events, telemetry.as_ref());
    warnings.extend(doubts);
    let result = BenchResult {
        schema: SCHEMA,
        environment,
        rows,
        warnings,
    };
    let written = write_result(&result, json);
    if let Some(failure) = failure {
        if let (Err(error), FailureKind::Lost(_)) = (written, &failure.kind) {
            ui.warn(&format!("{error:#}"));
        }
        return Err(VmError::Failed(failure).into());
    }
    written?;
    let incomplete = result
        .warnings
        .iter()
        .any(|warning| matches!(warning, Warning::Incomplete { .. }));
    let verified = !result.rows.is_empty() && result.rows.iter().all(|row| row.verified);
    Ok(if verified && !incomplete {
        exit::OK
    } else {
        exit::NEGATIVE
    })
}

/// Text to standard output, or to standard error where the JSON needs standard output.
fn write_result(result: &BenchResult, json: Option<Output>) -> anyhow::Result<()> {
    let text = table::render(result);
    let document = || -> anyhow::Result<Vec<u8>> {
        let mut document = serde_json::to_vec_pretty(result)?;
        document.push(b'\n');
        Ok(document)
    };
    match json {
        Some(Output::Stdout) => {
            io::stderr().lock().write_all(text.as_bytes())?;
            let mut stdout = io::stdout().lock();
            stdout.write_all(&document()?)?;
            stdout.flush()?;
            return Ok(());
        }
        Some(output) => output.write(&document()?)?,
        None => {}
    }
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

/// Takes the guest program's output, one event a line, as it comes.
struct EventReader {
    ui: Ui,
    events: Vec<BenchEvent>,
    done: bool,
    /// The first line that is no event.
    nonsense: Option<String>,
}

impl EventReader {
    fn new(ui: Ui) -> Self {
        Self {
            ui,
            events: Vec::new(),
            done: false,
            nonsense: None,
        }
    }

    fn take(&mut self, line: &[u8]) {
        if line.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        match serde_json::from_slice(line) {
            Ok(BenchEvent::Progress { done, total, what }) => {
                self.ui
                    .steps(done, total, &crate::text::printable(what.as_bytes()));
            }
            Ok(BenchEvent::Done) => self.done = true,
            Ok(event) if self.events.len() < MAX_EVENTS => self.events.push(event),
            Ok(_) => {}
            Err(_) if self.nonsense.is_none() => {
                self.nonsense = Some(crate::text::printable(&line[..line.len().min(200)]));
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_from_nonsense() {
        let mut reader = EventReader::new(Ui::new(true, true));
        for line in [
            r#"{"event":"progress","done":1,"total":2,"what":"x"}"#,
            "",
            r#"{"event":"skipped","source_order":3,"reason":"none"}"#,
            "nonsense",
            "more nonsense",
            r#"{"event":"done"}"#,
        ] {
            reader.take(line.as_bytes());
        }
        assert_eq!(reader.events.len(), 1);
        assert!(reader.done);
        assert_eq!(reader.nonsense.as_deref(), Some("nonsense"));
    }
}
