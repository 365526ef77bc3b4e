//! All memory that an engine may touch under one permit: guest RAM and VRAM.

use vm_memory::VolatileSlice;

use crate::background::Background;
use crate::command::{Fault, Place};
use crate::dma::{Access, DmaView};
use crate::usage::Usage;
use crate::vram::Vram;

/// Both apertures.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory<'a> {
    pub(crate) view: &'a DmaView<'a>,
    pub(crate) vram: &'a Vram,
    pub(crate) background: &'a Background,
    /// What jobs may reach of VRAM, if that is checked.
    pub(crate) usage: Option<&'a Usage>,
}

impl<'a> Memory<'a> {
    /// Whether all of a range can be accessed. VRAM in it is in use from now on.
    pub(crate) fn check(self, place: Place, bytes: u64, access: Access) -> Result<(), Fault> {
        match place {
            Place::System(address) => self.view.check(address, bytes, access),
            Place::Vram(offset) => {
                self.vram.check(offset, bytes)?;
                self.background.vram_used(offset, bytes);
                Ok(())
            }
        }
    }

    /// All of a range as one piece, which is in use from now on if it is VRAM; `None` if it is not one,
    /// or cannot be accessed.
    pub(crate) fn whole(
        self,
        place: Place,
        bytes: u64,
        access: Access,
    ) -> Option<VolatileSlice<'a, ()>> {
        let len = usize::try_from(bytes).ok()?;
        let slice = self.slice(place, len, access).ok()?;
        if let Place::Vram(offset) = place {
            self.background.vram_used(offset, bytes);
        }
        (slice.len() == len).then_some(slice)
    }

    /// The memory at a place: `len` bytes of VRAM, or at most that of guest RAM, up to the end of
    /// its map.
    pub(crate) fn slice(
        self,
        place: Place,
        len: usize,
        access: Access,
    ) -> Result<VolatileSlice<'a, ()>, Fault> {
        match place {
            Place::System(address) => self.view.slice(address, len, access),
            Place::Vram(offset) => self.vram.slice(offset, len),
        }
    }
}
