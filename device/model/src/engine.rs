//! The copy engine: COPY, FILL, spans and notes.

use hmmgpu_contract::desc::{Desc, Status};
use hmmgpu_telemetry::{CheckMode, NoteKind, Record};

use crate::checksum;
use crate::command::{Command, Fault, Other, Place, Source, Transfer};
use crate::copy::{announce, copy, copy_from_buffer};
use crate::dma::Access;
use crate::group::{self, Kind};
use crate::inject::Verdict;
use crate::memory::Memory;
use crate::poison;
use crate::queue::{Engine, Entry, Run, Stop};
use crate::usage::Usage;

/// Unit in which patterns are written.
const PATTERN_BYTES: usize = 4096;

/// Copies that are checked, and then carried out, together: as many as are timed together, at most.
const TOGETHER: usize = 16;

/// What a copy engine does.
#[derive(Debug)]
pub(crate) struct CopyEngine {
    /// The pattern of the FILL that is being done, repeated.
    pattern: Box<[u8]>,
}

impl Engine for CopyEngine {
    fn carry_out(&mut self, run: &mut Run<'_>, desc: &Desc) -> Result<(), Stop> {
        match Command::try_from(desc)? {
            Command::Transfer(transfer) => self.transfer(run, &transfer),
            Command::Other(command) => {
                run.lap();
                other(run, command)
            }
        }
    }

    /// Copies of one kind and some pages: while the stores of one drain, the CPU begins to load the
    /// next, if nothing is in between.
    fn together(&mut self, run: &mut Run<'_>, entries: &[Entry]) -> Result<u32, Stop> {
        let Some((first, _)) = copy_of(entries.first()) else {
            return Ok(0);
        };
        if first.bytes > group::BYTES / 2 || run.shared.inject.any_transfer() {
            return Ok(0);
        }
        let kind = Kind::from(&first);
        run.transfer_begins(kind);
        // Who carries out one by one tells what was aborted.
        let Ok(permit) = run.permit() else {
            return Ok(0);
        };
        let memory = run.shared.memory(&permit);
        let mut left = permit.left().min(run.room());
        let mut copies = Vec::with_capacity(TOGETHER);
        for entry in entries.iter().take(TOGETHER) {
            if let Some((transfer, src)) = copy_of(Some(entry))
                && Kind::from(&transfer) == kind
                && let Some(after) = left.checked_sub(transfer.bytes)
                && let Some(dst) = memory.whole(transfer.dst, transfer.bytes, Access::Write)
                && let Some(src) = memory.whole(src, transfer.bytes, Access::Read)
            {
                left = after;
                announce(&src);
                copies.push((transfer, dst, src));
            } else {
                break;
            }
        }
        for (_, dst, src) in &copies {
            copy(dst, src);
        }
        for ((transfer, ..), nth) in copies.iter().zip(0..) {
            run.transfer_ended(transfer, Status::STATUS_OK);
            run.touched(transfer, nth);
        }
        let bytes = copies.iter().map(|(transfer, ..)| transfer.bytes).sum();
        let count = u32::try_from(copies.len()).unwrap_or(0);
        drop(copies);
        run.keep(permit, bytes);
        Ok(count)
    }
}

/// A COPY that breaks no rule by itself, is to tell no checksum, and its source.
fn copy_of(entry: Option<&Entry>) -> Option<(Transfer, Place)> {
    match Command::try_from(&Desc::from_le_bytes(entry?)) {
        Ok(Command::Transfer(transfer)) => match transfer.src {
            Source::Place(src) if transfer.checksum.is_none() => Some((transfer, src)),
            _ => None,
        },
        _ => None,
    }
}

impl CopyEngine {
    pub(crate) fn new() -> Self {
        Self {
            pattern: vec![0; PATTERN_BYTES].into(),
        }
    }

    fn transfer(&mut self, run: &mut Run<'_>, transfer: &Transfer) -> Result<(), Stop> {
        run.transfer_begins(transfer.into());
        let mut result = if run.shared.inject.any_transfer() {
            self.copy_injected(run, transfer)
        } else {
            self.copy(run, transfer)
        };
        if result.is_ok()
            && let Some(address) = transfer.checksum
        {
            result = checksum::tell(run, transfer, address);
        }
        let status = match &result {
            Ok(()) => Status::STATUS_OK,
            Err(Stop::Fault(fault)) => fault.status,
            Err(Stop::Ended) => Status::STATUS_ABORTED,
        };
        run.transfer_ended(transfer, status);
        if result.is_ok() {
            run.touched(transfer, 0);
        }
        match result {
            Err(Stop::Fault(fault)) => {
                run.failed(fault);
                Ok(())
            }
            other => other,
        }
    }

    /// As [`Self::copy`], where something is armed that may go wrong with it.
    fn copy_injected(&mut self, run: &mut Run<'_>, transfer: &Transfer) -> Result<(), Stop> {
        match run.begin_injected(transfer)? {
            Verdict::Go => self.copy(run, transfer),
            Verdict::Fail => Err(Fault::from(Status::STATUS_HARDWARE).into()),
            Verdict::NoVram => Err(Fault::from(Status::STATUS_NO_VRAM).into()),
            Verdict::Skip => Ok(()),
            Verdict::Corrupt(hit) => {
                self.copy(run, transfer)?;
                Ok(run.spoil(transfer, hit)?)
            }
        }
    }

