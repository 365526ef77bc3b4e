//! From records to events.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Write};

use hmmgpu_contract::PAGE_SHIFT;
use hmmgpu_contract::desc::Status;
use hmmgpu_telemetry::snapshot::{Direction, FaultAction, FaultSite, QueueKind, Trigger};
use hmmgpu_telemetry::{
    MAX_OPEN_SPANS, MAX_PROCESSES, NoteKind, PhaseTimes, Record, ResetKind, Source, TransferKind,
};
use serde::Serialize;
use serde_json::json;

use super::event::{Track, Writer};
use super::tracks::{
    ENGINES, INTERVAL_NS, Lanes, MIGRATIONS, ThroughputCounter, VramCounter, of_queue,
};

/// Transfers of one kind that follow each other within this time become one slice, ...
const GAP_NS: u64 = 5_000;
/// ... until it is so long: there are a hundred thousand small ones a second.
const RUN_NS: u64 = 100_000;

/// Transfers of one kind without a gap, or a single one.
#[derive(Clone, Copy, Debug, Serialize)]
struct Run {
    #[serde(skip)]
    begin_ns: u64,
    #[serde(skip)]
    end_ns: u64,
    #[serde(skip)]
    kind: TransferKind,
    order: u8,
    direction: Direction,
    trigger: Trigger,
    #[serde(skip)]
    status: Status,
    descriptors: u64,
    folios: u64,
    bytes: u64,
    engine_ns: u64,
    waited_ns: u64,
}

impl Run {
    /// Takes another one in, if it belongs there.
    fn extend(&mut self, next: &Run) -> bool {
        let same = (
            self.kind,
            self.order,
            self.direction,
            self.trigger,
            self.status,
        ) == (
            next.kind,
            next.order,
            next.direction,
            next.trigger,
            next.status,
        );
        let follows = next.begin_ns <= self.end_ns + GAP_NS;
        let short = next.end_ns.saturating_sub(self.begin_ns) <= RUN_NS;
        if !(same && follows && short) {
            return false;
        }
        self.end_ns = self.end_ns.max(next.end_ns);
        self.descriptors += next.descriptors;
        self.folios += next.folios;
        self.bytes += next.bytes;
        self.engine_ns += next.engine_ns;
        self.waited_ns += next.waited_ns;
        true
    }
}

/// A span that has begun.
#[derive(Clone, Copy, Debug)]
struct Open {
    begin_ns: u64,
    pages_asked: u32,
    process: u32,
    phases: Option<PhaseTimes>,
}

/// What is known of a queue.
#[derive(Debug)]
struct Queue {
    track: Track,
    run: Option<Run>,
    /// The end of its last slice.
    last_ns: u64,
}

/// Turns records into events. Its memory is bounded by the numbers of queues, open spans and
/// processes.
pub(super) struct Scribe<'a, W> {
    writer: Writer<'a, W>,
    queues: BTreeMap<Source, Queue>,
    generation: u32,
    spans: HashMap<u64, Open>,
    lanes: Lanes,
    processes: HashMap<u32, String>,
    vram: VramCounter,
    throughput: ThroughputCounter,
    /// The end of the interval of the counters that is under way; 0: none is.
    interval_end_ns: u64,
}

impl<'a, W: Write> Scribe<'a, W> {
    pub(super) fn new(mut writer: Writer<'a, W>, label: &str) -> io::Result<Self> {
        for (pid, group) in [(ENGINES, "engines"), (MIGRATIONS, "migrations")] {
            let track = Track { pid, tid: 0 };
            let name = format!("{label}: {group}");
            writer.metadata(track, "process_name", json!({ "name": name }))?;
            let index = json!({ "sort_index": pid });
            writer.metadata(track, "process_sort_index", index)?;
        }
        Ok(Self {
            writer,
            queues: BTreeMap::new(),
            generation: 0,
            spans: HashMap::new(),
            lanes: Lanes::default(),
            processes: HashMap::new(),
            vram: VramCounter::default(),
            throughput: ThroughputCounter::default(),
            interval_end_ns: 0,
        })
    }

