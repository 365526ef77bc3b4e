//! The driver's user interface: ioctl numbers and structures of `/dev/hmmgpuN`.
//!
//! Defined once, here. `guest-driver/include/uapi/hmmgpu.h` is generated from it and a test fails
//! when it is stale.
#![no_std]
#![forbid(unsafe_code)]

use hmmgpu_contract::wire_struct;

/// Version of this interface; QUERY returns it.
pub const ABI_VERSION: u32 = 1;
/// Character of the ioctl numbers.
pub const IOC_MAGIC: u8 = b'J';
/// Folio orders that statistics tell apart: `0..ORDERS`.
pub const ORDERS: usize = 10;

wire_struct! {
    /// HMMGPU_IOC_QUERY: what the device is.
    pub struct Query ("query", 40) {
        /// Out: version of this interface.
        pub abi_version: u32,
        /// Out: version of the hardware contract.
        pub contract_version: u32,
        /// Out: size of VRAM in bytes.
        pub vram_bytes: u64,
        /// Out: bytes of VRAM that are not allocated.
        pub vram_free_bytes: u64,
        /// Out: bitmask of the folio orders that the device accepts.
        pub folio_orders: u64,
        /// Out: device generation, one more after every reset.
        pub generation: u32,
        /// Zero.
        pub reserved: u32,
    }
}

wire_struct! {
    /// HMMGPU_IOC_MIGRATE_TO_DEVICE and HMMGPU_IOC_MIGRATE_TO_SYSTEM: move a range of the
    /// caller's anonymous memory. The outputs are valid on success and on every error but
    /// EINVAL and EFAULT.
    ///
    /// Errors: EINVAL, `addr` or `size` not page-aligned, `size` zero, the range overflows, or
    /// `flags` not zero. ENOSPC, VRAM is full (to device). ENOMEM, no system memory (to
    /// system). EIO, a copy failed and the pages stayed where they were. ETIMEDOUT, the device
    /// did not answer. EINTR, a fatal signal. ENODEV, the device has gone.
    pub struct Migrate ("migrate", 48) {
        /// In: first address.
        pub addr: u64,
        /// In: length in bytes.
        pub size: u64,
        /// In: zero.
        pub flags: u32,
        /// Zero.
        pub reserved: u32,
        /// Out: bytes that moved, zero-filled holes among them.
        pub moved_bytes: u64,
        /// Out: bytes that were already there.
        pub present_bytes: u64,
        /// Out: bytes that did not move: not anonymous, pinned, or gone meanwhile.
        pub skipped_bytes: u64,
    }
}

wire_struct! {
    /// HMMGPU_IOC_STATS: the driver's counters since it was loaded.
    pub struct Stats ("stats", 464) {
        /// Folios copied to the device, by order.
        pub sys_to_dev_folios: [u64; 10],
        /// Folios copied home, by order.
        pub dev_to_sys_folios: [u64; 10],
        /// Folios filled on the device instead of copied, by order.
        pub filled_folios: [u64; 10],
        /// Folios now allocated in VRAM, by order.
        pub vram_folios: [u64; 10],
        /// CPU faults on device-private memory.
        pub cpu_faults: u64,
        /// Pages that CPU faults brought home.
        pub cpu_fault_pages: u64,
        /// Large device folios that were split.
        pub splits: u64,
        /// Migrations of 2 MiB that fell back to single pages.
        pub fallbacks: u64,
        /// Pages that the core refused to migrate.
        pub refused_pages: u64,
        /// Pages whose copy failed.
        pub failed_pages: u64,
        /// Pages evicted from VRAM.
        pub evicted_pages: u64,
        /// Fences awaited.
        pub fences: u64,
        /// Fences that were awaited by sleeping.
        pub fence_sleeps: u64,
        /// Fences that did not come in time.
        pub fence_timeouts: u64,
        /// Doorbell writes.
        pub doorbells: u64,
        /// Descriptors submitted.
        pub descriptors: u64,
        /// Resets that the driver has seen.
        pub resets: u64,
        /// Interrupts received.
        pub interrupts: u64,
        /// Destination pages that the CPU wrote first because translated code may be stale.
        pub code_pages_scrubbed: u64,
        /// Zero.
        pub reserved: [u64; 3],
    }
}

wire_struct! {
    /// HMMGPU_IOC_MARK: open a window of that name in the device's telemetry (and close the one
    /// before). Returns when the device has seen it.
    pub struct Mark ("mark", 8) {
        /// In: cookie; zero only closes.
        pub cookie: u64,
    }
}

/// One ioctl.
#[derive(Clone, Copy, Debug)]
pub struct IoctlDef {
    /// Name, without prefix.
    pub name: &'static str,
    /// Number.
    pub nr: u8,
    /// `"r"` (the driver writes), `"w"` (the driver reads) or `"wr"`.
    pub access: &'static str,
    /// Name of the structure in C, without prefix.
    pub argument: &'static str,
    /// Size of the structure.
    pub size: usize,
    /// One line of documentation.
    pub doc: &'static str,
}

impl IoctlDef {
    /// The ioctl's request number (include/uapi/asm-generic/ioctl.h).
    ///
    /// # Panics
    /// When the structure is larger than the 14 bits that the number has for its size.
    #[allow(clippy::cast_possible_truncation)] // asserted below
    pub const fn request(&self) -> u32 {
        assert!(self.size < 1 << 14);
        let dir: u32 = match self.access.as_bytes() {
            b"r" => 2,
            b"w" => 1,
            _ => 3,
        };
        dir << 30 | (self.size as u32) << 16 | (IOC_MAGIC as u32) << 8 | self.nr as u32
    }
}

/// HMMGPU_IOC_QUERY.
pub const QUERY: IoctlDef = IoctlDef {
    name: "QUERY",
    nr: 0,
    access: "r",
    argument: "query",
    size: Query::SIZE,
    doc: "What the device is.",
};
/// HMMGPU_IOC_MIGRATE_TO_DEVICE.
pub const MIGRATE_TO_DEVICE: IoctlDef = IoctlDef {
    name: "MIGRATE_TO_DEVICE",
    nr: 1,
    access: "wr",
    argument: "migrate",
    size: Migrate::SIZE,
    doc: "Move a range of the caller's anonymous memory into VRAM.",
};
/// HMMGPU_IOC_MIGRATE_TO_SYSTEM.
pub const MIGRATE_TO_SYSTEM: IoctlDef = IoctlDef {
    name: "MIGRATE_TO_SYSTEM",
    nr: 2,
    access: "wr",
    argument: "migrate",
    size: Migrate::SIZE,
    doc: "Bring a range of the caller's memory home.",
};
/// HMMGPU_IOC_STATS.
pub const STATS: IoctlDef = IoctlDef {
    name: "STATS",
    nr: 3,
    access: "r",
    argument: "stats",
    size: Stats::SIZE,
    doc: "The driver's counters.",
};
/// HMMGPU_IOC_MARK.
pub const MARK: IoctlDef = IoctlDef {
    name: "MARK",
    nr: 4,
    access: "w",
    argument: "mark",
    size: Mark::SIZE,
    doc: "Open a named window in the device's telemetry.",
};
/// All ioctls.
pub const IOCTLS: &[IoctlDef] = &[QUERY, MIGRATE_TO_DEVICE, MIGRATE_TO_SYSTEM, STATS, MARK];
/// All structures.
pub const STRUCTS: &[hmmgpu_contract::StructDef] =
    &[Query::DEF, Migrate::DEF, Stats::DEF, Mark::DEF];
