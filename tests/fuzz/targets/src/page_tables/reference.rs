//! Translation by the words of the contract, on the memory as it is, and with divisions.

use hmmgpu_contract::mmu::FaultReason;

use super::action::Kind;

/// Where an access ends up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    System(u64),
    Vram(u64),
}

/// What the reference has to know of memory.
pub(super) trait Memory {
    /// The word of a table at a DMA address; `None` where the device can read nothing.
    fn word(&self, address: u64) -> Option<u64>;
    /// Whether the device can access 8 bytes.
    fn reachable(&self, place: Place, kind: Kind) -> bool;
}

/// Where a word is, and why it cannot be accessed.
pub(super) fn translate(
    memory: &impl Memory,
    root: u64,
    address: u64,
    kind: Kind,
) -> Result<Place, FaultReason> {
    if address >= 1 << 48 {
        return Err(FaultReason::FAULT_VIRTUAL_ADDRESS);
    }
    let mut table = root;
    let mut covers = 512_u64 * 512 * 512 * 4096;
    for level in [3, 2, 1, 0] {
        let entry = memory
            .word(table + address / covers % 512 * 8)
            .ok_or(FaultReason::FAULT_TABLE_UNREACHABLE)?;
        let bit = |number: u32| entry / 2_u64.pow(number) % 2 == 1;
        let target = entry / 4096 % 2_u64.pow(40) * 4096;
        if !bit(0) {
            return Err(FaultReason::FAULT_NOT_PRESENT);
        }
        if (5..12).chain(52..64).any(bit) {
            return Err(FaultReason::FAULT_MALFORMED);
        }
        if level > 0 && !(level < 3 && bit(4)) {
            if (1..5).any(bit) {
                return Err(FaultReason::FAULT_MALFORMED);
            }
            table = target;
            covers /= 512;
            continue;
        }
        let (write, atomic, vram) = (bit(1), bit(2), bit(3));
        let misplaced = level == 0 && bit(4);
        if misplaced || atomic && !write || !target.is_multiple_of(covers) {
            return Err(FaultReason::FAULT_MALFORMED);
        }
        match kind {
            Kind::Write if !write => return Err(FaultReason::FAULT_NOT_WRITABLE),
            Kind::Atomic if !atomic => return Err(FaultReason::FAULT_NOT_ATOMIC),
            _ => {}
        }
        let at = target + address % covers;
        let place = if vram {
            Place::Vram(at)
        } else {
            Place::System(at)
        };
        return if memory.reachable(place, kind) {
            Ok(place)
        } else {
            Err(FaultReason::FAULT_ADDRESS_UNREACHABLE)
        };
    }
    unreachable!("level 0 maps or fails")
}
