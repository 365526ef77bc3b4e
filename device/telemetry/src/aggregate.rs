//! The aggregator: records in, snapshot out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use hmmgpu_contract::desc::Status;

use crate::MAX_PROCESSES;
use crate::checker::{At, Checker};
use crate::checks::CheckMode;
use crate::classes::{Class, FallbackTable, Migrated, SpanTable, TransferTable, Transferred};
use crate::compute::{FaultTable, JobTable};
use crate::counters::Counters;
use crate::events::{Event, EventLog};
use crate::observer::{Observer, Source};
use crate::processes::Processes;
use crate::record::{NoteKind, Record, TransferKind};
use crate::snapshot::{
    Compute, Events, FaultAction, FaultOutcome, FaultSite, InjectedFault, Link, LinkModel, Mmu,
    Queue, SCHEMA, Snapshot,
};
use crate::spans::OpenSpans;
use crate::vram_map::{Applied, Pages, VramMap, page};
use crate::windows::Windows;

/// Why the device was reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetKind {
    /// By the reset register.
    Register,
    /// By function-level reset.
    Flr,
    /// By the vfio-user protocol.
    VfioUser,
    /// Because the client went away.
    Disconnect,
    /// By a fault that was injected.
    Injected,
}

impl ResetKind {
    const NAMES: [&'static str; 5] = ["register", "flr", "vfio_user", "disconnect", "injected"];

    /// The name in a snapshot.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

#[derive(Debug)]
struct State {
    generation: u32,
    vram: VramMap,
    checker: Checker,
    /// When the last event was that told a time.
    latest_ns: u64,
    transfers: TransferTable,
    spans: SpanTable,
    open_spans: OpenSpans,
    windows: Windows,
    splits: BTreeMap<u8, u64>,
    fallbacks: FallbackTable,
    processes: Processes,
    errors: BTreeMap<Status, u64>,
    jobs: JobTable,
    faults: FaultTable,
    resets: [u64; 5],
    injected: BTreeMap<(FaultSite, FaultAction), u64>,
    descriptors: u64,
    unmatched_spans: u64,
    lost_spans: u64,
}

/// What a snapshot tells that is not counted here: the device as it is.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Host's monotonic clock in nanoseconds.
    pub time_ns: u64,
    /// DMA maps in force.
    pub dma_maps: u64,
    /// Bytes that are yet to be populated ahead of their use.
    pub populating_bytes: u64,
    /// Queues that are enabled.
    pub queues: Vec<Queue>,
    /// What the device is connected to.
    pub link: Link,
    /// Faults that were armed.
    pub injected: Vec<InjectedFault>,
    /// The link that is modelled.
    pub link_model: Option<LinkModel>,
}

/// All counters of one device.
#[derive(Debug)]
pub struct Telemetry {
    /// Counters off the engines' path.
    pub counters: Counters,
    started_ns: u64,
    observer: OnceLock<Arc<dyn Observer>>,
    events: Mutex<EventLog>,
    state: Mutex<State>,
}

impl Telemetry {
    /// Counters of a device with `vram_bytes` of VRAM, all zero at `started_ns` of the host's
    /// monotonic clock. The use of VRAM is not checked.
    pub fn new(vram_bytes: u64, started_ns: u64) -> Self {
        Self::checking(vram_bytes, started_ns, CheckMode::Off)
    }

