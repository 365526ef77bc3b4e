//! PCI configuration space: a type 0 function, PCI Express endpoint, with power management and
//! MSI-X (PCI Express Base Specification 5.0, chapters 5 and 7).
//!
//! Each byte has a mask of the bits that software may write; that alone makes BARs sizable. What
//! a write means beyond storing it is returned as a [`ConfigEffect`].

use hmmgpu_contract::pci::{
    BAR_MSIX, BAR_MSIX_SIZE, BAR_REGISTERS, BAR_REGISTERS_SIZE, MSIX_PBA_OFFSET, MSIX_TABLE_OFFSET,
    MSIX_VECTORS, PCI_CLASS, PCI_DEVICE_ID, PCI_REVISION, PCI_VENDOR_ID,
};

/// Size of the configuration space of a PCI Express function.
pub(crate) const CONFIG_SIZE: usize = 4096;

const COMMAND: usize = 0x04;
const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_BUS_MASTER: u16 = 1 << 2;
const COMMAND_PARITY: u16 = 1 << 6;
const COMMAND_SERR: u16 = 1 << 8;
const COMMAND_INTX_DISABLE: u16 = 1 << 10;
const STATUS_CAPABILITIES: u16 = 1 << 4;
const BAR0: usize = 0x10;
const BAR_TYPE_64_BIT: u32 = 0b100;

const CAP_PM: usize = 0x40;
const PM_ID: u8 = 0x01;
const PM_VERSION: u16 = 3;
const PM_STATUS: usize = CAP_PM + 4;
const PM_STATE_MASK: u16 = 0x3;
const PM_D3HOT: u16 = 3;
const PM_NO_SOFT_RESET: u16 = 1 << 3;

const CAP_MSIX: usize = 0x50;
const MSIX_ID: u8 = 0x11;
const MSIX_ENABLE: u16 = 1 << 15;
const MSIX_MASK_ALL: u16 = 1 << 14;

const CAP_EXPRESS: usize = 0x60;
const EXPRESS_ID: u8 = 0x10;
/// Capability version 2; device/port type 0: PCI Express endpoint.
const EXPRESS_FLAGS: u16 = 2;
const EXPRESS_ROLE_BASED_ERRORS: u32 = 1 << 15;
const EXPRESS_FLR: u32 = 1 << 28;
const DEVICE_CONTROL: usize = CAP_EXPRESS + 8;
const DEVICE_CONTROL_FLR: u16 = 1 << 15;
const LINK_16_LANES: u32 = 16 << 4;
const LINK_16_GT: u32 = 4;
/// 2.5, 5, 8 and 16 GT/s.
const LINK_SPEEDS: u32 = 0b1111 << 1;

/// What a write to configuration space means beyond storing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConfigEffect {
    /// Function-level reset was asked for.
    pub(crate) function_reset: bool,
    /// Whether the function may use DMA and raise interrupts from now on.
    pub(crate) may_master: bool,
}

/// The registers of configuration space.
#[derive(Debug)]
pub(crate) struct ConfigSpace {
    bytes: Box<[u8]>,
    writable: Box<[u8]>,
}

impl ConfigSpace {
    pub(crate) fn new() -> Self {
        let mut space = Self {
            bytes: vec![0; CONFIG_SIZE].into(),
            writable: vec![0; CONFIG_SIZE].into(),
        };
        space.header();
        space.power_management();
        space.msix();
        space.express();
        space
    }

    fn header(&mut self) {
        self.set32(0x00, PCI_DEVICE_ID << 16 | PCI_VENDOR_ID, 0);
        let command = COMMAND_MEMORY
            | COMMAND_BUS_MASTER
            | COMMAND_PARITY
            | COMMAND_SERR
            | COMMAND_INTX_DISABLE;
        self.set16(COMMAND, 0, command);
        self.set16(0x06, STATUS_CAPABILITIES, 0);
        self.set32(0x08, PCI_CLASS << 8 | PCI_REVISION, 0);
        self.bar(BAR_REGISTERS, BAR_REGISTERS_SIZE);
        self.bar(BAR_MSIX, BAR_MSIX_SIZE);
        // Subsystem: the same identity.
        self.set32(0x2c, PCI_DEVICE_ID << 16 | PCI_VENDOR_ID, 0);
        self.set8(0x34, CAP_PM, 0);
        // Interrupt line is scratch for firmware; the interrupt pin stays zero: MSI-X only.
        self.writable[0x3c] = 0xff;
    }

    fn power_management(&mut self) {
        self.set8(CAP_PM, usize::from(PM_ID), 0);
        self.set8(CAP_PM + 1, CAP_MSIX, 0);
        self.set16(CAP_PM + 2, PM_VERSION, 0);
        self.set16(PM_STATUS, PM_NO_SOFT_RESET, PM_STATE_MASK);
    }