    fn copy(&mut self, run: &Run<'_>, transfer: &Transfer) -> Result<(), Stop> {
        if let Source::Pattern(pattern) = transfer.src {
            for word in self.pattern.chunks_exact_mut(8) {
                word.copy_from_slice(&pattern.to_le_bytes());
            }
        }
        let mut permit = run.permit()?;
        let memory = run.shared.memory(&permit);
        // Nearly always each side is in one piece: to find it is to check it.
        if let Source::Place(src) = transfer.src
            && transfer.bytes <= permit.left()
            && let Some(dst) = memory.whole(transfer.dst, transfer.bytes, Access::Write)
            && let Some(src) = memory.whole(src, transfer.bytes, Access::Read)
        {
            copy(&dst, &src);
            run.keep(permit, transfer.bytes);
            return Ok(());
        }
        // All of it, before any of it: a descriptor that breaks a rule is not carried out.
        memory.check(transfer.dst, transfer.bytes, Access::Write)?;
        if let Source::Place(src) = transfer.src {
            memory.check(src, transfer.bytes, Access::Read)?;
        }
        let mut done = 0_u64;
        loop {
            let begin = done;
            let end = transfer.bytes.min(done.saturating_add(permit.left()));
            while done < end {
                done += self.copy_piece(run.shared.memory(&permit), transfer, done, end - done)?;
            }
            if done == transfer.bytes {
                run.keep(permit, done - begin);
                return Ok(());
            }
            // Whoever waits for the map goes first: the lock prefers writers.
            drop(permit);
            permit = run.permit()?;
        }
    }

    /// Copies up to `bytes` bytes, as far as memory is contiguous on both sides. Returns how many
    /// bytes that were; never zero.
    fn copy_piece(
        &self,
        memory: Memory<'_>,
        transfer: &Transfer,
        done: u64,
        bytes: u64,
    ) -> Result<u64, Fault> {
        let len = usize::try_from(bytes).unwrap_or(usize::MAX);
        let dst = memory.slice(transfer.dst.at(done), len, Access::Write)?;
        match transfer.src {
            Source::Place(src) => {
                let src = memory.slice(src.at(done), dst.len(), Access::Read)?;
                copy(&dst, &src);
                Ok(src.len() as u64)
            }
            Source::Pattern(_) => {
                // Maps are whole pages and transfers too: the pattern never shifts.
                copy_from_buffer(&dst, &self.pattern);
                Ok(dst.len().min(self.pattern.len()) as u64)
            }
        }
    }
}

/// Everything but transfers.
fn other(run: &mut Run<'_>, command: Other) -> Result<(), Stop> {
    let time_ns = run.clock();
    match command {
        Other::Fence(fence) => {
            run.fence(fence)?;
            // What came before was told meanwhile, which is no part of what comes next.
            run.lap();
        }
        Other::SpanBegin {
            id,
            process,
            direction,
            trigger,
            pages,
        } => run.record(Record::SpanBegin {
            id,
            process,
            direction,
            trigger,
            pages,
            time_ns,
        }),
        Other::SpanEnd {
            id,
            order,
            direction,
            trigger,
            pages,
        } => run.record(Record::SpanEnd {
            id,
            order,
            direction,
            trigger,
            pages,
            time_ns,
        }),
        Other::Note {
            kind,
            address,
            order,
            count,
            bytes,
        } => {
            run.shared.vram.check(address, bytes)?;
            if matches!(kind, NoteKind::Alloc { .. }) {
                run.shared.background.vram_used(address, bytes);
            }
            // What is freed is out of reach before it is poisoned, and what is allocated after.
            if matches!(kind, NoteKind::Free) {
                noted(run, |usage| usage.free(address, bytes))?;
            }
            if run.shared.check == CheckMode::Full {
                match kind {
                    NoteKind::Alloc { .. } => poison::verify(run, address, bytes)?,
                    NoteKind::Free => poison::apply(run, address, bytes)?,
                    NoteKind::Split(_) => {}
                }
            }
            if matches!(kind, NoteKind::Alloc { .. }) {
                noted(run, |usage| usage.alloc(address, bytes))?;
            }
            run.record(Record::Note {
                kind,
                address,
                order,
                count,
                index: run.index(),
            });
        }
        Other::Mark { cookie } => run.record(Record::Mark { cookie, time_ns }),
        Other::Unload => run.record(Record::Unload { index: run.index() }),
        Other::Process { pid, name } => run.record(Record::Process { pid, name }),
        Other::Phases { id, times } => run.record(Record::Phases { id, times }),
        Other::Fallback {
            order,
            direction,
            trigger,
            reason,
            folios,
        } => run.record(Record::Fallback {
            order,
            direction,
            trigger,
            reason,
            folios,
        }),
    }
    Ok(())
}

/// Keeps what jobs may reach of VRAM up to date.
fn noted(run: &Run<'_>, change: impl FnOnce(&Usage)) -> Result<(), Stop> {
    if let Some(usage) = &run.shared.usage {
        // A reset waits for permits: nothing of before it is noted after it.
        let permit = run.permit()?;
        change(usage);
        run.keep(permit, 0);
    }
    Ok(())
}