    /// What an engine did, as it said at `time_ns`.
    pub(super) fn records(
        &mut self,
        source: Source,
        generation: u32,
        time_ns: u64,
        records: &[Record],
    ) -> io::Result<()> {
        // As in telemetry: what a batch from before a reset says of spans and VRAM is void.
        let current = generation >= self.generation;
        self.generation = self.generation.max(generation);
        // Notes have no time of their own: that of what was before them in the ring.
        let mut latest_ns = self
            .queues
            .get(&source)
            .map_or(time_ns, |queue| queue.last_ns);
        for record in records {
            if let Some(time) = record.time_ns() {
                latest_ns = time;
                self.advance(time)?;
            }
            self.record(source, record, latest_ns, current)?;
        }
        self.advance(latest_ns)
    }

    fn record(
        &mut self,
        source: Source,
        record: &Record,
        time_ns: u64,
        current: bool,
    ) -> io::Result<()> {
        match *record {
            Record::Transfer {
                kind,
                order,
                direction,
                trigger,
                descriptors,
                folios,
                engine_ns,
                waited_ns,
                end_ns,
                status,
            } => {
                // Of one that failed nothing counts as moved.
                let folios = if status == Status::STATUS_OK {
                    folios
                } else {
                    0
                };
                let bytes = u64::from(folios) << (u32::from(order.min(31)) + PAGE_SHIFT);
                self.throughput.moved(direction, bytes);
                let run = Run {
                    begin_ns: end_ns.saturating_sub(engine_ns),
                    end_ns,
                    kind,
                    order,
                    direction,
                    trigger,
                    status,
                    descriptors: descriptors.into(),
                    folios: folios.into(),
                    bytes,
                    engine_ns,
                    waited_ns: waited_ns.saturating_mul(descriptors.into()),
                };
                let queue = self.queue(source)?;
                if !queue.run.as_mut().is_some_and(|open| open.extend(&run)) {
                    let before = queue.run.replace(run);
                    self.write_run(source, before)?;
                }
            }
            Record::Error { status } => {
                let name = format!("{status:?}");
                self.instant(source, &name, "error", time_ns, json!({}))?;
            }
            Record::SpanBegin {
                id,
                process,
                pages,
                time_ns,
                ..
            } if current => {
                // As in telemetry: the oldest is given up.
                if self.spans.len() >= MAX_OPEN_SPANS && !self.spans.contains_key(&id) {
                    let oldest = self.spans.iter().min_by_key(|(_, open)| open.begin_ns);
                    if let Some((&oldest, _)) = oldest {
                        self.spans.remove(&oldest);
                    }
                }
                let open = Open {
                    begin_ns: time_ns,
                    pages_asked: pages,
                    process,
                    phases: None,
                };
                self.spans.insert(id, open);
            }
            Record::Phases { id, times } if current => {
                if let Some(open) = self.spans.get_mut(&id) {
                    open.phases = Some(times);
                }
            }
            Record::SpanEnd {
                id,
                order,
                direction,
                trigger,
                pages,
                time_ns,
            } if current => {
                if let Some(open) = self.spans.remove(&id) {
                    self.span(&open, order, direction, trigger, pages, time_ns)?;
                }
            }
            Record::Note {
                kind, order, count, ..
            } if current => match kind {
                NoteKind::Alloc { .. } => self.vram.allocated(order, count),
                NoteKind::Free => self.vram.freed(order, count),
                NoteKind::Split(to) => self.vram.split(order, count, to),
            },
            Record::Process { pid, name } => {
                if self.processes.len() >= MAX_PROCESSES && !self.processes.contains_key(&pid) {
                    self.processes.clear();
                }
                self.processes.insert(pid, name.to_string());
            }
            Record::Fallback {
                order,
                direction,
                trigger,
                reason,
                folios,
            } => {
                let args = json!({
                    "order": order, "direction": direction, "trigger": trigger,
                    "reason": reason.name(), "folios": folios,
                });
                self.instant(source, "fallback", "fallback", time_ns, args)?;
            }
            Record::Job {
                kernel,
                status,
                elements,
                engine_ns,
                begin_ns,
                end_ns,
                context,
            } => {
                let source = context_of(context);
                let name = serde_json::to_value(kernel)?;
                let name = name.as_str().unwrap_or("job").to_owned();
                let args = json!({
                    "status": format!("{status:?}"), "elements": elements, "engine_ns": engine_ns,
                });
                self.slice(source, &name, "job", (begin_ns, end_ns), args)?;
            }
            Record::Fault {
                context,
                address,
                access,
                reason,
                outcome,
                waited_ns,
                end_ns,
            } => {
                let args = json!({
                    "address": format!("{address:#x}"), "access": access,
                    "reason": format!("{reason:?}"), "outcome": outcome, "waited_ns": waited_ns,
                });
                self.instant(context_of(context), "fault", "fault", end_ns, args)?;
            }
            Record::Mark { cookie, time_ns } => {
                self.instant(source, "mark", "mark", time_ns, json!({ "cookie": cookie }))?;
            }
            // One for each batch of copies, which shows by itself; and what the checker of VRAM is told.
            Record::Fence { .. }
            | Record::Touch(_)
            | Record::Changed { .. }
            | Record::Misuse(_)
            | Record::Unload { .. } => {}
            // Of a generation that is over.
            Record::SpanBegin { .. }
            | Record::Phases { .. }
            | Record::SpanEnd { .. }
            | Record::Note { .. } => {}
        }
        Ok(())
    }

