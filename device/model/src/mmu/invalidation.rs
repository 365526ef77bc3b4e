//! The invalidation queue: INVALIDATE, REPLAY and CANCEL.
//!
//! Its engine waits for nothing but permits and gates, so for no longer than one piece of access;
//! it waits for no job, and no job waits for it.

use hmmgpu_contract::PAGE_SIZE;
use hmmgpu_contract::desc::{Desc, OP_FENCE, Status};
use hmmgpu_contract::mmu::{OP_CANCEL, OP_INVALIDATE, OP_REPLAY};

use super::Resolution;
use crate::command::{Fault, Fence, aligned, fence, require};
use crate::queue::{Engine, Run, Stop};

/// A descriptor that breaks no rule by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Invalidate {
        context: u32,
        address: u64,
        bytes: u64,
    },
    Resolve {
        context: u32,
        sequence: u64,
        resolution: Resolution,
    },
    Fence(Fence),
}

fn invalidate(desc: &Desc) -> Result<Command, Fault> {
    require(desc.arg == 0, Status::STATUS_BAD_FIELD)?;
    aligned(desc.dst, PAGE_SIZE)?;
    aligned(desc.src, PAGE_SIZE)?;
    require(desc.src != 0, Status::STATUS_BAD_COUNT)?;
    Ok(Command::Invalidate {
        context: desc.count,
        address: desc.dst,
        bytes: desc.src,
    })
}

fn resolve(desc: &Desc, resolution: Resolution) -> Result<Command, Fault> {
    require(desc.dst == 0, Status::STATUS_BAD_FIELD)?;
    Ok(Command::Resolve {
        context: desc.count,
        sequence: desc.arg,
        resolution,
    })
}

impl TryFrom<&Desc> for Command {
    type Error = Fault;

    fn try_from(desc: &Desc) -> Result<Self, Fault> {
        if desc.opcode == OP_FENCE {
            return fence(desc).map(Self::Fence);
        }
        let known = matches!(desc.opcode, OP_INVALIDATE | OP_REPLAY | OP_CANCEL);
        require(known, Status::STATUS_BAD_OPCODE)?;
        let reserved = desc.order == 0 && desc.flags == 0;
        require(reserved, Status::STATUS_BAD_FIELD)?;
        match desc.opcode {
            OP_INVALIDATE => invalidate(desc),
            OP_REPLAY => {
                require(desc.src == 0, Status::STATUS_BAD_FIELD)?;
                resolve(desc, Resolution::Replay)
            }
            _ => {
                let detail =
                    u32::try_from(desc.src).map_err(|_| Fault::from(Status::STATUS_BAD_FIELD))?;
                resolve(desc, Resolution::Cancel { detail })
            }
        }
    }
}

/// What the invalidation engine does.
#[derive(Debug)]
pub(crate) struct InvalidationEngine;

impl Engine for InvalidationEngine {
    fn carry_out(&mut self, run: &mut Run<'_>, desc: &Desc) -> Result<(), Stop> {
        let result = carry_out(run, Command::try_from(desc)?);
        run.lap();
        result
    }
}

fn carry_out(run: &mut Run<'_>, command: Command) -> Result<(), Stop> {
    // Nobody who changes the DMA map waits for a gate.
    run.keep_none();
    let shared = run.shared;
    let context = |number: u32| {
        let context = usize::try_from(number)
            .ok()
            .and_then(|number| shared.contexts.get(number));
        context.ok_or(Fault::from(Status::STATUS_BAD_CONTEXT))
    };
    match command {
        Command::Invalidate {
            context: number,
            address,
            bytes,
        } => {
            context(number)?.space.invalidate(address, bytes);
            shared.telemetry.counters.invalidation();
            Ok(())
        }
        Command::Resolve {
            context: number,
            sequence,
            resolution,
        } => {
            let context = context(number)?;
            // A reset begins the sequence numbers anew: one of before must not resolve a fault
            // of after it.
            let _permit = run.permit_or_abort()?;
            if context.fault.resolve(sequence, resolution) {
                shared.wake_context(number);
            }
            Ok(())
        }
        Command::Fence(fence) => run.fence(fence),
    }
}
