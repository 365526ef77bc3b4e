//! The device as these programs use it: every failure names the call and the error number.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use hmmgpu_uapi::{ABI_VERSION, Advise, Migrate, Prefetch, Query, Stats, Submit, Wait};
use rustix::io::Errno;

use crate::sys::ioctl;
use crate::sys::memory::Memory;

/// Default device node.
pub(crate) const NODE: &str = "/dev/hmmgpu0";

/// An open device.
#[derive(Debug)]
pub(crate) struct Device {
    file: File,
}

/// What came of a migration: how much moved is known even if it ended early.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    /// Bytes that moved.
    pub(crate) moved: u64,
    /// Bytes that were there already.
    pub(crate) present: u64,
    /// Bytes that stayed.
    pub(crate) skipped: u64,
    /// Why it ended early.
    pub(crate) error: Option<Errno>,
}

impl Outcome {
    /// Fails unless the call went through to the end.
    pub(crate) fn complete(self, call: &str) -> Result<Outcome> {
        match self.error {
            None => Ok(self),
            Some(errno) => Err(anyhow::Error::new(io::Error::from(errno)).context(format!(
                "{call} failed (moved {}, present {}, skipped {} bytes)",
                self.moved, self.present, self.skipped
            ))),
        }
    }
}

/// Any node of the driver: one that comes back gets a number of its own.
pub(crate) fn any_node() -> Result<Option<PathBuf>> {
    for entry in std::fs::read_dir("/dev").context("cannot read /dev")? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(|name| name.starts_with("hmmgpu")) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

impl Device {
    /// Opens a device node and checks that the driver speaks this interface.
    pub(crate) fn open(node: &Path) -> Result<Device> {
        let file = File::options()
            .read(true)
            .write(true)
            .open(node)
            .with_context(|| format!("cannot open {}: is the driver loaded?", node.display()))?;
        let device = Device { file };
        let version = device.query()?.abi_version;
        ensure!(
            version == ABI_VERSION,
            "the driver has interface version {version}, this program {ABI_VERSION}: build both from one revision"
        );
        Ok(device)
    }

    /// What the kernel says of the open file.
    pub(crate) fn fdinfo(&self) -> Result<String> {
        let path = format!("/proc/self/fdinfo/{}", self.file.as_raw_fd());
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    }

    /// HMMGPU_IOC_QUERY.
    pub(crate) fn query(&self) -> Result<Query> {
        ioctl::query(self.file.as_fd()).map_err(|errno| failed("QUERY", errno))
    }

    /// HMMGPU_IOC_STATS.
    pub(crate) fn stats(&self) -> Result<Stats> {
        ioctl::stats(self.file.as_fd()).map_err(|errno| failed("STATS", errno))
    }

    /// HMMGPU_IOC_MARK.
    pub(crate) fn mark(&self, cookie: u64) -> Result<()> {
        ioctl::mark(self.file.as_fd(), cookie).map_err(|errno| failed("MARK", errno))
    }

    /// HMMGPU_IOC_MIGRATE_TO_DEVICE for some pages.
    pub(crate) fn to_device(&self, memory: &Memory, pages: Range<usize>) -> Outcome {
        self.to_device_raw(request(memory, &pages))
    }

    /// HMMGPU_IOC_MIGRATE_TO_SYSTEM for some pages.
    pub(crate) fn to_system(&self, memory: &Memory, pages: Range<usize>) -> Outcome {
        self.to_system_raw(request(memory, &pages))
    }

    /// HMMGPU_IOC_MIGRATE_TO_DEVICE as given.
    pub(crate) fn to_device_raw(&self, mut request: Migrate) -> Outcome {
        let result = ioctl::to_device(self.file.as_fd(), &mut request);
        outcome(&request, result)
    }

    /// HMMGPU_IOC_MIGRATE_TO_SYSTEM as given.
    pub(crate) fn to_system_raw(&self, mut request: Migrate) -> Outcome {
        let result = ioctl::to_system(self.file.as_fd(), &mut request);
        outcome(&request, result)
    }

    /// HMMGPU_IOC_SUBMIT as given; the job's number.
    pub(crate) fn submit(&self, mut request: Submit) -> rustix::io::Result<u64> {
        ioctl::submit(self.file.as_fd(), &mut request)?;
        Ok(request.job)
    }

    /// HMMGPU_IOC_WAIT.
    pub(crate) fn wait(&self, job: u64, timeout_ns: u64) -> rustix::io::Result<Wait> {
        let mut request = Wait {
            job,
            timeout_ns,
            ..Wait::default()
        };
        ioctl::wait(self.file.as_fd(), &mut request)?;
        Ok(request)
    }

    /// HMMGPU_IOC_ADVISE as given.
    pub(crate) fn advise(&self, request: Advise) -> rustix::io::Result<()> {
        ioctl::advise(self.file.as_fd(), request)
    }

    /// HMMGPU_IOC_PREFETCH as given; the outputs, also of a request that failed.
    pub(crate) fn prefetch(&self, mut request: Prefetch) -> (Prefetch, rustix::io::Result<()>) {
        let result = ioctl::prefetch(self.file.as_fd(), &mut request);
        (request, result)
    }

    /// The open file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// The device behind an open file, as another program may have left it.
    pub(crate) fn from_file(file: File) -> Device {
        Device { file }
    }
}

fn request(memory: &Memory, pages: &Range<usize>) -> Migrate {
    let start = memory.page_address(pages.start) as u64;
    Migrate {
        addr: start,
        size: memory.page_address(pages.end) as u64 - start,
        ..Migrate::default()
    }
}

fn outcome(request: &Migrate, result: rustix::io::Result<()>) -> Outcome {
    Outcome {
        moved: request.moved_bytes,
        present: request.present_bytes,
        skipped: request.skipped_bytes,
        error: result.err(),
    }
}

fn failed(call: &str, errno: Errno) -> anyhow::Error {
    anyhow::Error::new(io::Error::from(errno)).context(format!("{call} failed"))
}
