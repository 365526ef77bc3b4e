//! `hmmgpu bench`: migration throughput for each folio order.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use hmmgpu_guest_protocol::ExitStatus;
use hmmgpu_guest_protocol::bench::BenchEvent;

use super::output::Output;
use super::{Error, console_sink, tell_step, vm_options};
use crate::bench::plan::plan;
use crate::bench::result::{BenchResult, SCHEMA, Warning};
use crate::bench::{rows::rows, table};
use crate::cli::BenchArgs;
use crate::exit;
use crate::interrupt::Interrupt;
use crate::progress::Ui;
use crate::text::{MAX_LINE, Tail};
use crate::vm::{FailureKind, Vm, VmError, VmEvent, VmIo, job};

/// The guest's program.
const PROGRAM: &str = "hmmgpu-bench-guest";
/// Longest line of the guest's program that is read.
const MAX_EVENT: usize = 1 << 20;
/// Most events that are kept: far beyond every plan.
const MAX_EVENTS: usize = 100_000;

pub(super) fn bench(args: &BenchArgs, ui: &Ui, interrupt: &Interrupt) -> Result<u8, Error> {
    let options = vm_options(&args.machine, "bench", ui, interrupt)?;
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
            stdout: Some(events.clone()),
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
    line: Vec<u8>,
    events: Vec<BenchEvent>,
    done: bool,
    /// The first line that is no event.
    nonsense: Option<String>,
}

impl EventReader {
    fn new(ui: Ui) -> Self {
        Self {
            ui,
            line: Vec::new(),
            events: Vec::new(),
            done: false,
            nonsense: None,
        }
    }

    fn end_of_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        if line.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        match serde_json::from_slice(&line) {
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

impl Write for EventReader {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = MAX_EVENT.saturating_sub(self.line.len());
            self.line.extend_from_slice(&part[..part.len().min(room)]);
            if part.ends_with(b"\n") {
                self.end_of_line();
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Keeps the last lines that are written to it.
struct LineTail {
    line: Vec<u8>,
    tail: Tail,
}

impl LineTail {
    fn new() -> Self {
        Self {
            line: Vec::new(),
            tail: Tail::new(20),
        }
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = self.tail.lines();
        if !self.line.is_empty() {
            lines.push(crate::text::printable(&self.line));
        }
        lines
    }
}

impl Write for LineTail {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            if *byte == b'\n' {
                self.tail
                    .push(crate::text::printable(&std::mem::take(&mut self.line)));
            } else if self.line.len() < MAX_LINE {
                self.line.push(*byte);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_however_they_are_cut() {
        let text = concat!(
            r#"{"event":"progress","done":1,"total":2,"what":"x"}"#,
            "\n\n",
            r#"{"event":"skipped","source_order":3,"reason":"none"}"#,
            "\nnonsense\nmore nonsense\n",
            r#"{"event":"done"}"#,
            "\n"
        );
        for cut in [1, 7, 1000] {
            let mut reader = EventReader::new(Ui::new(true, true));
            for part in text.as_bytes().chunks(cut) {
                reader.write_all(part).expect("takes it");
            }
            assert_eq!(reader.events.len(), 1);
            assert!(reader.done);
            assert_eq!(reader.nonsense.as_deref(), Some("nonsense"));
        }
    }

    #[test]
    fn a_line_without_end_does_not_grow() {
        let mut reader = EventReader::new(Ui::new(true, true));
        for _ in 0..64 {
            reader.write_all(&[b'x'; 1 << 16]).expect("takes it");
        }
        assert!(reader.line.len() <= MAX_EVENT);
    }
}
