//! Upstream's `test_hmm`, whose device memory is memory of the guest, doing the same work.

use std::ffi::CStr;
use std::fs::File;
use std::ops::Range;
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;
use rustix::system::finit_module;

use crate::sys::ioctl;
use crate::sys::memory::{Memory, PAGE, UNIT_PAGES};

/// Its first device, for device-private memory.
const NODE: &str = "/dev/hmm_dmirror0";
const NO_PARAMETERS: &CStr = c"";

/// Loads the module.
pub(super) fn load(module: &str) -> Result<()> {
    ensure!(
        !Path::new(NODE).exists(),
        "{NODE} is there already: measure without the driver's parameter 'dmirror'"
    );
    let file = File::open(module).with_context(|| format!("cannot open {module}"))?;
    finit_module(&file, NO_PARAMETERS, 0).with_context(|| {
        format!("cannot load {module}; the guest's log says why (--console-log FILE)")
    })?;
    ensure!(Path::new(NODE).exists(), "test_hmm made no {NODE}");
    Ok(())
}

/// Its mirror of this process. It hears of every change of the process's memory, so it lives for
/// its own rounds alone.
#[derive(Debug)]
pub(super) struct TestHmm {
    file: File,
    /// Each call to the device wants room for all that it migrates: it reads it back.
    back: Memory,
}

impl TestHmm {
    /// For calls of up to so many pages.
    pub(super) fn open(call: usize) -> Result<TestHmm> {
        let back = Memory::anonymous(call * PAGE).context("no memory to read back into")?;
        back.populate(0..call)
            .context("no memory to read back into: give the guest more memory")?;
        let file = File::options()
            .read(true)
            .write(true)
            .open(NODE)
            .with_context(|| format!("cannot open {NODE}"))?;
        Ok(TestHmm { file, back })
    }

    /// Migrates some pages to its device; how many bytes are there now.
    pub(super) fn send(&mut self, memory: &Memory, pages: Range<usize>) -> Result<u64> {
        let back = self.back.words_of_mut(0..pages.len());
        let address = memory.page_address(pages.start);
        match ioctl::test_hmm_to_device(self.file.as_fd(), address, back) {
            Ok(done) => Ok(done.cpages * PAGE as u64),
            // Something stayed where it was, and could not be read back.
            Err(Errno::NOENT) => Ok(0),
            Err(error) => Err(error).context("HMM_DMIRROR_MIGRATE_TO_DEV failed"),
        }
    }

    /// Migrates some pages, in folios of this order, home; how many bytes moved.
    pub(super) fn bring_home(
        &self,
        memory: &Memory,
        pages: Range<usize>,
        order: u8,
    ) -> Result<u64> {
        let address = memory.page_address(pages.start);
        let done = ioctl::test_hmm_to_system(self.file.as_fd(), address, pages.len())
            .context("HMM_DMIRROR_MIGRATE_TO_SYS failed")?;
        Ok(moved_pages(done.cpages, pages.len(), order) as u64 * PAGE as u64)
    }
}

/// It counts a large folio as one. If that is not what all of them were, no more than what it
/// counts is known to have moved.
fn moved_pages(counted: u64, pages: usize, order: u8) -> usize {
    let counted = usize::try_from(counted).unwrap_or(usize::MAX);
    let large = order == 9 && counted == pages / UNIT_PAGES;
    if large { pages } else { counted.min(pages) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_folios_count_as_one() {
        assert_eq!(moved_pages(512, 512, 0), 512);
        assert_eq!(moved_pages(500, 512, 0), 500);
        assert_eq!(moved_pages(2, 1024, 9), 1024);
        assert_eq!(moved_pages(1, 1024, 9), 1);
        assert_eq!(moved_pages(1024, 1024, 9), 1024);
    }
}
