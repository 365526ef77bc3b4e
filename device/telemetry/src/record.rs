//! What engines tell: one record for each thing that they did.

use std::fmt;

use hmmgpu_contract::desc::Status;
use hmmgpu_contract::mmu::FaultReason;

use crate::misuse::Misuse;
use crate::snapshot::{Access, Direction, Kernel, Outcome, Trigger};
use crate::touch::Touch;

/// What a transfer was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferKind {
    /// A COPY.
    Copy,
    /// A FILL.
    Fill,
}

/// What the driver did with VRAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoteKind {
    /// Folios were allocated.
    Alloc {
        /// For this process; 0: the driver does not say.
        process: u32,
    },
    /// Folios were freed.
    Free,
    /// Folios were split to this order.
    Split(u8),
}

/// Why a large folio did not move whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FallbackReason {
    /// No room for a large folio in VRAM.
    NoVram,
    /// No large folio of system memory for it.
    NoMemory,
    /// Several address spaces map it.
    Shared,
    /// It could not be split, and stayed.
    SplitFailed,
    /// Only a part of it was asked for.
    Partial,
    /// A test asked for it.
    Injected,
}

impl FallbackReason {
    /// The name in a snapshot.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoVram => "no_vram",
            Self::NoMemory => "no_memory",
            Self::Shared => "shared",
            Self::SplitFailed => "split_failed",
            Self::Partial => "partial",
            Self::Injected => "injected",
        }
    }
}

/// What a process is called, as the driver says it: up to 16 bytes, padded with zeros.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ProcessName(pub [u8; 16]);

impl fmt::Display for ProcessName {
    /// Printable whatever the bytes are: what is not UTF-8, and control characters, which would
    /// reach a terminal, become U+FFFD.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.split(|byte| *byte == 0).next().unwrap_or_default();
        for character in String::from_utf8_lossy(bytes).chars() {
            let printable = if character.is_control() {
                char::REPLACEMENT_CHARACTER
            } else {
                character
            };
            fmt::Write::write_char(f, printable)?;
        }
        Ok(())
    }
}

impl fmt::Debug for ProcessName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

/// How long the driver was in each phase of a span, by its clock, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PhaseTimes {
    /// Finding and isolating pages.
    pub collect_ns: u64,
    /// Allocating destinations.
    pub alloc_ns: u64,
    /// Submitting copies and waiting for them.
    pub copy_ns: u64,
    /// Putting the new pages in place of the old.
    pub commit_ns: u64,
    /// Letting go of the old pages.
    pub finish_ns: u64,
}

