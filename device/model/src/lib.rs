//! The device model: PCI function, registers, VRAM, copy engine. It knows no VMM.
