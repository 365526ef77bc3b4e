//! The last events of a device: what to look at first when something has gone wrong.
//!
//! A bounded ring of what engines did, of resets, and of whatever else the device has to say. To note
//! an event costs a copy of it; words are found only for whoever asks.

use std::borrow::Cow;
use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::aggregate::ResetKind;
use crate::misuse::Misuse;
use crate::observer::Source;
use crate::record::{NoteKind, Record, TransferKind};
use crate::snapshot::{Direction, QueueKind, Trigger};

/// Events that are kept; before there are more, the oldest is forgotten.
pub const MAX_EVENTS: usize = 4096;
/// Longest text of an event that is told in words, in bytes. Stops whoever is quoted in it from
/// filling memory.
pub const MAX_EVENT_TEXT: usize = 512;

/// Something that a device did, or that happened to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
pub struct Event {
    /// Host's monotonic clock in nanoseconds, when it had happened. Notes and errors have no time of
    /// their own: theirs is that of what came before them.
    pub time_ns: u64,
    /// Device generation in which it happened.
    pub generation: u32,
    /// Queue or context that it is about; null: the device.
    pub queue: Option<EventQueue>,
    /// What kind it is of: `transfer`, `span`, `note`, `fence`, `job`, `fault`, `fallback`, `process`,
    /// `mark`, `error`, `reset`, `injected`, or what another part of the device calls its own.
    pub event: String,
    /// The rest, for a person.
    pub text: String,
}

/// Where an event happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
pub struct EventQueue {
    /// What the queue is for.
    pub kind: QueueKind,
    /// Its number among those of the kind; of compute queues, the context.
    pub index: u32,
}

impl From<Source> for EventQueue {
    fn from(Source { kind, index }: Source) -> Self {
        Self { kind, index }
    }
}

#[derive(Debug)]
enum What {
    Record(Source, Record),
    Reset(ResetKind),
    Told {
        queue: Option<Source>,
        event: &'static str,
        text: Box<str>,
    },
}

#[derive(Debug)]
struct Entry {
    time_ns: u64,
    generation: u32,
    what: What,
}

/// The ring.
#[derive(Debug)]
pub(crate) struct EventLog {
    entries: VecDeque<Entry>,
    generation: u32,
    /// When the last of them happened.
    latest_ns: u64,
}

impl EventLog {
    /// None yet, of a device that was made at `started_ns`.
    pub(crate) fn new(started_ns: u64) -> Self {
        Self {
            entries: VecDeque::with_capacity(MAX_EVENTS),
            generation: 0,
            latest_ns: started_ns,
        }
    }

    fn push(&mut self, time_ns: u64, generation: u32, what: What) {
        self.latest_ns = time_ns;
        if self.entries.len() >= MAX_EVENTS {
            self.entries.pop_front();
        }
        self.entries.push_back(Entry {
            time_ns,
            generation,
            what,
        });
    }

    /// What the engine of `source` did.
    pub(crate) fn records(&mut self, source: Source, generation: u32, records: &[Record]) {
        // Transfers are told anyway.
        let told = |record: &&Record| !matches!(record, Record::Touch(_));
        for record in records.iter().filter(told) {
            let time_ns = record.time_ns().unwrap_or(self.latest_ns);
            self.push(time_ns, generation, What::Record(source, *record));
        }
    }

    pub(crate) fn reset(&mut self, time_ns: u64, kind: ResetKind, generation: u32) {
        self.generation = generation;
        self.push(time_ns, generation, What::Reset(kind));
    }

    pub(crate) fn tell(
        &mut self,
        time_ns: u64,
        queue: Option<Source>,
        event: &'static str,
        text: &str,
    ) {
        let fits = |end: &usize| text.is_char_boundary(*end);
        let end = (0..=MAX_EVENT_TEXT.min(text.len())).rev().find(fits);
        let text = text[..end.unwrap_or(0)].into();
        self.push(time_ns, self.generation, What::Told { queue, event, text });
    }

    /// The last `count` events, the oldest first.
    pub(crate) fn last(&self, count: usize) -> Vec<Event> {
        let first = self.entries.len().saturating_sub(count);
        self.entries.range(first..).map(Entry::event).collect()
    }
}

impl Entry {
    fn event(&self) -> Event {
        let (queue, event, text) = match &self.what {
            What::Record(source, record) => {
                let (event, text) = words(record);
                (Some(*source), event, text)
            }
            What::Reset(kind) => {
                let text = format!("by {}, begins generation {}", kind.name(), self.generation);
                (None, "reset", text)
            }
            What::Told { queue, event, text } => (*queue, *event, text.to_string()),
        };
        Event {
            time_ns: self.time_ns,
            generation: self.generation,
            queue: queue.map(EventQueue::from),
            event: event.to_owned(),
            text,
        }
    }
}

impl Direction {
    /// The name in a snapshot.
    pub fn name(self) -> &'static str {
        match self {
            Self::SysToDev => "sys_to_dev",
            Self::DevToSys => "dev_to_sys",
            Self::DevToDev => "dev_to_dev",
            Self::SysToSys => "sys_to_sys",
        }
    }
}

impl Trigger {
    /// The name in a snapshot.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prefetch => "prefetch",
            Self::GpuFault => "gpu_fault",
            Self::CpuFault => "cpu_fault",
            Self::Evict => "evict",
        }
    }
}

/// `1 folio`, `2 folios`.
fn folios(count: u32) -> Cow<'static, str> {
    match count {
        1 => "1 folio".into(),
        _ => format!("{count} folios").into(),
    }
}