    fn msix(&mut self) {
        self.set8(CAP_MSIX, usize::from(MSIX_ID), 0);
        self.set8(CAP_MSIX + 1, CAP_EXPRESS, 0);
        self.set32(CAP_MSIX, (MSIX_VECTORS - 1) << 16 | self.get32(CAP_MSIX), 0);
        self.writable[CAP_MSIX + 3] = ((MSIX_ENABLE | MSIX_MASK_ALL) >> 8).to_le_bytes()[0];
        self.set32(CAP_MSIX + 4, MSIX_TABLE_OFFSET | BAR_MSIX, 0);
        self.set32(CAP_MSIX + 8, MSIX_PBA_OFFSET | BAR_MSIX, 0);
    }

    fn express(&mut self) {
        self.set8(CAP_EXPRESS, usize::from(EXPRESS_ID), 0);
        self.set16(CAP_EXPRESS + 2, EXPRESS_FLAGS, 0);
        self.set32(CAP_EXPRESS + 4, EXPRESS_ROLE_BASED_ERRORS | EXPRESS_FLR, 0);
        // Relaxed ordering, no snoop and 512-byte read requests are the defaults after reset.
        self.set16(DEVICE_CONTROL, 0x2810, !DEVICE_CONTROL_FLR);
        self.set32(CAP_EXPRESS + 0x0c, LINK_16_LANES | LINK_16_GT, 0);
        self.set32(
            CAP_EXPRESS + 0x10,
            (LINK_16_LANES | LINK_16_GT) << 16,
            0x00cb,
        );
        // Device capabilities and control 2: completion time-out disable only.
        self.set32(CAP_EXPRESS + 0x24, 1 << 4, 0);
        self.set16(CAP_EXPRESS + 0x28, 0, 1 << 4);
        self.set32(CAP_EXPRESS + 0x2c, LINK_SPEEDS, 0);
        self.set16(CAP_EXPRESS + 0x30, 4, 0xf);
    }

    /// A 64-bit BAR without prefetching: address bits below its size are hard-wired to zero, so
    /// that writing all-ones reads back the size.
    fn bar(&mut self, bar: u32, size: u32) {
        let offset = BAR0 + 4 * bar as usize;
        self.set32(offset, BAR_TYPE_64_BIT, !(size - 1));
        self.set32(offset + 4, 0, u32::MAX);
    }

    fn set8(&mut self, offset: usize, value: usize, writable: u8) {
        self.bytes[offset] = value.to_le_bytes()[0];
        self.writable[offset] = writable;
    }

    fn set16(&mut self, offset: usize, value: u16, writable: u16) {
        self.bytes[offset..offset + 2].copy_from_slice(&value.to_le_bytes());
        self.writable[offset..offset + 2].copy_from_slice(&writable.to_le_bytes());
    }

    fn set32(&mut self, offset: usize, value: u32, writable: u32) {
        self.bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
        self.writable[offset..offset + 4].copy_from_slice(&writable.to_le_bytes());
    }

    fn get16(&self, offset: usize) -> u16 {
        u16::from_le_bytes([self.bytes[offset], self.bytes[offset + 1]])
    }

    fn get32(&self, offset: usize) -> u32 {
        u32::from(self.get16(offset)) | u32::from(self.get16(offset + 2)) << 16
    }

    /// Reads any range; what lies outside reads all-ones.
    pub(crate) fn read(&self, offset: u64, data: &mut [u8]) {
        // Nothing is behind the last offset, nor does the first come after it.
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        for (byte, i) in data.iter_mut().zip(0..) {
            let stored = start.checked_add(i).and_then(|at| self.bytes.get(at));
            *byte = stored.copied().unwrap_or(0xff);
        }
    }

