//! The DMA map.

use std::fs::File;

/// A range of DMA addresses, and what is behind it.
#[derive(Debug)]
pub struct DmaMapping {
    /// First DMA address; a multiple of 4 KiB.
    pub address: u64,
    /// Size in bytes; a multiple of 4 KiB, not zero.
    pub size: u64,
    /// The device may read it.
    pub read: bool,
    /// The device may write it.
    pub write: bool,
    /// File and byte offset (a multiple of 4 KiB) of the memory behind it. Without one the range
    /// is remembered, and descriptors that touch it fail with `STATUS_DMA_UNMAPPED`.
    pub backing: Option<(File, u64)>,
}

/// Why a DMA map or unmap was refused.
#[derive(Debug, thiserror::Error)]
pub enum DmaError {
    /// Address, size or offset is not a multiple of 4 KiB, the size is zero, the range wraps
    /// around, or neither reading nor writing is allowed.
    #[error("DMA range {address:#x}+{size:#x} is malformed: give page-aligned, non-empty ranges")]
    Malformed {
        /// Address as given.
        address: u64,
        /// Size as given.
        size: u64,
    },
    /// The range overlaps one that is mapped.
    #[error("DMA range {address:#x}+{size:#x} overlaps a mapped one: unmap that first")]
    Overlap {
        /// Address as given.
        address: u64,
        /// Size as given.
        size: u64,
    },
    /// Nothing is mapped there.
    #[error("DMA range {address:#x}+{size:#x} is not mapped")]
    NotMapped {
        /// Address as given.
        address: u64,
        /// Size as given.
        size: u64,
    },
    /// The range covers mapped ranges, but is not one of them.
    #[error("DMA range {address:#x}+{size:#x} is not exactly one that was mapped: unmap whole maps")]
    Partial {
        /// Address as given.
        address: u64,
        /// Size as given.
        size: u64,
    },
    /// The bound on the number of maps is reached.
    #[error("{limit} DMA ranges are mapped already: unmap some, or map larger ones")]
    TooMany {
        /// The bound.
        limit: usize,
    },
    /// The file cannot be mapped as asked.
    #[error("the memory behind DMA range {address:#x}+{size:#x} cannot be mapped: {reason}")]
    Backing {
        /// Address as given.
        address: u64,
        /// Size as given.
        size: u64,
        /// What the host said.
        reason: String,
        /// errno of the host.
        errno: i32,
    },
}

impl DmaError {
    /// The errno that tells a vfio client the same.
    pub fn errno(&self) -> i32 {
        use rustix::io::Errno;
        match self {
            Self::Malformed { .. } | Self::Partial { .. } => Errno::INVAL.raw_os_error(),
            Self::Overlap { .. } => Errno::EXIST.raw_os_error(),
            Self::NotMapped { .. } => Errno::NOENT.raw_os_error(),
            Self::TooMany { .. } => Errno::NOSPC.raw_os_error(),
            Self::Backing { errno, .. } => *errno,
        }
    }
}
