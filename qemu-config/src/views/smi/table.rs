//! One screen for people, 80 columns wide.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write;

use hmmgpu_telemetry::CheckMode;
use hmmgpu_telemetry::snapshot::{Direction, FolioState, Snapshot};

use super::processes::{others, shown};
use super::{Gpu, Sample, link_state};
use crate::text::printable;
use crate::views::checks;
use crate::views::figures::{Figures, resets, way_name};
use crate::views::units;
use crate::vm::REVISION;

/// Columns between the frame's sides and their blanks.
const INNER: usize = 76;
/// Kinds of fallbacks that are shown.
const MAX_FALLBACKS: usize = 5;
/// Characters of the VRAM bar.
const BAR: usize = 16;

/// The screen.
pub fn table(gpus: &[Gpu]) -> String {
    let mut frame = Frame(String::new());
    let timestamp = super::query::timestamp();
    let title = format!("hmmgpu {REVISION}");
    frame.rule('-');
    frame.line(&format!(
        "{} {timestamp:>20}",
        units::cut(&format!("{title:<55}"), 55)
    ));
    for (index, gpu) in gpus.iter().enumerate() {
        frame.rule('=');
        match &gpu.state {
            Ok(sample) => one(&mut frame, index, gpu, sample),
            Err(error) => {
                frame.line(&format!("GPU {index}  {}", gpu.control.display()));
                frame.line(&format!("not known: {error}"));
            }
        }
    }
    frame.rule('=');
    processes(&mut frame, gpus);
    frame.rule('-');
    frame.0
}

/// Lines between two sides.
struct Frame(String);

impl Frame {
    fn rule(&mut self, of: char) {
        let rule: String = std::iter::repeat_n(of, INNER + 2).collect();
        let _ = writeln!(self.0, "+{rule}+");
    }

    /// A text, on more lines where one is too short for it.
    fn line(&mut self, text: &str) {
        let text: Vec<char> = printable(text.as_bytes()).chars().collect();
        if text.is_empty() {
            let _ = writeln!(self.0, "| {:INNER$} |", "");
        }
        for part in text.chunks(INNER) {
            let part: String = part.iter().collect();
            let _ = writeln!(self.0, "| {part:INNER$} |");
        }
    }

    /// Texts below a heading's, as many on a line as have room.
    fn list(&mut self, texts: &[String]) {
        const INDENT: &str = "         ";
        let mut line = String::new();
        for text in texts {
            if !line.is_empty() && line.chars().count() + 2 + text.chars().count() > INNER {
                self.line(&std::mem::take(&mut line));
            }
            line.push_str(if line.is_empty() { INDENT } else { "; " });
            line.push_str(text);
        }
        if !line.is_empty() {
            self.line(&line);
        }
    }
}

fn one(frame: &mut Frame, index: usize, gpu: &Gpu, sample: &Sample) {
    let Sample {
        hello,
        snapshot,
        figures,
    } = sample;
    let age = snapshot.time_ns.saturating_sub(snapshot.started_ns);
    frame.line(&format!(
        "GPU {index}  {:<28} {:>16} {:>12} {:>10}",
        units::cut(&printable(hello.label.as_bytes()), 28),
        format!("pid {}", hello.pid),
        link_state(snapshot),
        units::uptime(age),
    ));
    frame.line(&format!("control  {}", gpu.control.display()));
    if hello.revision != REVISION {
        frame.line(&format!("server   {}", hello.revision));
    }
    vram(frame, snapshot);
    engines(frame, figures);
    frame.rule('-');
    transfers(frame, figures);
    frame.rule('-');
    events(frame, snapshot, figures);
}

