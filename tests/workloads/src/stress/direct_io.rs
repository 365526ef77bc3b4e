//! A disk reads and writes memory while its pages migrate.
//!
//! O_DIRECT pins the pages of a request (`bio_iov_iter_get_pages()`), which brings them home, and
//! they have to stay until the disk is done: a page that moved meanwhile would take what is
//! written to it along too early. The disk is a loop device, whose thread copies some time later.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result, bail};

use super::crew::{USUAL, Worker, lock};
use super::frame::{Frame, skip};
use super::system::{load, tool};
use super::tally::{Trouble, to_memory};
use crate::region::Content;
use crate::sys::memory::{PAGE, UNIT_PAGES};

pub(super) const TROUBLES: &[Trouble] = &[to_memory("direct_write"), to_memory("direct_read")];

/// Pages of the disk for each worker.
const SHARE: usize = 2 * UNIT_PAGES;
/// Pages of one request, at most.
const REQUEST: usize = UNIT_PAGES / 2;

/// A disk in memory; it is gone when this is dropped.
struct Disk {
    path: PathBuf,
    file: File,
    behind: PathBuf,
}

impl Disk {
    const DEVICE: &str = "/dev/loop0";

    fn new() -> Result<Disk> {
        load("loop");
        let path = Path::new(Self::DEVICE);
        if !path.exists() {
            bail!(skip("this kernel has no loop devices"));
        }
        let behind = std::env::temp_dir().join("hmmgpu-stress-disk");
        let bytes = USUAL.workers * SHARE * PAGE;
        File::create(&behind)
            .and_then(|file| file.set_len(bytes as u64))
            .with_context(|| format!("cannot make {}", behind.display()))?;
        tool(&["losetup", Self::DEVICE, &behind.to_string_lossy()])?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_DIRECT)
            .open(path)
            .context("cannot open the disk")?;
        Ok(Disk {
            path: path.to_owned(),
            file,
            behind,
        })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The loop device goes when its last user does, which is this.
        let _ = tool(&["losetup", "-d", &self.path.to_string_lossy()]);
        let _ = std::fs::remove_file(&self.behind);
    }
}

pub(super) fn run(frame: &Frame) -> Result<()> {
    let disk = Disk::new()?;
    let held: Vec<_> = (0..USUAL.workers)
        .map(|_| Mutex::new(vec![Content::Zero; SHARE]))
        .collect();
    let operation = |worker: &mut Worker<'_>| {
        let first = worker.number * SHARE;
        let mut held = lock(&held[worker.number]);
        step(worker, &disk.file, first, &mut held)
    };
    USUAL.race(frame, operation, &[])
}

/// `held` is what the worker's share of the disk holds, which begins at the page `first`.
fn step(worker: &mut Worker<'_>, disk: &File, first: usize, held: &mut [Content]) -> Result<()> {
    let region = worker.any_region();
    let mut pages = worker.any_pages(region);
    pages.end = pages.end.min(pages.start + REQUEST);
    let slot = worker.rng.below(held.len() - pages.len() + 1);
    let offset = ((first + slot) * PAGE) as u64;
    let there = &mut held[slot..slot + pages.len()];
    match worker.rng.below(6) {
        0 | 1 => worker.trouble("direct_write", region, pages, |region, pages| {
            disk.write_all_at(region.memory().bytes_of(&pages), offset)?;
            for (slot, page) in there.iter_mut().zip(pages) {
                *slot = region.content(page).context("a page is not mapped")?;
            }
            Ok(())
        }),
        2 | 3 => worker.trouble("direct_read", region, pages, |region, pages| {
            disk.read_exact_at(region.memory_mut().bytes_of_mut(&pages), offset)?;
            for (slot, page) in there.iter().zip(pages) {
                region.written(page, *slot);
            }
            Ok(())
        }),
        _ => worker.usual(),
    }
}