    /// As [`Self::new`], with a checker of VRAM.
    pub fn checking(vram_bytes: u64, started_ns: u64, mode: CheckMode) -> Self {
        Self {
            counters: Counters::default(),
            started_ns,
            observer: OnceLock::new(),
            events: Mutex::new(EventLog::new(started_ns)),
            state: Mutex::new(State {
                generation: 0,
                vram: VramMap::new(vram_bytes, MAX_PROCESSES),
                checker: Checker::new(mode),
                latest_ns: started_ns,
                transfers: TransferTable::default(),
                spans: SpanTable::default(),
                open_spans: OpenSpans::default(),
                windows: Windows::default(),
                splits: BTreeMap::new(),
                fallbacks: FallbackTable::default(),
                processes: Processes::default(),
                errors: BTreeMap::new(),
                jobs: JobTable::default(),
                faults: FaultTable::new(),
                resets: [0; 5],
                injected: BTreeMap::new(),
                descriptors: 0,
                unmatched_spans: 0,
                lost_spans: 0,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every update leaves the counters usable, so a poisoned lock is none the worse.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn events(&self) -> MutexGuard<'_, EventLog> {
        // Every update leaves it usable.
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last `count` events, the oldest first; [`MAX_EVENTS`](crate::MAX_EVENTS) are kept.
    pub fn last_events(&self, count: usize) -> Vec<Event> {
        self.events().last(count)
    }

    /// Adds an event to the last ones: what kind it is of, in one word, and the rest for a person,
    /// cut at [`MAX_EVENT_TEXT`](crate::MAX_EVENT_TEXT).
    pub fn tell(&self, time_ns: u64, queue: Option<Source>, event: &'static str, text: &str) {
        self.events().tell(time_ns, queue, event, text);
    }

    /// Lets `observer` see all records from now on. There is one at most: a second is refused and
    /// returned.
    ///
    /// # Errors
    /// The observer, if there is one already.
    pub fn observe(&self, observer: Arc<dyn Observer>) -> Result<(), Arc<dyn Observer>> {
        self.observer.set(observer)
    }

    /// Takes what the engine of `source` did in `generation`, in order, with the number of
    /// descriptors that it has seen. What a batch from before a reset says of spans, VRAM and marks is not applied
    /// any more; its transfers and errors count.
    pub fn record(&self, source: Source, generation: u32, descriptors: u64, records: &[Record]) {
        if let Some(observer) = self.observer.get() {
            observer.records(source, generation, records);
        }
        self.events().records(source, generation, records);
        let mut state = self.state();
        state.descriptors += descriptors;
        let current = generation == state.generation;
        let reports = state.checker.kept();
        for record in records {
            state.apply(source, *record, current);
        }
        let reports = state.checker.since(reports);
        drop(state);
        for report in reports {
            let text = format!(
                "{} of {} pages from VRAM {:#x}, by index {}",
                report.kind.name(),
                report.pages,
                report.page,
                report.by.index
            );
            self.tell(report.by.time_ns, Some(source), "check", &text);
        }
    }

    /// A fault was injected at `time_ns`; this came of it.
    pub fn injected(
        &self,
        site: FaultSite,
        action: FaultAction,
        outcome: FaultOutcome,
        time_ns: u64,
    ) {
        if let Some(observer) = self.observer.get() {
            observer.injected(site, action, time_ns);
        }
        let hits = {
            let mut state = self.state();
            let hits = state.injected.entry((site, action)).or_default();
            *hits += 1;
            *hits
        };
        let (site, action, outcome) = (site.name(), action.name(), outcome.name());
        let text = format!("{site}:{action}, hit {hits} of its kind: {outcome}");
        self.tell(time_ns, None, "injected", &text);
    }

    /// The device was reset, and is at `generation` since `time_ns`: open spans are lost, VRAM is
    /// free.
    pub fn reset(&self, kind: ResetKind, generation: u32, time_ns: u64) {
        if let Some(observer) = self.observer.get() {
            observer.reset(kind, generation);
        }
        self.events().reset(time_ns, kind, generation);
        let mut state = self.state();
        state.generation = generation;
        state.resets[kind as usize] += 1;
        let lost = state.open_spans.lose_all();
        state.lost_spans += lost;
        state.vram.clear();
        state.checker.reset(generation);
    }

    /// All that was counted, with what the caller knows; windows only if they are asked for.
    pub fn snapshot(&self, known: Known, windows: bool) -> Snapshot {
        let Known {
            time_ns,
            dma_maps,
            populating_bytes,
            queues,
            link,
            injected,
            link_model,
        } = known;
        let state = self.state();
        let windows_dropped = state.windows.dropped();
        let windows = if windows {
            state.windows.snapshot()
        } else {
            Vec::new()
        };
        let (unknown_registers, unknown_register_accesses) = self.counters.unknown_registers();
        Snapshot {
            schema: SCHEMA.to_owned(),
            time_ns,
            started_ns: self.started_ns,
            generation: state.generation,
            vram: state.vram.snapshot(),
            checker: state.checker.snapshot(),
            transfers: state.transfers.rows(),
            spans: state.spans.rows(),
            fallbacks: state.fallbacks.rows(),
            processes: state.processes.rows(&state.vram),
            events: Events {
                splits: state.splits.iter().map(|(k, v)| (*k, *v)).collect(),
                descriptor_errors: state
                    .errors
                    .iter()
                    .map(|(status, count)| (format!("{status:?}"), *count))
                    .collect(),
                injected: state
                    .injected
                    .iter()
                    .map(|((site, action), hits)| {
                        (format!("{}:{}", site.name(), action.name()), *hits)
                    })
                    .collect(),
                resets: ResetKind::NAMES
                    .iter()
                    .zip(state.resets)
                    .filter(|(_, count)| *count > 0)
                    .map(|(name, count)| ((*name).to_owned(), count))
                    .collect(),
                descriptors: state.descriptors,
                fences: self.counters.fences(),
                interrupts: self.counters.interrupts(),
                doorbells: self.counters.doorbells(),
                engine_sleeps: self.counters.engine_sleeps(),
                unknown_registers,
                unknown_register_accesses,
                unmatched_spans: state.unmatched_spans,
                lost_spans: state.lost_spans,
                dma_maps,
                dma_map_errors: self.counters.dma_map_errors(),
                populating_bytes,
            },
            queues,
            link,
            injected,
            link_model,
            trace: self.observer.get().map(|observer| observer.written()),
            windows,
            windows_dropped,
            mmu: Mmu {
                translations: self.counters.translations(),
                tlb_hits: self.counters.tlb_hits(),
                walks: self.counters.walks(),
                invalidations: self.counters.invalidations(),
                faults: state.faults.rows(),
                replay: state.faults.replay(),
                fault_queue_full: self.counters.fault_queue_fulls(),
            },
            compute: Compute {
                jobs: state.jobs.rows(),
                contexts: self.counters.contexts(),
                contexts_peak: self.counters.contexts_peak(),
            },
        }
    }
}

impl State {
    fn apply(&mut self, source: Source, record: Record, current: bool) {
        self.latest_ns = record.time_ns().unwrap_or(self.latest_ns);
        let at = |index| At {
            source,
            index,
            time_ns: self.latest_ns,
        };
        match record {
            Record::Transfer {
                kind,
                order,
                direction,
                trigger,
                descriptors,
                folios,
                engine_ns,
                waited_ns,
                status,
                end_ns: _,
            } => {
                let class = Class {
                    order,
                    direction,
                    trigger,
                };
                let done = Transferred {
                    descriptors: u64::from(descriptors),
                    folios: u64::from(folios),
                    fill: kind == TransferKind::Fill,
                    engine_ns,
                    waited_ns,
                };
                self.open_spans.transferred(class, engine_ns);
                let window = self.windows.open.as_mut().map(|open| &mut open.transfers);
                for table in std::iter::once(&mut self.transfers).chain(window) {
                    if status == Status::STATUS_OK {
                        table.done(class, done);
                    } else {
                        table.failed(class, done);
                    }
                }
                if status != Status::STATUS_OK {
                    *self.errors.entry(status).or_insert(0) += done.descriptors;
                }
            }
            Record::Error { status } => *self.errors.entry(status).or_insert(0) += 1,
            // Counted where it is written.
            Record::Fence { .. } => {}
            Record::Job {
                kernel,
                status,
                elements,
                engine_ns,
                ..
            } => self.jobs.ended(kernel, status, elements, engine_ns),
            Record::Fault {
                access,
                reason,
                outcome,
                waited_ns,
                ..
            } => self.faults.over(access, reason, outcome, waited_ns),
            Record::Process { pid, name } => self.processes.named(pid, name, &self.vram),
            Record::Fallback {
                order,
                direction,
                trigger,
                reason,
                folios,
            } => {
                let class = Class {
                    order,
                    direction,
                    trigger,
                };
                let folios = u64::from(folios);
                self.fallbacks.add(class, reason, folios);
                if let Some(open) = &mut self.windows.open {
                    open.fallbacks.add(class, reason, folios);
                }
            }
            Record::SpanBegin { .. } if !current => self.lost_spans += 1,
            Record::SpanBegin {
                id,
                process,
                pages,
                time_ns,
                direction: _,
                trigger: _,
            } => {
                let pages = u64::from(pages);
                self.checker.span_begins(source, id);
                let (unmatched, lost) = self.open_spans.begin(id, pages, process, time_ns);
                self.unmatched_spans += u64::from(unmatched);
                self.lost_spans += u64::from(lost);
            }
            Record::SpanEnd { .. }
            | Record::Phases { .. }
            | Record::Note { .. }
            | Record::Touch(_)
            | Record::Changed { .. }
            | Record::Misuse(_)
            | Record::Unload { .. }
            | Record::Mark { .. }
                if !current => {}
            Record::SpanEnd {
                id,
                order,
                direction,
                trigger,
                pages,
                time_ns,
            } => {
                let class = Class {
                    order,
                    direction,
                    trigger,
                };
                self.checker.span_ends(id);
                let Some(ended) = self.open_spans.end(id, class, time_ns) else {
                    self.unmatched_spans += 1;
                    return;
                };
                let span = Migrated {
                    asked: ended.pages_asked,
                    moved: u64::from(pages),
                    ns: ended.ns,
                    busy: ended.busy,
                    phases: ended.phases,
                };
                self.spans.ended(class, span);
                if let Some(open) = &mut self.windows.open {
                    let busy = ended.window_busy;
                    open.spans.ended(class, Migrated { busy, ..span });
                }
                let (process, moved) = (ended.process, span.moved);
                self.processes
                    .span_ended(process, class, moved, time_ns, &self.vram);
            }
            Record::Note {
                kind,
                address,
                order,
                count,
                index,
            } => {
                let at = at(index);
                let all = Pages {
                    first: Some(page(address)),
                    count: u64::from(count) << order,
                };
                let applied = self.note(kind, address, order, u64::from(count));
                self.checker
                    .noted(at, kind, order, all, applied.refused, &self.vram);
            }
            Record::Touch(touch) => self.checker.touched(at(touch.index), touch, &mut self.vram),
            Record::Changed {
                address,
                pages,
                index,
            } => self
                .checker
                .changed(at(index), page(address), pages, &self.vram),
            Record::Misuse(misuse) => self.checker.misused(at(misuse.index), misuse),
            Record::Unload { index } => self.checker.unloads(at(index), &self.vram),
            Record::Phases { id, times } => self.open_spans.phases(id, times),
            Record::Mark { cookie, time_ns } => {
                self.windows.mark(cookie, time_ns);
                self.open_spans.open_window(time_ns);
            }
        }
    }

    /// A note about folios of VRAM.
    fn note(&mut self, kind: NoteKind, address: u64, order: u8, count: u64) -> Applied {
        match kind {
            NoteKind::Alloc { process } => {
                let owner = self.processes.owner(process, &self.vram);
                self.vram.alloc(address, order, count, owner)
            }
            NoteKind::Free => self.vram.free(address, order, count),
            NoteKind::Split(new_order) => {
                let applied = self.vram.split(address, order, count, new_order);
                if applied.folios > 0 {
                    *self.splits.entry(order).or_insert(0) += applied.folios;
                    if let Some(open) = &mut self.windows.open {
                        *open.splits.entry(order).or_insert(0) += applied.folios;
                    }
                }
                applied
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Access, Direction, Kernel, Outcome, QueueKind, Trigger};
    use hmmgpu_contract::mmu::FaultReason;

    const SOURCE: Source = Source {
        kind: QueueKind::Copy,
        index: 0,
    };

    fn snapshot(telemetry: &Telemetry, time_ns: u64, dma_maps: u64) -> Snapshot {
        let known = Known {
            time_ns,
            dma_maps,
            ..Known::default()
        };
        telemetry.snapshot(known, true)
    }

    fn transfer(kind: TransferKind, folios: u32, status: Status) -> Record {
        Record::Transfer {
            kind,
            order: 9,
            direction: Direction::SysToDev,
            trigger: Trigger::Evict,
            descriptors: 1,
            folios,
            engine_ns: 1000,
            waited_ns: 10,
            end_ns: 150,
            status,
        }
    }

    /// Records of every kind, between two marks.
    fn records() -> Vec<Record> {
        let (id, pages, order) = (7, 512, 9);
        let alloc = Record::Note {
            kind: NoteKind::Alloc { process: 0 },
            address: 0,
            order,
            count: 2,
            index: 0,
        };
        let split = Record::Note {
            kind: NoteKind::Split(0),
            address: 0,
            order,
            count: 1,
            index: 0,
        };
        vec![
            Record::Mark {
                cookie: 5,
                time_ns: 100,
            },
            Record::SpanBegin {
                id,
                process: 0,
                direction: Direction::SysToDev,
                trigger: Trigger::Evict,
                pages,
                time_ns: 200,
            },
            transfer(TransferKind::Copy, 3, Status::STATUS_OK),
            transfer(TransferKind::Fill, 1, Status::STATUS_OK),
            transfer(TransferKind::Copy, 1, Status::STATUS_OVERLAP),
            Record::Error { status: Status(99) },
            alloc,
            split,
            Record::SpanEnd {
                id,
                order,
                direction: Direction::SysToDev,
                trigger: Trigger::Evict,
                pages,
                time_ns: 500,
            },
            Record::Mark {
                cookie: 6,
                time_ns: 600,
            },
        ]
    }

    #[test]
    fn totals_and_windows_agree() {
        let telemetry = Telemetry::new(64 << 20, 0);
        telemetry.record(SOURCE, 0, 11, &records());
        let snapshot = snapshot(&telemetry, 1000, 3);
        assert_eq!(snapshot.windows.len(), 2);
        let window = &snapshot.windows[0];
        assert_eq!(
            (window.mark, window.begin_ns, window.end_ns),
            (5, 100, Some(600))
        );
        assert_eq!(window.transfers, snapshot.transfers);
        assert_eq!(window.spans, snapshot.spans);
        assert_eq!(window.splits, snapshot.events.splits);
        let row = &snapshot.transfers[0];
        assert_eq!((row.folios, row.filled_folios, row.errors), (3, 1, 1));
        assert_eq!(
            (row.bytes, row.filled_bytes, row.engine_ns),
            (6 << 20, 2 << 20, 3000)
        );
        let span = &snapshot.spans[0];
        assert_eq!((span.busy_ns, span.engine_ns), (300, 3000));
        let folios = snapshot.vram.folios.iter();
        let folios: Vec<_> = folios.map(|row| (row.order, row.folios)).collect();
        assert_eq!(folios, [(0, 512), (9, 1)]);
        let errors = [
            ("STATUS_OVERLAP".to_owned(), 1),
            ("Status(0x63)".to_owned(), 1),
        ];
        assert_eq!(snapshot.events.descriptor_errors, errors);
        assert_eq!(
            (snapshot.events.descriptors, snapshot.events.dma_maps),
            (11, 3)
        );
    }

    #[test]
    fn a_batch_of_before_a_reset_changes_no_state_any_more() {
        let telemetry = Telemetry::new(64 << 20, 0);
        telemetry.reset(ResetKind::Flr, 1, 20);
        telemetry.record(SOURCE, 0, 11, &records());
        let snapshot = snapshot(&telemetry, 0, 0);
        assert_eq!(snapshot.generation, 1);
        assert_eq!(snapshot.transfers[0].folios, 3);
        assert!(snapshot.windows.is_empty() && snapshot.spans.is_empty());
        assert_eq!(snapshot.vram.used_bytes, 0);
        assert_eq!(snapshot.events.lost_spans, 1);
        assert_eq!(snapshot.events.resets, [("flr".to_owned(), 1)]);
    }

    #[test]
    fn jobs_and_faults_add_up() {
        let telemetry = Telemetry::new(64 << 20, 0);
        let job = |status, elements| Record::Job {
            context: 0,
            kernel: Kernel::Checksum,
            status,
            elements,
            engine_ns: 7,
            begin_ns: 10,
            end_ns: 20,
        };
        let fault = |outcome, waited_ns| Record::Fault {
            context: 0,
            address: 0,
            access: Access::Write,
            reason: FaultReason::FAULT_NOT_WRITABLE,
            outcome,
            waited_ns,
            end_ns: 20,
        };
        let records = [
            job(Status::STATUS_OK, 100),
            job(Status::STATUS_OK, u64::MAX),
            job(Status::STATUS_CANCELLED, 3),
            fault(Outcome::Replayed, 1000),
            fault(Outcome::Replayed, 3000),
            fault(Outcome::Dropped, 0),
        ];
        telemetry.record(SOURCE, 0, 3, &records);
        let counters = &telemetry.counters;
        counters.translated(10, 6, 4);
        counters.translated(1, 1, 0);
        counters.invalidation();
        counters.fault_queue_full();
        counters.contexts_enabled(2);
        counters.contexts_enabled(1);
        let snapshot = snapshot(&telemetry, 0, 0);
        let mmu = &snapshot.mmu;
        assert_eq!((mmu.translations, mmu.tlb_hits, mmu.walks), (11, 7, 4));
        assert_eq!((mmu.invalidations, mmu.fault_queue_full), (1, 1));
        let counts: Vec<_> = mmu
            .faults
            .iter()
            .map(|row| (row.outcome, row.count))
            .collect();
        assert_eq!(counts, [(Outcome::Replayed, 2), (Outcome::Dropped, 1)]);
        assert_eq!(mmu.faults[0].reason, "FAULT_NOT_WRITABLE");
        assert_eq!((mmu.replay.min_ns, mmu.replay.max_ns), (1000, 3000));
        assert_eq!(mmu.replay.count, 2, "what was dropped is no replay");
        let compute = &snapshot.compute;
        assert_eq!((compute.contexts, compute.contexts_peak), (1, 2));
        assert_eq!(compute.jobs.len(), 2);
        let well = &compute.jobs[0];
        assert_eq!((well.status.as_str(), well.count), ("STATUS_OK", 2));
        assert_eq!((well.elements, well.engine_ns), (u64::MAX, 14));

        let json = serde_json::to_value(&snapshot).expect("a snapshot is plain data");
        assert_eq!(json["compute"]["jobs"][0]["kernel"], "checksum");
    }

    #[test]
    fn json_holds_all_of_a_snapshot() {
        let telemetry = Telemetry::new(64 << 20, 0);
        telemetry.record(SOURCE, 0, 11, &records());
        telemetry.reset(ResetKind::Disconnect, 1, 20);
        telemetry.counters.unknown_register(0x123);
        let snapshot = snapshot(&telemetry, 1000, 3);
        let text = serde_json::to_string(&snapshot).expect("a snapshot is plain data");
        let back: Snapshot = serde_json::from_str(&text).expect("what was written");
        assert_eq!(back, snapshot);
        assert!(text.contains("\"sys_to_dev\"") && text.contains("\"evict\""));
    }
}
