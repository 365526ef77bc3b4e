//! PCI identity and layout (PCI Express Base Specification, type 0 function).

constants! {
    /// PCI identity, for the emitters.
    PCI: u32 {
        /// Vendor id. Not assigned by the PCI-SIG: the range that emulators use for their own devices.
        PCI_VENDOR_ID = 0x1234,
        /// Device id.
        PCI_DEVICE_ID = 0x4847,
        /// Revision id: the major version of the contract.
        PCI_REVISION = 1,
        /// Class code: display controller, 3D controller.
        PCI_CLASS = 0x03_02_00,
        /// BAR of the registers: 64-bit, not prefetchable, accessed in aligned 32-bit words.
        BAR_REGISTERS = 0,
        /// BAR of the VRAM aperture, for devices that have one; this version does not.
        BAR_APERTURE = 2,
        /// BAR of the MSI-X table and pending bits: 64-bit, not prefetchable.
        BAR_MSIX = 4,
        /// Size of the register BAR in bytes.
        BAR_REGISTERS_SIZE = 0x1_0000,
        /// Size of the MSI-X BAR in bytes.
        BAR_MSIX_SIZE = 0x2000,
        /// Offset of the MSI-X table in its BAR.
        MSIX_TABLE_OFFSET = 0,
        /// Offset of the MSI-X pending bits in their BAR.
        MSIX_PBA_OFFSET = 0x1000,
        /// Number of MSI-X vectors.
        MSIX_VECTORS = 16,
        /// MSI-X vector of errors. A queue's vector is in its QUEUE_VECTOR register.
        VECTOR_ERROR = 0,
    }
}
