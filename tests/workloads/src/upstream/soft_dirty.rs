//! `remove_migration_pte()` lets writes go unnoticed that are looked for by soft-dirty bits.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use super::{begin, send_all};
use crate::device;
use crate::pagemap;
use crate::pattern;
use crate::sys::memory::Memory;

/// Has writes forgotten while pages are on the device, writes, and looks whether that is noticed.
#[derive(Debug, Parser)]
#[command(
    name = "upstream-soft-dirty",
    after_help = "Example: hmmgpu run -- upstream-soft-dirty\n\n\
        Exits with 0 when writes went unnoticed, as is expected of the kernel, and the data were \
        right; with 1 when all were noticed (the kernel is mended) or it knows no soft-dirty bits."
)]
struct Args {
    /// Device node.
    #[arg(long, default_value = device::NODE)]
    device: PathBuf,
}

/// Has the kernel forget which pages this process wrote.
const CLEAR: (&str, &str) = ("/proc/self/clear_refs", "4");

/// Runs the program.
pub(crate) fn main(args: Vec<OsString>) -> Result<ExitCode> {
    let args = Args::try_parse_from(args)?;
    let (device, _controls, mut memory) = begin(&args.device, 0)?;
    let pages = memory.pages();
    write(&mut memory, 1);
    forget()?;
    write(&mut memory, 2);
    if noticed(&memory)? != pages {
        println!("not shown: this kernel does not know which pages were written");
        return Ok(ExitCode::FAILURE);
    }
    send_all(&device, &memory)?;
    forget()?;
    write(&mut memory, 3);
    let found = noticed(&memory)?;
    for page in 0..pages {
        ensure!(
            memory
                .words(page)
                .iter()
                .all(|&word| word == value(page, 3)),
            "page {page} holds something else than was written"
        );
    }
    if found == pages {
        println!("not shown: all {pages} pages that were written say so");
        return Ok(ExitCode::FAILURE);
    }
    println!("shown: {found} of {pages} pages that were written say so");
    println!("the data are right");
    Ok(ExitCode::SUCCESS)
}

fn forget() -> Result<()> {
    let (path, what) = CLEAR;
    fs::write(path, what).with_context(|| format!("cannot write {path}"))
}

fn noticed(memory: &Memory) -> Result<usize> {
    let dirty = pagemap::soft_dirty(memory, 0..memory.pages())?;
    Ok(dirty.iter().filter(|dirty| **dirty).count())
}

fn value(page: usize, round: u64) -> u64 {
    pattern::mix(page as u64 ^ round << 32)
}

fn write(memory: &mut Memory, round: u64) {
    for page in 0..memory.pages() {
        memory.words_mut(page).fill(value(page, round));
    }
}
