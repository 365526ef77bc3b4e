//! Pages are lent to a pipe while others migrate them.
//!
//! A page that somebody holds a reference to cannot migrate, and a folio of 2 MiB that it is a
//! part of cannot be split: the driver's requests have to leave both where they are, and take the
//! rest.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;

use anyhow::{Context, Result, ensure};
use rustix::pipe::{PipeFlags, pipe_with};

use super::crew::{USUAL, Worker, to_device};
use super::frame::Frame;
use super::tally::{Figure, Trouble, to_memory};
use crate::sys::memory::{PAGE, WORDS};
use crate::sys::pin;

pub(super) const TROUBLES: &[Trouble] = &[to_memory("lend")];

/// Pages that a pipe holds.
const PIPE: usize = 16;

pub(super) fn run(frame: &Frame) -> Result<()> {
    USUAL.race(frame, operation, &[])
}

fn operation(worker: &mut Worker<'_>) -> Result<()> {
    if worker.rng.below(3) > 0 {
        return worker.usual();
    }
    let region = worker.any_region();
    let mut pages = worker.any_pages(region);
    pages.end = pages.end.min(pages.start + 1 + worker.rng.below(PIPE));
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).context("cannot make a pipe")?;
    let lent = pages.clone();
    worker.trouble("lend", region, pages, |region, pages| {
        for page in pages {
            pin::lend(region.memory(), page, writer.as_fd()).context("vmsplice")?;
        }
        Ok(())
    })?;
    // Somebody tries to take them; and time passes.
    let frame = worker.frame;
    let whole = 0..worker.regions[region].len();
    to_device(frame, &frame.device()?, &worker.addresses(region, &whole))?;
    worker.verify(region, lent.clone())?;

    let mut reader = File::from(reader);
    let mut bytes = [0; PAGE];
    for page in lent {
        reader.read_exact(&mut bytes).context("reading the pipe")?;
        let expected = worker.regions[region].content(page);
        let expected = expected.and_then(|content| content.words());
        let expected: [u64; WORDS] = expected.context("a page of unknown content")?;
        let found = bytes.chunks_exact(8).map(|word| {
            let word: [u8; 8] = word.try_into().unwrap_or_default();
            u64::from_ne_bytes(word)
        });
        ensure!(
            found.eq(expected),
            "page {page} of region {region} came out of the pipe otherwise than it went in"
        );
        frame.tally.add(Figure::Verified, PAGE as u64);
    }
    Ok(())
}
