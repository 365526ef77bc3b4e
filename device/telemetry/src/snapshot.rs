//! The snapshot: all that the device counts, as one versioned JSON document.

use serde::{Deserialize, Serialize};

use crate::checks::Checks;
pub use crate::injected::{FaultAction, FaultOutcome, FaultSite, InjectedFault};
pub use crate::link_model::{LinkLane, LinkModel};

/// Schema of this document.
pub const SCHEMA: &str = "hmmgpu.telemetry/2";

/// Upper bound of a latency bucket over that of the one before: eight buckets an octave, so that
/// percentiles of distributions put together are right to some 5 %.
pub const LATENCY_BUCKET_RATIO: f64 = 1.090_507_732_665_257_7;

/// Where bytes went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// System memory to VRAM.
    SysToDev,
    /// VRAM to system memory.
    DevToSys,
    /// VRAM to VRAM.
    DevToDev,
    /// System memory to system memory.
    SysToSys,
}

/// Why bytes went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// A program asked for it.
    Prefetch,
    /// A fault of the GPU.
    GpuFault,
    /// A fault of a CPU.
    CpuFault,
    /// VRAM was needed for something else, or goes away.
    Evict,
}

/// All that was counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
pub struct Snapshot {
    /// [`SCHEMA`].
    pub schema: String,
    /// Host's monotonic clock in nanoseconds.
    pub time_ns: u64,
    /// The same when the device was made: counters began at zero then.
    pub started_ns: u64,
    /// Device generation: resets since the server started.
    pub generation: u32,
    /// VRAM by state and order.
    pub vram: Vram,
    /// Transfers since the server started.
    pub transfers: Vec<Transfers>,
    /// Migrations since the server started.
    pub spans: Vec<Spans>,
    /// Large folios that did not move whole, as the driver says.
    pub fallbacks: Vec<Fallbacks>,
    /// Processes whose memory moved, as the driver names them: those with VRAM first, then the
    /// ones that were seen last, up to [`MAX_PROCESSES`](crate::MAX_PROCESSES).
    pub processes: Vec<Process>,
    /// Events that are not transfers.
    pub events: Events,
    /// Queues that are enabled, and how their engines are doing.
    pub queues: Vec<Queue>,
    /// What the device is connected to.
    pub link: Link,
    /// The trace that is being written; null when there is none.
    pub trace: Option<Trace>,
    /// Windows between marks, in order; the first ones are dropped beyond
    /// [`MAX_WINDOWS`](crate::MAX_WINDOWS) windows or
    /// [`MAX_WINDOW_ROWS`](crate::MAX_WINDOW_ROWS) rows.
    pub windows: Vec<Window>,
    /// Windows that were dropped.
    pub windows_dropped: u64,
    /// Address spaces since the server started.
    pub mmu: Mmu,
    /// Jobs since the server started.
    pub compute: Compute,
    /// Faults that were injected since the server started, as far as they are remembered.
    #[serde(default)]
    pub injected: Vec<InjectedFault>,
    /// What the checker of VRAM found since the server started.
    #[serde(default)]
    pub checker: Checks,
    /// The link that is modelled; null: as fast as the host copies.
    #[serde(default)]
    pub link_model: Option<LinkModel>,
}

/// VRAM as the driver's notes describe it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
pub struct Vram {
    /// Size in bytes.
    pub bytes: u64,
    /// Bytes in use.
    pub used_bytes: u64,
    /// Most bytes in use at any time.
    pub peak_bytes: u64,
    /// Largest free range in bytes, of any alignment.
    pub largest_free_bytes: u64,
    /// Share of the free bytes that are in no free and aligned block of 2 MiB, 0 to 1: the kernel's
    /// "unusable free space index" (`mm/vmstat.c`) for order 9. 0 when nothing is free.
    pub fragmentation: f64,
    /// Folios in use, by order and state; those with none are left out.
    pub folios: Vec<VramFolios>,
    /// What is where: runs of equal blocks of 2 MiB, from offset 0 to the end.
    pub map: Vec<VramRun>,
    /// Notes that contradict the notes before them, such as a free of what is not allocated.
    pub inconsistent_notes: u64,
}

/// How a folio in VRAM came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum FolioState {
    /// It was allocated at its order.
    Whole,
    /// A split of a larger one left it.
    Split,
}

