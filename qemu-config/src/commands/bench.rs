//! `hmmgpu bench`: migration throughput for each folio order.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use hmmgpu_guest_protocol::bench::BenchPlan;
use hmmgpu_images::{ImageError, KernelSource};

use super::alternate::bench_two;
use super::output::Output;
use super::{Error, console_sink, tell_checks, tell_step, vm_options};
use crate::bench::format::{self, Format};
use crate::bench::measure::{Listener, Measured, measure};
use crate::bench::plan::{Extent, Orders, plan};
use crate::bench::result::BenchResult;
use crate::cli::{BenchArgs, OtherDriver};
use crate::exit;
use crate::interrupt::Interrupt;
use crate::profile::Profile;
use crate::progress::Ui;
use crate::report;
use crate::vm::{FailureKind, Vm, VmError, VmEvent};

/// Where the guest has the other driver's module.
const MODULE: &str = "/usr/local/lib/test_hmm.ko";

pub(super) fn bench(args: &BenchArgs, ui: &Ui, interrupt: &Interrupt) -> Result<u8, Error> {
    if let (Some(a), Some(b)) = (&args.alternate.kernel_a, &args.alternate.kernel_b) {
        return bench_two(args, [a, b], ui, interrupt);
    }
    if args.alternate.judge.is_given() {
        return Err(Error::Usage(
            "there is nothing to compare: give --kernel-a and --kernel-b, too".into(),
        ));
    }
    let mut options = vm_options(&args.machine, "bench", ui, interrupt)?;
    options.label = "bench".to_owned();
    let plan = plan_for(
        args,
        &orders_for(args, Extent::One),
        Extent::One,
        &options.profile,
    )?;
    // Before minutes of work, not after.
    let json = args.json.as_deref().map(Output::open).transpose()?;
    let page = args.report.as_deref().map(Output::open).transpose()?;
    if let Some(Output::Stdout) = page {
        return Err(Error::Usage(
            "standard output has the table: give --report a file, or use 'hmmgpu report'".into(),
        ));
    }
    let console = console_sink(&args.machine, ui)?;
    let source = args.kernel_source.as_deref().map(KernelSource::at);
    let source = source.transpose().map_err(VmError::from)?;

    let vm = Vm::prepare(options)?;
    let mut files = Vec::new();
    if let (Some(OtherDriver::TestHmm), Some(inside)) = (args.against, &plan.test_hmm) {
        files.push((test_hmm(&vm, source, ui)?, inside.clone()));
    }
    let steps = ui.clone();
    let measured = measure(
        &vm,
        &plan,
        &args.machine.driver_params,
        &files,
        Listener {
            steps: Arc::new(move |done, total, what| steps.steps(done, total, what)),
            console: Some(console),
            observer: &mut |event| {
                tell_step(event, ui);
                if let VmEvent::Guest(hmmgpu_guest_protocol::Event::Started) = event {
                    ui.step("Measuring");
                }
            },
        },
    );
    ui.clear();
    let Measured {
        result,
        failure,
        messages,
    } = measured?;
    for line in &messages {
        ui.note(&format!("guest: {line}"));
    }
    if args.format == Format::Csv {
        // A table of rows has no place for them.
        for error in &result.errors {
            ui.warn(&error.to_string());
        }
    }
    tell_checks(result.telemetry.as_slice(), ui);
    let written = write_result(&result, args.format, json, page);
    if let Some(failure) = failure {
        if let (Err(error), FailureKind::Lost(_)) = (written, &failure.kind) {
            ui.warn(&format!("{error:#}"));
        }
        return Err(VmError::Failed(failure).into());
    }
    written?;
    Ok(verdict(&result))
}

/// The exit code of a result.
fn verdict(result: &BenchResult) -> u8 {
    if result.good() {
        exit::OK
    } else {
        exit::NEGATIVE
    }
}

/// The orders that are asked for, or the usual ones.
pub(super) fn orders_for(args: &BenchArgs, extent: Extent) -> Orders {
    args.orders.clone().unwrap_or_else(|| extent.orders())
}

/// Upstream's module for the kernel that is measured.
fn test_hmm(vm: &Vm, source: Option<KernelSource>, ui: &Ui) -> Result<PathBuf, VmError> {
    let (source, module) = vm.make(|images, root, kernel| -> Result<_, ImageError> {
        let source = match source {
            Some(source) => source,
            None => images.kernel_source(root, kernel)?,
        };
        let module = images.test_hmm(kernel, &source)?;
        Ok((source, module))
    })?;
    if !source.fits(vm.kernel()) {
        ui.warn(&format!(
            "test_hmm is of Linux {} and the guest runs {}: it may not load, or do other work",
            source.version,
            vm.kernel().release
        ));
    }
    Ok(module)
}

/// What is to be measured on this machine.
pub(super) fn plan_for(
    args: &BenchArgs,
    orders: &Orders,
    extent: Extent,
    profile: &Profile,
) -> Result<BenchPlan, Error> {
    if profile.gpus != 1 {
        return Err(Error::Usage(format!(
            "the bench measures one GPU and this machine has {}: add --gpus 1",
            profile.gpus
        )));
    }
    plan(
        |order| args.size.unwrap_or_else(|| extent.size(order)),
        orders,
        args.repeat.unwrap_or_else(|| extent.repeats()),
        args.call_size,
        profile.vram,
        profile.memory,
    )
    .map(|plan| BenchPlan {
        floor: args.floor,
        test_hmm: args.against.map(|OtherDriver::TestHmm| MODULE.to_owned()),
        ..plan
    })
    .map_err(Error::Usage)
}

/// Text to standard output, or to standard error where the JSON needs standard output.
fn write_result(
    result: &BenchResult,
    format: Format,
    json: Option<Output>,
    page: Option<Output>,
) -> anyhow::Result<()> {
    let text = format::render(result, format);
    if let Some(page) = page {
        page.write(report::render(result).as_bytes())?;
    }
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

#[cfg(test)]
mod tests {
    use hmmgpu_guest_protocol::bench::Counter;

    use super::*;
    use crate::bench::counters::{compare, differences};
    use crate::bench::example;

    /// What a bench ends with, whose driver counts so many fences where the device wrote 17.
    fn result(fences: u64) -> BenchResult {
        let mut host = example::snapshot(vec![]);
        host.events.fences = 17;
        let counter = Counter {
            name: "events.fences".into(),
            order: None,
            value: fences,
        };
        let counters = compare(&[counter], &host);
        BenchResult {
            errors: differences(&counters),
            counters,
            ..example::result(vec![example::row(9, 9, 1e9)])
        }
    }

    #[test]
    fn a_counter_that_differs_is_named_and_the_verdict_is_negative() {
        let (equal, differs) = (result(17), result(18));
        assert_eq!(verdict(&equal), exit::OK);
        assert_eq!(verdict(&differs), exit::NEGATIVE);
        let named = "events.fences: the driver counts 18 and the host 17";
        for format in [Format::Table, Format::HmmTests, Format::Markdown] {
            let text = format::render(&differs, format);
            assert!(text.contains(named), "{format:?}: {text}");
            assert!(!format::render(&equal, format).contains("events.fences"));
        }
        assert!(report::render(&differs).contains(named));

        // The JSON as --json writes it.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("result.json");
        let Ok(output) = Output::open(&path) else {
            panic!("{} cannot be opened", path.display());
        };
        write_result(&differs, Format::Csv, Some(output), None).unwrap();
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let expected = serde_json::json!([{
            "error": "counters_differ", "name": "events.fences", "order": null,
            "driver": 18, "host": 17,
        }]);
        assert_eq!(json["errors"], expected);
    }
}
