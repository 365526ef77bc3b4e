//! Descriptors as a driver writes them.

use hmmgpu_contract::desc::{
    Desc, FLAG_DIRECTION_SHIFT, FLAG_DST_VRAM, FLAG_INTERRUPT, FLAG_SPAN_END, FLAG_SRC_VRAM,
    FLAG_TRIGGER_SHIFT, NOTE_MARK, OP_COPY, OP_FENCE, OP_FILL, OP_NOTE, OP_SPAN,
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

/// NOTE of a kind about `count` folios of `order` at a VRAM offset; `arg` is the new order of a
/// split.
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
