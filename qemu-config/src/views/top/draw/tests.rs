use std::time::Duration;

use hmmgpu_telemetry::CheckKind;
use hmmgpu_telemetry::snapshot::{Process, VramRun};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::Color;

use super::*;
use crate::views::sample;
use crate::views::top::batch::text_of;
use crate::views::top::feed::News;

fn top(colours: bool) -> Top {
    let mut top = Top::new(Duration::from_secs(1), colours);
    top.apply(News::Found("/a".into(), sample::hello()));
    top.apply(News::Snapshot("/a".into(), Box::new(sample::before())));
    top.apply(News::Snapshot("/a".into(), Box::new(sample::now())));
    top
}

fn drawn(top: &Top, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let frame = terminal
        .draw(|frame| draw(top, frame.area(), frame.buffer_mut()))
        .unwrap();
    frame.buffer.clone()
}

fn shown(top: &Top, width: u16, height: u16) -> String {
    text_of(&drawn(top, width, height))
}

#[test]
fn the_whole_screen_at_80_by_24() {
    let text = shown(&top(false), 80, 24);
    assert_eq!(text, include_str!("80x24.txt").trim_end(), "\n{text}");
}

#[test]
fn what_the_checker_of_vram_found_is_told() {
    let mut top = top(false);
    let mut snapshot = sample::now();
    snapshot.checker.counts = vec![(CheckKind::Leak, 3)];
    top.apply(News::Snapshot("/a".into(), Box::new(snapshot)));
    let text = shown(&top, 80, 24);
    assert!(
        text.contains("\n errors 1, VRAM checks 3, fallbacks "),
        "{text}"
    );
}

#[test]
fn larger_screens_show_more() {
    let text = shown(&top(false), 120, 40);
    for part in [
        "peak 1.00 GiB",
        "folios/s",
        // 100 folios in 0.2 s.
        "1.05 GB/s     500/s",
        "─ VRAM map, 2.00 MiB a cell",
    ] {
        assert!(text.contains(part), "missing: {part}\n{text}");
    }
    let text = shown(&top(false), 200, 60);
    for part in [
        "─ To device: 1.05 GB/s now, peak 1.05 GB/s ─",
        "─ Home: 105 MB/s now, peak 105 MB/s ─",
    ] {
        assert!(text.contains(part), "missing: {part}\n{text}");
    }
    // 256 blocks are whole, and the next 4 are what splits left.
    assert_eq!(
        text.matches('▖').count(),
        4 + 1,
        "one in the legend\n{text}"
    );
}

#[test]
fn no_size_is_too_small_and_what_matters_comes_first() {
    let mut top = top(true);
    for help in [false, true] {
        top.help = help;
        for width in (0..=40).chain([79, 81, 500]) {
            for height in (0..=30).chain([200]) {
                drawn(&top, width, height);
            }
        }
    }
    top.help = false;
    let text = shown(&top, 80, 8);
    assert!(
        text.contains("to device") && text.contains(" q quit"),
        "{text}"
    );
    assert!(!text.contains("Processes"), "{text}");
}

#[test]
fn colours_only_where_they_are_wanted() {
    let has_colour = |buffer: &Buffer| {
        buffer
            .content()
            .iter()
            .any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset)
    };
    assert!(has_colour(&drawn(&top(true), 80, 24)));
    let mut plain = top(false);
    assert!(!has_colour(&drawn(&plain, 120, 60)));
    plain.help = true;
    assert!(!has_colour(&drawn(&plain, 120, 60)));
    // What the colours say, the glyphs say as well.
    assert_eq!(shown(&top(true), 80, 24), shown(&top(false), 80, 24));
}

