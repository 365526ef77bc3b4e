//! Descriptors become commands: raw bytes from the guest stop here.

use hmmgpu_contract::desc::{
    DIR_DEV_TO_DEV, DIR_DEV_TO_SYS, DIR_SYS_TO_DEV, Desc, FALLBACK_INJECTED, FALLBACK_NO_MEMORY,
    FALLBACK_NO_VRAM, FALLBACK_PARTIAL, FALLBACK_SHARED, FALLBACK_SPLIT_FAILED, FLAG_CHECKSUM,
    FLAG_DIRECTION_MASK, FLAG_DIRECTION_SHIFT, FLAG_DST_VRAM, FLAG_INTERRUPT, FLAG_NOTE_MASK,
    FLAG_SPAN_END, FLAG_SRC_VRAM, FLAG_TRIGGER_MASK, FLAG_TRIGGER_SHIFT, NOTE_ALLOC, NOTE_FALLBACK,
    NOTE_FREE, NOTE_MARK, NOTE_PHASES, NOTE_PROCESS, NOTE_SPLIT, NOTE_UNLOAD, OP_COPY, OP_FENCE,
    OP_FILL, OP_NOTE, OP_SPAN, PHASE_UNIT_NS, Status, TRIGGER_CPU_FAULT, TRIGGER_EVICT,
    TRIGGER_GPU_FAULT, TRIGGER_PREFETCH,
};
use hmmgpu_contract::queue::FENCE_ALIGN;
use hmmgpu_contract::{MAX_ORDER, MAX_TRANSFER_BYTES, PAGE_SHIFT, PAGE_SIZE};
use hmmgpu_telemetry::snapshot::{Direction, Trigger};
use hmmgpu_telemetry::{FallbackReason, NoteKind, PhaseTimes, ProcessName};

/// Alignment of where a checksum goes, in bytes: its own size.
const CHECKSUM_ALIGN: u64 = 8;

/// Why a descriptor failed, and the address that it was about (0: none).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) status: Status,
    pub(crate) address: u64,
}

impl Fault {
    pub(crate) fn at(status: Status, address: u64) -> Self {
        Self { status, address }
    }
}

impl From<Status> for Fault {
    fn from(status: Status) -> Self {
        Self { status, address: 0 }
    }
}

/// One side of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A DMA address.
    System(u64),
    /// A byte offset in VRAM.
    Vram(u64),
}

impl Place {
    /// The place that is `bytes` further.
    pub(crate) fn at(self, bytes: u64) -> Self {
        match self {
            Self::System(address) => Self::System(address + bytes),
            Self::Vram(offset) => Self::Vram(offset + bytes),
        }
    }

    fn overlaps(self, other: Self, bytes: u64) -> bool {
        match (self, other) {
            (Self::System(a), Self::System(b)) | (Self::Vram(a), Self::Vram(b)) => {
                a.abs_diff(b) < bytes
            }
            _ => false,
        }
    }
}

/// Where the bytes of a transfer come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A place.
    Place(Place),
    /// A pattern of 8 bytes.
    Pattern(u64),
}

/// A COPY or FILL that breaks no rule by itself. Its addresses are not checked yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transfer {
    pub(crate) order: u8,
    pub(crate) count: u32,
    pub(crate) bytes: u64,
    pub(crate) dst: Place,
    pub(crate) src: Source,
    pub(crate) trigger: Trigger,
    /// DMA address where the checksum of the side in VRAM goes, if it is wanted.
    pub(crate) checksum: Option<u64>,
}

impl Transfer {
    pub(crate) fn direction(&self) -> Direction {
        let from_vram = matches!(self.src, Source::Place(Place::Vram(_)));
        let to_vram = matches!(self.dst, Place::Vram(_));
        match (from_vram, to_vram) {
            (false, true) => Direction::SysToDev,
            (true, false) => Direction::DevToSys,
            (true, true) => Direction::DevToDev,
            (false, false) => Direction::SysToSys,
        }
    }
}

/// A FENCE that breaks no rule by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fence {
    /// DMA address of the record.
    pub(crate) address: u64,
    pub(crate) sequence: u64,
    pub(crate) interrupt: bool,
}