    /// Writes any range; bits that are not writable, and what lies outside, are ignored.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> ConfigEffect {
        let power_state = self.power_state();
        let mut function_reset = false;
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        for (byte, i) in data.iter().zip(0..) {
            let Some(at) = start.checked_add(i).filter(|at| *at < CONFIG_SIZE) else {
                break;
            };
            let stored = &mut self.bytes[at];
            let writable = self.writable[at];
            *stored = *stored & !writable | byte & writable;
            let flr = (DEVICE_CONTROL_FLR >> 8).to_le_bytes()[0];
            function_reset |= at == DEVICE_CONTROL + 1 && byte & flr != 0;
        }
        // D1 and D2 are not supported: a write of them changes nothing.
        if !matches!(self.power_state(), 0 | PM_D3HOT) {
            let status = self.get16(PM_STATUS) & !PM_STATE_MASK | power_state;
            self.set16(PM_STATUS, status, PM_STATE_MASK);
        }
        ConfigEffect {
            function_reset,
            may_master: self.may_master(),
        }
    }

    fn power_state(&self) -> u16 {
        self.get16(PM_STATUS) & PM_STATE_MASK
    }

    /// Whether the function may use DMA and raise interrupts: bus master is on, and power is in
    /// D0.
    pub(crate) fn may_master(&self) -> bool {
        self.get16(COMMAND) & COMMAND_BUS_MASTER != 0 && self.power_state() == 0
    }

    /// Whether MSI-X is enabled.
    pub(crate) fn msix_enabled(&self) -> bool {
        self.get16(CAP_MSIX + 2) & MSIX_ENABLE != 0
    }

    /// Function-level reset.
    pub(crate) fn reset(&mut self) {
        *self = Self::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read32(space: &ConfigSpace, offset: u64) -> u32 {
        let mut data = [0; 4];
        space.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn identity() {
        let space = ConfigSpace::new();
        assert_eq!(read32(&space, 0), 0x4847_1234);
        assert_eq!(read32(&space, 8), 0x0302_0001);
        assert_eq!(read32(&space, 0x0c), 0, "type 0 header, single function");
    }

    #[test]
    fn bars_are_sized_by_writing_ones() {
        let mut space = ConfigSpace::new();
        for (bar, size) in [(0_u64, 0x1_0000_u64), (4, 0x2000)] {
            let offset = 0x10 + 4 * bar;
            space.write(offset, &[0xff; 8]);
            let low = read32(&space, offset);
            let high = read32(&space, offset + 4);
            assert_eq!(low & 0xf, 0b0100, "64-bit memory, not prefetchable");
            let mask = u64::from(high) << 32 | u64::from(low & !0xf);
            assert_eq!((!mask).wrapping_add(1), size);
            space.write(offset, &0x0000_0012_3456_0000_u64.to_le_bytes());
            assert_eq!(read32(&space, offset), 0x3456_0004);
            assert_eq!(read32(&space, offset + 4), 0x12);
        }
        for absent in [2, 3, 6, 8] {
            space.write(0x10 + 4 * absent, &[0xff; 4]);
        }
        assert_eq!(read32(&space, 0x18), 0, "no BAR 2");
        assert_eq!(read32(&space, 0x30), 0, "no expansion ROM");
    }

    #[test]
    fn capability_chain_ends_and_holds_each_capability_once() {
        let space = ConfigSpace::new();
        assert_ne!(read32(&space, 4) >> 16 & u32::from(STATUS_CAPABILITIES), 0);
        let mut at = read32(&space, 0x34) & 0xff;
        let mut found = vec![];
        while at != 0 {
            assert!(at >= 0x40 && at.is_multiple_of(4) && found.len() < 8);
            let header = read32(&space, u64::from(at));
            found.push(header & 0xff);
            at = header >> 8 & 0xff;
        }
        assert_eq!(found, [0x01, 0x11, 0x10]);
        let express = CAP_EXPRESS as u64;
        assert_ne!(read32(&space, express + 4) & EXPRESS_FLR, 0);
        assert_eq!(read32(&space, express) >> 20 & 0xf, 0, "endpoint");
        let msix = CAP_MSIX as u64;
        assert_eq!(read32(&space, msix) >> 16 & 0x7ff, MSIX_VECTORS - 1);
        assert_eq!(read32(&space, msix + 4), 0x0004);
        assert_eq!(read32(&space, msix + 8), 0x1004);
        assert_eq!(read32(&space, 0x100), 0, "no extended capability");
    }

    #[test]
    fn bus_master_needs_its_bit_and_d0() {
        let mut space = ConfigSpace::new();
        assert!(!space.write(COMMAND as u64, &[0x02, 0]).may_master);
        assert!(space.write(COMMAND as u64, &[0x06, 0]).may_master);
        assert!(!space.write(PM_STATUS as u64, &[3]).may_master);
        assert!(
            !space.write(PM_STATUS as u64, &[1]).may_master,
            "D1 is ignored"
        );
        assert_eq!(read32(&space, PM_STATUS as u64) & 3, 3);
        assert!(space.write(PM_STATUS as u64, &[0]).may_master);
    }

    #[test]
    fn function_reset_is_asked_for_by_its_bit_and_reads_zero() {
        let mut space = ConfigSpace::new();
        let control = DEVICE_CONTROL as u64;
        assert!(!space.write(control, &[0xff, 0x7f]).function_reset);
        assert!(space.write(control, &[0x10, 0xa8]).function_reset);
        assert_eq!(read32(&space, control) & 0x8000, 0);
        assert!(space.write(control + 1, &[0x80]).function_reset);
        space.reset();
        assert_eq!(read32(&space, control) & 0xffff, 0x2810);
    }

    #[test]
    fn accesses_outside_read_ones_and_change_nothing() {
        let mut space = ConfigSpace::new();
        let mut data = [0; 8];
        space.read(4092, &mut data);
        assert_eq!(data, [0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        space.write(4090, &[0xff; 32]);
        space.write(u64::MAX - 2, &[0xff; 2]);
        for back in [9, 4, 0] {
            space.read(u64::MAX - back, &mut data);
            assert_eq!(data, [0xff; 8]);
            space.write(u64::MAX - back, &data);
        }
    }
}
