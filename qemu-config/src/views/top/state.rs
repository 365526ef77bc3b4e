//! What top knows, and what keys do to it.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use hmmgpu_telemetry::control::Hello;
use hmmgpu_telemetry::snapshot::{Direction, Process, Snapshot};

use super::feed::News;
use crate::views::figures::{Figures, Way, ratio};

/// Samples that are kept of each rate.
const HISTORY: usize = 512;
/// Intervals that + and - go through, in milliseconds.
const INTERVALS: [u64; 8] = [100, 200, 500, 1000, 2000, 5000, 10_000, 60_000];
/// Most GPUs whose last figures are kept.
const MAX_GPUS: usize = 64;

/// A rate over time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Track {
    /// Bytes a second, the newest last.
    pub(crate) history: VecDeque<f64>,
    /// Most of it, since the peaks were reset.
    pub(crate) peak: f64,
}

impl Track {
    fn push(&mut self, rate: f64) {
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(rate);
        self.peak = self.peak.max(rate);
    }
}

/// A GPU.
#[derive(Debug)]
pub(crate) struct Gpu {
    path: PathBuf,
    /// Its server.
    pub(crate) hello: Hello,
    /// The last that it said.
    pub(crate) snapshot: Option<Snapshot>,
    /// What that means beside the one before.
    pub(crate) figures: Figures,
    /// Rate of each order and direction.
    pub(crate) ways: BTreeMap<Way, Track>,
    /// Rate to the device, and home.
    pub(crate) directions: [Track; 2],
    /// Bytes a second of each process.
    pub(crate) processes: BTreeMap<u32, f64>,
    /// Why nothing comes any more.
    pub(crate) lost: Option<String>,
}

/// Both directions that have a graph.
pub(crate) const DIRECTIONS: [Direction; 2] = [Direction::SysToDev, Direction::DevToSys];

/// What processes are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    Vram,
    Rate,
    Faults,
    Pid,
}

impl Sort {
    /// What it is called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Vram => "VRAM",
            Self::Rate => "rate",
            Self::Faults => "faults",
            Self::Pid => "pid",
        }
    }

    fn next(self) -> Self {
        match self {
            Self::Vram => Self::Rate,
            Self::Rate => Self::Faults,
            Self::Faults => Self::Pid,
            Self::Pid => Self::Vram,
        }
    }
}

/// What a key asks the loop to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Nothing,
    Quit,
    Suspend,
    Interval(Duration),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Top {
    /// GPUs; those that are lost only while there is no other.
    pub(crate) gpus: Vec<Gpu>,
    /// The one that is shown.
    pub(crate) selected: usize,
    /// Time between updates.
    pub(crate) interval: Duration,
    /// Nothing changes.
    pub(crate) paused: bool,
    /// Help is shown.
    pub(crate) help: bool,
    /// What processes are sorted by.
    pub(crate) sort: Sort,
    /// Colours may be used.
    pub(crate) colours: bool,
    /// Why GPUs cannot be looked for.
    pub(crate) blind: String,
    /// Sockets that no GPU was ever found at, and why, with the socket's name.
    pub(crate) unanswered: BTreeMap<PathBuf, String>,
}

impl Top {
    /// One that knows nothing yet.
    pub(crate) fn new(interval: Duration, colours: bool) -> Self {
        Self {
            gpus: Vec::new(),
            selected: 0,
            interval,
            paused: false,
            help: false,
            sort: Sort::Vram,
            colours,
            blind: String::new(),
            unanswered: BTreeMap::new(),
        }
    }

    /// The GPU that is shown.
    pub(crate) fn gpu(&self) -> Option<&Gpu> {
        self.gpus.get(self.selected)
    }

    /// Takes in what has come.
    pub(crate) fn apply(&mut self, news: News) {
        match news {
            News::Found(path, hello) => self.found(path, hello),
            News::Snapshot(path, snapshot) => {
                let paused = self.paused;
                if let Some(gpu) = self.find(&path).filter(|_| !paused) {
                    gpu.take(*snapshot);
                }
            }
            News::Lost(path, reason) => match self.find(&path) {
                // That nobody listens any more says less than why.
                Some(gpu) => {
                    gpu.lost.get_or_insert(reason);
                }
                None => self.not_found(path, reason),
            },
            News::Blind(reason) => self.blind = reason,
        }
    }

    fn find(&mut self, path: &Path) -> Option<&mut Gpu> {
        self.gpus.iter_mut().find(|gpu| gpu.path == path)
    }

    fn not_found(&mut self, path: PathBuf, reason: String) {
        let name = path.display().to_string();
        let reason = if reason.contains(&name) {
            reason
        } else {
            format!("{name}: {reason}")
        };
        if self.unanswered.len() < MAX_GPUS || self.unanswered.contains_key(&path) {
            self.unanswered.insert(path, reason);
        }
    }

