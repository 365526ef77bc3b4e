//! Accesses of jobs to VRAM that no driver lets them reach.

use crate::checks::CheckKind;
use crate::snapshot::Access;

/// An access of a job to VRAM that no driver lets it reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Misuse {
    /// The memory was free; otherwise nothing was copied or filled to it since it was allocated.
    pub free: bool,
    /// What the job wanted to do.
    pub access: Access,
    /// Virtual address that it did so at.
    pub virtual_address: u64,
    /// Byte offset in VRAM of the first page of which that holds.
    pub address: u64,
    /// Pages.
    pub pages: u64,
    /// Index of the job in its ring.
    pub index: u32,
}

impl Misuse {
    /// What the driver did wrong.
    pub(crate) fn kind(&self) -> CheckKind {
        if self.free {
            CheckKind::UseAfterFree
        } else {
            CheckKind::ReadUnwritten
        }
    }
}