/// Folios in VRAM of one order and state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
pub struct VramFolios {
    /// Folio order.
    pub order: u8,
    /// How they came about.
    pub state: FolioState,
    /// Folios.
    pub folios: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Blocks of 2 MiB of VRAM in a row that look the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
pub struct VramRun {
    /// Blocks.
    pub blocks: u32,
    /// Order of the largest folio in each block; null where all is free. Folios larger than a
    /// block are in each of their blocks.
    pub order: Option<u8>,
    /// Pages of 4 KiB in use in each block, 0 to 512, rounded up to a multiple of 32.
    pub used_pages: u16,
    /// Whether a folio in each block is what a split left.
    pub split: bool,
}

/// Large folios that did not move whole, for one order, direction, trigger and reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
pub struct Fallbacks {
    /// Order that was wanted.
    pub order: u8,
    /// Direction.
    pub direction: Direction,
    /// Trigger.
    pub trigger: Trigger,
    /// Why: `no_vram`, `no_memory`, `shared`, `split_failed`, `partial`, `injected`.
    pub reason: String,
    /// Folios.
    pub folios: u64,
}

/// A process whose memory moved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
pub struct Process {
    /// The guest's process id.
    pub pid: u32,
    /// What it is called; empty if the driver has not said.
    pub name: String,
    /// Bytes of VRAM that were allocated for it and are in use.
    pub vram_bytes: u64,
    /// Spans of it that ended.
    pub spans: u64,
    /// Of these, those that a fault of the GPU triggered.
    pub gpu_fault_spans: u64,
    /// Of these, those that a fault of a CPU triggered.
    pub cpu_fault_spans: u64,
    /// Bytes that moved to VRAM in its spans.
    pub sys_to_dev_bytes: u64,
    /// Bytes that moved to system memory in its spans.
    pub dev_to_sys_bytes: u64,
    /// Host's monotonic clock at the end of its last span, in nanoseconds; 0: none ended yet.
    pub last_ns: u64,
}

/// What a queue is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum QueueKind {
    /// Copies, fills, spans and notes.
    Copy,
    /// Invalidations, replays and cancels.
    Invalidation,
    /// Jobs of one context.
    Compute,
    /// Faults, from the device to the driver.
    Fault,
}

/// How the engine of a queue is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum EngineState {
    /// It works on descriptors. A context whose turn ended with work left is busy too while it
    /// waits for an engine; the fault queue is busy while faults wait for room in it.
    Busy,
    /// It has none, and looks for more without being told.
    Polling,
    /// It waits for the doorbell.
    Sleeping,
    /// It waits until a fault is replayed.
    Faulted,
    /// The queue failed, or is disabled.
    Stopped,
}

/// A queue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
pub struct Queue {
    /// What it is for.
    pub kind: QueueKind,
    /// Its number among those of the kind; of compute queues, the context.
    pub index: u32,
    /// How its engine is doing. Contexts share engines: one that waits for an engine has the state
    /// that it had when its last turn ended.
    pub state: EngineState,
    /// Entries of the ring.
    pub entries: u32,
    /// Entries that were published and are not done, when last looked at.
    pub depth: u32,
    /// Time that its engine was busy since the server started, in nanoseconds; 0 of the fault queue,
    /// which has no engine.
    pub busy_ns: u64,
}

/// What the device is connected to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
pub struct Link {
    /// A vfio-user client is connected and has negotiated its version.
    pub connected: bool,
    /// Clients that were, since the server started.
    pub clients: u64,
    /// The guest lets the function master the bus.
    pub bus_master: bool,
    /// MSI-X is enabled.
    pub msix: bool,
    /// The driver has enabled a queue: it is there and runs.
    pub driver: bool,
}

/// A trace that is being written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
pub struct Trace {
    /// Events that were written.
    pub events: u64,
    /// Events that were dropped, because the writer did not keep up.
    pub dropped: u64,
}

