//! The page says what the JSON says, whatever the JSON says.

use hmmgpu_guest_protocol::bench::{Direction, Trigger};
use serde_json::Value;

use super::render;
use crate::bench::counters::CounterCheck;
use crate::bench::example::{result, row};
use crate::bench::result::{BenchError, BenchResult, Fallback, Percentiles, Row, Stat};
use crate::bench::vram_history::{VramCells, VramHistory, VramSample};
use crate::bench::warning::Warning;

/// A result with something in every part.
fn full() -> BenchResult {
    let mut rows = Vec::new();
    for order in [0, 2, 3, 9] {
        let moved = if order == 9 { 9 } else { 0 };
        let rate = if order == 9 { 9.14e9 } else { 3.01e8 };
        for (direction, trigger) in [
            (Direction::SysToDev, Trigger::Prefetch),
            (Direction::DevToSys, Trigger::Prefetch),
            (Direction::DevToSys, Trigger::CpuFault),
        ] {
            rows.push(Row {
                direction,
                trigger,
                copy_share: if order == 9 { 0.81 } else { 0.037 },
                ..row(order, moved, rate)
            });
        }
    }
    rows[9].fallbacks = vec![Fallback {
        order: 9,
        reason: "no_vram".into(),
        folios: 17,
    }];
    let mut made = result(rows);
    made.counters = vec![
        CounterCheck {
            name: "transfers.sys_to_dev.folios".into(),
            order: Some(9),
            driver: 640,
            host: Some(640),
            equal: Some(true),
        },
        CounterCheck {
            name: "driver.fence_sleeps".into(),
            order: None,
            driver: 3,
            host: None,
            equal: None,
        },
    ];
    let sample = |time_s, blocks: u32| VramSample {
        time_s,
        used_bytes: u64::from(blocks) << 21,
        orders: vec![(9, u64::from(blocks) << 21)],
        cells: vec![
            VramCells {
                cells: blocks,
                order: Some(9),
                used: 1.0,
                split: false,
            },
            VramCells {
                cells: 128 - blocks,
                order: None,
                used: 0.0,
                split: false,
            },
        ],
    };
    made.vram_history = Some(VramHistory {
        vram_bytes: 256 << 20,
        cell_bytes: 2 << 20,
        samples: vec![sample(0.0, 0), sample(0.25, 128), sample(0.5, 64)],
    });
    made
}

/// What an attribute holds, and what follows its element's begin.
fn attributes(page: &str) -> Vec<(String, String, String)> {
    let decode = |text: &str| text.replace("&quot;", "\"").replace("&amp;", "&");
    page.split("data-key=\"")
        .skip(1)
        .map(|rest| {
            let (key, rest) = rest.split_once('"').expect("a key");
            let rest = rest.strip_prefix(" data-value=\"").expect("a value");
            let (value, rest) = rest.split_once('"').expect("a value");
            let text = rest.split_once('>').map_or("", |(_, rest)| rest);
            let text = text.split('<').next().unwrap_or_default();
            (decode(key), decode(value), text.to_owned())
        })
        .collect()
}

#[test]
fn the_figures_are_those_of_the_json() {
    let made = full();
    let json = serde_json::to_value(&made).unwrap();
    let page = render(&made);
    let found = attributes(&page);
    for (key, value, _) in &found {
        let there = json
            .pointer(key)
            .unwrap_or_else(|| panic!("{key} is not in the JSON"));
        let shown: Value = serde_json::from_str(value).unwrap();
        assert_eq!(&shown, there, "{key}");
    }
    let keys: std::collections::BTreeSet<&str> =
        found.iter().map(|(key, ..)| key.as_str()).collect();
    for index in 0..made.rows.len() {
        for name in [
            "migration_bytes_per_s/median",
            "migration_bytes_per_s/min",
            "migration_bytes_per_s/max",
            "engine_bytes_per_s/median",
            "copy_share",
            "latency_us/p50",
            "latency_us/p99",
            "queue_wait_us/p50",
            "phases/collect_s",
            "phases/finish_s",
            "bytes",
            "splits",
        ] {
            let key = format!("/rows/{index}/{name}");
            assert!(keys.contains(key.as_str()), "{key} is not on the page");
        }
    }
    assert!(keys.contains("/rows/9/fallbacks/0/folios"));
    assert!(keys.contains("/counters/0/host"));
    assert!(keys.contains("/vram_history/vram_bytes"));
}

