//! The file behind a range of guest memory: what may be one, and its mapping.

use std::fs::File;
use std::ops::Deref;
use std::sync::Arc;

use rustix::fs::fstatfs;
use rustix::io::Errno;
use vm_memory::{FileOffset, MmapRegion};

use crate::lost::{Guard, Lost};

/// File systems whose files the kernel serves by itself, without another process or machine that
/// could keep an engine waiting for a page as long as it likes.
const FILE_SYSTEMS: [u32; 8] = [
    0x0102_1994, // tmpfs, and with it memfd
    0x9584_58f6, // hugetlbfs, and with it memfd with huge pages
    0xef53,      // ext2 to ext4
    0x5846_5342, // XFS
    0x9123_683e, // Btrfs
    0xf2f5_2010, // F2FS
    0x2fc1_2fc1, // ZFS
    0xca45_1a4e, // bcachefs
];

/// Guest memory that is mapped. It may go away at any time, see the `lost` module.
#[derive(Debug)]
pub(crate) struct GuestMemory {
    // In the order in which they are dropped.
    _guard: Guard,
    region: MmapRegion,
}

/// Why a file cannot be guest memory: for a person, and for a client.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) reason: String,
    pub(crate) errno: Errno,
}

impl Refused {
    fn because(reason: impl Into<String>, errno: Errno) -> Self {
        let reason = reason.into();
        Self { reason, errno }
    }
}

impl From<std::io::Error> for Refused {
    fn from(error: std::io::Error) -> Self {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::INVAL);
        Self::because(error.to_string(), errno)
    }
}

impl GuestMemory {
    /// Maps `len` bytes of a file from `offset`, a multiple of 4 KiB.
    pub(crate) fn map(
        file: File,
        offset: u64,
        len: usize,
        write: bool,
        lost: &Arc<Lost>,
    ) -> Result<Self, Refused> {
        let system = fstatfs(&file).map_err(std::io::Error::from)?.f_type;
        if !FILE_SYSTEMS.iter().any(|known| i64::from(*known) == system) {
            let reason = format!(
                "it is a file of a file system ({system:#x}) that may keep the device waiting: \
                 give a memfd, or a file on tmpfs, hugetlbfs or a local disk"
            );
            return Err(Refused::because(reason, Errno::INVAL));
        }
        // Nothing guarantees that it stays so long, but who is wrong from the first is told so.
        let size = file.metadata()?.len();
        let end = offset.checked_add(len as u64);
        if end.is_none_or(|end| end > size) {
            let reason = format!("the file of {size} bytes ends before {offset:#x}+{len:#x}");
            return Err(Refused::because(reason, Errno::INVAL));
        }
        let prot = match write {
            true => libc::PROT_READ | libc::PROT_WRITE,
            false => libc::PROT_READ,
        };
        let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
        let backing = Some(FileOffset::new(file, offset));
        let region = MmapRegion::build(backing, len, prot, flags).map_err(|error| match error {
            vm_memory::mmap::MmapRegionError::Mmap(error) => Refused::from(error),
            other => Refused::because(other.to_string(), Errno::INVAL),
        })?;
        let guard = Guard::new(region.as_ptr(), region.size(), lost)
            .map_err(|_| Refused::because("too many maps in this process", Errno::NOSPC))?;
        Ok(Self {
            _guard: guard,
            region,
        })
    }
}

impl Deref for GuestMemory {
    type Target = MmapRegion;

    fn deref(&self) -> &MmapRegion {
        &self.region
    }
}
