//! Guest RAM of which it is known when the device must not write to it.

use hmmgpu_contract::PAGE_SIZE;
use hmmgpu_model::mock::GuestRam;
use hmmgpu_model::{Device, DmaMapping};

/// Guest RAM in one piece.
pub(crate) struct Window {
    pub(crate) ram: GuestRam,
    /// Whether it is mapped for the device, and if so, for writing.
    pub(crate) mapped: Option<bool>,
    /// What it holds as long as the device must not write to it.
    kept: Option<Vec<u8>>,
}

impl Window {
    pub(crate) fn new(base: u64, size: usize) -> Self {
        Self {
            ram: GuestRam::new(base, size).expect("the host has room for guest RAM"),
            mapped: None,
            kept: None,
        }
    }

    pub(crate) fn base(&self) -> u64 {
        self.ram.base()
    }

    pub(crate) fn end(&self) -> u64 {
        self.ram.base() + self.ram.size()
    }

    /// Whether it has all of a range.
    pub(crate) fn holds(&self, address: u64, len: usize) -> bool {
        address >= self.base()
            && address
                .checked_add(len as u64)
                .is_some_and(|end| end <= self.end())
    }

    fn content(&self) -> Vec<u8> {
        let len = usize::try_from(self.ram.size()).expect("memory of this process");
        self.ram.read(self.base(), len)
    }

    /// All zero, and not mapped.
    pub(crate) fn clear(&mut self) {
        let len = usize::try_from(self.ram.size()).expect("memory of this process");
        self.ram.write(self.ram.base(), &vec![0; len]);
        self.mapped = None;
        self.kept = None;
    }

    /// The driver writes, which it may at any time.
    pub(crate) fn write(&mut self, address: u64, data: &[u8]) {
        self.ram.write(address, data);
        if let Some(kept) = &mut self.kept {
            let at = usize::try_from(address - self.ram.base()).expect("in the window");
            kept[at..at + data.len()].copy_from_slice(data);
        }
    }

    /// The mapping of all of it.
    pub(crate) fn mapping(&self, write: bool) -> DmaMapping {
        let mapping = self.ram.mapping(0, self.ram.size(), write);
        mapping.expect("the host has room for a file descriptor")
    }

    /// Maps it, if it is not.
    pub(crate) fn map(&mut self, device: &Device, write: bool) {
        if self.mapped.is_none() {
            self.thaw();
            device.dma_map(self.mapping(write)).expect("a free range");
            self.mapped = Some(write);
        }
    }

    /// Unmaps it, if it is mapped.
    pub(crate) fn unmap(&mut self, device: &Device) {
        if self.mapped.take().is_some() {
            let (base, size) = (self.ram.base(), self.ram.size());
            device.dma_unmap(base, size).expect("what is mapped");
        }
    }

    /// From now on the device must not write to it, or it may.
    pub(crate) fn set_frozen(&mut self, frozen: bool) {
        if !frozen {
            self.thaw();
        } else if self.kept.is_none() {
            self.kept = Some(self.content());
        }
    }

    /// The device may write to it from now on; until now it has not.
    pub(crate) fn thaw(&mut self) {
        self.check();
        self.kept = None;
    }

    /// Nobody has written to it who must not.
    pub(crate) fn check(&self) {
        let Some(kept) = &self.kept else {
            return;
        };
        let found = self.content();
        // The usual case is one call; to look at each byte takes long when it is traced.
        if *kept == found {
            return;
        }
        let differs = |at: &usize| kept[*at] != found[*at];
        let at = (0..kept.len()).find(differs).expect("a byte that differs");
        let page = at as u64 / PAGE_SIZE;
        let (base, mapped) = (self.base(), self.mapped);
        panic!("written to page {page} of {base:#x}, mapped {mapped:?}, at byte {at:#x}");
    }
}
