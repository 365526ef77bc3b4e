//! Whatever an engine tells: the totals are what a simple model adds up, and windows add up to
//! the totals.

use std::collections::BTreeMap;

use hmmgpu_contract::PAGE_SIZE;
use hmmgpu_contract::desc::Status;
use hmmgpu_telemetry::snapshot::{
    Direction, Fallbacks, Latency, Phases, Process, QueueKind, Snapshot, Spans, Transfers, Trigger,
};
use hmmgpu_telemetry::{
    FallbackReason, Known, NoteKind, PhaseTimes, ProcessName, Record, Source, Telemetry,
    TransferKind,
};
use proptest::prelude::*;

type Class = (u8, Direction, Trigger);

/// Something that happens.
#[derive(Clone, Debug)]
enum Step {
    /// With its descriptors and their folios.
    Transfer(Class, TransferKind, (u32, u32), Status),
    Begin(u64, u32, u32),
    Phases(u64, [u64; 5]),
    End(u64, Class, u32),
    Fallback(Class, FallbackReason, u32),
    Process(u32, u8),
    /// For a process, of this order, and split at once or not.
    Alloc(u32, u8, bool),
    Mark,
}

/// Few classes, spans and processes, so that they meet.
fn step() -> impl Strategy<Value = Step> {
    use Step::{Alloc, Begin, End, Fallback, Mark, Phases, Process, Transfer};
    let class = || {
        let direction = prop_oneof![Just(Direction::SysToDev), Just(Direction::DevToSys)];
        let triggers = [Trigger::GpuFault, Trigger::CpuFault, Trigger::Evict];
        (0..3_u8, direction, prop::sample::select(triggers.to_vec()))
    };
    let kind = prop_oneof![Just(TransferKind::Copy), Just(TransferKind::Fill)];
    let status = prop_oneof![4 => Just(Status::STATUS_OK), 1 => Just(Status::STATUS_ABORTED)];
    let reason = prop_oneof![Just(FallbackReason::NoVram), Just(FallbackReason::Shared)];
    let (id, pid) = (0..5_u64, 0..4_u32);
    prop_oneof![
        4 => (class(), kind, (1..17_u32, 1..600_u32), status).prop_map(|(c, k, n, s)| Transfer(c, k, n, s)),
        4 => (id.clone(), pid.clone(), 0..600_u32).prop_map(|(id, pid, n)| Begin(id, pid, n)),
        3 => (id.clone(), any::<[u32; 5]>()).prop_map(|(id, ns)| Phases(id, ns.map(u64::from))),
        4 => (id, class(), 0..600_u32).prop_map(|(id, c, n)| End(id, c, n)),
        2 => (class(), reason, 1..9_u32).prop_map(|(c, reason, n)| Fallback(c, reason, n)),
        1 => (1..4_u32, b'a'..=b'z').prop_map(|(pid, name)| Process(pid, name)),
        2 => (pid, 1..10_u8, any::<bool>()).prop_map(|(pid, o, split)| Alloc(pid, o, split)),
        1 => Just(Mark),
    ]
}

/// Counters by name; those that are zero are left out.
#[derive(Clone, Debug, Default, PartialEq)]
struct Sums(BTreeMap<String, u64>);

impl Sums {
    fn add(&mut self, class: Class, name: &str, count: u64) {
        if count > 0 {
            *self.0.entry(format!("{class:?} {name}")).or_insert(0) += count;
        }
    }

    fn distribution(&mut self, class: Class, name: &str, times: &Latency) {
        self.add(class, &format!("{name} count"), times.count);
        self.add(class, &format!("{name} ns"), times.sum_ns);
        for (bound, count) in &times.buckets {
            self.add(class, &format!("{name} bucket {bound}"), *count);
        }
    }

    /// Adds all tables that both a snapshot and a window have.
    fn tables(&mut self, moved: &[Transfers], spans: &[Spans], fallbacks: &[Fallbacks]) {
        for row in moved {
            let class = (row.order, row.direction, row.trigger);
            self.add(class, "folios", row.folios);
            self.add(class, "bytes", row.bytes);
            self.add(class, "filled folios", row.filled_folios);
            self.add(class, "filled bytes", row.filled_bytes);
            self.add(class, "engine ns", row.engine_ns);
            self.add(class, "errors", row.errors);
            self.distribution(class, "transfers", &row.latency);
            self.distribution(class, "waits", &row.queue_wait);
        }
        for row in spans {
            let class = (row.order, row.direction, row.trigger);
            self.add(class, "asked", row.pages_asked);
            self.add(class, "moved", row.pages_moved);
            self.distribution(class, "spans", &row.latency);
            self.add(class, "ended", row.count);
            self.phases(class, row.phases);
        }
        for row in fallbacks {
            let class = (row.order, row.direction, row.trigger);
            self.add(class, &row.reason, row.folios);
        }
    }

    fn phases(&mut self, class: Class, phases: Phases) {
        self.add(class, "phases", phases.spans);
        self.add(class, "collect", phases.collect_ns);
        self.add(class, "alloc", phases.alloc_ns);
        self.add(class, "copy", phases.copy_ns);
        self.add(class, "commit", phases.commit_ns);
        self.add(class, "finish", phases.finish_ns);
    }