/// A descriptor of a copy queue that breaks no rule by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Transfer(Transfer),
    Other(Other),
}

/// What is not a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Other {
    Fence(Fence),
    SpanBegin {
        id: u64,
        process: u32,
        direction: Direction,
        trigger: Trigger,
        pages: u32,
    },
    SpanEnd {
        id: u64,
        order: u8,
        direction: Direction,
        trigger: Trigger,
        pages: u32,
    },
    Note {
        kind: NoteKind,
        address: u64,
        order: u8,
        count: u32,
        bytes: u64,
    },
    Mark {
        cookie: u64,
    },
    Unload,
    Process {
        pid: u32,
        name: ProcessName,
    },
    Phases {
        id: u64,
        times: PhaseTimes,
    },
    Fallback {
        order: u8,
        direction: Direction,
        trigger: Trigger,
        reason: FallbackReason,
        folios: u32,
    },
}

pub(crate) fn require(condition: bool, status: Status) -> Result<(), Fault> {
    if condition {
        Ok(())
    } else {
        Err(status.into())
    }
}

pub(crate) fn aligned(address: u64, align: u64) -> Result<(), Fault> {
    if address.is_multiple_of(align) {
        Ok(())
    } else {
        Err(Fault::at(Status::STATUS_MISALIGNED, address))
    }
}

fn trigger(flags: u16) -> Result<Trigger, Fault> {
    match (flags & FLAG_TRIGGER_MASK) >> FLAG_TRIGGER_SHIFT {
        TRIGGER_PREFETCH => Ok(Trigger::Prefetch),
        TRIGGER_GPU_FAULT => Ok(Trigger::GpuFault),
        TRIGGER_CPU_FAULT => Ok(Trigger::CpuFault),
        TRIGGER_EVICT => Ok(Trigger::Evict),
        _ => Err(Status::STATUS_BAD_FIELD.into()),
    }
}

fn direction(flags: u16) -> Direction {
    match (flags & FLAG_DIRECTION_MASK) >> FLAG_DIRECTION_SHIFT {
        DIR_SYS_TO_DEV => Direction::SysToDev,
        DIR_DEV_TO_SYS => Direction::DevToSys,
        DIR_DEV_TO_DEV => Direction::DevToDev,
        // Two bits: DIR_SYS_TO_SYS is all that is left.
        _ => Direction::SysToSys,
    }
}

/// Size in bytes of `count` folios of `order`, which is checked. At most 2^62: cannot overflow.
fn folio_bytes(order: u8, count: u32) -> Result<u64, Fault> {
    require(order <= MAX_ORDER, Status::STATUS_BAD_ORDER)?;
    require(count > 0, Status::STATUS_BAD_COUNT)?;
    Ok(u64::from(count) << (u32::from(order) + PAGE_SHIFT))
}

fn transfer(desc: &Desc, fill: bool) -> Result<Command, Fault> {
    let places = if fill {
        FLAG_DST_VRAM
    } else {
        FLAG_DST_VRAM | FLAG_SRC_VRAM
    };
    require(
        desc.flags & !(places | FLAG_CHECKSUM | FLAG_TRIGGER_MASK) == 0,
        Status::STATUS_BAD_FIELD,
    )?;
    let trigger = trigger(desc.flags)?;
    // Zero, but for a checksum.
    let address = if fill { desc.src } else { desc.arg };
    let checksum = (desc.flags & FLAG_CHECKSUM != 0).then_some(address);
    if checksum.is_some() {
        let ways = desc.flags & places;
        require(ways.count_ones() == 1, Status::STATUS_BAD_FIELD)?;
        aligned(address, CHECKSUM_ALIGN)?;
    } else {
        require(address == 0, Status::STATUS_BAD_FIELD)?;
    }
    let bytes = folio_bytes(desc.order, desc.count)?;
    require(bytes <= MAX_TRANSFER_BYTES, Status::STATUS_BAD_COUNT)?;
    let place = |address: u64, vram: u16| {
        aligned(address, PAGE_SIZE)?;
        Ok::<_, Fault>(if desc.flags & vram != 0 {
            Place::Vram(address)
        } else {
            Place::System(address)
        })
    };
    let dst = place(desc.dst, FLAG_DST_VRAM)?;
    let src = if fill {
        Source::Pattern(desc.arg)
    } else {
        let src = place(desc.src, FLAG_SRC_VRAM)?;
        if src.overlaps(dst, bytes) {
            return Err(Fault::at(Status::STATUS_OVERLAP, desc.dst));
        }
        Source::Place(src)
    };
    Ok(Command::Transfer(Transfer {
        order: desc.order,
        count: desc.count,
        bytes,
        dst,
        src,
        trigger,
        checksum,
    }))
}

