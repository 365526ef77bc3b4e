//! The driver's ioctls, and two of upstream's `test_hmm`.
// An ioctl is as safe as the agreement on its number and structure, which the compiler cannot
// see; both come from the one crate that defines them.
#![allow(unsafe_code)]

use std::os::fd::BorrowedFd;

use hmmgpu_uapi::{
    ADVISE, Advise, MARK, MIGRATE_TO_DEVICE, MIGRATE_TO_SYSTEM, Mark, Migrate, PREFETCH, Prefetch,
    QUERY, Query, STATS, SUBMIT, Stats, Submit, WAIT, Wait,
};
use rustix::io::Result;
use rustix::ioctl::{Getter, Opcode, Setter, Updater, ioctl, opcode};

/// HMMGPU_IOC_QUERY.
pub(crate) fn query(fd: BorrowedFd<'_>) -> Result<Query> {
    // SAFETY: the driver fills a structure of this number's size, in which all bits are valid.
    unsafe { ioctl(fd, Getter::<{ QUERY.request() }, Query>::new()) }
}

/// HMMGPU_IOC_STATS.
pub(crate) fn stats(fd: BorrowedFd<'_>) -> Result<Stats> {
    // SAFETY: as `query`.
    unsafe { ioctl(fd, Getter::<{ STATS.request() }, Stats>::new()) }
}

/// HMMGPU_IOC_MARK.
pub(crate) fn mark(fd: BorrowedFd<'_>, cookie: u64) -> Result<()> {
    // SAFETY: the driver reads a structure of this number's size.
    unsafe { ioctl(fd, Setter::<{ MARK.request() }, Mark>::new(Mark { cookie })) }
}

/// HMMGPU_IOC_MIGRATE_TO_DEVICE. The outputs are written on errors, too.
pub(crate) fn to_device(fd: BorrowedFd<'_>, request: &mut Migrate) -> Result<()> {
    // SAFETY: the driver reads and writes a structure of this number's size. The memory that it
    // names moves without changing its content, for the process that owns it, whoever that is.
    unsafe {
        ioctl(
            fd,
            Updater::<{ MIGRATE_TO_DEVICE.request() }, Migrate>::new(request),
        )
    }
}

/// HMMGPU_IOC_MIGRATE_TO_SYSTEM. The outputs are written on errors, too.
pub(crate) fn to_system(fd: BorrowedFd<'_>, request: &mut Migrate) -> Result<()> {
    // SAFETY: as `to_device`.
    unsafe {
        ioctl(
            fd,
            Updater::<{ MIGRATE_TO_SYSTEM.request() }, Migrate>::new(request),
        )
    }
}

/// HMMGPU_IOC_SUBMIT.
pub(crate) fn submit(fd: BorrowedFd<'_>, request: &mut Submit) -> Result<()> {
    // SAFETY: the driver reads and writes a structure of this number's size. The job accesses the
    // memory that it names as another thread would. Callers name memory that they borrow until
    // the job has ended, or memory of mappings that they own as a whole, to which they keep no
    // reference meanwhile but from which they read and write anew after the job.
    unsafe { ioctl(fd, Updater::<{ SUBMIT.request() }, Submit>::new(request)) }
}

/// HMMGPU_IOC_WAIT.
pub(crate) fn wait(fd: BorrowedFd<'_>, request: &mut Wait) -> Result<()> {
    // SAFETY: the driver reads and writes a structure of this number's size.
    unsafe { ioctl(fd, Updater::<{ WAIT.request() }, Wait>::new(request)) }
}

/// HMMGPU_IOC_ADVISE.
pub(crate) fn advise(fd: BorrowedFd<'_>, request: Advise) -> Result<()> {
    // SAFETY: the driver reads a structure of this number's size; no content changes.
    unsafe { ioctl(fd, Setter::<{ ADVISE.request() }, Advise>::new(request)) }
}

/// HMMGPU_IOC_PREFETCH. The outputs are written on errors, too.
pub(crate) fn prefetch(fd: BorrowedFd<'_>, request: &mut Prefetch) -> Result<()> {
    // SAFETY: as `to_device`.
    unsafe {
        ioctl(
            fd,
            Updater::<{ PREFETCH.request() }, Prefetch>::new(request),
        )
    }
}

/// An argument of upstream's `test_hmm`, `struct hmm_dmirror_cmd`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct TestHmm {
    /// First address.
    pub(crate) addr: u64,
    /// Where what is on its device is copied to.
    pub(crate) ptr: u64,
    /// Pages from `addr` on.
    pub(crate) npages: u64,
    /// Out: entries that were copied.
    pub(crate) cpages: u64,
    /// Out: faults of its device.
    pub(crate) faults: u64,
}

/// HMM_DMIRROR_MIGRATE_TO_DEV: migrates, and reads all of it back from the device into `back`.
pub(crate) fn test_hmm_to_device(
    fd: BorrowedFd<'_>,
    addr: usize,
    back: &mut [u64],
) -> Result<TestHmm> {
    let mut request = TestHmm {
        addr: addr as u64,
        ptr: back.as_mut_ptr() as u64,
        npages: (size_of_val(back) / 4096) as u64,
        ..TestHmm::default()
    };
    // SAFETY: the module reads and writes a structure of this number's size. The memory that it
    // names moves without changing its content, and `back` is as long as what is copied there.
    unsafe {
        ioctl(
            fd,
            Updater::<TEST_HMM_TO_DEVICE, TestHmm>::new(&mut request),
        )
    }?;
    Ok(request)
}

/// HMM_DMIRROR_MIGRATE_TO_SYS.
pub(crate) fn test_hmm_to_system(fd: BorrowedFd<'_>, addr: usize, pages: usize) -> Result<TestHmm> {
    let mut request = TestHmm {
        addr: addr as u64,
        npages: pages as u64,
        ..TestHmm::default()
    };
    // SAFETY: as `test_hmm_to_device`; nothing is copied to memory that is named.
    unsafe {
        ioctl(
            fd,
            Updater::<TEST_HMM_TO_SYSTEM, TestHmm>::new(&mut request),
        )
    }?;
    Ok(request)
}

const TEST_HMM_TO_DEVICE: Opcode = opcode::read_write::<TestHmm>(b'H', 2);
const TEST_HMM_TO_SYSTEM: Opcode = opcode::read_write::<TestHmm>(b'H', 3);