    /// Without histograms, which the model has none of.
    fn plain(mut self) -> Self {
        self.0.retain(|name, _| !name.contains("bucket"));
        self
    }
}

/// A span that is open.
#[derive(Debug)]
struct Open {
    pid: u32,
    pages: u64,
    begin_ns: u64,
    phases: Option<[u64; 5]>,
}

/// What telemetry should say.
#[derive(Debug, Default)]
struct Model {
    sums: Sums,
    open: BTreeMap<u64, Open>,
    unmatched: u64,
    aborted: u64,
    processes: BTreeMap<u32, Process>,
    splits: BTreeMap<u8, u64>,
    marks: Vec<(u64, u64)>,
    allocations: u64,
}

impl Model {
    fn process(&mut self, pid: u32) -> Option<&mut Process> {
        let new = || Process {
            pid,
            name: String::new(),
            vram_bytes: 0,
            spans: 0,
            gpu_fault_spans: 0,
            cpu_fault_spans: 0,
            sys_to_dev_bytes: 0,
            dev_to_sys_bytes: 0,
            last_ns: 0,
        };
        (pid != 0).then(|| self.processes.entry(pid).or_insert_with(new))
    }

    /// Counts a step at a time, and says what an engine would tell of it.
    fn step(&mut self, step: &Step, time_ns: u64) -> Vec<Record> {
        match *step {
            Step::Transfer(class, kind, (descriptors, each), status) => {
                let folios = descriptors * each;
                let count = u64::from(descriptors);
                let (order, direction, trigger) = class;
                let (engine_ns, waited_ns) = (u64::from(folios) * 1000, time_ns % 977);
                self.sums.add(class, "engine ns", engine_ns);
                if status == Status::STATUS_OK {
                    let bytes = u64::from(folios) * (PAGE_SIZE << order);
                    let (names, bytes_name) = match kind {
                        TransferKind::Copy => ("folios", "bytes"),
                        TransferKind::Fill => ("filled folios", "filled bytes"),
                    };
                    self.sums.add(class, names, folios.into());
                    self.sums.add(class, bytes_name, bytes);
                    self.sums.add(class, "transfers count", count);
                    self.sums.add(class, "transfers ns", engine_ns);
                    self.sums.add(class, "waits count", count);
                    self.sums.add(class, "waits ns", waited_ns * count);
                } else {
                    self.sums.add(class, "errors", count);
                    self.aborted += count;
                }
                vec![Record::Transfer {
                    kind,
                    order,
                    direction,
                    trigger,
                    descriptors,
                    folios,
                    engine_ns,
                    waited_ns,
                    end_ns: time_ns,
                    status,
                }]
            }
            Step::Begin(id, process, pages) => {
                let open = Open {
                    pid: process,
                    pages: pages.into(),
                    begin_ns: time_ns,
                    phases: None,
                };
                self.unmatched += u64::from(self.open.insert(id, open).is_some());
                vec![Record::SpanBegin {
                    id,
                    process,
                    // What it becomes is said at the end.
                    direction: Direction::SysToDev,
                    trigger: Trigger::Prefetch,
                    pages,
                    time_ns,
                }]
            }
            Step::Phases(id, ns) => {
                if let Some(open) = self.open.get_mut(&id) {
                    open.phases = Some(ns);
                }
                let [collect_ns, alloc_ns, copy_ns, commit_ns, finish_ns] = ns;
                let times = PhaseTimes {
                    collect_ns,
                    alloc_ns,
                    copy_ns,
                    commit_ns,
                    finish_ns,
                };
                vec![Record::Phases { id, times }]
            }
            Step::End(id, class, pages) => {
                self.end(id, class, pages.into(), time_ns);
                let (order, direction, trigger) = class;
                vec![Record::SpanEnd {
                    id,
                    order,
                    direction,
                    trigger,
                    pages,
                    time_ns,
                }]
            }
            Step::Fallback(class, reason, folios) => {
                self.sums.add(class, reason.name(), folios.into());
                let (order, direction, trigger) = class;
                vec![Record::Fallback {
                    order,
                    direction,
                    trigger,
                    reason,
                    folios,
                }]
            }
            Step::Process(pid, letter) => {
                if let Some(process) = self.process(pid) {
                    process.name = char::from(letter).to_string();
                }
                let mut name = ProcessName([0; 16]);
                name.0[0] = letter;
                vec![Record::Process { pid, name }]
            }
            Step::Alloc(pid, order, split) => {
                let address = self.allocations << 21;
                self.allocations += 1;
                if let Some(process) = self.process(pid) {
                    process.vram_bytes += PAGE_SIZE << order;
                }
                let note = |kind| Record::Note {
                    kind,
                    address,
                    order,
                    count: 1,
                    index: 0,
                };
                let mut notes = vec![note(NoteKind::Alloc { process: pid })];
                if split {
                    *self.splits.entry(order).or_insert(0) += 1;
                    notes.push(note(NoteKind::Split(0)));
                }
                notes
            }
            Step::Mark => {
                let cookie = self.marks.len() as u64 + 1;
                self.marks.push((cookie, time_ns));
                vec![Record::Mark { cookie, time_ns }]
            }
        }
    }