pub(crate) fn fence(desc: &Desc) -> Result<Fence, Fault> {
    let reserved = desc.flags & !FLAG_INTERRUPT == 0 && desc.order == 0 && desc.count == 0;
    require(reserved && desc.src == 0, Status::STATUS_BAD_FIELD)?;
    aligned(desc.dst, u64::from(FENCE_ALIGN))?;
    Ok(Fence {
        address: desc.dst,
        sequence: desc.arg,
        interrupt: desc.flags & FLAG_INTERRUPT != 0,
    })
}

/// A process id, or 0 for none.
fn process(id: u64) -> Result<u32, Fault> {
    u32::try_from(id).map_err(|_| Status::STATUS_BAD_FIELD.into())
}

fn span(desc: &Desc) -> Result<Other, Fault> {
    let flags = FLAG_SPAN_END | FLAG_DIRECTION_MASK | FLAG_TRIGGER_MASK;
    let reserved = desc.flags & !flags == 0 && desc.src == 0;
    require(reserved, Status::STATUS_BAD_FIELD)?;
    let (direction, trigger) = (direction(desc.flags), trigger(desc.flags)?);
    if desc.flags & FLAG_SPAN_END == 0 {
        require(desc.order == 0, Status::STATUS_BAD_FIELD)?;
        return Ok(Other::SpanBegin {
            id: desc.arg,
            process: process(desc.dst)?,
            direction,
            trigger,
            pages: desc.count,
        });
    }
    require(desc.dst == 0, Status::STATUS_BAD_FIELD)?;
    require(desc.order <= MAX_ORDER, Status::STATUS_BAD_ORDER)?;
    Ok(Other::SpanEnd {
        id: desc.arg,
        order: desc.order,
        direction,
        trigger,
        pages: desc.count,
    })
}

fn note(desc: &Desc) -> Result<Other, Fault> {
    let note = desc.flags & FLAG_NOTE_MASK;
    let flags = match note {
        NOTE_FALLBACK => FLAG_NOTE_MASK | FLAG_DIRECTION_MASK | FLAG_TRIGGER_MASK,
        _ => FLAG_NOTE_MASK,
    };
    require(desc.flags & !flags == 0, Status::STATUS_BAD_FIELD)?;
    match note {
        NOTE_ALLOC | NOTE_FREE | NOTE_SPLIT => vram_note(desc, note),
        NOTE_MARK => mark(desc),
        NOTE_PROCESS => process_name(desc),
        NOTE_PHASES => phases(desc),
        NOTE_FALLBACK => fallback(desc),
        NOTE_UNLOAD => unload(desc),
        _ => Err(Status::STATUS_BAD_FIELD.into()),
    }
}

fn vram_note(desc: &Desc, note: u16) -> Result<Other, Fault> {
    require(desc.src == 0, Status::STATUS_BAD_FIELD)?;
    let kind = match note {
        NOTE_ALLOC => NoteKind::Alloc {
            process: process(desc.arg)?,
        },
        NOTE_FREE => {
            require(desc.arg == 0, Status::STATUS_BAD_FIELD)?;
            NoteKind::Free
        }
        _ => match u8::try_from(desc.arg) {
            Ok(new_order) if new_order < desc.order => NoteKind::Split(new_order),
            _ => return Err(Status::STATUS_BAD_FIELD.into()),
        },
    };
    let bytes = folio_bytes(desc.order, desc.count)?;
    aligned(desc.dst, PAGE_SIZE)?;
    Ok(Other::Note {
        kind,
        address: desc.dst,
        order: desc.order,
        count: desc.count,
        bytes,
    })
}

