//! `hmmgpu smi`: what the GPUs do, asked once or again and again.

use std::io::Write;
use std::path::PathBuf;

use crossbeam_channel::Receiver;

use super::Error;
use crate::cli::SmiArgs;
use crate::control::{self, ControlError};
use crate::exit;
use crate::interrupt::Interrupt;
use crate::views::smi;

/// What to do about it.
const NO_GPU: &str = "no GPU runs; start one with 'hmmgpu bench', 'hmmgpu run -- COMMAND', \
                      'hmmgpu shell' or 'hmmgpu serve'";

pub(super) fn smi(args: &SmiArgs, interrupt: &Interrupt) -> Result<u8, Error> {
    if args.help_query {
        print(&smi::fields_help())?;
        return Ok(exit::OK);
    }
    if let Some(last) = args.events {
        return events(args, last);
    }
    let Some(every) = args.every else {
        let (text, code) = once(args, true)?;
        print(&text)?;
        return Ok(code);
    };
    let (sender, signals) = crossbeam_channel::bounded(1);
    let _watch = interrupt.watch(move |signal| {
        let _ = sender.try_send(signal);
    });
    let mut next = std::time::Instant::now();
    let mut first = true;
    loop {
        let (text, code) = once(args, first)?;
        // None runs at first: that is an answer. One that ends later may come again.
        if first && code != exit::OK {
            return Ok(code);
        }
        print(&text)?;
        first = false;
        next = (next + every).max(std::time::Instant::now());
        if let Some(code) = wait_until(next, &signals) {
            return Ok(code);
        }
    }
}

/// The exit code, if a signal came first.
fn wait_until(deadline: std::time::Instant, signals: &Receiver<i32>) -> Option<u8> {
    match signals.recv_deadline(deadline) {
        Ok(signal_hook::consts::SIGINT) => Some(exit::OK),
        Ok(signal) => Some(exit::of_signal(signal)),
        Err(_) => None,
    }
}

/// The control sockets to ask.
fn sockets(args: &SmiArgs) -> Result<Vec<PathBuf>, Error> {
    if args.control.is_empty() {
        Ok(control::discover(&control::directory()).map_err(anyhow::Error::from)?)
    } else {
        Ok(args.control.clone())
    }
}

/// Prints the last events of each GPU.
fn events(args: &SmiArgs, last: usize) -> Result<u8, Error> {
    let named = !args.control.is_empty();
    let mut gpus = Vec::new();
    for path in sockets(args)? {
        let state = smi::last_events(&path, last);
        // One that has ended meanwhile is no GPU any more.
        if named || !matches!(state, Err(ControlError::NobodyListens(_))) {
            gpus.push(state);
        }
    }
    for gpu in gpus.iter().flatten() {
        print(&gpu.text(args.json))?;
    }
    Ok(verdict(gpus.iter().map(|gpu| gpu.as_ref().err())))
}

/// What to print, and the exit code it gives. Why there is nothing has been told.
fn once(args: &SmiArgs, first: bool) -> Result<(String, u8), Error> {
    let sockets = sockets(args)?;
    let gpus = smi::sample(&sockets, !args.control.is_empty());
    let code = verdict(gpus.iter().map(|gpu| gpu.state.as_ref().err()));
    let text = if args.json {
        let mut text = smi::document(&gpus, args.every.is_some());
        text.push('\n');
        text
    } else if let Some(query) = &args.query {
        query.print(&gpus, args.format, first)?
    } else if gpus.is_empty() {
        String::new()
    } else {
        smi::table(&gpus)
    };
    Ok((text, code))
}

/// Says why GPUs could not be asked, and gives the exit code.
fn verdict<'a>(gpus: impl Iterator<Item = Option<&'a ControlError>>) -> u8 {
    let mut stderr = std::io::stderr().lock();
    let (mut asked, mut failed) = (false, false);
    for error in gpus {
        asked = true;
        if let Some(error) = error {
            failed = true;
            let _ = writeln!(stderr, "hmmgpu: error: {error}");
        }
    }
    if !asked {
        let _ = writeln!(stderr, "hmmgpu: {NO_GPU}");
    }
    if failed || !asked {
        exit::NEGATIVE
    } else {
        exit::OK
    }
}

fn print(text: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}