/// What kind of event a record is, and what it says.
fn words(record: &Record) -> (&'static str, String) {
    match *record {
        Record::Transfer {
            kind,
            order,
            direction,
            trigger,
            folios: count,
            engine_ns,
            status,
            ..
        } => {
            let what = match kind {
                TransferKind::Copy => "COPY",
                TransferKind::Fill => "FILL",
            };
            let (folios, direction, trigger) = (folios(count), direction.name(), trigger.name());
            let text = format!(
                "{what} of {folios} of order {order}, {direction}, {trigger}: {status:?} in \
                 {engine_ns} ns"
            );
            ("transfer", text)
        }
        Record::Error { status } => ("error", format!("a descriptor failed: {status:?}")),
        Record::SpanBegin {
            id,
            process,
            direction,
            trigger,
            pages,
            ..
        } => {
            let (direction, trigger) = (direction.name(), trigger.name());
            let text =
                format!("{id} begins: {pages} pages of process {process}, {direction}, {trigger}");
            ("span", text)
        }
        Record::Phases { id, times } => ("span", format!("{id} took {times:?}")),
        Record::SpanEnd {
            id, order, pages, ..
        } => {
            let text = format!("{id} ends: {pages} pages moved, at order {order} at most");
            ("span", text)
        }
        Record::Note {
            kind,
            address,
            order,
            count,
            index: _,
        } => {
            let what = match kind {
                NoteKind::Alloc { process: 0 } => "alloc".to_owned(),
                NoteKind::Alloc { process } => format!("alloc for process {process}"),
                NoteKind::Free => "free".to_owned(),
                NoteKind::Split(to) => format!("split to order {to}"),
            };
            let folios = folios(count);
            let text = format!("{what}: {folios} of order {order} at VRAM {address:#x}");
            ("note", text)
        }
        Record::Touch(touch) => {
            let what = if touch.write { "write" } else { "read" };
            let (bytes, address) = (touch.bytes(), touch.address);
            let text = format!("{what} of {bytes} bytes at VRAM {address:#x}");
            ("touch", text)
        }
        Record::Changed { address, pages, .. } => {
            let text = format!("{pages} pages from VRAM {address:#x} changed while they were free");
            ("changed", text)
        }
        Record::Misuse(Misuse {
            free,
            access,
            virtual_address,
            address,
            pages,
            index,
        }) => {
            let state = if free { "free" } else { "unwritten" };
            let text = format!(
                "{access:?} of job {index} at {virtual_address:#x}: {pages} {state} pages from VRAM {address:#x}"
            );
            ("misuse", text)
        }
        Record::Unload { .. } => ("unload", "the driver unloads".to_owned()),
        Record::Process { pid, name } => ("process", format!("{pid} is {name}")),
        Record::Fallback {
            order,
            direction,
            trigger,
            reason,
            folios: count,
        } => {
            let (folios, reason) = (folios(count), reason.name());
            let (direction, trigger) = (direction.name(), trigger.name());
            let text = format!(
                "{folios} of order {order} did not move whole, {direction}, {trigger}: {reason}"
            );
            ("fallback", text)
        }
        Record::Fence {
            sequence,
            index,
            status,
            errors,
            ..
        } => {
            let text = format!("{sequence} at index {index}: {status:?}, {errors} errors");
            ("fence", text)
        }
        Record::Job {
            kernel,
            status,
            elements,
            engine_ns,
            ..
        } => {
            let text = format!("{kernel:?}: {status:?}, {elements} elements in {engine_ns} ns");
            ("job", text)
        }
        Record::Fault {
            address,
            access,
            reason,
            outcome,
            waited_ns,
            ..
        } => {
            let text =
                format!("{access:?} at {address:#x}: {reason:?}, {outcome:?} after {waited_ns} ns");
            ("fault", text)
        }
        Record::Mark { cookie, .. } => ("mark", cookie.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hmmgpu_contract::desc::Status;

    const COPY: Source = Source {
        kind: QueueKind::Copy,
        index: 1,
    };

    #[test]
    fn the_last_are_kept_in_order_and_no_more() {
        let mut log = EventLog::new(7);
        for cookie in 0..MAX_EVENTS as u64 + 10 {
            let time_ns = 100 + cookie;
            log.records(COPY, 3, &[Record::Mark { cookie, time_ns }]);
        }
        assert_eq!(log.last(usize::MAX).len(), MAX_EVENTS);
        assert!(log.last(0).is_empty());
        let last = log.last(2);
        let newest = MAX_EVENTS as u64 + 9;
        assert_eq!(last[0].text, (newest - 1).to_string());
        assert_eq!(
            last[1],
            Event {
                time_ns: 100 + newest,
                generation: 3,
                queue: Some(COPY.into()),
                event: "mark".into(),
                text: newest.to_string(),
            }
        );
    }

    #[test]
    fn what_has_no_time_has_that_of_what_came_before() {
        let mut log = EventLog::new(7);
        let error = Record::Error {
            status: Status::STATUS_OVERLAP,
        };
        let mark = Record::Mark {
            cookie: 1,
            time_ns: 50,
        };
        log.records(COPY, 0, &[error, mark, error]);
        log.reset(60, ResetKind::Flr, 1);
        log.tell(70, None, "injected", "a fault");
        let events = log.last(10);
        let times: Vec<_> = events.iter().map(|event| event.time_ns).collect();
        assert_eq!(times, [7, 50, 50, 60, 70]);
        assert_eq!(events[3].text, "by flr, begins generation 1");
        assert_eq!((events[4].generation, &*events[4].event), (1, "injected"));
    }

    #[test]
    fn a_text_is_cut_at_its_bound() {
        let mut log = EventLog::new(7);
        log.tell(0, None, "told", &"ä".repeat(MAX_EVENT_TEXT));
        assert_eq!(log.last(1)[0].text.len(), MAX_EVENT_TEXT);
    }
}
