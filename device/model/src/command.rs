//! Descriptors become commands: raw bytes from the guest stop here.

use hmmgpu_contract::desc::{
    DIR_DEV_TO_DEV, DIR_DEV_TO_SYS, DIR_SYS_TO_DEV, Desc, FLAG_DIRECTION_MASK,
    FLAG_DIRECTION_SHIFT, FLAG_DST_VRAM, FLAG_INTERRUPT, FLAG_NOTE_MASK, FLAG_SPAN_END,
    FLAG_SRC_VRAM, FLAG_TRIGGER_MASK, FLAG_TRIGGER_SHIFT, NOTE_ALLOC, NOTE_FREE, NOTE_MARK,
    NOTE_SPLIT, OP_COPY, OP_FENCE, OP_FILL, OP_NOTE, OP_SPAN, Status, TRIGGER_CPU_FAULT,
    TRIGGER_EVICT, TRIGGER_GPU_FAULT, TRIGGER_PREFETCH,
};
use hmmgpu_contract::queue::FENCE_ALIGN;
use hmmgpu_contract::{MAX_ORDER, MAX_TRANSFER_BYTES, PAGE_SHIFT, PAGE_SIZE};
use hmmgpu_telemetry::NoteKind;
use hmmgpu_telemetry::snapshot::{Direction, Trigger};

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
        desc.flags & !(places | FLAG_TRIGGER_MASK) == 0,
        Status::STATUS_BAD_FIELD,
    )?;
    let trigger = trigger(desc.flags)?;
    let reserved = if fill { desc.src } else { desc.arg };
    require(reserved == 0, Status::STATUS_BAD_FIELD)?;
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

fn span(desc: &Desc) -> Result<Other, Fault> {
    let flags = FLAG_SPAN_END | FLAG_DIRECTION_MASK | FLAG_TRIGGER_MASK;
    let reserved = desc.flags & !flags == 0 && desc.dst == 0 && desc.src == 0;
    require(reserved, Status::STATUS_BAD_FIELD)?;
    let trigger = trigger(desc.flags)?;
    if desc.flags & FLAG_SPAN_END == 0 {
        require(desc.order == 0, Status::STATUS_BAD_FIELD)?;
        return Ok(Other::SpanBegin {
            id: desc.arg,
            pages: desc.count,
        });
    }
    require(desc.order <= MAX_ORDER, Status::STATUS_BAD_ORDER)?;
    Ok(Other::SpanEnd {
        id: desc.arg,
        order: desc.order,
        direction: direction(desc.flags),
        trigger,
        pages: desc.count,
    })
}

fn note(desc: &Desc) -> Result<Other, Fault> {
    require(
        desc.flags & !FLAG_NOTE_MASK == 0 && desc.src == 0,
        Status::STATUS_BAD_FIELD,
    )?;
    let note = desc.flags & FLAG_NOTE_MASK;
    if note == NOTE_MARK {
        let reserved = desc.order == 0 && desc.count == 0 && desc.dst == 0;
        require(reserved, Status::STATUS_BAD_FIELD)?;
        return Ok(Other::Mark { cookie: desc.arg });
    }
    let kind = match (note, desc.arg) {
        (NOTE_ALLOC, 0) => NoteKind::Alloc,
        (NOTE_FREE, 0) => NoteKind::Free,
        (NOTE_SPLIT, new_order) => match u8::try_from(new_order) {
            Ok(new_order) if new_order < desc.order => NoteKind::Split(new_order),
            _ => return Err(Status::STATUS_BAD_FIELD.into()),
        },
        _ => return Err(Status::STATUS_BAD_FIELD.into()),
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
