//! Code in memory that was on the device must be the code that runs.
//!
//! An emulator that translates code, as QEMU does without hardware acceleration, learns of new
//! code from the guest's own stores only. What a device writes into guest memory it does not
//! see, so code that came home could run as what was on that page before, though it reads
//! right. The driver prevents it; this program shows whether it does. Data is not read before
//! the code runs, so that nothing else can cure it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use crate::device::{self, Device};
use crate::sys::call::{FUNCTION_BYTES, call_function, write_function};
use crate::sys::memory::{Access, Memory, PAGE, UNIT};
use crate::{pagemap, pattern, size, thp};

/// Run generated code from pages that were on the device.
///
/// Every page holds functions that return numbers of their own. They run, go to the device, come
/// home and run again; then new code is written to the same pages, and so on.
#[derive(Debug, Parser)]
#[command(name = "hmmgpu-exec-code")]
struct Args {
    /// Memory for each source order, a multiple of 2 MiB.
    #[arg(long, default_value = "8M", value_parser = size::parse)]
    size: usize,
    /// Generations of code written to the same pages.
    #[arg(long, default_value_t = 3)]
    generations: u32,
    /// Folio orders of the memory.
    #[arg(long, value_delimiter = ',', default_values_t = [0, 9])]
    orders: Vec<u8>,
    /// Device node.
    #[arg(long, default_value = device::NODE)]
    device: PathBuf,
}

/// Where in a page functions begin: the first bytes, across a cache line, and the last bytes.
const OFFSETS: [usize; 3] = [0, 61, PAGE - FUNCTION_BYTES];

/// How code comes home.
#[derive(Clone, Copy, Debug)]
enum Home {
    /// By the driver's request.
    Request,
    /// By the fault of fetching it.
    Fetch,
    /// By the fault of reading another word of the page.
    Read,
}

/// Runs the program.
pub(crate) fn main(args: Vec<OsString>) -> Result<ExitCode> {
    let args = Args::try_parse_from(args)?;
    ensure!(
        args.size >= UNIT && args.size % UNIT == 0,
        "--size: a multiple of 2M is needed"
    );
    let device = Device::open(&args.device)?;
    let controls = thp::Controls::take()?;
    let scrubbed = device.stats()?.code_pages_scrubbed;
    let mut wrong = 0;
    for &order in &args.orders {
        ensure!(thp::available(order), "this kernel has no order {order}");
        controls.only(order)?;
        for home in [Home::Request, Home::Fetch, Home::Read] {
            wrong += check(&device, &args, order, home)
                .with_context(|| format!("order {order}, home by {home:?}"))?;
        }
    }
    let scrubbed = device.stats()?.code_pages_scrubbed - scrubbed;
    println!("code pages that the driver wrote first: {scrubbed}");
    if wrong == 0 {
        println!("all functions returned their numbers");
        Ok(ExitCode::SUCCESS)
    } else {
        println!("{wrong} functions returned wrong numbers");
        Ok(ExitCode::FAILURE)
    }
}

/// Returns how many calls returned a wrong number.
fn check(device: &Device, args: &Args, order: u8, home: Home) -> Result<u64> {
    let mut memory = Memory::anonymous_with(args.size, Access::Execute)
        .context("cannot map executable memory")?;
    let pages = memory.pages();
    memory
        .populate(0..pages)
        .context("cannot allocate memory")?;
    let share = pagemap::share_of_order(&memory, 0..pages, order)?;
    let mut wrong = 0;
    let mut moved = 0;
    for generation in 0..args.generations {
        for page in 0..pages {
            for (slot, offset) in OFFSETS.into_iter().enumerate() {
                write_function(&mut memory, page, offset, number(generation, page, slot));
            }
        }
        // The translations that may go stale are made here.
        let before = wrong_calls(&memory, generation);
        ensure!(
            before == 0,
            "{before} functions were wrong before they moved"
        );

        let outcome = device.to_device(&memory, 0..pages);
        moved += outcome.complete("MIGRATE_TO_DEVICE")?.moved;
        match home {
            Home::Request => {
                let outcome = device.to_system(&memory, 0..pages);
                outcome.complete("MIGRATE_TO_SYSTEM")?;
            }
            Home::Fetch => {}
            Home::Read => {
                for page in 0..pages {
                    memory.touch(page);
                }
            }
        }
        let after = wrong_calls(&memory, generation);
        if after != 0 {
            println!("order {order}, home by {home:?}, generation {generation}: {after} wrong");
        }
        wrong += after;
    }
    ensure!(moved > 0, "nothing moved to the device: nothing is shown");
    println!(
        "order {order} ({:.0} % of the pages), home by {home:?}: {} generations, {} MiB moved, {wrong} wrong",
        share * 100.0,
        args.generations,
        moved >> 20
    );
    Ok(wrong)
}

fn wrong_calls(memory: &Memory, generation: u32) -> u64 {
    let mut wrong = 0;
    for page in 0..memory.pages() {
        for (slot, offset) in OFFSETS.into_iter().enumerate() {
            if call_function(memory, page, offset) != number(generation, page, slot) {
                wrong += 1;
            }
        }
    }
    wrong
}

/// The number of a function.
fn number(generation: u32, page: usize, slot: usize) -> u32 {
    let mixed = pattern::mix(u64::from(generation) << 48 | (page as u64) << 8 | slot as u64);
    // The upper half of well-mixed bits is as good as any.
    u32::try_from(mixed >> 32).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_functions_return_their_numbers() {
        let mut memory = Memory::anonymous_with(UNIT, Access::Execute).unwrap();
        for generation in 0..2 {
            for page in 0..4 {
                for (slot, offset) in OFFSETS.into_iter().enumerate() {
                    write_function(&mut memory, page, offset, number(generation, page, slot));
                }
            }
            for page in 0..4 {
                for (slot, offset) in OFFSETS.into_iter().enumerate() {
                    let found = call_function(&memory, page, offset);
                    assert_eq!(found, number(generation, page, slot));
                }
            }
        }
    }
}
