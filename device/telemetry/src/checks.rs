//! What the checker of VRAM reports.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::events::EventQueue;

/// Reports that are kept; of later ones only the count is. Stops a driver that does wrong without
/// end from filling the host's memory.
pub const MAX_CHECK_REPORTS: usize = 64;
/// Events of a page that a report has at most.
pub const MAX_PAGE_EVENTS: usize = 8;

/// How closely the use of VRAM is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum CheckMode {
    /// Not at all.
    #[default]
    Off,
    /// What the driver notes, and what copy engines and jobs do, against each other.
    Folio,
    /// And free memory is filled with a pattern, which has to be there still when it is allocated
    /// anew: this finds what writes to it on other ways.
    Full,
}

impl CheckMode {
    /// All of them, by the names that a user gives them.
    const NAMES: [(&'static str, Self); 3] = [
        ("off", Self::Off),
        ("folio", Self::Folio),
        ("full", Self::Full),
    ];
}

impl fmt::Display for CheckMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names = Self::NAMES.iter();
        let name = names.find(|(_, mode)| mode == self);
        f.write_str(name.map_or("", |(name, _)| name))
    }
}

impl FromStr for CheckMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut names = Self::NAMES.iter();
        match names.find(|(name, _)| *name == text) {
            Some((_, mode)) => Ok(*mode),
            None => Err(format!(
                "'{text}' is not how VRAM can be checked; write off, folio or full"
            )),
        }
    }
}

/// What a driver did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum CheckKind {
    /// Memory was allocated that is in use already, in whole or in part.
    DoubleAlloc,
    /// A folio was freed at another order than it has, or from its middle, without a split.
    FreeOrder,
    /// Memory was freed that is free.
    DoubleFree,
    /// A folio was split that is not there, or not at that order.
    BadSplit,
    /// Free memory was copied from.
    ReadFree,
    /// Memory was copied from, or read by a job, that nothing was copied or filled to since it was
    /// allocated.
    ReadUnwritten,
    /// Free memory was copied or filled to.
    WriteFree,
    /// A job read or wrote free memory, by a translation that should have gone; or free memory was
    /// changed on whatever way, which was noticed when it was allocated anew.
    UseAfterFree,
    /// Memory is allocated still though the driver unloads.
    Leak,
}

impl CheckKind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::DoubleAlloc,
        Self::FreeOrder,
        Self::DoubleFree,
        Self::BadSplit,
        Self::ReadFree,
        Self::ReadUnwritten,
        Self::WriteFree,
        Self::UseAfterFree,
        Self::Leak,
    ];

    /// The name in a snapshot.
    pub fn name(self) -> &'static str {
        match self {
            Self::DoubleAlloc => "double_alloc",
            Self::FreeOrder => "free_order",
            Self::DoubleFree => "double_free",
            Self::BadSplit => "bad_split",
            Self::ReadFree => "read_free",
            Self::ReadUnwritten => "read_unwritten",
            Self::WriteFree => "write_free",
            Self::UseAfterFree => "use_after_free",
            Self::Leak => "leak",
        }
    }
}

/// What the checker of VRAM found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
pub struct Checks {
    /// How closely it looks.
    pub mode: CheckMode,
    /// Reports by kind since the server started; kinds with none are left out.
    pub counts: Vec<(CheckKind, u64)>,
    /// The first of them, up to [`MAX_CHECK_REPORTS`].
    pub reports: Vec<CheckReport>,
}

impl Checks {
    /// Reports of all kinds.
    pub fn total(&self) -> u64 {
        self.counts.iter().map(|(_, count)| count).sum()
    }
}

/// One descriptor or job that did wrong in one way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
pub struct CheckReport {
    /// What was wrong.
    pub kind: CheckKind,
    /// Device generation in which it happened.
    pub generation: u32,
    /// First page that it is about, as byte offset in VRAM.
    pub page: u64,
    /// Pages that it is about; of a note, those of the folios that it is about.
    pub pages: u64,
    /// The descriptor that did it, or the job: of each of its steps, of 2 MiB at most, the first
    /// access that was wrong.
    pub by: PageEvent,
    /// What had happened to the first page before, the latest last: up to [`MAX_PAGE_EVENTS`],
    /// and of the last 32768 events of all of VRAM.
    pub history: Vec<PageEvent>,
}

/// What a descriptor or job did to a page of VRAM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
pub struct PageEvent {
    /// Host's monotonic clock in nanoseconds: when the last event of before that has a time of its
    /// own had happened.
    pub time_ns: u64,
    /// Queue or context that the descriptor or job was in.
    pub queue: EventQueue,
    /// Its index in the ring.
    pub index: u32,
    /// Span in which it happened: of those that were open in the queue, the one that began last;
    /// null when there was none.
    pub span: Option<u64>,
    /// What it did, for a person.
    pub text: String,
}
