//! A machine with few physical address bits, much of which a large aperture takes.
//!
//! Device-private memory needs physical addresses of its own (`request_free_mem_region()`), which
//! have to be found between RAM, the aperture and the end.

use anyhow::{Context, Result, bail};

use super::crew::{USUAL, Worker};
use super::frame::{Frame, skip};
use super::system::read;
use super::tally::{Trouble, to_memory};

pub(super) const TROUBLES: &[Trouble] = &[to_memory("use")];

/// More is no trouble.
const FEW: u32 = 40;

pub(super) fn run(frame: &Frame) -> Result<()> {
    let text = read("/proc/cpuinfo")?;
    let sizes = text.lines().find(|line| line.starts_with("address sizes"));
    let bits = sizes.and_then(|line| line.split_once(": ")?.1.split_once(' '));
    let bits: u32 = bits
        .and_then(|(bits, _)| bits.parse().ok())
        .context("/proc/cpuinfo does not tell the size of addresses")?;
    if bits > FEW {
        bail!(skip(format!("this machine has {bits} bits of address")));
    }
    USUAL.race(frame, operation, &[])
}

fn operation(worker: &mut Worker<'_>) -> Result<()> {
    let region = worker.any_region();
    let pages = worker.any_pages(region);
    let seed = worker.rng.next();
    worker.trouble("use", region, pages, |region, pages| {
        region.write(pages, seed).map(drop)
    })?;
    worker.usual()
}