#[test]
fn what_is_shown_is_the_figure_rounded() {
    let page = render(&full());
    let shown = |key: &str| -> Vec<String> {
        attributes(&page)
            .into_iter()
            .filter(|(found, _, text)| found == key && !text.is_empty())
            .map(|(_, _, text)| text)
            .collect()
    };
    for (key, text) in [
        ("/rows/9/migration_bytes_per_s/median", "9.1 GB/s"),
        ("/rows/0/migration_bytes_per_s/median", "301 MB/s"),
        ("/rows/9/copy_share", "81 %"),
        ("/rows/0/copy_share", "4 %"),
        ("/rows/9/latency_us/p50", "12.4 us"),
        ("/rows/9/latency_us/p99", "123 ms"),
        ("/rows/9/fallbacks/0/folios", "17"),
    ] {
        let found = shown(key);
        assert!(
            !found.is_empty() && found.iter().all(|found| found == text),
            "{key}: {found:?}"
        );
    }
}

#[test]
fn ten_seconds_are_enough() {
    let page = render(&full());
    let (head, _) = page.split_once("<section").expect("sections");
    for words in [
        "Good. ",
        "driver and host count the same",
        ">order 9<",
        "whole folios of 2 MiB",
        "order 2, 3 were split",
        ">9.1 GB/s<",
        "30.4 times as fast as single pages",
        ">81 %<",
        ">4 %<",
    ] {
        assert!(head.contains(words), "{words}: {head}");
    }
}

#[test]
fn the_page_needs_nothing_else() {
    let page = render(&full());
    for forbidden in [
        "<script", "http://", "https://", "@import", "url(", "<img", "<iframe", "src=",
    ] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    assert!(page.contains("prefers-color-scheme: dark") && page.contains("@media print"));
    let pictures = page.matches("<svg").count();
    assert!(pictures > 20);
    assert_eq!(
        pictures,
        page.matches("<title>").count() - 1,
        "each has a title"
    );
}

#[test]
fn errors_are_told_first() {
    let mut made = full();
    made.errors.push(BenchError::CountersDiffer {
        name: "events.fences".into(),
        order: None,
        driver: 5,
        host: 6,
    });
    made.counters[0].host = Some(1);
    made.counters[0].equal = Some(false);
    made.warnings.push(Warning::FewRepeats { repeats: 1 });
    let page = render(&made);
    let (head, rest) = page.split_once("<section").unwrap();
    for words in [
        "Not to be relied on",
        "Error: events.fences",
        "Warning: 1 rounds are few",
    ] {
        assert!(head.contains(words), "{words}");
    }
    assert!(rest.contains("<details open>") && rest.contains("DIFFERENT"));
    made.rows[0].verified = false;
    assert!(render(&made).contains("The data of 1 of 12 rows"));
}

#[test]
fn hostile_text_is_text() {
    let evil = "</style><script>alert(1)</script><img src=x onerror=y>\" onload=\"z";
    let mut made = full();
    made.environment.kernel = evil.into();
    made.environment.cmdline = evil.into();
    made.rows[0].fallbacks = vec![Fallback {
        order: 255,
        reason: evil.into(),
        folios: u64::MAX,
    }];
    made.counters[0].name = evil.into();
    made.warnings = vec![Warning::Incomplete {
        reason: evil.into(),
    }];
    let page = render(&made);
    assert!(!page.contains("<script") && !page.contains("<img"));
    assert!(!page.contains("\" onload=\"z"));
    assert!(page.contains("&lt;script&gt;alert(1)"));
}

#[test]
fn hostile_figures_make_a_page() {
    let mut rows = vec![row(255, 255, 1e308), row(0, 0, 1e-300), row(9, 9, 1.0)];
    rows[0].migration_bytes_per_s = Stat::of(vec![f64::MAX; 5]);
    rows[0].copy_share = 1e300;
    rows[0].bytes = u64::MAX;
    rows[0].latency_buckets = vec![(0, u64::MAX), (u64::MAX, 1)];
    rows[1].latency_us = Percentiles {
        p50: 0.0,
        p99: f64::MAX,
    };
    rows[1].migration_bytes_per_s = Stat::of(vec![0.0; 5]);
    rows[2].phases = rows[2].phases.map(|mut phases| {
        phases.copy_s = f64::MAX;
        phases.commit_s = f64::MAX;
        phases
    });
    rows[2].migration_bytes_per_s = Stat::of((0..10_000).map(f64::from).collect());
    let mut made = result(rows);
    made.vram_history = Some(VramHistory {
        vram_bytes: u64::MAX,
        cell_bytes: 0,
        samples: vec![VramSample {
            time_s: 0.0,
            used_bytes: u64::MAX,
            orders: vec![(255, u64::MAX), (0, u64::MAX)],
            cells: vec![],
        }],
    });
    let page = render(&made);
    assert!(!page.contains("NaN") && !page.contains("inf%"), "{page}");
    assert!(page.len() < 300_000, "{}", page.len());
}

#[test]
fn no_rows_are_a_page_too() {
    let page = render(&result(vec![]));
    assert!(page.contains("Nothing was measured."), "{page}");
    assert!(page.contains("Not to be relied on"));
}
