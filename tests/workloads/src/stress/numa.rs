//! Memory moves from one node to another while its pages migrate to the device and back.
//!
//! mbind and migrate_pages isolate what they move as the driver does (`queue_folios_pmd()`,
//! `migrate_to_node()`), and have to leave alone what is on the device.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::crew::{USUAL, Worker};
use super::frame::{Frame, skip};
use super::system::pause;
use super::tally::{Trouble, to_memory, trouble};
use crate::sys::numa;

pub(super) const TROUBLES: &[Trouble] = &[to_memory("mbind"), trouble("migrate_pages")];

const NODES: u32 = 2;

pub(super) fn run(frame: &Frame) -> Result<()> {
    if !Path::new("/sys/devices/system/node/node1").exists() {
        bail!(skip("this machine has one node of memory"));
    }
    let moves = || {
        let mut from = 0;
        while frame.running() {
            let before = frame.tally.moment();
            numa::migrate(from, NODES - 1 - from).context("migrate_pages")?;
            frame.tally.happened("migrate_pages", before, 0);
            from = NODES - 1 - from;
            pause(20);
        }
        Ok(())
    };
    USUAL.race(frame, operation, &[&moves])
}

fn operation(worker: &mut Worker<'_>) -> Result<()> {
    if worker.rng.below(8) > 2 {
        return worker.usual();
    }
    let region = worker.any_region();
    let pages = worker.any_pages(region);
    let node = u32::from(worker.rng.one_in(2));
    worker.trouble("mbind", region, pages, |region, pages| {
        Ok(numa::bind(region.memory_mut(), &pages, node)?)
    })
}