fn mark(desc: &Desc) -> Result<Other, Fault> {
    let reserved = desc.order == 0 && desc.count == 0 && desc.dst == 0 && desc.src == 0;
    require(reserved, Status::STATUS_BAD_FIELD)?;
    Ok(Other::Mark { cookie: desc.arg })
}

fn unload(desc: &Desc) -> Result<Other, Fault> {
    let reserved = desc.order == 0 && desc.count == 0 && desc.dst == 0 && desc.src == 0;
    require(reserved && desc.arg == 0, Status::STATUS_BAD_FIELD)?;
    Ok(Other::Unload)
}

fn process_name(desc: &Desc) -> Result<Other, Fault> {
    let reserved = desc.order == 0 && desc.arg == 0;
    require(reserved && desc.count > 0, Status::STATUS_BAD_FIELD)?;
    let mut name = [0; 16];
    name[..8].copy_from_slice(&desc.dst.to_le_bytes());
    name[8..].copy_from_slice(&desc.src.to_le_bytes());
    let mut padding = name.iter().skip_while(|byte| **byte != 0);
    let padded = padding.all(|byte| *byte == 0);
    require(padded, Status::STATUS_BAD_FIELD)?;
    Ok(Other::Process {
        pid: desc.count,
        name: ProcessName(name),
    })
}

fn phases(desc: &Desc) -> Result<Other, Fault> {
    require(desc.order == 0, Status::STATUS_BAD_FIELD)?;
    let ns = |units: u64| units * u64::from(PHASE_UNIT_NS);
    let (low, high) = (
        |word: u64| word & u64::from(u32::MAX),
        |word: u64| word >> 32,
    );
    Ok(Other::Phases {
        id: desc.arg,
        times: PhaseTimes {
            collect_ns: ns(low(desc.dst)),
            alloc_ns: ns(high(desc.dst)),
            copy_ns: ns(low(desc.src)),
            commit_ns: ns(high(desc.src)),
            finish_ns: ns(u64::from(desc.count)),
        },
    })
}

fn fallback(desc: &Desc) -> Result<Other, Fault> {
    let reserved = desc.dst == 0 && desc.src == 0;
    require(reserved, Status::STATUS_BAD_FIELD)?;
    let reason = match u16::try_from(desc.arg) {
        Ok(FALLBACK_NO_VRAM) => FallbackReason::NoVram,
        Ok(FALLBACK_NO_MEMORY) => FallbackReason::NoMemory,
        Ok(FALLBACK_SHARED) => FallbackReason::Shared,
        Ok(FALLBACK_SPLIT_FAILED) => FallbackReason::SplitFailed,
        Ok(FALLBACK_PARTIAL) => FallbackReason::Partial,
        Ok(FALLBACK_INJECTED) => FallbackReason::Injected,
        _ => return Err(Status::STATUS_BAD_FIELD.into()),
    };
    let trigger = trigger(desc.flags)?;
    require(desc.order <= MAX_ORDER, Status::STATUS_BAD_ORDER)?;
    require(desc.count > 0, Status::STATUS_BAD_COUNT)?;
    Ok(Other::Fallback {
        order: desc.order,
        direction: direction(desc.flags),
        trigger,
        reason,
        folios: desc.count,
    })
}

impl TryFrom<&Desc> for Command {
    type Error = Fault;

    fn try_from(desc: &Desc) -> Result<Self, Fault> {
        match desc.opcode {
            OP_COPY => transfer(desc, false),
            OP_FILL => transfer(desc, true),
            OP_FENCE => fence(desc).map(|fence| Self::Other(Other::Fence(fence))),
            OP_SPAN => span(desc).map(Self::Other),
            OP_NOTE => note(desc).map(Self::Other),
            _ => Err(Status::STATUS_BAD_OPCODE.into()),
        }
    }
}