/// What the engines moved, for one order, direction and trigger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
pub struct Transfers {
    /// Folio order.
    pub order: u8,
    /// Direction; fills have that of a copy into the same aperture from system memory.
    pub direction: Direction,
    /// Trigger.
    pub trigger: Trigger,
    /// Folios copied.
    pub folios: u64,
    /// Bytes copied.
    pub bytes: u64,
    /// Folios filled.
    pub filled_folios: u64,
    /// Bytes filled.
    pub filled_bytes: u64,
    /// Time that engines were busy with it, in nanoseconds.
    pub engine_ns: u64,
    /// Descriptors that failed.
    pub errors: u64,
    /// Engine time for each descriptor. Those of less than 64 KiB that follow each other in the ring
    /// are timed together, up to 64 KiB, and count as taking the same time each.
    pub latency: Latency,
    /// Time that each descriptor waited in the ring: from when the engine saw it, or was told by
    /// the doorbell, until it began; for those that are timed together, their mean.
    pub queue_wait: Latency,
}

/// Migrations (spans), for one order, direction and trigger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
pub struct Spans {
    /// Largest folio order that moved.
    pub order: u8,
    /// Direction.
    pub direction: Direction,
    /// Trigger.
    pub trigger: Trigger,
    /// Spans that ended.
    pub count: u64,
    /// Pages that were asked to move. For a CPU fault, the page or the large folio that was touched:
    /// more may move, because single pages around it come along.
    pub pages_asked: u64,
    /// Pages that moved.
    pub pages_moved: u64,
    /// Time in which at least one span of this kind was open, in nanoseconds of the host's
    /// monotonic clock: spans that overlap count once.
    pub busy_ns: u64,
    /// Time in it that engines were busy with transfers of this direction and trigger, of
    /// whatever order, in nanoseconds. Over `busy_ns` it is the copy's share of the migrations.
    pub engine_ns: u64,
    /// Time of each span.
    pub latency: Latency,
    /// Where the driver's time went, in these spans.
    pub phases: Phases,
}

/// The share of the copy in migrations: the engines' time over that of the spans, both of
/// [`Spans`], 0 to 1; nothing where there were no spans. Rows may be added up before.
#[allow(clippy::cast_precision_loss)] // A few digits matter.
pub fn copy_share(engine_ns: u64, busy_ns: u64) -> Option<f64> {
    // Several engines can be busy at once.
    (busy_ns > 0).then(|| (engine_ns as f64 / busy_ns as f64).min(1.0))
}

/// The phases of migrations, by the driver's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
pub struct Phases {
    /// Spans that the driver has told about.
    pub spans: u64,
    /// Finding and isolating pages (`migrate_vma_setup`), in nanoseconds, like all that follow.
    pub collect_ns: u64,
    /// Allocating destinations.
    pub alloc_ns: u64,
    /// Submitting copies and waiting for them.
    pub copy_ns: u64,
    /// Putting the new pages in place of the old (`migrate_vma_pages`).
    pub commit_ns: u64,
    /// Letting go of the old pages (`migrate_vma_finalize`).
    pub finish_ns: u64,
}

/// A distribution of times.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
pub struct Latency {
    /// Samples.
    pub count: u64,
    /// Their sum, in nanoseconds.
    pub sum_ns: u64,
    /// Smallest, in nanoseconds.
    pub min_ns: u64,
    /// Largest, in nanoseconds.
    pub max_ns: u64,
    /// Median, in nanoseconds; like the other percentiles right to 1 %.
    pub p50_ns: u64,
    /// 90th percentile, in nanoseconds.
    pub p90_ns: u64,
    /// 99th percentile, in nanoseconds.
    pub p99_ns: u64,
    /// 99.9th percentile, in nanoseconds.
    pub p999_ns: u64,
    /// Histogram: `[upper bound in nanoseconds, samples]`, bounds growing by a factor of
    /// [`LATENCY_BUCKET_RATIO`], empty buckets left out.
    pub buckets: Vec<(u64, u64)>,
}

