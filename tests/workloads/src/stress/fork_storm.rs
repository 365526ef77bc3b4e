//! Forks share memory that moves; they write their copies, exit and are killed.
//!
//! A fork shares folios of 2 MiB with their entries (`copy_huge_pmd()`), also those that are on the
//! device; writes copy (`do_huge_pmd_wp_page()`), exits unmap (`zap_huge_pmd()`).
//!
//! What is left out, because the kernel fails there without any driver of ours: a shared folio of
//! 2 MiB that comes home *by a touch* while another process unmaps it or exits
//! (`zap_huge_pmd_folio()` takes the migration entry for a mapping). So while forks come and go,
//! large folios are migrated by requests only, and are touched while nobody exits.

use std::fs::File;
use std::io::{Read, Write};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use super::crew::{Worker, to_device, to_system, trouble};
use super::frame::{Frame, SOON};
use super::tally::{Figure, Trouble, to_memory, trouble as other_trouble};
use crate::device::Device;
use crate::region::Backing;
use crate::sys::fork::{Child, Ended, fork};
use crate::sys::memory::UNIT_PAGES;

pub(super) const TROUBLES: &[Trouble] = &[
    other_trouble("fork"),
    to_memory("cow_of_pages"),
    to_memory("cow_of_large_folios"),
    to_memory("exit"),
    to_memory("kill"),
];

const REGIONS: &[(Backing, usize)] =
    &[(Backing::Small, 1), (Backing::Small, 1), (Backing::Huge, 3)];
/// Regions of single pages, which come first.
const SMALL: usize = 2;
const LARGE: usize = 2;
/// Forks at the same time.
const STORM: usize = 4;

pub(super) fn run(frame: &Frame) -> Result<()> {
    let device = frame.device()?;
    let mut own = Worker::new(frame, 0, 0, REGIONS)?;
    let mut round = 0;
    while frame.running() {
        round += 1;
        for region in 0..REGIONS.len() {
            let pages = own.any_pages(region);
            own.write(region, pages)?;
            let pages = 0..own.regions[region].len();
            to_device(frame, &device, &own.addresses(region, &pages))?;
        }
        pair(frame, &device, &mut own, round).with_context(|| format!("pair {round}"))?;
        own.verify_all()?;
        storm(frame, &device, &mut own, round).with_context(|| format!("storm {round}"))?;
        // Nobody is left who could unmap.
        own.verify_all()?;
    }
    Ok(())
}

/// Some forks, each with its own writes and requests, while this process migrates the same memory.
fn storm(frame: &Frame, device: &Device, own: &mut Worker<'_>, round: usize) -> Result<()> {
    let mut children: Vec<(Child, bool)> = Vec::new();
    for number in 0..STORM {
        let killed = own.rng.one_in(2);
        let process = round * STORM + number;
        let before = frame.tally.moment();
        let child = fork(|| told(forked(frame, own, process, killed))).context("cannot fork")?;
        frame.tally.happened("fork", before, 0);
        children.push((child, killed));
        moves(frame, device, own)?;
    }
    for (child, killed) in children {
        moves(frame, device, own)?;
        if killed {
            child.kill()?;
        }
        match (killed, child.wait_for(SOON).context("cannot wait")?) {
            (true, Some(Ended::Signal(9))) | (_, Some(Ended::Code(0))) => {}
            (_, ended) => bail!("a fork ended otherwise: {ended:?}"),
        }
    }
    frame.tally.settle();
    Ok(())
}

/// This process's part of a storm: it touches single pages only.
fn moves(frame: &Frame, device: &Device, own: &mut Worker<'_>) -> Result<()> {
    for _ in 0..3 {
        let region = own.any_region();
        let pages = own.any_pages(region);
        let range = own.addresses(region, &pages);
        match own.rng.below(4) {
            0 => to_system(frame, device, &range)?,
            1 if region < SMALL => own.verify(region, pages)?,
            2 if region < SMALL => own.write(region, pages)?,
            _ => to_device(frame, device, &range)?,
        }
    }
    Ok(())
}

/// What a fork does: all that it has is a copy.
fn forked(frame: &Frame, own: &mut Worker<'_>, process: usize, killed: bool) -> Result<()> {
    own.rng = frame.rng(1000 + process);
    let device = frame.device()?;
    for _ in 0..2 + own.rng.below(4) {
        let region = own.any_region();
        let pages = own.any_pages(region);
        let range = own.addresses(region, &pages);
        match own.rng.below(6) {
            0 => to_device(frame, &device, &range)?,
            1 => to_system(frame, &device, &range)?,
            2 if region < SMALL => own.verify(region, pages)?,
            _ if region < SMALL => cow(frame, own, "cow_of_pages", region)?,
            _ => {}
        }
    }
    // All of it goes at once.
    let name = if killed { "kill" } else { "exit" };
    trouble(frame, name, &mut own.regions[LARGE], 0..1, |_, _| Ok(()))?;
    // One that is killed is so in the middle of requests that have something to move.
    let unit = own.addresses(LARGE, &(0..UNIT_PAGES));
    while killed && frame.running() {
        to_system(frame, &device, &unit)?;
        to_device(frame, &device, &unit)?;
    }
    Ok(())
}

/// Writes pages of which others have the same copy.
fn cow(frame: &Frame, own: &mut Worker<'_>, name: &'static str, region: usize) -> Result<()> {
    let pages = own.any_pages(region);
    let seed = own.rng.next();
    let written = trouble(
        frame,
        name,
        &mut own.regions[region],
        pages,
        |region, pages| region.write(pages, seed),
    );
    frame.tally.add(Figure::Verified, written?);
    Ok(())
}

/// One fork that writes its copy of large folios while this process migrates them by request.
/// Neither unmaps anything before the other is done.
fn pair(frame: &Frame, device: &Device, own: &mut Worker<'_>, round: usize) -> Result<()> {
    let (mut written, done) = pipe()?;
    let (go, mut may_go) = pipe()?;
    let child = fork(|| {
        let result = (|| {
            own.rng = frame.rng(500_000 + round);
            for _ in 0..3 {
                cow(frame, own, "cow_of_large_folios", LARGE)?;
                let pages = own.any_pages(LARGE);
                own.verify(LARGE, pages)?;
            }
            (&done).write_all(b"w")?;
            (&go).read_exact(&mut [0])?;
            Ok(())
        })();
        told(result)
    })
    .context("cannot fork")?;
    drop(done);
    let all = 0..own.regions[LARGE].len();
    let all = own.addresses(LARGE, &all);
    while !readable(&written, Duration::ZERO)? {
        to_device(frame, device, &all)?;
        to_system(frame, device, &all)?;
    }
    let said = written.read(&mut [0])?;
    if said == 1 {
        own.verify(LARGE, 0..own.regions[LARGE].len())?;
        to_device(frame, device, &all)?;
        may_go.write_all(b"g")?;
    }
    match child.wait_for(SOON).context("cannot wait")? {
        Some(Ended::Code(0)) => Ok(()),
        ended => bail!("a fork ended otherwise: {ended:?}"),
    }
}

fn pipe() -> Result<(File, File)> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).context("cannot make a pipe")?;
    Ok((reader.into(), writer.into()))
}

fn readable(pipe: &File, limit: Duration) -> Result<bool> {
    let limit = Timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(limit.subsec_nanos()),
    };
    Ok(poll(&mut [PollFd::new(pipe, PollFlags::IN)], Some(&limit))? > 0)
}

/// A fork's exit status; why it failed is told.
pub(super) fn told(result: Result<()>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(error) => {
            println!("# a fork: {error:#}");
            1
        }
    }
}
