//! Descriptors as a driver writes them.

use hmmgpu_contract::desc::{
    Desc, FLAG_DIRECTION_SHIFT, FLAG_DST_VRAM, FLAG_INTERRUPT, FLAG_SPAN_END, FLAG_SRC_VRAM,
    FLAG_TRIGGER_SHIFT, NOTE_FALLBACK, NOTE_MARK, NOTE_PHASES, NOTE_PROCESS, NOTE_UNLOAD, OP_COPY,
    OP_FENCE, OP_FILL, OP_NOTE, OP_SPAN,
};
use hmmgpu_contract::mmu::{OP_CANCEL, OP_INVALIDATE, OP_REPLAY};

/// An address, with the aperture that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A DMA address.
    System(u64),
    /// A byte offset in VRAM.
    Vram(u64),
}

fn split(side: Side, vram: u16) -> (u64, u16) {
    match side {
        Side::System(address) => (address, 0),
        Side::Vram(offset) => (offset, vram),
    }
}

/// COPY of `count` folios of `order`.
pub fn copy(order: u8, count: u32, dst: Side, src: Side) -> Desc {
    let (dst, dst_flag) = split(dst, FLAG_DST_VRAM);
    let (src, src_flag) = split(src, FLAG_SRC_VRAM);
    Desc {
        opcode: OP_COPY,
        order,
        flags: dst_flag | src_flag,
        count,
        dst,
        src,
        arg: 0,
    }
}

/// FILL of `count` folios of `order`.
pub fn fill(order: u8, count: u32, dst: Side, pattern: u64) -> Desc {
    let (dst, flags) = split(dst, FLAG_DST_VRAM);
    Desc {
        opcode: OP_FILL,
        order,
        flags,
        count,
        dst,
        src: 0,
        arg: pattern,
    }
}

/// FENCE.
pub fn fence(record: u64, sequence: u64, interrupt: bool) -> Desc {
    Desc {
        opcode: OP_FENCE,
        flags: if interrupt { FLAG_INTERRUPT } else { 0 },
        dst: record,
        arg: sequence,
        ..Desc::default()
    }
}

/// SPAN begin, for `pages` pages asked for.
pub fn span_begin(id: u64, pages: u32) -> Desc {
    Desc {
        opcode: OP_SPAN,
        count: pages,
        arg: id,
        ..Desc::default()
    }
}

/// SPAN end: the largest order and the number of pages that moved, with DIR and TRIGGER values.
pub fn span_end(id: u64, order: u8, pages: u32, direction: u16, trigger: u16) -> Desc {
    Desc {
        opcode: OP_SPAN,
        order,
        flags: FLAG_SPAN_END | direction << FLAG_DIRECTION_SHIFT | trigger << FLAG_TRIGGER_SHIFT,
        count: pages,
        arg: id,
        ..Desc::default()
    }
}

/// The same SPAN begin or NOTE alloc for a process.
pub fn of_process(desc: Desc, pid: u32) -> Desc {
    let id = u64::from(pid);
    match desc.opcode {
        OP_SPAN => Desc { dst: id, ..desc },
        _ => Desc { arg: id, ..desc },
    }
}

/// NOTE process: what it is called, of which the first 16 bytes are told.
pub fn process(pid: u32, name: &str) -> Desc {
    let mut bytes = [0; 16];
    let len = name.len().min(bytes.len());
    bytes[..len].copy_from_slice(&name.as_bytes()[..len]);
    let name = u128::from_le_bytes(bytes);
    let (low, high) = (name & u128::from(u64::MAX), name >> 64);
    Desc {
        count: pid,
        dst: u64::try_from(low).unwrap_or_default(),
        src: u64::try_from(high).unwrap_or_default(),
        ..note(NOTE_PROCESS, 0, 0, 0, 0)
    }
}

/// NOTE phases: the times of collect, alloc, copy, commit and finish, in units of
/// [`PHASE_UNIT_NS`](hmmgpu_contract::desc::PHASE_UNIT_NS).
pub fn phases(span: u64, units: [u32; 5]) -> Desc {
    let [collect, alloc, copy, commit, finish] = units;
    let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    Desc {
        count: finish,
        dst: pair(collect, alloc),
        src: pair(copy, commit),
        ..note(NOTE_PHASES, 0, 0, 0, span)
    }
}

/// NOTE fallback, with DIR, TRIGGER and FALLBACK values.
pub fn fallback(order: u8, folios: u32, direction: u16, trigger: u16, reason: u16) -> Desc {
    let flags = direction << FLAG_DIRECTION_SHIFT | trigger << FLAG_TRIGGER_SHIFT;
    Desc {
        flags: NOTE_FALLBACK | flags,
        ..note(NOTE_FALLBACK, order, folios, 0, u64::from(reason))
    }
}

/// NOTE of a kind about `count` folios of `order` at a VRAM offset; `arg` is the new order of a
/// split, or the process of an allocation.
pub fn note(kind: u16, order: u8, count: u32, offset: u64, arg: u64) -> Desc {
    Desc {
        opcode: OP_NOTE,
        order,
        flags: kind,
        count,
        dst: offset,
        src: 0,
        arg,
    }
}

/// NOTE mark.
pub fn mark(cookie: u64) -> Desc {
    note(NOTE_MARK, 0, 0, 0, cookie)
}

/// NOTE unload.
pub fn unload() -> Desc {
    note(NOTE_UNLOAD, 0, 0, 0, 0)
}

/// The same transfer for another trigger, a TRIGGER value.
pub fn triggered(desc: Desc, trigger: u16) -> Desc {
    Desc {
        flags: desc.flags | trigger << FLAG_TRIGGER_SHIFT,
        ..desc
    }
}

/// INVALIDATE of a range of virtual addresses.
pub fn invalidate(context: u32, address: u64, bytes: u64) -> Desc {
    Desc {
        opcode: OP_INVALIDATE,
        count: context,
        dst: address,
        src: bytes,
        ..Desc::default()
    }
}

/// REPLAY of a fault.
pub fn replay(context: u32, sequence: u64) -> Desc {
    Desc {
        opcode: OP_REPLAY,
        count: context,
        arg: sequence,
        ..Desc::default()
    }
}

/// CANCEL of a fault.
pub fn cancel(context: u32, sequence: u64, detail: u32) -> Desc {
    Desc {
        opcode: OP_CANCEL,
        count: context,
        src: u64::from(detail),
        arg: sequence,
        ..Desc::default()
    }
}