fn vram(frame: &mut Frame, snapshot: &Snapshot) {
    let vram = &snapshot.vram;
    let share = if vram.bytes == 0 {
        0.0
    } else {
        crate::views::figures::ratio(vram.used_bytes, vram.bytes).min(1.0)
    };
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss
    )] // 0 to BAR
    let full = (share * BAR as f64).round() as usize;
    frame.line(&format!(
        "VRAM     [{}{}] {} of {} ({}), peak {}",
        "#".repeat(full),
        ".".repeat(BAR - full),
        units::bytes(vram.used_bytes),
        units::bytes(vram.bytes),
        units::percent(share),
        units::bytes(vram.peak_bytes),
    ));
    frame.line(&format!(
        "         largest free range {}, fragmentation {}",
        units::bytes(vram.largest_free_bytes),
        units::percent(vram.fragmentation),
    ));
    let folios: Vec<String> = vram
        .folios
        .iter()
        .rev()
        .map(|folios| {
            let state = match folios.state {
                FolioState::Whole => "",
                FolioState::Split => "split ",
            };
            format!(
                "order {}: {} {state}folios, {}",
                folios.order,
                units::count(folios.folios),
                units::bytes(folios.bytes),
            )
        })
        .collect();
    frame.list(&folios);
}

fn engines(frame: &mut Frame, figures: &Figures) {
    frame.line(&format!(
        "Now      copy {}, compute {} busy; {} to device, {} home",
        units::percent_or_dash(figures.copy_busy),
        units::percent_or_dash(figures.compute_busy),
        units::rate(figures.rate(Direction::SysToDev, None)),
        units::rate(figures.rate(Direction::DevToSys, None)),
    ));
}

fn transfers(frame: &mut Frame, figures: &Figures) {
    let row = |cells: [&str; 9]| {
        let [order, way, folios, bytes, migration, engine, copy, p50, p99] = cells;
        format!(
            "{order:>5} {way:<9} {folios:>7} {bytes:>8} {migration:>9} {engine:>9} {copy:>5} \
             {p50:>7} {p99:>7}"
        )
    };
    frame.line(&row([
        "order",
        "way",
        "folios",
        "bytes",
        "migration",
        "engine",
        "copy",
        "p50",
        "p99",
    ]));
    let mut none = true;
    for ((order, direction), moved) in figures.total.iter().rev() {
        none = false;
        frame.line(&row([
            &order.to_string(),
            way_name(*direction),
            &units::count(moved.folios),
            &units::bytes(moved.bytes),
            &units::rate_or_dash(moved.migration_rate()),
            &units::rate_or_dash(moved.engine_rate()),
            &units::percent_or_dash(moved.copy_share()),
            &units::time_or_dash(moved.times.percentile(50)),
            &units::time_or_dash(moved.times.percentile(99)),
        ]));
    }
    if none {
        frame.line("nothing has moved yet");
    }
}

fn events(frame: &mut Frame, snapshot: &Snapshot, figures: &Figures) {
    let events = &figures.events;
    let replay = &snapshot.mmu.replay;
    let replays = if replay.count == 0 {
        String::new()
    } else {
        format!(
            " (p50 {}, p99 {})",
            units::time(replay.p50_ns),
            units::time(replay.p99_ns)
        )
    };
    frame.line(&format!(
        "Faults   GPU {}, replayed {}{replays}, CPU {}",
        units::count(events.gpu_faults),
        units::count(events.replays),
        units::count(events.cpu_faults),
    ));
    frame.line(&format!(
        "Folios   {} fell back to smaller ones, {} were split in VRAM",
        units::count(events.fallbacks),
        units::count(events.splits),
    ));
    frame.list(&fallbacks(snapshot));
    let checks = &snapshot.checker;
    let found = match checks.mode {
        CheckMode::Off => "VRAM checks off".to_owned(),
        _ => format!("VRAM checks {}", units::count(checks.total())),
    };
    frame.line(&format!(
        "Errors   descriptors {}, unknown registers {}, wrong notes {}, {found}",
        units::count(events.errors),
        units::count(events.unknown_registers),
        units::count(snapshot.vram.inconsistent_notes),
    ));
    frame.list(&checks::counts(checks));
    frame.line(&format!("Resets   {}", resets(snapshot)));
}