    fn span(
        &mut self,
        open: &Open,
        order: u8,
        direction: Direction,
        trigger: Trigger,
        pages: u32,
        end_ns: u64,
    ) -> io::Result<()> {
        let (track, new) = self.lanes.place(open.begin_ns, end_ns);
        if new {
            let name = json!({ "name": format!("migrations {}", track.tid) });
            self.writer.metadata(track, "thread_name", name)?;
            let index = json!({ "sort_index": track.tid });
            self.writer.metadata(track, "thread_sort_index", index)?;
        }
        let mut args = json!({
            "order": order, "direction": direction, "trigger": trigger,
            "pages_asked": open.pages_asked, "pages_moved": pages,
        });
        if open.process != 0 {
            args["pid"] = open.process.into();
            let name = self.processes.get(&open.process);
            args["process"] = name.map_or("", String::as_str).into();
        }
        if let Some(phases) = open.phases {
            args["phases"] = json!({
                "collect_ns": phases.collect_ns, "alloc_ns": phases.alloc_ns,
                "copy_ns": phases.copy_ns, "commit_ns": phases.commit_ns,
                "finish_ns": phases.finish_ns,
            });
        }
        let name = named("migrate", direction, order)?;
        let times = (open.begin_ns, end_ns);
        self.writer.slice(track, &name, "span", times, args)
    }