    /// A new one takes the place of those that are lost.
    fn found(&mut self, path: PathBuf, hello: Hello) {
        let shown = self.gpu().filter(|gpu| gpu.lost.is_none());
        let shown = shown.map(|gpu| gpu.path.clone());
        self.gpus
            .retain(|gpu| gpu.lost.is_none() && gpu.path != path);
        if self.gpus.len() < MAX_GPUS {
            self.gpus.push(Gpu::new(path, hello));
        }
        self.gpus.sort_by_key(|gpu| gpu.hello.pid);
        self.selected = shown
            .and_then(|path| self.gpus.iter().position(|gpu| gpu.path == path))
            .unwrap_or(0);
        self.blind.clear();
        self.unanswered.clear();
    }

    /// What a key does.
    pub(crate) fn press(&mut self, key: KeyEvent) -> Wish {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if control => return Wish::Quit,
            KeyCode::Char('z') if control => return Wish::Suspend,
            KeyCode::Esc | KeyCode::Char('q' | 'h' | '?') if self.help => self.help = false,
            KeyCode::Esc | KeyCode::Char('q') => return Wish::Quit,
            KeyCode::Char('h' | '?') => self.help = true,
            KeyCode::Char(' ') => self.paused = !self.paused,
            KeyCode::Char('+' | '=') => return self.change_interval(true),
            KeyCode::Char('-' | '_') => return self.change_interval(false),
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('r') => self.reset_peaks(),
            KeyCode::Tab if !self.gpus.is_empty() => {
                self.selected = (self.selected + 1) % self.gpus.len();
            }
            KeyCode::Char(digit @ '1'..='9') => {
                let wanted = digit as usize - '1' as usize;
                if wanted < self.gpus.len() {
                    self.selected = wanted;
                }
            }
            _ => {}
        }
        Wish::Nothing
    }

    fn change_interval(&mut self, longer: bool) -> Wish {
        let now = u64::try_from(self.interval.as_millis()).unwrap_or(u64::MAX);
        let next = if longer {
            INTERVALS.iter().find(|ms| **ms > now)
        } else {
            INTERVALS.iter().rev().find(|ms| **ms < now)
        };
        let Some(next) = next else {
            return Wish::Nothing;
        };
        self.interval = Duration::from_millis(*next);
        Wish::Interval(self.interval)
    }

    fn reset_peaks(&mut self) {
        for gpu in &mut self.gpus {
            for track in gpu.ways.values_mut().chain(&mut gpu.directions) {
                track.peak = track.history.back().copied().unwrap_or(0.0);
            }
        }
    }
}

impl Gpu {
    /// One that has said nothing but hello.
    fn new(path: PathBuf, hello: Hello) -> Self {
        Self {
            path,
            hello,
            snapshot: None,
            figures: Figures::default(),
            ways: BTreeMap::new(),
            directions: Default::default(),
            processes: BTreeMap::new(),
            lost: None,
        }
    }

    fn take(&mut self, snapshot: Snapshot) {
        let before = self
            .snapshot
            .take()
            .filter(|before| before.started_ns == snapshot.started_ns);
        self.figures = Figures::between(before.as_ref(), &snapshot);
        if let Some(before) = &before {
            for way in self.figures.total.keys() {
                let rate = self.figures.rate(way.1, Some(way.0));
                self.ways.entry(*way).or_default().push(rate);
            }
            for (track, direction) in self.directions.iter_mut().zip(DIRECTIONS) {
                track.push(self.figures.rate(direction, None));
            }
            self.processes = process_rates(before, &snapshot);
        }
        self.lost = None;
        self.snapshot = Some(snapshot);
    }

    /// Its processes in order.
    pub(crate) fn sorted(&self, sort: Sort) -> Vec<(&Process, f64)> {
        let Some(snapshot) = &self.snapshot else {
            return Vec::new();
        };
        let rate = |process: &Process| self.processes.get(&process.pid).copied().unwrap_or(0.0);
        let mut all: Vec<(&Process, f64)> = snapshot
            .processes
            .iter()
            .map(|process| (process, rate(process)))
            .collect();
        all.sort_by(|(a, a_rate), (b, b_rate)| {
            let first = match sort {
                Sort::Vram => b.vram_bytes.cmp(&a.vram_bytes),
                Sort::Rate => b_rate.total_cmp(a_rate),
                Sort::Faults => faults(b).cmp(&faults(a)),
                Sort::Pid => std::cmp::Ordering::Equal,
            };
            first.then(a.pid.cmp(&b.pid))
        });
        all
    }
}

fn faults(process: &Process) -> u64 {
    process
        .gpu_fault_spans
        .saturating_add(process.cpu_fault_spans)
}

