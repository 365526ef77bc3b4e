//! A process that has memory on the device and then does nothing until told.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use crate::device::{self, Device};
use crate::sys::memory::{Memory, PAGE, UNIT};
use crate::{pattern, size, thp};

/// Hold memory on the device until told to verify it.
///
/// Prints "holding BYTES" when the memory is on the device, waits for a line or the end of
/// standard input, verifies every byte and prints "verified BYTES".
#[derive(Debug, Parser)]
#[command(name = "hmmgpu-hold-pages")]
struct Args {
    /// Memory for each source order, a multiple of 2 MiB.
    #[arg(long, default_value = "8M", value_parser = size::parse)]
    size: usize,
    /// Folio orders of the memory.
    #[arg(long, value_delimiter = ',', default_values_t = [0, 4, 9])]
    orders: Vec<u8>,
    /// Close the device while waiting: an open one keeps the driver from being unloaded.
    #[arg(long)]
    close: bool,
    /// Device node.
    #[arg(long, default_value = device::NODE)]
    device: PathBuf,
}

/// Runs the program.
pub(crate) fn main(args: Vec<OsString>) -> Result<ExitCode> {
    let args = Args::try_parse_from(args)?;
    ensure!(
        args.size >= UNIT && args.size % UNIT == 0,
        "--size: a multiple of 2M is needed"
    );
    let device = Device::open(&args.device)?;
    let pages = args.size / PAGE;
    let mut held = Vec::new();
    let controls = thp::Controls::take()?;
    for &order in &args.orders {
        ensure!(thp::available(order), "this kernel has no order {order}");
        controls.only(order)?;
        let mut memory = Memory::anonymous(args.size).context("cannot map memory")?;
        memory
            .populate(0..pages)
            .context("cannot allocate memory")?;
        for page in 0..pages {
            pattern::fill(
                memory.words_mut(page),
                pattern::page_base(u64::from(order), page),
            );
        }
        held.push((order, memory));
    }
    drop(controls);
    let mut moved = 0;
    for (_, memory) in &held {
        let outcome = device.to_device(memory, 0..pages);
        moved += outcome.complete("MIGRATE_TO_DEVICE")?.moved;
    }
    ensure!(moved > 0, "nothing moved to the device");
    let device = (!args.close).then_some(device);
    say(&format!("holding {moved}"))?;

    wait_for_line()?;

    let mut wrong = 0;
    for (order, memory) in &held {
        for page in 0..pages {
            let base = pattern::page_base(u64::from(*order), page);
            wrong += pattern::differing_bytes(memory.words(page), base);
        }
    }
    drop(device);
    ensure!(wrong == 0, "{wrong} bytes differ from what was written");
    say(&format!("verified {}", held.len() * args.size))?;
    Ok(ExitCode::SUCCESS)
}

fn say(line: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")
        .and_then(|()| stdout.flush())
        .context("cannot write to standard output")
}

/// Waits for a line or the end of standard input.
fn wait_for_line() -> Result<()> {
    let mut byte = [0];
    let mut stdin = std::io::stdin().lock();
    while stdin
        .read(&mut byte)
        .context("cannot read standard input")?
        == 1
        && byte[0] != b'\n'
    {}
    Ok(())
}
