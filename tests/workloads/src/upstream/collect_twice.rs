//! `migrate_vma_collect_pmd()` adds entries for a whole range to those that it has, if the page table
//! goes while it splits a folio.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use hmmgpu_uapi::Migrate;

use super::begin;
use crate::device;
use crate::rng::Rng;
use crate::sys::memory::{Advice, Memory};

/// Drops 2 MiB in the moment in which a migration splits a folio there, until the driver was told of
/// more pages than there are.
#[derive(Debug, Parser)]
#[command(
    name = "upstream-collect-twice",
    after_help = "Example: hmmgpu run -- upstream-collect-twice\n\n\
        Exits with 0 when it has happened, as is expected of the kernel within a minute; with 1 when \
        it has not: the kernel is mended, or frees no page tables (CONFIG_PT_RECLAIM)."
)]
struct Args {
    /// Device node.
    #[arg(long, default_value = device::NODE)]
    device: PathBuf,
    /// Seconds to try.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// Runs the program.
pub(crate) fn main(args: Vec<OsString>) -> Result<ExitCode> {
    let args = Args::try_parse_from(args)?;
    let (device, _controls, mut memory) = begin(&args.device, 9)?;
    let mut random = Rng::new(1, 0);
    let until = Instant::now() + Duration::from_secs(args.seconds);
    let before = device.stats()?.collected_again;
    let mut tries = 0_u64;
    // How long a request takes that nobody disturbs: at some time in it the folio is split.
    let mut longest = Duration::from_millis(10);
    while Instant::now() < until {
        tries += 1;
        let request = prepare(&mut memory)?;
        let disturbed = tries > 1;
        let wait = random.below(longest.as_nanos().try_into().unwrap_or(usize::MAX));
        let begin = Instant::now();
        thread::scope(|scope| {
            let asking = scope.spawn(|| device.to_device_raw(request));
            let all = 0..memory.pages();
            if disturbed {
                let drop_at = begin + Duration::from_nanos(wait as u64);
                while Instant::now() < drop_at {
                    std::hint::spin_loop();
                }
                memory.advise(all, Advice::DontNeed)?;
            }
            let asked = asking.join();
            asked.map_err(|_| anyhow::anyhow!("the thread that asks panicked"))?;
            anyhow::Ok(())
        })?;
        if !disturbed {
            longest = begin.elapsed();
        }
        if device.stats()?.collected_again > before {
            println!(
                "shown at try {tries}: the kernel told of more entries than a range has pages"
            );
            return Ok(ExitCode::SUCCESS);
        }
    }
    println!("not shown: {tries} tries, and none was told of more entries than it has pages");
    Ok(ExitCode::FAILURE)
}

/// One page table that maps single pages, and behind them half of a folio of 2 MiB. Returns a request
/// for all of it.
fn prepare(memory: &mut Memory) -> Result<Migrate> {
    let (all, half) = (memory.pages(), memory.pages() / 2);
    memory.advise(0..all, Advice::DontNeed)?;
    memory.words_mut(0).fill(1);
    memory.advise(0..half, Advice::DontNeed)?;
    for page in 0..half {
        memory.words_mut(page).fill(1);
    }
    Ok(Migrate {
        addr: memory.page_address(0) as u64,
        size: memory.len() as u64,
        ..Migrate::default()
    })
}