fn process_rates(before: &Snapshot, now: &Snapshot) -> BTreeMap<u32, f64> {
    let moved = |process: &Process| {
        process
            .sys_to_dev_bytes
            .saturating_add(process.dev_to_sys_bytes)
    };
    let earlier: BTreeMap<u32, u64> = before
        .processes
        .iter()
        .map(|process| (process.pid, moved(process)))
        .collect();
    let ns = now.time_ns.saturating_sub(before.time_ns).max(1);
    now.processes
        .iter()
        .map(|process| {
            let bytes = moved(process)
                .saturating_sub(earlier.get(&process.pid).copied().unwrap_or_default());
            (process.pid, ratio(bytes, ns) * 1e9)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::sample;

    fn two_snapshots() -> Top {
        let mut top = Top::new(Duration::from_secs(1), false);
        let path = PathBuf::from("/a");
        top.apply(News::Found(path.clone(), sample::hello()));
        top.apply(News::Snapshot(path.clone(), Box::new(sample::before())));
        top.apply(News::Snapshot(path, Box::new(sample::now())));
        top
    }

    fn press(top: &mut Top, code: char) -> Wish {
        top.press(KeyEvent::from(KeyCode::Char(code)))
    }

    #[test]
    fn rates_are_those_between_two_snapshots() {
        let top = two_snapshots();
        let gpu = top.gpu().unwrap();
        // 100 folios of 2 MiB in 0.2 s.
        let track = &gpu.ways[&(9, Direction::SysToDev)];
        assert_eq!(track.history, [100.0 * 2_097_152.0 / 0.2]);
        assert_eq!(gpu.directions[1].peak, 5120.0 * 4096.0 / 0.2);
    }

    #[test]
    fn a_pause_keeps_what_is_shown() {
        let mut top = two_snapshots();
        press(&mut top, ' ');
        let mut later = sample::now();
        later.time_ns += 1;
        let news = News::Snapshot("/a".into(), Box::new(later.clone()));
        top.apply(news);
        assert_eq!(top.gpu().unwrap().snapshot, Some(sample::now()));
        press(&mut top, ' ');
        top.apply(News::Snapshot("/a".into(), Box::new(later.clone())));
        assert_eq!(top.gpu().unwrap().snapshot, Some(later));
    }

    #[test]
    fn what_was_lost_stays_until_there_is_another() {
        let mut top = two_snapshots();
        top.apply(News::Lost("/a".into(), "the server has ended".into()));
        assert!(top.gpu().unwrap().lost.is_some());
        assert!(top.gpu().unwrap().snapshot.is_some());
        top.apply(News::Found("/b".into(), sample::hello()));
        assert_eq!(top.gpus.len(), 1);
        assert!(top.gpu().unwrap().lost.is_none());
    }

    #[test]
    fn the_gpu_that_is_shown_stays_when_another_comes() {
        let mut top = two_snapshots();
        let mut older = sample::hello();
        older.pid = 1;
        top.apply(News::Found("/b".into(), older));
        assert_eq!((top.gpus.len(), top.selected), (2, 1));
        top.press(KeyEvent::from(KeyCode::Tab));
        assert_eq!(top.selected, 0);
        press(&mut top, '2');
        press(&mut top, '9');
        assert_eq!(top.selected, 1);
    }

    #[test]
    fn keys_do_what_the_help_says() {
        let mut top = two_snapshots();
        assert_eq!(press(&mut top, '+'), Wish::Interval(Duration::from_secs(2)));
        assert_eq!(press(&mut top, '-'), Wish::Interval(Duration::from_secs(1)));
        press(&mut top, 'h');
        assert!(top.help);
        assert_eq!(press(&mut top, 'q'), Wish::Nothing, "closes the help");
        assert_eq!(press(&mut top, 'q'), Wish::Quit);
        let ctrl = |code| KeyEvent::new(KeyCode::Char(code), KeyModifiers::CONTROL);
        assert_eq!(top.press(ctrl('c')), Wish::Quit);
        assert_eq!(top.press(ctrl('z')), Wish::Suspend);
        press(&mut top, 's');
        press(&mut top, 's');
        press(&mut top, 's');
        let gpu = top.gpu().unwrap();
        let pids: Vec<u32> = gpu.sorted(top.sort).iter().map(|p| p.0.pid).collect();
        assert_eq!((top.sort, pids), (Sort::Pid, vec![212, 213]));
    }

    #[test]
    fn peaks_begin_anew() {
        let mut top = two_snapshots();
        let mut later = sample::now();
        later.time_ns += 200_000_000;
        top.apply(News::Snapshot("/a".into(), Box::new(later)));
        let peak = |top: &Top| top.gpu().unwrap().directions[0].peak;
        assert!(peak(&top) > 1e9);
        press(&mut top, 'r');
        assert_eq!(peak(&top), 0.0);
    }
}
