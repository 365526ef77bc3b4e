//! What a kernel sees of memory: pieces at virtual addresses, or the reason why there is none.

use std::sync::atomic::Ordering;
use std::time::Duration;

use hmmgpu_contract::mmu::FaultAccess;
use vm_memory::{AtomicAccess, Bytes, VolatileSlice};

use crate::command::Fault;
use crate::dma::Access;
use crate::inject::Hit;
use crate::mmu::MmuFault;

/// Why a job cannot go on from where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Halt {
    /// The address space does not allow an access. It may do so later.
    Fault(MmuFault),
    /// The job names a DMA address that cannot be accessed.
    Dma(Fault),
    /// An address that was found in memory is not aligned.
    Misaligned,
    /// The translation takes so long, as it was hit: it is to be tried again then.
    Late(Duration, Hit),
    /// The translation never comes, as it was hit.
    Lost(Hit),
}

impl From<MmuFault> for Halt {
    fn from(fault: MmuFault) -> Self {
        Self::Fault(fault)
    }
}

/// Memory for as long as a permit is held, which is `'m`.
pub(crate) trait Memory<'m> {
    /// The memory from virtual address `address` on, as far as it is contiguous, but no more than
    /// `len` bytes of it. It ends at a page's end or at `len`, and is never empty unless `len`
    /// is 0.
    fn slice(
        &mut self,
        address: u64,
        len: usize,
        access: FaultAccess,
    ) -> Result<VolatileSlice<'m>, Halt>;

    /// The same from a DMA address on.
    fn dma(&mut self, address: u64, len: usize, access: Access) -> Result<VolatileSlice<'m>, Halt>;
}

/// The word at the beginning of a slice that was asked for at an aligned address.
pub(crate) fn load<T: AtomicAccess>(slice: &VolatileSlice<'_>) -> Result<T, Halt> {
    slice
        .load(0, Ordering::Relaxed)
        .map_err(|_| Halt::Misaligned)
}

/// Stores the word at the beginning of a slice that was asked for at an aligned address.
pub(crate) fn store<T: AtomicAccess>(slice: &VolatileSlice<'_>, word: T) -> Result<(), Halt> {
    slice
        .store(word, 0, Ordering::Relaxed)
        .map_err(|_| Halt::Misaligned)
}

/// Elements one after the other: the piece that the last one was in is kept for the next.
pub(crate) struct Stream<'m> {
    access: FaultAccess,
    begin: u64,
    piece: Option<VolatileSlice<'m>>,
}

impl<'m> Stream<'m> {
    pub(crate) fn new(access: FaultAccess) -> Self {
        Self {
            access,
            begin: 0,
            piece: None,
        }
    }

    /// The element of `size` bytes at `address`; `ahead` bytes from there on will be wanted.
    pub(crate) fn element(
        &mut self,
        memory: &mut impl Memory<'m>,
        address: u64,
        size: usize,
        ahead: usize,
    ) -> Result<VolatileSlice<'m>, Halt> {
        let offset = address.wrapping_sub(self.begin);
        if let Some(piece) = &self.piece
            && let Ok(offset) = usize::try_from(offset)
            && let Ok(element) = piece.subslice(offset, size)
        {
            return Ok(element);
        }
        let piece = memory.slice(address, ahead.max(size), self.access)?;
        let element = piece.subslice(0, size).map_err(|_| Halt::Misaligned)?;
        self.begin = address;
        self.piece = Some(piece);
        Ok(element)
    }
}