/// One thing that an engine did. Times are nanoseconds of the host's monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// A COPY or FILL ended, or several of one kind that followed each other.
    Transfer {
        /// Which of the two.
        kind: TransferKind,
        /// Folio order.
        order: u8,
        /// Where bytes went.
        direction: Direction,
        /// Why.
        trigger: Trigger,
        /// Descriptors, at least one.
        descriptors: u32,
        /// Folios in all of them.
        folios: u32,
        /// Time that the engine was busy with them. They began so long before their end, or
        /// earlier if they had to wait for memory meanwhile.
        engine_ns: u64,
        /// Time that a descriptor had been in the ring, and known to be, when it began: the mean.
        waited_ns: u64,
        /// When the last one ended.
        end_ns: u64,
        /// How they ended; a failure counts as an error of its class, and no bytes.
        status: Status,
    },
    /// A descriptor of another kind, or one that was refused, ended with an error.
    Error {
        /// How it ended.
        status: Status,
    },
    /// A span began.
    SpanBegin {
        /// The driver's name for it.
        id: u64,
        /// Whose memory is to move; 0: the driver does not say.
        process: u32,
        /// Where bytes are to go.
        direction: Direction,
        /// Why.
        trigger: Trigger,
        /// Pages asked for.
        pages: u32,
        /// When.
        time_ns: u64,
    },
    /// How long the phases of a span took; before it ends.
    Phases {
        /// The driver's name for the span.
        id: u64,
        /// The times.
        times: PhaseTimes,
    },
    /// A span ended.
    SpanEnd {
        /// The driver's name for it.
        id: u64,
        /// Largest order that moved.
        order: u8,
        /// Where bytes went.
        direction: Direction,
        /// Why.
        trigger: Trigger,
        /// Pages that moved.
        pages: u32,
        /// When.
        time_ns: u64,
    },
    /// A note about VRAM.
    Note {
        /// What happened.
        kind: NoteKind,
        /// Byte offset in VRAM.
        address: u64,
        /// Folio order.
        order: u8,
        /// Folios.
        count: u32,
        /// Index of the descriptor in the ring.
        index: u32,
    },
    /// VRAM was copied from, or copied or filled to; told only to a checker.
    Touch(Touch),
    /// VRAM that is about to be allocated has changed while it was free; told only to a checker.
    Changed {
        /// Byte offset of the first page.
        address: u64,
        /// Pages.
        pages: u64,
        /// Index of the descriptor in the ring.
        index: u32,
    },
    /// A job reached VRAM that no driver lets it reach; told only to a checker.
    Misuse(Misuse),
    /// The driver unloads: no VRAM is in use, as it says.
    Unload {
        /// Index of the descriptor in the ring.
        index: u32,
    },
    /// What a process is called.
    Process {
        /// The guest's process id, not 0.
        pid: u32,
        /// The name.
        name: ProcessName,
    },
    /// Large folios did not move whole.
    Fallback {
        /// Order that was wanted.
        order: u8,
        /// Where bytes were to go.
        direction: Direction,
        /// Why they were to.
        trigger: Trigger,
        /// Why they did not move whole.
        reason: FallbackReason,
        /// Folios.
        folios: u32,
    },
    /// A fence was written.
    Fence {
        /// Its sequence number.
        sequence: u64,
        /// Its index in the ring.
        index: u32,
        /// The first error that it told.
        status: Status,
        /// Errors that it told.
        errors: u32,
        /// When.
        time_ns: u64,
    },
    /// A job ended.
    Job {
        /// Its context.
        context: u32,
        /// What it did.
        kernel: Kernel,
        /// How it ended.
        status: Status,
        /// Elements that were done.
        elements: u64,
        /// Time that engines worked on it.
        engine_ns: u64,
        /// When it was fetched from the ring.
        begin_ns: u64,
        /// When it ended.
        end_ns: u64,
    },
    /// A fault of a job is over.
    Fault {
        /// The context of the job.
        context: u32,
        /// Virtual address that it was about.
        address: u64,
        /// What the job wanted to do.
        access: Access,
        /// Why it could not.
        reason: FaultReason,
        /// What became of it.
        outcome: Outcome,
        /// Time until its job went on, or was cancelled; else 0.
        waited_ns: u64,
        /// When it was over.
        end_ns: u64,
    },
    /// A mark: the open window closes, and one with this name opens unless it is zero.
    Mark {
        /// The name.
        cookie: u64,
        /// When.
        time_ns: u64,
    },
}

impl Record {
    /// When it was made, if it says so.
    pub fn time_ns(&self) -> Option<u64> {
        match *self {
            Self::Transfer { end_ns, .. }
            | Self::Job { end_ns, .. }
            | Self::Fault { end_ns, .. } => Some(end_ns),
            Self::SpanBegin { time_ns, .. }
            | Self::SpanEnd { time_ns, .. }
            | Self::Fence { time_ns, .. }
            | Self::Mark { time_ns, .. } => Some(time_ns),
            Self::Error { .. }
            | Self::Phases { .. }
            | Self::Note { .. }
            | Self::Touch(_)
            | Self::Changed { .. }
            | Self::Misuse(_)
            | Self::Unload { .. }
            | Self::Process { .. }
            | Self::Fallback { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> String {
        let mut name = [0; 16];
        name[..bytes.len()].copy_from_slice(bytes);
        ProcessName(name).to_string()
    }

    #[test]
    fn names_are_printable_whatever_they_are() {
        assert_eq!(text(b"hmm-tests"), "hmm-tests");
        assert_eq!(text(b""), "");
        assert_eq!(text(b"0123456789abcdef"), "0123456789abcdef");
        assert_eq!(text("träge".as_bytes()), "träge");
        assert_eq!(text(b"a\x1b[2Jb\nc\x7f"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}");
        // C1 controls, of two bytes each in UTF-8.
        assert_eq!(text(b"a\xc2\x9bb"), "a\u{fffd}b");
        // Cut off in the middle of a character.
        assert_eq!(text(b"a\xc3"), "a\u{fffd}");
        assert_eq!(text(b"\xff\xfe"), "\u{fffd}\u{fffd}");
    }
}
