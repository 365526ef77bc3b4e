//! Storage of the MSI-X table and the pending bits in BAR 4.
//!
//! The client (a VMM) emulates MSI-X for its guest and owns masking; it tells the device where
//! each vector goes. The table here is what a client reads and writes that does not do so.

use hmmgpu_contract::pci::{MSIX_PBA_OFFSET, MSIX_TABLE_OFFSET, MSIX_VECTORS};

const ENTRY_SIZE: usize = 16;
const TABLE_SIZE: usize = ENTRY_SIZE * MSIX_VECTORS as usize;
/// Pending bits come in units of 8 bytes.
const PBA_SIZE: usize = 8;
/// Offset of the vector control word in an entry; bit 0 masks the vector.
const VECTOR_CONTROL: usize = 12;

/// The table of MSI-X.
#[derive(Debug)]
pub(crate) struct MsixTable {
    table: [u8; TABLE_SIZE],
}

impl MsixTable {
    pub(crate) fn new() -> Self {
        let mut table = [0; TABLE_SIZE];
        for entry in table.chunks_exact_mut(ENTRY_SIZE) {
            entry[VECTOR_CONTROL] = 1;
        }
        Self { table }
    }

    /// Reads from BAR 4. Returns whether the access is a defined one; `data` is untouched if not.
    pub(crate) fn read(&self, offset: u64, data: &mut [u8], pending: u64) -> bool {
        if let Some(at) = within(offset, data.len(), MSIX_TABLE_OFFSET, TABLE_SIZE) {
            data.copy_from_slice(&self.table[at..at + data.len()]);
            return true;
        }
        if let Some(at) = within(offset, data.len(), MSIX_PBA_OFFSET, PBA_SIZE) {
            data.copy_from_slice(&pending.to_le_bytes()[at..at + data.len()]);
            return true;
        }
        false
    }

    /// Writes to BAR 4. Returns whether the access is a defined one. Pending bits are read-only.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> bool {
        if let Some(at) = within(offset, data.len(), MSIX_TABLE_OFFSET, TABLE_SIZE) {
            for (byte, at) in data.iter().zip(at..) {
                let writable = match at % ENTRY_SIZE {
                    // The low two bits of the message address are reserved.
                    0 => 0xfc,
                    VECTOR_CONTROL => 0x01,
                    at if at > VECTOR_CONTROL => 0,
                    _ => 0xff,
                };
                self.table[at] = byte & writable;
            }
            return true;
        }
        within(offset, data.len(), MSIX_PBA_OFFSET, PBA_SIZE).is_some()
    }
}

/// Position of an access in an area, if it lies in it as a whole.
fn within(offset: u64, len: usize, base: u32, size: usize) -> Option<usize> {
    let at = usize::try_from(offset.checked_sub(u64::from(base))?).ok()?;
    (at.checked_add(len)? <= size && len > 0).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_start_masked_and_hold_what_is_written() {
        let mut table = MsixTable::new();
        let mut word = [0; 4];
        assert!(table.read(12, &mut word, 0));
        assert_eq!(word, [1, 0, 0, 0]);
        assert!(table.write(16, &[0xff; 16]));
        let mut entry = [0; 16];
        assert!(table.read(16, &mut entry, 0));
        assert_eq!(entry[0], 0xfc);
        assert_eq!(entry[1..12], [0xff; 11]);
        assert_eq!(entry[12..], [1, 0, 0, 0]);
    }

    #[test]
    fn pending_bits_are_read_only_and_the_rest_is_undefined() {
        let mut table = MsixTable::new();
        let mut word = [0; 8];
        assert!(table.read(0x1000, &mut word, 0x8001));
        assert_eq!(word, 0x8001_u64.to_le_bytes());
        assert!(table.write(0x1000, &[0xff; 8]));
        for (offset, len) in [
            (0x100, 4),
            (0xfe, 4),
            (0x1008, 4),
            (0xfff, 2),
            (u64::MAX, 4),
        ] {
            assert!(!table.read(offset, &mut vec![0; len], 0), "{offset:#x}");
            assert!(!table.write(offset, &vec![0; len]), "{offset:#x}");
        }
    }
}
