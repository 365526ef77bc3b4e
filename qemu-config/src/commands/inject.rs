//! `hmmgpu inject`: faults on purpose, in a GPU that runs.

use std::io::Write;
use std::path::PathBuf;

use hmmgpu_telemetry::snapshot::InjectedFault;

use super::Error;
use crate::cli::InjectArgs;
use crate::control::{self, Connection, ControlError, PATIENCE};
use crate::exit;

pub(super) fn inject(args: &InjectArgs) -> Result<u8, Error> {
    let told = match which(args)? {
        Ok(path) => act(args, &path).map_err(|error| error.to_string()),
        Err(why) => Err(why),
    };
    match told {
        Ok(faults) if args.list => {
            print(&list(&faults, args.json)?)?;
            Ok(exit::OK)
        }
        Ok(_) => Ok(exit::OK),
        Err(why) => {
            let _ = writeln!(std::io::stderr(), "hmmgpu: error: {why}");
            Ok(exit::NEGATIVE)
        }
    }
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

/// Does what is asked for, and gives what is armed then.
fn act(args: &InjectArgs, path: &std::path::Path) -> Result<Vec<InjectedFault>, ControlError> {
    let mut connection = Connection::open(path, PATIENCE)?;
    if args.clear {
        connection.clear_injected()?;
    }
    if let Some(link) = &args.link {
        connection.set_link(link.to_string())?;
    }
    if !args.faults.is_empty() {
        connection.inject(args.faults.iter().map(ToString::to_string).collect())?;
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