/// Events that are not transfers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
pub struct Events {
    /// Large folios in VRAM that were split: `[order, folios]`.
    pub splits: Vec<(u8, u64)>,
    /// Descriptors by how they ended, other than well: `[status name, descriptors]`.
    pub descriptor_errors: Vec<(String, u64)>,
    /// Resets by cause: `[register | flr | vfio_user | disconnect | injected, resets]`.
    pub resets: Vec<(String, u64)>,
    /// Faults that were injected: `[site:action, hits]`.
    #[serde(default)]
    pub injected: Vec<(String, u64)>,
    /// Descriptors seen.
    pub descriptors: u64,
    /// Fences written.
    pub fences: u64,
    /// Interrupts raised.
    pub interrupts: u64,
    /// Doorbells received.
    pub doorbells: u64,
    /// Times that an engine went to sleep.
    pub engine_sleeps: u64,
    /// Reads and writes of registers that are not defined: `[offset, accesses]` for the first 64
    /// offsets. Those outside BAR 0 carry the number of the BAR in the upper half:
    /// `bar << 32 | offset`.
    pub unknown_registers: Vec<(u64, u64)>,
    /// All reads and writes of registers that are not defined.
    pub unknown_register_accesses: u64,
    /// Spans that ended without having begun, or began twice.
    pub unmatched_spans: u64,
    /// Spans that never ended (reset, or too many open at once).
    pub lost_spans: u64,
    /// DMA maps now in force.
    pub dma_maps: u64,
    /// DMA maps that were refused.
    pub dma_map_errors: u64,
    /// Bytes of guest RAM and VRAM that the host is yet to populate ahead of their use. It takes the
    /// time of a core, and memory that it has not reached is slow at its first use.
    #[serde(default)]
    pub populating_bytes: u64,
}

/// What a job wanted to do with memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Read it.
    Read,
    /// Write it.
    Write,
    /// Read and write it at once.
    Atomic,
}

/// What became of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The driver resolved it, and the job went on.
    Replayed,
    /// The driver ended the job.
    Cancelled,
    /// The job did not want to wait: the fault ended it.
    Ended,
    /// The context was disabled, or the device reset, while the fault waited.
    Dropped,
}

/// Address spaces: translations and faults.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
pub struct Mmu {
    /// Virtual addresses that were translated; those of one piece of memory count once.
    pub translations: u64,
    /// Translations that the TLB had.
    pub tlb_hits: u64,
    /// Walks of page tables.
    pub walks: u64,
    /// INVALIDATE descriptors that were carried out.
    pub invalidations: u64,
    /// Faults by access, reason and outcome. One that waits is not among them yet.
    pub faults: Vec<Faults>,
    /// Time from a fault until its job went on, or was cancelled.
    pub replay: Latency,
    /// Faults that found the fault queue full or disabled, and waited for room.
    pub fault_queue_full: u64,
}

/// Faults of one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
pub struct Faults {
    /// What the job wanted to do.
    pub access: Access,
    /// Name of the reason, such as `FAULT_NOT_PRESENT`.
    pub reason: String,
    /// What became of them.
    pub outcome: Outcome,
    /// Faults.
    pub count: u64,
}

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Kernel {
    /// Fills bytes with a pattern.
    Fill,
    /// Copies bytes.
    Copy,
    /// Compares bytes.
    Compare,
    /// Checksum of words.
    Checksum,
    /// Sum, minimum or maximum of words.
    Reduce,
    /// a * x + y.
    Saxpy,
    /// Reads words from where indices say.
    Gather,
    /// Writes words to where indices say.
    Scatter,
    /// Follows a linked list.
    Chase,
    /// Adds to one word, atomically.
    AtomicAdd,
    /// The opcode is not defined.
    Unknown,
}

/// The compute engines.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
pub struct Compute {
    /// Jobs that ended, by what they did and how they ended.
    pub jobs: Vec<Jobs>,
    /// Contexts that are enabled now.
    pub contexts: u64,
    /// Most contexts that were enabled at any time.
    pub contexts_peak: u64,
}

/// Jobs of one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
pub struct Jobs {
    /// What they did.
    pub kernel: Kernel,
    /// Name of the status that they ended with, such as `STATUS_OK`.
    pub status: String,
    /// Jobs.
    pub count: u64,
    /// Elements that were done: bytes of `fill`, `copy` and `compare`, words of the others.
    pub elements: u64,
    /// Time that engines worked on them, in nanoseconds; waiting for faults is not among it.
    pub engine_ns: u64,
}

/// What happened between two marks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
pub struct Window {
    /// Cookie of the mark that opened it.
    pub mark: u64,
    /// Host's monotonic clock at its beginning, in nanoseconds.
    pub begin_ns: u64,
    /// Host's monotonic clock at its end, in nanoseconds; null while it is open.
    pub end_ns: Option<u64>,
    /// Transfers in it.
    pub transfers: Vec<Transfers>,
    /// Spans that ended in it.
    pub spans: Vec<Spans>,
    /// Splits in it: `[order, folios]`.
    pub splits: Vec<(u8, u64)>,
    /// Fallbacks in it.
    pub fallbacks: Vec<Fallbacks>,
}
