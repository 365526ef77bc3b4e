//! One job over memory of every kind.

use std::ffi::OsString;
use std::ops::Range;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use super::{Common, mib, ms, needs_memory};
use crate::gpu::{Command, Gpu, Policy};
use crate::reference::Checksum;
use crate::sys::memory::{Memory, PAGE, UNIT, UNIT_PAGES, WORDS};
use crate::{pattern, size, thp, unnamed_file};

/// Have the GPU read memory of every kind in one job, and compare its checksum with the CPU's.
///
/// The memory is one range of addresses: untouched, half touched, in folios of 2 MiB, in folios
/// of an order between, and a mapped file, in equal parts. It may be larger than VRAM.
#[derive(Debug, Parser)]
#[command(
    name = "svm-checksum",
    after_help = "Example: hmmgpu run --memory 3G --vram 256M -- svm-checksum --size 1G"
)]
struct Args {
    /// Bytes of the whole range.
    #[arg(long, default_value = "1G", value_parser = size::parse)]
    size: usize,
    /// How often the GPU reads it.
    #[arg(long, default_value_t = 1)]
    passes: u32,
    /// Folio order of the part of an order between.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(2..=8))]
    order: u8,
    /// Have the GPU read the memory where it is.
    #[arg(long)]
    in_place: bool,
    /// Folder of the mapped file.
    #[arg(long, default_value = "/ram")]
    folder: PathBuf,
    #[command(flatten)]
    common: Common,
}

/// What backs a part of the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Nothing yet: it reads as zero.
    Untouched,
    /// Every other page is written.
    HalfTouched,
    /// Folios of this order.
    Order(u8),
    /// A file.
    File,
}

/// Runs the program.
pub(crate) fn main(args: Vec<OsString>) -> Result<ExitCode> {
    let args = Args::try_parse_from(args)?;
    let kinds = [
        Kind::Untouched,
        Kind::Order(9),
        Kind::HalfTouched,
        Kind::Order(args.order),
        Kind::File,
    ];
    let units = args.size / UNIT;
    ensure!(units >= kinds.len(), "--size: at least 10M are needed");
    needs_memory(args.size)?;
    let gpu = Gpu::open(&args.common.node)?;

    let controls = thp::Controls::take()?;
    let mut memory = Memory::anonymous(units * UNIT).context("cannot map memory")?;
    let mut parts = Vec::new();
    for (number, kind) in kinds.into_iter().enumerate() {
        let part = units * number / kinds.len()..units * (number + 1) / kinds.len();
        let pages = part.start * UNIT_PAGES..part.end * UNIT_PAGES;
        prepare(&mut memory, pages.clone(), kind, &controls, &args)
            .with_context(|| format!("cannot make memory: {kind:?}"))?;
        parts.push((pages, kind));
    }
    // What the GPU brings home again may be of any order.
    controls.only(9)?;
    if args.in_place {
        gpu.advise(memory.address(), memory.len(), Policy::AccessInPlace)?;
    }

    let expected = expected(&parts);
    let command = Command::Checksum {
        src: memory.address() as u64,
        words: (memory.len() / 8) as u64,
    };
    let vram = usize::try_from(gpu.device().query()?.vram_bytes)?;
    for pass in 1..=args.passes {
        let report = gpu.run(command)?;
        ensure!(
            report.value == expected,
            "pass {pass}: the GPU has {:#018x} instead of {expected:#018x}",
            report.value
        );
        println!(
            "pass {pass}: {} MiB through {} MiB of VRAM, checksum {expected:#018x}, right; {} on the GPU, {} faults",
            mib(memory.len()),
            mib(vram),
            ms(report.time),
            report.faults
        );
    }
    let mut found = Checksum::new();
    for page in 0..memory.pages() {
        found.add(memory.words(page).iter().copied());
    }
    ensure!(
        found.value() == expected,
        "the CPU reads {:#018x} afterwards instead of {expected:#018x}",
        found.value()
    );
    Ok(ExitCode::SUCCESS)
}

/// What a page is to hold; `None`: zero.
fn content(kind: Kind, page: usize) -> Option<u64> {
    let written = match kind {
        Kind::Untouched => false,
        Kind::HalfTouched => page % 2 == 1,
        Kind::Order(_) | Kind::File => true,
    };
    written.then(|| pattern::page_base(17, page))
}

/// The checksum by what the memory is to hold, without looking at it: that would touch it.
fn expected(parts: &[(Range<usize>, Kind)]) -> u64 {
    let mut checksum = Checksum::new();
    for (pages, kind) in parts {
        for page in pages.clone() {
            match content(*kind, page) {
                Some(base) => checksum.add((0..WORDS).map(|index| pattern::word(base, index))),
                None => checksum.add([0; WORDS]),
            }
        }
    }
    checksum.value()
}

fn prepare(
    memory: &mut Memory,
    pages: Range<usize>,
    kind: Kind,
    controls: &thp::Controls,
    args: &Args,
) -> Result<()> {
    match kind {
        Kind::Untouched => {}
        Kind::HalfTouched => controls.only(0)?,
        Kind::Order(order) => {
            ensure!(
                thp::available(order),
                "this kernel has no folios of order {order}: choose another with --order"
            );
            controls.only(order)?;
            memory.populate(pages.clone())?;
        }
        Kind::File => {
            let file = unnamed_file::create(&args.folder)?;
            file.set_len((pages.len() * PAGE) as u64)?;
            memory.map_file(pages.clone(), file.as_fd(), true)?;
        }
    }
    for page in pages {
        if let Some(base) = content(kind, page) {
            pattern::fill(memory.words_mut(page), base);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;

    #[test]
    fn the_expected_checksum_is_that_of_the_content() {
        let parts = [(0..2, Kind::Untouched), (2..4, Kind::HalfTouched)];
        let mut words = vec![0; 3 * WORDS];
        words.resize(4 * WORDS, 0);
        pattern::fill(&mut words[3 * WORDS..], pattern::page_base(17, 3));
        assert_eq!(expected(&parts), reference::checksum(words));
    }
}
