//! `hmmgpu bench --kernel-a X --kernel-b Y`: two kernels by turns, and their comparison.

use std::sync::Arc;
use std::time::Duration;

use hmmgpu_images::KernelSpec;

use super::bench::{orders_for, plan_for};
use super::compare::{exit_code, show};
use super::output::Output;
use super::{Error, console_sink, tell_step, vm_options};
use crate::bench::alternate::{Booted, End, Turn, alternate, usual_rounds};
use crate::bench::format::Format;
use crate::bench::measure::{Listener, Measured, measure};
use crate::bench::plan::Extent;
use crate::cli::{BenchArgs, CompareFormat};
use crate::compare::document::Alternation;
use crate::compare::sides::Side;
use crate::exit;
use crate::interrupt::Interrupt;
use crate::progress::Ui;
use crate::vm::{LineSink, Vm, VmError, VmEvent};

/// Directions and triggers of each order.
const ROWS_OF_ORDER: usize = 3;

pub(super) fn bench_two(
    args: &BenchArgs,
    kernels: [&KernelSpec; 2],
    ui: &Ui,
    interrupt: &Interrupt,
) -> Result<u8, Error> {
    let settings = args.alternate.judge.settings();
    let orders = orders_for(args, Extent::OneOfMany);
    let rows = orders.0.len() * ROWS_OF_ORDER;
    let rounds = match args.alternate.rounds {
        Some(rounds) => usize::from(rounds),
        None => usual_rounds(rows, settings),
    };
    let format = match args.format {
        Format::Table => CompareFormat::Table,
        Format::Markdown => CompareFormat::Markdown,
        Format::HmmTests | Format::Csv => {
            return Err(Error::Usage(
                "two kernels are shown as --format table or markdown; --json has every figure"
                    .into(),
            ));
        }
    };
    let mut machines = Vec::new();
    for kernel in kernels {
        let mut options = vm_options(&args.machine, "bench", ui, interrupt)?;
        options.profile.kernel = Some(kernel.clone());
        machines.push(options);
    }
    let plan = plan_for(args, &orders, Extent::OneOfMany, &machines[0].profile)?;
    // Before minutes of work, not after.
    let json = args.json.as_deref().map(Output::open).transpose()?;
    let console = console_sink(&args.machine, ui)?;
    // Ctrl-C between two boots ends it as in a boot: with what there is.
    let _watch = interrupt.watch(|_| {});
    // Nobody waits minutes for the first kernel to hear that there is no second; and what needs no
    // network is told first.
    for kernel in kernels {
        kernel.check().map_err(VmError::from)?;
    }
    for options in &machines {
        Vm::check_kernel(options)?;
    }
    let mut vms = Vec::new();
    for mut options in machines {
        options.label = "bench".to_owned();
        vms.push(Vm::prepare(options)?);
    }

    let names = kernels.map(ToString::to_string);
    let mut last_error: Option<VmError> = None;
    let boot = |turn: Turn| {
        let at = match turn.side {
            Side::A => 0,
            Side::B => 1,
        };
        tell_turn(turn, &names[at], ui);
        let measured = boot_once(&vms[at], &plan, &args.machine.driver_params, &console, ui);
        ui.clear();
        let booted = match measured {
            Ok(measured) => {
                let failure = measured.failure.map(VmError::Failed);
                let booted = Booted {
                    result: Some(measured.result),
                    failure: failure.as_ref().map(ToString::to_string),
                    interrupted: interrupt.signal().is_some(),
                };
                last_error = failure.or(last_error.take());
                booted
            }
            Err(error) => {
                let failure = Some(error.to_string());
                last_error = Some(error);
                Booted {
                    result: None,
                    failure,
                    interrupted: interrupt.signal().is_some(),
                }
            }
        };
        if let (Some(failure), false) = (&booted.failure, booted.interrupted) {
            ui.warn(&format!("boot {} of {}: {failure}", turn.boot, turn.of));
        }
        booted
    };
    let (boots, end) = alternate(rounds, settings, boot);
    let [kernel_a, kernel_b] = names;
    let alternation = Alternation::new(kernel_a, kernel_b, rounds * 2, boots, settings)
        .map_err(|error| Error::Host(anyhow::anyhow!("cannot compare: {error}")))?;
    let comparison = &alternation.comparison;
    let both = comparison.a.boots > 0 && comparison.b.boots > 0;
    if both || json.is_some() {
        show(comparison, format, &alternation, json)?;
    }
    match (end, last_error) {
        (End::Complete, _) => Ok(exit_code(comparison, args.alternate.judge.strict)),
        (_, Some(error)) => Err(error.into()),
        (End::Interrupted, None) => Ok(exit::of_signal(interrupt.signal().unwrap_or_default())),
        (End::GivenUp(side), None) => Err(Error::Host(anyhow::anyhow!(
            "nothing could be measured with the kernel of {side}"
        ))),
    }
}

fn boot_once(
    vm: &Vm,
    plan: &hmmgpu_guest_protocol::bench::BenchPlan,
    driver_params: &str,
    console: &LineSink,
    ui: &Ui,
) -> Result<Measured, VmError> {
    let steps = ui.clone();
    measure(
        vm,
        plan,
        driver_params,
        &[],
        Listener {
            steps: Arc::new(move |done, total, what| steps.live_steps(done, total, what)),
            console: Some(Arc::clone(console)),
            observer: &mut |event| {
                tell_step(event, ui);
                if let VmEvent::Guest(hmmgpu_guest_protocol::Event::Started) = event {
                    ui.step("Measuring");
                }
            },
        },
    )
}

fn tell_turn(turn: Turn, kernel: &str, ui: &Ui) {
    let left = match turn.left {
        Some(left) => format!(", about {} left", coarse(left)),
        None => String::new(),
    };
    let Turn { side, boot, of, .. } = turn;
    ui.note(&format!("Boot {boot} of {of}: {side}, {kernel}{left}"));
}

/// A time that nobody takes for exact.
fn coarse(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..=89 => format!("{seconds} s"),
        seconds => format!("{} min", (seconds + 30) / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_coarse() {
        let shown = |seconds| coarse(Duration::from_secs(seconds));
        assert_eq!(
            [shown(0), shown(89), shown(90), shown(625)],
            ["0 s", "89 s", "2 min", "10 min"]
        );
    }
}