#[test]
fn more_than_has_room_is_told_of() {
    let mut top = top(false);
    let mut snapshot = sample::now();
    snapshot.time_ns += 1_000_000_000;
    let process: Process = snapshot.processes[0].clone();
    snapshot.processes = (0..1000)
        .map(|pid| Process {
            pid,
            name: "\u{1b}[31ma name that is much too long for its column".repeat(20),
            ..process.clone()
        })
        .collect();
    for order in 1..9 {
        let mut transfers = snapshot.transfers[0].clone();
        transfers.order = order;
        snapshot.transfers.push(transfers);
    }
    snapshot.vram.map = vec![
        VramRun {
            blocks: u32::MAX,
            order: Some(9),
            used_pages: 512,
            split: false,
        };
        100
    ];
    top.apply(News::Snapshot("/a".into(), Box::new(snapshot)));
    let text = shown(&top, 80, 24);
    assert!(text.contains("6 more rows need a higher window"), "{text}");
    assert!(text.contains("997 more"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
    assert!(text.contains("a name that is ~"), "{text}");
    drawn(&top, 200, 60);
}

#[test]
fn large_counts_fit_and_what_does_not_is_marked() {
    let mut top = top(false);
    let mut snapshot = sample::now();
    let most = 999_400_000;
    snapshot.time_ns += 1_000_000_000;
    snapshot.mmu.faults[0].count = most;
    snapshot.mmu.replay.p50_ns = 999_000_000;
    snapshot.mmu.replay.p99_ns = 99_000_000_000;
    snapshot.spans[1].count = most;
    snapshot.fallbacks[0].folios = most;
    snapshot.events.splits = vec![(9, most)];
    snapshot.events.descriptor_errors[0].1 = most;
    top.apply(News::Snapshot("/a".into(), Box::new(snapshot)));
    let text = shown(&top, 80, 24);
    for line in [
        "\n faults GPU 999M (999M/s), CPU 999M (999M/s), replay p50 999 ms p99 99.0 s\n",
        "\n errors 999M, fallbacks 999M (999M/s), splits 999M (999M/s), replayed 999M\n",
        " resets: register 1, vfio_user 1, disconnect 4\n",
    ] {
        assert!(text.contains(line), "missing: {line}\n{text}");
    }
    let text = shown(&top, 60, 24);
    for line in [
        "\n faults GPU 999M (999M/s), CPU 999M (999M/s) …\n",
        "\n errors 999M, fallbacks 999M (999M/s) …\n",
    ] {
        assert!(text.contains(line), "missing: {line}\n{text}");
    }
    // In a wide window all queues are there, without a mark.
    let text = shown(&top, 160, 24);
    assert!(
        text.contains("compute 3 faulted 1  compute 4 busy 1023\n"),
        "{text}"
    );
}

#[test]
fn it_says_what_it_waits_for() {
    let mut top = Top::new(Duration::from_secs(1), false);
    let text = shown(&top, 80, 24);
    assert!(text.contains("No GPU runs. Waiting for one"), "{text}");
    assert!(text.contains("hmmgpu bench"), "{text}");
    top.apply(News::Blind("/run/x is not used".into()));
    assert!(shown(&top, 80, 24).contains("/run/x is not used"));
    let mut top = Top::new(Duration::from_secs(1), false);
    top.apply(News::Lost("/run/y".into(), "it is silent".into()));
    top.apply(News::Lost("/run/z".into(), "nobody is at /run/z".into()));
    let text = shown(&top, 80, 24);
    assert!(!text.contains("No GPU runs"), "{text}");
    assert!(text.contains("  /run/y: it is silent\n"), "{text}");
    assert!(text.contains("  nobody is at /run/z"), "{text}");
    let mut top = self::top(false);
    top.apply(News::Lost("/a".into(), "the server has ended".into()));
    top.paused = true;
    let text = shown(&top, 80, 24);
    assert!(text.contains("the server has ended; waiting for"), "{text}");
    assert!(text.contains("PAUSED") && text.contains("space resume"));
}

#[test]
fn lines_are_shared_out_by_what_matters() {
    let wanted = Wanted {
        map: 30,
        transfers: 6,
        processes: 10,
    };
    for height in 0..200 {
        let lines = Lines::share(height, wanted);
        let all = lines.keys
            + lines.summary
            + lines.map
            + lines.graphs
            + lines.transfers
            + lines.events
            + lines.processes;
        assert!(all < height.max(1), "{height}: {lines:?}");
    }
    let usual = Lines::share(24, wanted);
    assert_eq!((usual.map, usual.transfers, usual.processes), (5, 6, 5));
}
