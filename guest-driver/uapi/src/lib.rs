//! The driver's user interface: ioctl numbers and structures of `/dev/hmmgpuN`.
//!
//! A descriptor means the memory of the process that opened the node, also when another process
//! has inherited it. Calls on it that need this memory fail with ESRCH once that process has gone.
//!
//! Defined once, here. `guest-driver/include/uapi/hmmgpu.h` is generated from it and a test fails
//! when it is stale.
#![no_std]
#![forbid(unsafe_code)]

use hmmgpu_contract::{constants, wire_struct};

/// Version of this interface; QUERY returns it.
pub const ABI_VERSION: u32 = 4;
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
    /// HMMGPU_IOC_MIGRATE_TO_DEVICE and HMMGPU_IOC_MIGRATE_TO_SYSTEM: move a range of
    /// anonymous memory. The outputs are valid on success and on every error but
    /// EINVAL and EFAULT.
    ///
    /// Errors: EINVAL, `addr` or `size` not page-aligned, `size` zero, the range ends beyond
    /// user addresses, or `flags` not zero. ENOSPC, VRAM is full (to device). ESRCH, the process has gone. ENOMEM, no system memory (to
    /// system). EIO, a copy failed and the pages stayed where they were. ETIMEDOUT, the device
    /// did not answer. EINTR, a fatal signal. ENODEV, the device has gone.
    ///
    /// EIO also tells, here and elsewhere, that the device was lost meanwhile, or that a reset has
    /// taken pages that should come home. What begins later waits until the device is recovered.
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
    /// HMMGPU_IOC_STATS: the driver's counters since it was loaded. Those that the device counts,
    /// too, are the same there as soon as nothing is under way.
    ///
    /// Spans are kept by direction and trigger: at DIR * 4 + TRIGGER, with the values of the
    /// hardware contract.
    pub struct Stats ("stats", 904) {
        /// Folios copied to the device, by order.
        pub sys_to_dev_folios: [u64; 10],
        /// Folios copied home, by order.
        pub dev_to_sys_folios: [u64; 10],
        /// Folios filled on the device instead of copied, by order.
        pub filled_folios: [u64; 10],
        /// Folios now allocated in VRAM, by order.
        pub vram_folios: [u64; 10],
        /// Device folios that were split, by order.
        pub splits: [u64; 10],
        /// Migrations that ended.
        pub spans: [u64; 8],
        /// Pages that were asked to move.
        pub pages_asked: [u64; 8],
        /// Pages that moved: of those that were copied or filled, the ones that the core then accepted.
        pub pages_moved: [u64; 8],
        /// Time in the phases collect, alloc, copy, commit and finish, in ns.
        pub phase_ns: [u64; 5],
        /// Large folios that did not move whole, by FALLBACK value of the hardware contract.
        pub fallbacks: [u64; 6],
        /// CPU faults on device-private memory.
        pub cpu_faults: u64,
        /// Pages that CPU faults brought home.
        pub cpu_fault_pages: u64,
        /// Pages that the core refused to migrate.
        pub refused_pages: u64,
        /// Pages whose copy failed.
        pub failed_pages: u64,
        /// Pages evicted from VRAM.
        pub evicted_pages: u64,
        /// Fences submitted.
        pub fences: u64,
        /// Fences that were awaited by sleeping.
        pub fence_sleeps: u64,
        /// Fences that did not come in time.
        pub fence_timeouts: u64,
        /// Doorbell writes.
        pub doorbells: u64,
        /// Descriptors submitted, but for jobs.
        pub descriptors: u64,
        /// Resets by the driver.
        pub resets: u64,
        /// Interrupts received: several that come at the same time may be received as one.
        pub interrupts: u64,
        /// Destination pages that the CPU wrote first because translated code may be stale.
        pub code_pages_scrubbed: u64,
        /// Contexts that are in use now.
        pub contexts: u64,
        /// Jobs submitted.
        pub jobs: u64,
        /// Faults of the GPU that were served, by migration or in place, so that the job went on.
        pub gpu_faults_replayed: u64,
        /// Faults of the GPU that were resolved without a migration.
        pub gpu_faults_in_place: u64,
        /// Faults of the GPU that ended their job.
        pub gpu_faults_cancelled: u64,
        /// Entries of 2 MiB that were written to GPU page tables.
        pub gpu_maps_large: u64,
        /// Entries of 4 KiB that were written to GPU page tables.
        pub gpu_maps_small: u64,
        /// Invalidations of the GPU's TLB.
        pub invalidations: u64,
        /// Pages that were made exclusive to the GPU for atomic operations.
        pub exclusive_pages: u64,
        /// Batches whose copies failed and were made again.
        pub copy_retries: u64,
        /// Fences that the device was done with, but did not write.
        pub fences_missed: u64,
        /// Times that a lost device was taken into use again.
        pub recoveries: u64,
        /// Pages of VRAM whose content resets have taken.
        pub lost_pages: u64,
        /// Contexts whose jobs got no further and were given up.
        pub contexts_given_up: u64,
        /// Ranges that were collected again, as the kernel told of more entries than they have pages.
        pub collected_again: u64,
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

wire_struct! {
    /// HMMGPU_IOC_SUBMIT: put a job into the descriptor's compute queue. The jobs of a descriptor
    /// are done in order. Addresses are those of the process; memory that the GPU cannot access
    /// yet is made accessible when it comes to it. The process may go on, and may also free,
    /// remap or fork the memory: the job then finds what the process would find.
    ///
    /// Errors: EINVAL, the kernel is not defined, a field that it does not use is not zero, or a
    /// range overflows. EAGAIN, too many jobs are waiting: wait for one. ENOSPC, all contexts of
    /// the device are in use. ENOMEM, no system memory. ESRCH, the process has gone. EOPNOTSUPP,
    /// the device has no contexts. EINTR, a signal. EIO, the device does not begin. ENODEV, the
    /// device has gone.
    pub struct Submit ("submit", 56) {
        /// In: COMPUTE value.
        pub kernel: u32,
        /// In: zero.
        pub flags: u32,
        /// In: destination.
        pub dst: u64,
        /// In: source.
        pub src: u64,
        /// In: indices, or an offset.
        pub aux: u64,
        /// In: number of elements.
        pub count: u64,
        /// In: argument of the kernel.
        pub arg: u64,
        /// Out: the job, for WAIT.
        pub job: u64,
    }
}

wire_struct! {
    /// HMMGPU_IOC_WAIT: wait for a job, and get its result. A result can be had until 64 more jobs
    /// have been submitted to this descriptor.
    ///
    /// Errors: ETIME, the job has not ended in time. EINTR, a signal. ENOENT, there is no such
    /// job, or its result is gone. EIO, the device was lost, and the job with it. ENODEV, the
    /// device has gone.
    pub struct Wait ("wait", 64) {
        /// In: the job.
        pub job: u64,
        /// In: nanoseconds to wait at most; 0: look only; all-ones: no limit.
        pub timeout_ns: u64,
        /// Out: how the job ended: 0, or an errno. EFAULT: memory is not mapped, or not with this
        /// permission. EINVAL: an address is misaligned, or ranges overlap. EOPNOTSUPP: atomic
        /// operations are not possible on this memory. ENOMEM: no system memory. EIO: the device
        /// failed, or got no further with it.
        pub error: u32,
        /// Out: faults of this job that were resolved.
        pub faults: u32,
        /// Out: result.
        pub value: u64,
        /// Out: elements that are done.
        pub done: u64,
        /// Out: address that the job could not access, or zero.
        pub fault_address: u64,
        /// Out: nanoseconds from the begin of the job to its end, on the device's clock.
        pub device_ns: u64,
        /// Zero.
        pub reserved: u64,
    }
}

wire_struct! {
    /// HMMGPU_IOC_ADVISE: what a fault of the GPU does about memory in a range. Advice stays with
    /// the addresses of this descriptor, whatever is mapped there, until other advice is given.
    ///
    /// Errors: EINVAL, `addr` or `size` not page-aligned, `size` zero, the range overflows, or the
    /// policy is not defined. Otherwise as SUBMIT, but for EAGAIN.
    pub struct Advise ("advise", 24) {
        /// In: first address.
        pub addr: u64,
        /// In: length in bytes.
        pub size: u64,
        /// In: POLICY value.
        pub policy: u32,
        /// In: zero.
        pub flags: u32,
    }
}

wire_struct! {
    /// HMMGPU_IOC_PREFETCH: do for a range what faults of the GPU would do, so that there are none.
    /// Memory that the process cannot access is left out. The outputs are valid on success and on
    /// every error but EINVAL and EFAULT.
    ///
    /// Errors: as SUBMIT, and EINVAL, `addr` or `size` not page-aligned or `size` zero. EINTR, a
    /// fatal signal.
    pub struct Prefetch ("prefetch", 40) {
        /// In: first address.
        pub addr: u64,
        /// In: length in bytes.
        pub size: u64,
        /// In: PREFETCH flags.
        pub flags: u32,
        /// Zero.
        pub reserved: u32,
        /// Out: bytes that the GPU can access now.
        pub mapped_bytes: u64,
        /// Out: bytes that moved, each time that they did: what is shared by a fork comes home to be written to, and goes to VRAM again.
        pub moved_bytes: u64,
    }
}

constants! {
    /// Kernels of jobs; docs/hardware.md says what each does with its operands.
    COMPUTE: u32 {
        /// Fill bytes with a pattern.
        COMPUTE_FILL = 1,
        /// Copy bytes.
        COMPUTE_COPY = 2,
        /// Compare bytes.
        COMPUTE_COMPARE = 3,
        /// Checksum of words.
        COMPUTE_CHECKSUM = 4,
        /// Sum, minimum or maximum of words.
        COMPUTE_REDUCE = 5,
        /// a * x + y.
        COMPUTE_SAXPY = 6,
        /// Read words from where indices say.
        COMPUTE_GATHER = 7,
        /// Write words to where indices say.
        COMPUTE_SCATTER = 8,
        /// Follow a linked list and add up its payloads.
        COMPUTE_CHASE = 9,
        /// Add to one word, atomically.
        COMPUTE_ATOMIC_ADD = 10,
    }
}

constants! {
    /// Policies of ADVISE.
    POLICIES: u32 {
        /// A fault of the GPU migrates anonymous memory into VRAM, 2 MiB at a time where possible, and makes room there if need be; other memory is accessed in place. So it is without advice.
        POLICY_DEFAULT = 0,
        /// As the default, and what is in VRAM is the last to make room for something else.
        POLICY_PREFER_DEVICE = 1,
        /// A fault of the GPU brings memory home that is in VRAM, and has it accessed there.
        POLICY_PREFER_SYSTEM = 2,
        /// Memory is accessed where it is.
        POLICY_ACCESS_IN_PLACE = 3,
    }
}

constants! {
    /// Flags of PREFETCH.
    PREFETCH_FLAGS: u32 {
        /// The GPU will write.
        PREFETCH_WRITE = 1,
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
    doc: "Move a range of anonymous memory into VRAM.",
};
/// HMMGPU_IOC_MIGRATE_TO_SYSTEM.
pub const MIGRATE_TO_SYSTEM: IoctlDef = IoctlDef {
    name: "MIGRATE_TO_SYSTEM",
    nr: 2,
    access: "wr",
    argument: "migrate",
    size: Migrate::SIZE,
    doc: "Bring a range of memory home.",
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
/// HMMGPU_IOC_SUBMIT.
pub const SUBMIT: IoctlDef = IoctlDef {
    name: "SUBMIT",
    nr: 5,
    access: "wr",
    argument: "submit",
    size: Submit::SIZE,
    doc: "Submit a job.",
};
/// HMMGPU_IOC_WAIT.
pub const WAIT: IoctlDef = IoctlDef {
    name: "WAIT",
    nr: 6,
    access: "wr",
    argument: "wait",
    size: Wait::SIZE,
    doc: "Wait for a job.",
};
/// HMMGPU_IOC_ADVISE.
pub const ADVISE: IoctlDef = IoctlDef {
    name: "ADVISE",
    nr: 7,
    access: "w",
    argument: "advise",
    size: Advise::SIZE,
    doc: "Say where memory should be.",
};
/// HMMGPU_IOC_PREFETCH.
pub const PREFETCH: IoctlDef = IoctlDef {
    name: "PREFETCH",
    nr: 8,
    access: "wr",
    argument: "prefetch",
    size: Prefetch::SIZE,
    doc: "Make memory accessible to the GPU ahead of its faults.",
};
/// All ioctls.
pub const IOCTLS: &[IoctlDef] = &[
    QUERY,
    MIGRATE_TO_DEVICE,
    MIGRATE_TO_SYSTEM,
    STATS,
    MARK,
    SUBMIT,
    WAIT,
    ADVISE,
    PREFETCH,
];
/// All structures.
pub const STRUCTS: &[hmmgpu_contract::StructDef] = &[
    Query::DEF,
    Migrate::DEF,
    Stats::DEF,
    Mark::DEF,
    Submit::DEF,
    Wait::DEF,
    Advise::DEF,
    Prefetch::DEF,
];
/// All constants.
pub const CONSTANTS: &[&[hmmgpu_contract::ConstantDef]] = &[COMPUTE, POLICIES, PREFETCH_FLAGS];