/// Folios that did not move whole, whatever triggered them, the most frequent first.
fn fallbacks(snapshot: &Snapshot) -> Vec<String> {
    let mut sums: BTreeMap<(u8, Direction, &str), u64> = BTreeMap::new();
    for fallbacks in &snapshot.fallbacks {
        let key = (fallbacks.order, fallbacks.direction, &*fallbacks.reason);
        let sum = sums.entry(key).or_default();
        *sum = sum.saturating_add(fallbacks.folios);
    }
    let mut sums: Vec<_> = sums.into_iter().filter(|(_, folios)| *folios > 0).collect();
    sums.sort_by_key(|(_, folios)| Reverse(*folios));
    let others = sums.split_off(sums.len().min(MAX_FALLBACKS));
    let mut texts: Vec<String> = sums
        .into_iter()
        .map(|((order, direction, reason), folios)| {
            let way = way_name(direction);
            let folios = units::count(folios);
            format!("order {order} {way}: {folios} {reason}")
        })
        .collect();
    if !others.is_empty() {
        let folios = others
            .iter()
            .fold(0u64, |sum, (_, folios)| sum.saturating_add(*folios));
        texts.push(format!("{} others", units::count(folios)));
    }
    texts
}

fn processes(frame: &mut Frame, gpus: &[Gpu]) {
    let row = |cells: [&str; 8]| {
        let [
            gpu,
            pid,
            name,
            vram,
            gpu_faults,
            cpu_faults,
            to_device,
            home,
        ] = cells;
        format!(
            "{gpu:>3} {pid:>7} {name:<16} {vram:>9} {gpu_faults:>7} {cpu_faults:>7} \
             {to_device:>9} {home:>9}"
        )
    };
    frame.line(&row([
        "GPU",
        "pid",
        "process",
        "VRAM",
        "GPU fl.",
        "CPU fl.",
        "to device",
        "home",
    ]));
    let mut none = true;
    for (index, gpu) in gpus.iter().enumerate() {
        let Ok(sample) = &gpu.state else { continue };
        let processes = shown(&sample.snapshot);
        for process in &processes {
            none = false;
            let name = printable(process.name.as_bytes());
            frame.line(&row([
                &index.to_string(),
                &process.pid.to_string(),
                &units::cut(if name.is_empty() { "?" } else { &name }, 16),
                &units::bytes(process.vram_bytes),
                &units::count(process.gpu_fault_spans),
                &units::count(process.cpu_fault_spans),
                &units::bytes(process.sys_to_dev_bytes),
                &units::bytes(process.dev_to_sys_bytes),
            ]));
        }
        if let Some(others) = others(&sample.snapshot, &processes) {
            none = false;
            frame.line(&format!("{index:>3}         {others}: see --json"));
        }
    }
    if none {
        frame.line("no process is known whose memory moved");
    }
}

#[cfg(test)]
mod tests {
    use hmmgpu_telemetry::CheckKind;
    use hmmgpu_telemetry::snapshot::{Fallbacks, Process};

    use super::*;
    use crate::views::sample;

    #[test]
    fn one_screen_of_80_columns() {
        let text = table(&[sample::gpu()]);
        assert!(
            text.lines().all(|line| line.chars().count() == 80),
            "{text}"
        );
        assert!(text.lines().count() <= 25, "{text}");
        for line in [
            "| GPU 0  bench                                pid 4711  driver runs    0:00:10 |",
            "| VRAM     [##..............] 516 MiB of 4.00 GiB (13 %), peak 1.00 GiB",
            "|          largest free range 3.00 GiB, fragmentation 2 %                      |",
            "|          order 9: 256 folios, 512 MiB; order 0: 1024 split folios, 4.00 MiB  |",
            "| Now      copy 40 %, compute 0 % busy; 1.05 GB/s to device, 105 MB/s home     |",
            "| order way        folios    bytes migration    engine  copy     p50     p99   |",
            "|     9 to device    1000 1.95 GiB 10.5 GB/s 14.0 GB/s  80 % 2.00 ms 4.00 ms   |",
            "|     0 home        51200  200 MiB  300 MB/s 3.00 GB/s   9 % 40.0 us  500 us   |",
            "| Faults   GPU 30796, replayed 30285 (p50 2.69 ms, p99 72.9 ms), CPU 12345     |",
            // Of two triggers.
            "|          order 9 to device: 12055 no_vram; order 9 to device: 3 shared       |",
            "| Errors   descriptors 1, unknown registers 0, wrong notes 0, VRAM checks 0    |",
            "| Resets   register 1, vfio_user 1, disconnect 4                               |",
            "|   0     212 svm-mix            514 MiB      30       7  1.95 GiB   200 MiB   |",
        ] {
            assert!(text.contains(line), "missing: {line}\n{text}");
        }
    }

