//! A guest that several tests share, and what has to hold of any.

use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, bail, ensure};
use hmmgpu::views::checks::lines;
use hmmgpu_telemetry::CheckMode;
use hmmgpu_telemetry::snapshot::Snapshot;
use hmmgpu_vm_tests::program::Program;
use hmmgpu_vm_tests::session::{Machine, Session, Step};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::trial;

/// A guest that boots when it is first needed. That it failed is remembered, too.
pub(crate) struct Guest {
    program: Arc<Program>,
    machine: Machine,
    steps: &'static [Step],
    session: OnceLock<std::result::Result<Session, String>>,
}

impl Guest {
    pub(crate) fn new(
        program: &Arc<Program>,
        machine: Machine,
        steps: &'static [Step],
    ) -> Arc<Guest> {
        let program = program.clone();
        Arc::new(Guest {
            program,
            machine,
            steps,
            session: OnceLock::new(),
        })
    }

    pub(crate) fn session(&self) -> Result<&Session> {
        let run = || {
            Session::run(&self.program.path(), &self.machine, self.steps)
                .map_err(|error| format!("{error:#}"))
        };
        match self.session.get_or_init(run) {
            Ok(session) => Ok(session),
            Err(error) => bail!("{error}"),
        }
    }

    /// Tests of what has to hold of any guest whose GPUs work.
    pub(crate) fn general(self: &Arc<Guest>, part: &str) -> Vec<Trial> {
        let mut trials = self.sound(part);
        trials.push(self.check(part, "the_device_has_seen_no_error", |guest| {
            guest.each_device(the_device_has_seen_no_error)
        }));
        let name = "the_checker_of_vram_has_found_nothing";
        trials.push(self.check(part, name, |guest| {
            guest.each_device(|host| the_checker_has_found_nothing(host, guest.machine.check))
        }));
        trials
    }

    /// Tests of what has to hold of any guest, whatever its GPUs do.
    pub(crate) fn sound(self: &Arc<Guest>, part: &str) -> Vec<Trial> {
        vec![
            self.check(part, "the_kernel_has_no_complaint", |guest| {
                the_kernel_has_no_complaint(guest.session()?)
            }),
            self.check(part, "vram_is_empty_at_the_end", |guest| {
                guest.each_device(|host| vram_is_empty_at_the_end(host, guest.machine.vram.0))
            }),
            self.check(part, "no_context_is_left", |guest| {
                guest.each_device(no_context_is_left)
            }),
        ]
    }

    fn check(self: &Arc<Guest>, part: &str, name: &str, check: fn(&Guest) -> Result<()>) -> Trial {
        let guest = self.clone();
        trial(format!("{part}::{name}"), move || check(&guest))
    }

    fn each_device(&self, check: impl Fn(&Snapshot) -> Result<()>) -> Result<()> {
        let devices = &self.session()?.outcome.telemetry;
        ensure!(
            devices.len() == usize::try_from(self.machine.gpus)?,
            "telemetry of {} devices",
            devices.len()
        );
        for (number, host) in devices.iter().enumerate() {
            check(host).with_context(|| format!("GPU {number}"))?;
        }
        Ok(())
    }
}

fn the_kernel_has_no_complaint(session: &Session) -> Result<()> {
    let warnings = &session.outcome.kernel_warnings;
    ensure!(
        warnings.is_empty(),
        "the kernel's log has warnings:\n{}\n--- the last lines of the console\n{}",
        warnings.join("\n"),
        session.outcome.console.join("\n")
    );
    // An unsigned module from outside the tree taints the kernel; nothing else may.
    let allowed = 1 << 12 | 1 << 13;
    ensure!(
        session.outcome.tainted & !allowed == 0,
        "the kernel is tainted: {:#x}",
        session.outcome.tainted
    );
    Ok(())
}

fn vram_is_empty_at_the_end(host: &Snapshot, bytes: u64) -> Result<()> {
    let vram = &host.vram;
    ensure!(
        vram.used_bytes == 0 && vram.folios.is_empty(),
        "{} bytes of VRAM are in use, folios by order {:?}",
        vram.used_bytes,
        vram.folios
    );
    ensure!(
        vram.bytes == bytes && vram.peak_bytes > bytes / 32,
        "of {} bytes of VRAM {} were in use at most",
        vram.bytes,
        vram.peak_bytes
    );
    ensure!(
        vram.inconsistent_notes == 0,
        "{} notes contradict others",
        vram.inconsistent_notes
    );
    Ok(())
}

fn the_device_has_seen_no_error(host: &Snapshot) -> Result<()> {
    let events = &host.events;
    ensure!(
        events.descriptor_errors.is_empty(),
        "{:?}",
        events.descriptor_errors
    );
    ensure!(
        events.unknown_register_accesses == 0,
        "registers that do not exist: {:?}",
        events.unknown_registers
    );
    ensure!(
        events.unmatched_spans == 0,
        "{} spans did not begin",
        events.unmatched_spans
    );
    ensure!(
        events.lost_spans == 0,
        "{} spans did not end",
        events.lost_spans
    );
    ensure!(
        events.dma_map_errors == 0,
        "{} DMA maps were refused",
        events.dma_map_errors
    );
    ensure!(
        events.fences > 0 && events.descriptors > events.fences,
        "{events:?}"
    );
    Ok(())
}

fn the_checker_has_found_nothing(host: &Snapshot, mode: CheckMode) -> Result<()> {
    let checks = &host.checker;
    ensure!(checks.mode == mode, "VRAM was checked by {}", checks.mode);
    ensure!(checks.total() == 0, "{}", lines(checks).join("\n"));
    Ok(())
}

fn no_context_is_left(host: &Snapshot) -> Result<()> {
    ensure!(
        host.compute.contexts == 0,
        "{} contexts are enabled",
        host.compute.contexts
    );
    Ok(())
}

/// The line of JSON that a program of a session ends with.
pub(crate) fn summary(session: &Session, step: &str) -> Result<Value> {
    let output = session.succeeded(step)?;
    let line = output
        .lines()
        .find(|line| line.starts_with('{'))
        .with_context(|| format!("no summary:\n{output}"))?;
    serde_json::from_str(line).context("the summary is no JSON")
}