    fn end(&mut self, id: u64, class: Class, pages: u64, time_ns: u64) {
        let Some(open) = self.open.remove(&id) else {
            self.unmatched += 1;
            return;
        };
        self.sums.add(class, "ended", 1);
        self.sums.add(class, "asked", open.pages);
        self.sums.add(class, "moved", pages);
        self.sums.add(class, "spans count", 1);
        self.sums.add(class, "spans ns", time_ns - open.begin_ns);
        if let Some(ns) = open.phases {
            self.sums.add(class, "phases", 1);
            let names = ["collect", "alloc", "copy", "commit", "finish"];
            for (name, ns) in names.into_iter().zip(ns) {
                self.sums.add(class, name, ns);
            }
        }
        if let Some(process) = self.process(open.pid) {
            let (_, direction, trigger) = class;
            process.spans += 1;
            process.gpu_fault_spans += u64::from(trigger == Trigger::GpuFault);
            process.cpu_fault_spans += u64::from(trigger == Trigger::CpuFault);
            match direction {
                Direction::SysToDev => process.sys_to_dev_bytes += pages * PAGE_SIZE,
                _ => process.dev_to_sys_bytes += pages * PAGE_SIZE,
            }
            process.last_ns = time_ns;
        }
    }
}

/// What telemetry says of steps that follow a mark, and the model's opinion. Records come in
/// batches of `batch`.
fn told(steps: &[(u64, Step)], batch: usize) -> (Snapshot, Model) {
    let mut model = Model::default();
    let mut time_ns = 1;
    let mut records = model.step(&Step::Mark, time_ns);
    for (gap, step) in steps {
        time_ns += gap;
        records.extend(model.step(step, time_ns));
    }
    let telemetry = Telemetry::new(1 << 30, 0);
    let source = Source {
        kind: QueueKind::Copy,
        index: 0,
    };
    for records in records.chunks(batch) {
        telemetry.record(source, 0, 1, records);
    }
    (telemetry.snapshot(Known::default(), true), model)
}

/// Time that spans of each class took together.
fn busy(spans: &[Spans]) -> BTreeMap<Class, u64> {
    let class = |row: &Spans| (row.order, row.direction, row.trigger);
    spans.iter().map(|row| (class(row), row.busy_ns)).collect()
}

proptest! {
    #[test]
    fn totals_are_what_the_model_and_the_windows_add_up_to(
        steps in prop::collection::vec((0..5000_u64, step()), 0..200),
        batch in 1..9_usize,
    ) {
        let (snapshot, model) = told(&steps, batch);

        let mut totals = Sums::default();
        totals.tables(&snapshot.transfers, &snapshot.spans, &snapshot.fallbacks);
        let mut windows = Sums::default();
        let mut splits = BTreeMap::new();
        for window in &snapshot.windows {
            windows.tables(&window.transfers, &window.spans, &window.fallbacks);
            for (order, folios) in &window.splits {
                *splits.entry(*order).or_insert(0) += folios;
            }
        }
        prop_assert_eq!(&totals, &windows);
        prop_assert_eq!(totals.plain(), model.sums);
        prop_assert_eq!(&splits, &model.splits);
        prop_assert_eq!(snapshot.events.splits, splits.into_iter().collect::<Vec<_>>());

        let marks = snapshot.windows.iter().map(|window| (window.mark, window.begin_ns));
        prop_assert_eq!(marks.collect::<Vec<_>>(), &model.marks[..]);
        let ends = snapshot.windows.iter().map(|window| window.end_ns);
        let next = model.marks.iter().skip(1).map(|(_, begin_ns)| Some(*begin_ns));
        prop_assert_eq!(ends.collect::<Vec<_>>(), next.chain([None]).collect::<Vec<_>>());

        let mut processes = snapshot.processes;
        processes.sort_by_key(|process| process.pid);
        prop_assert_eq!(processes, model.processes.into_values().collect::<Vec<_>>());

        prop_assert_eq!(snapshot.events.unmatched_spans, model.unmatched);
        let errors: u64 = snapshot.events.descriptor_errors.iter().map(|(_, n)| n).sum();
        prop_assert_eq!(errors, model.aborted);
        prop_assert_eq!(snapshot.vram.inconsistent_notes, 0);

        // Spans overlap, and windows cut them off at their beginning.
        let mut in_windows = BTreeMap::new();
        for (class, ns) in snapshot.windows.iter().flat_map(|window| busy(&window.spans)) {
            *in_windows.entry(class).or_insert(0) += ns;
        }
        for row in &snapshot.spans {
            prop_assert!(row.busy_ns >= row.latency.max_ns && row.busy_ns <= row.latency.sum_ns);
            let class = (row.order, row.direction, row.trigger);
            prop_assert!(in_windows[&class] <= row.busy_ns);
        }
    }
}