    #[test]
    fn many_processes_still_are_one_screen() {
        let mut gpu = sample::gpu();
        let snapshot = &mut gpu.state.as_mut().unwrap().snapshot;
        let now = snapshot.time_ns;
        let process = snapshot.processes[0].clone();
        let of = |pid, vram_bytes, last_ns| Process {
            pid,
            vram_bytes,
            last_ns,
            ..process.clone()
        };
        snapshot.processes = (0..90).map(|pid| of(pid, 0, 1 + u64::from(pid))).collect();
        snapshot.processes.push(of(100, 0, now - 2));
        snapshot.processes.push(of(101, 0, now - 1));
        snapshot.processes.push(of(102, 4096, 1));
        snapshot.processes.push(of(103, 8192, 1));
        let pids = |snapshot: &Snapshot| -> Vec<u32> {
            shown(snapshot).iter().map(|process| process.pid).collect()
        };
        assert_eq!(pids(snapshot), [103, 102, 101, 100]);
        let text = table(&[gpu]);
        assert!(
            text.contains("90 others without VRAM: see --json"),
            "{text}"
        );

        let mut gpu = sample::gpu();
        let sample = gpu.state.as_mut().unwrap();
        sample.hello.revision = REVISION.into();
        let snapshot = &mut sample.snapshot;
        snapshot.processes = (0..90).map(|pid| of(pid, 0, now)).collect();
        let with_vram = (90..100).map(|pid| of(pid, 4096, now));
        snapshot.processes.extend(with_vram);
        assert_eq!(pids(snapshot), (90..97).collect::<Vec<_>>());
        let text = table(&[gpu]);
        let others = "93 others, 3 of them with VRAM: see --json";
        assert!(text.contains(others), "{text}");
        assert!(text.lines().count() <= 30, "{text}");
    }

    #[test]
    fn what_the_checker_of_vram_found_is_told() {
        let shown = |mode| {
            let mut gpu = sample::gpu();
            let checker = &mut gpu.state.as_mut().unwrap().snapshot.checker;
            checker.mode = mode;
            checker.counts = vec![(CheckKind::ReadUnwritten, 2), (CheckKind::Leak, 1)];
            table(&[gpu])
        };
        let text = shown(CheckMode::Full);
        assert!(text.contains("wrong notes 0, VRAM checks 3"), "{text}");
        assert!(
            text.contains("|          read_unwritten 2; leak 1 "),
            "{text}"
        );
        let text = shown(CheckMode::Off);
        assert!(text.contains("VRAM checks off"), "{text}");
    }

    #[test]
    fn lists_are_short() {
        let mut gpu = sample::gpu();
        let snapshot = &mut gpu.state.as_mut().unwrap().snapshot;
        let one = snapshot.fallbacks[0].clone();
        snapshot.fallbacks = (1..=9)
            .map(|order| Fallbacks {
                order,
                folios: order.into(),
                ..one.clone()
            })
            .collect();
        snapshot.events.resets.clear();
        let texts = fallbacks(snapshot);
        assert_eq!(texts.len(), 6);
        assert_eq!(texts[0], "order 9 to device: 9 no_vram");
        // Of orders 4 to 1.
        assert_eq!(texts[5], "10 others");
        let text = table(&[gpu]);
        assert!(text.contains("| Resets   none "), "{text}");
        assert!(
            text.lines().all(|line| line.chars().count() == 80),
            "{text}"
        );
    }

    #[test]
    fn a_server_that_cannot_be_asked_is_told_of() {
        let gpu = Gpu {
            control: "/run/1.control".into(),
            state: Err(crate::control::ControlError::Ended),
        };
        let text = table(&[gpu]);
        assert!(text.contains("not known: the server has ended"), "{text}");
    }

    #[test]
    fn names_do_not_steer_the_terminal() {
        let mut gpu = sample::gpu();
        let sample = gpu.state.as_mut().unwrap();
        sample.snapshot.processes[0].name = "\u{1b}[31mred\nline".into();
        sample.hello.label = "a\u{1b}]0;x\u{7}b".into();
        let text = table(&[gpu]);
        assert!(!text.contains('\u{1b}') && !text.contains('\u{7}'));
        assert!(
            text.lines().all(|line| line.chars().count() == 80),
            "{text}"
        );
    }
}