    fn queue(&mut self, source: Source) -> io::Result<&mut Queue> {
        use std::collections::btree_map::Entry;
        match self.queues.entry(source) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let (track, name) = of_queue(source);
                self.writer
                    .metadata(track, "thread_name", json!({ "name": name }))?;
                let index = json!({ "sort_index": track.tid });
                self.writer.metadata(track, "thread_sort_index", index)?;
                Ok(entry.insert(Queue {
                    track,
                    run: None,
                    last_ns: 0,
                }))
            }
        }
    }

    fn write_run(&mut self, source: Source, run: Option<Run>) -> io::Result<()> {
        let Some(run) = run else { return Ok(()) };
        let kind = match run.kind {
            TransferKind::Copy => "copy",
            TransferKind::Fill => "fill",
        };
        let name = named(kind, run.direction, run.order)?;
        let mut args = serde_json::to_value(run)?;
        args["kind"] = kind.into();
        args["status"] = format!("{:?}", run.status).into();
        self.slice(source, &name, "transfer", (run.begin_ns, run.end_ns), args)
    }

    /// A slice of a queue. Its engine does one thing after the other, so that a slice begins when
    /// the one before has ended.
    fn slice(
        &mut self,
        source: Source,
        name: &str,
        cat: &str,
        (begin_ns, end_ns): (u64, u64),
        args: impl Serialize,
    ) -> io::Result<()> {
        let queue = self.queue(source)?;
        let begin_ns = begin_ns.max(queue.last_ns);
        let end_ns = end_ns.max(begin_ns);
        queue.last_ns = end_ns;
        let track = queue.track;
        self.writer
            .slice(track, name, cat, (begin_ns, end_ns), args)
    }

    fn instant(
        &mut self,
        source: Source,
        name: &str,
        cat: &str,
        time_ns: u64,
        args: impl Serialize,
    ) -> io::Result<()> {
        let track = self.queue(source)?.track;
        self.writer.instant(Some(track), name, cat, time_ns, args)
    }

    /// The device was reset.
    pub(super) fn reset(
        &mut self,
        kind: ResetKind,
        generation: u32,
        time_ns: u64,
    ) -> io::Result<()> {
        self.generation = self.generation.max(generation);
        self.spans.clear();
        self.vram.clear();
        self.advance(time_ns)?;
        let args = json!({ "cause": kind.name(), "generation": generation });
        self.writer.instant(None, "reset", "reset", time_ns, args)
    }

    /// A fault was injected.
    pub(super) fn injected(
        &mut self,
        site: FaultSite,
        action: FaultAction,
        time_ns: u64,
    ) -> io::Result<()> {
        self.advance(time_ns)?;
        let args = json!({ "site": site, "action": action });
        self.writer
            .instant(None, "injected", "injected", time_ns, args)
    }

    /// Tells the counters of all intervals that are over.
    fn advance(&mut self, time_ns: u64) -> io::Result<()> {
        if self.interval_end_ns == 0 {
            self.interval_end_ns = time_ns + INTERVAL_NS;
        }
        while time_ns >= self.interval_end_ns {
            let begin_ns = self.interval_end_ns - INTERVAL_NS;
            let rates = self.throughput.take();
            let vram = self.vram.take();
            if rates.is_none() && vram.is_none() {
                // Nothing happens until now.
                self.interval_end_ns = time_ns + INTERVAL_NS;
                break;
            }
            if let Some(rates) = rates {
                let name = "throughput, bytes/s";
                self.writer.counter(ENGINES, name, begin_ns, rates)?;
            }
            if let Some(bytes) = vram {
                let name = "VRAM by order, bytes";
                self.writer
                    .counter(ENGINES, name, self.interval_end_ns, bytes)?;
            }
            self.interval_end_ns += INTERVAL_NS;
        }
        Ok(())
    }

    /// Nothing has come for a while.
    pub(super) fn idle(&mut self, time_ns: u64) -> io::Result<()> {
        self.write_runs()?;
        if self.interval_end_ns != 0 {
            self.advance(time_ns)?;
        }
        self.writer.flush()
    }

    fn write_runs(&mut self) -> io::Result<()> {
        let sources: BTreeSet<Source> = self.queues.keys().copied().collect();
        for source in sources {
            let run = self.queue(source)?.run.take();
            self.write_run(source, run)?;
        }
        Ok(())
    }

    /// Writes what is left, and how complete it is.
    pub(super) fn finish(mut self, time_ns: u64, dropped: u64) -> io::Result<()> {
        self.write_runs()?;
        // Once for what is left, once for the zeros after it.
        self.advance(time_ns.max(self.interval_end_ns))?;
        self.advance(time_ns.max(self.interval_end_ns))?;
        let args = json!({
            "events": self.writer.events() + 1, "dropped": dropped,
            "open_spans": self.spans.len(),
        });
        self.writer
            .instant(None, "end of the trace", "trace", time_ns, args)?;
        self.writer.end()
    }
}

/// Jobs and faults come from several engines, and belong to their context.
fn context_of(context: u32) -> Source {
    Source {
        kind: QueueKind::Compute,
        index: context,
    }
}

/// What a slice is called: `copy sys_to_dev, order 9`.
fn named(what: &str, direction: Direction, order: u8) -> io::Result<String> {
    let direction = serde_json::to_value(direction)?;
    let direction = direction.as_str().unwrap_or_default();
    Ok(format!("{what} {direction}, order {order}"))
}
