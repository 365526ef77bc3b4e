//! `hmmgpu top`: what the GPUs do, live.

use std::io::{self, Write};

use super::Error;
use crate::cli::TopArgs;
use crate::exit;
use crate::interrupt::Interrupt;
use crate::views::top::{self, Options};

pub(super) fn top(args: &TopArgs, interrupt: &Interrupt) -> Result<u8, Error> {
    let options = Options {
        control: args.control.clone(),
        interval: args.interval,
    };
    let signal = if args.batch {
        let mut stdout = std::io::stdout().lock();
        match top::batch(options, args.iterations, args.width, interrupt, &mut stdout) {
            // As smi tells of it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let _ = writeln!(io::stderr(), "hmmgpu: error: {error}");
                return Ok(exit::NEGATIVE);
            }
            result => result?,
        }
    } else if top::can_draw() {
        top::run(options, interrupt)?
    } else {
        return Err(Error::Usage(
            "top needs a terminal that it can draw on; use --batch, or 'hmmgpu smi'".into(),
        ));
    };
    Ok(match signal {
        // How a program that runs until it is stopped ends well.
        None | Some(signal_hook::consts::SIGINT) => exit::OK,
        Some(signal) => exit::of_signal(signal),
    })
}
