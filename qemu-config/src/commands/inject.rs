//! `hmmgpu inject`: faults on purpose, in a GPU that runs.

use std::io::Write;
use std::path::{Path, PathBuf};

use crossbeam_channel::unbounded;
use hmmgpu_telemetry::snapshot::InjectedFault;

use super::Error;
use crate::cli::{Fault, InjectArgs};
use crate::control::{self, Connection, ControlError, PATIENCE};
use crate::exit;
use crate::interrupt::Interrupt;
use crate::progress::Ui;
use crate::server_fault::{ServerFault, ServerProcess, explain};

pub(super) fn inject(args: &InjectArgs, ui: &Ui, interrupt: &Interrupt) -> Result<u8, Error> {
    let told = match which(args)? {
        Ok(path) => act(args, &path, ui, interrupt),
        Err(why) => Err(why),
    };
    match told {
        Ok(faults) if args.list => {
            print(&list(&faults, args.json)?)?;
            Ok(code(interrupt))
        }
        Ok(_) => Ok(code(interrupt)),
        Err(why) => {
            let _ = writeln!(std::io::stderr(), "hmmgpu: error: {why}");
            Ok(exit::NEGATIVE)
        }
    }
}

/// All was done, or Ctrl-C came meanwhile.
fn code(interrupt: &Interrupt) -> u8 {
    interrupt.signal().map_or(exit::OK, exit::of_signal)
}

/// The control socket of the GPU that is meant, or why there is none.
fn which(args: &InjectArgs) -> Result<Result<PathBuf, String>, Error> {
    if let Some(path) = &args.control {
        return Ok(Ok(path.clone()));
    }
    let sockets = control::discover(&control::directory()).map_err(anyhow::Error::from)?;
    let listens = |path: &PathBuf| {
        let opened = Connection::open(path, PATIENCE);
        !matches!(opened, Err(ControlError::NobodyListens(_)))
    };
    let mut running: Vec<_> = sockets.into_iter().filter(listens).collect();
    let count = running.len();
    Ok(match args.gpu {
        None if count == 1 => Ok(running.remove(0)),
        None if count == 0 => Err("no GPU runs".to_owned()),
        None => Err(format!(
            "{count} GPUs run: say which with --gpu 0 to {}",
            count - 1
        )),
        Some(gpu) if gpu < count => Ok(running.remove(gpu)),
        Some(gpu) => Err(format!("there is no GPU {gpu}: {count} run")),
    })
}

/// Does what is asked for, to the device first. Gives what is armed in it then.
fn act(
    args: &InjectArgs,
    path: &Path,
    ui: &Ui,
    interrupt: &Interrupt,
) -> Result<Vec<InjectedFault>, String> {
    let told = |error: ControlError| error.to_string();
    let mut connection = Connection::open(path, PATIENCE).map_err(told)?;
    let injected = to_device(args, &mut connection).map_err(told)?;
    for fault in &args.faults {
        if let Fault::Server(fault) = fault {
            let process = connection.process().map_err(told)?;
            to_server(*fault, &process, ui, interrupt).map_err(explain)?;
        }
    }
    Ok(injected)
}

/// Lets it happen to the server's process. When this returns, one that stood still goes on; Ctrl-C
/// ends that early.
fn to_server(
    fault: ServerFault,
    process: &ServerProcess,
    ui: &Ui,
    interrupt: &Interrupt,
) -> rustix::io::Result<()> {
    let pid = process.pid();
    let time = match fault {
        ServerFault::Kill => {
            process.kill()?;
            ui.note(&format!("process {pid} was killed"));
            return Ok(());
        }
        ServerFault::Stop(time) => time,
    };
    let (sender, interrupted) = unbounded();
    let _watch = interrupt.watch(move |_| {
        let _ = sender.send(());
    });
    // From here on a signal is seen below.
    if interrupt.signal().is_none() {
        process.stop()?;
        let shown = humantime::format_duration(time);
        ui.note(&format!("process {pid} stands still for {shown}"));
        let _ = interrupted.recv_timeout(time);
        process.go_on()?;
        ui.note(&format!("process {pid} goes on"));
    }
    Ok(())
}

/// What is asked for of the device.
fn to_device(
    args: &InjectArgs,
    connection: &mut Connection,
) -> Result<Vec<InjectedFault>, ControlError> {
    if args.clear {
        connection.clear_injected()?;
    }
    if let Some(link) = &args.link {
        connection.set_link(link.to_string())?;
    }
    let of_device = args.faults.iter().filter_map(|fault| match fault {
        Fault::Device(fault) => Some(fault.to_string()),
        Fault::Server(_) => None,
    });
    let of_device: Vec<_> = of_device.collect();
    if !of_device.is_empty() {
        connection.inject(of_device)?;
    }
    Ok(connection.snapshot(false)?.injected)
}

fn list(faults: &[InjectedFault], json: bool) -> anyhow::Result<String> {
    if json {
        return Ok(serde_json::to_string_pretty(faults)? + "\n");
    }
    if faults.is_empty() {
        return Ok("nothing was armed\n".to_owned());
    }
    let width = faults.iter().map(|fault| fault.spec.len()).max();
    let width = width.unwrap_or(0).max("fault".len());
    let mut text = format!(
        "{:width$}  armed      seen      hits  what came of it\n",
        "fault"
    );
    for fault in faults {
        let outcomes: Vec<_> = fault
            .outcomes
            .iter()
            .map(|(outcome, times)| format!("{} {times}", outcome.name()))
            .collect();
        text += &format!(
            "{:width$}  {:5}  {:8}  {:8}  {}\n",
            fault.spec,
            if fault.armed { "yes" } else { "no" },
            fault.seen,
            fault.hits,
            outcomes.join(", "),
        );
    }
    Ok(text)
}

fn print(text: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hmmgpu_telemetry::snapshot::{FaultAction, FaultOutcome, FaultSite};

    #[test]
    fn the_list_says_what_came_of_each() {
        let fault = InjectedFault {
            spec: "fence:drop@3".to_owned(),
            site: FaultSite::Fence,
            action: FaultAction::Drop,
            armed: false,
            seen: 3,
            hits: 1,
            last_ns: 5,
            outcomes: vec![(FaultOutcome::Lost, 1), (FaultOutcome::ResetByDriver, 1)],
        };
        let text = list(&[fault], false).expect("a list");
        let line = text.lines().nth(1).expect("a line");
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!(
            words,
            [
                "fence:drop@3",
                "no",
                "3",
                "1",
                "lost",
                "1,",
                "reset_by_driver",
                "1"
            ]
        );
        assert_eq!(list(&[], false).expect("a list"), "nothing was armed\n");
        assert_eq!(list(&[], true).expect("a list"), "[]\n");
    }
}
