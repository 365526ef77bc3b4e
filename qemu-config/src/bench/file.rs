//! Reading a result that was written before, by this version or by anybody.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::result::{BenchResult, Row, SCHEMA, Stat};
use super::vram_history::VramHistory;

/// Longest file that is read: hundreds of times what a bench writes.
pub const MAX_FILE_BYTES: u64 = 64 << 20;
/// Most rows: each order, direction and trigger once is far fewer.
const MAX_ROWS: usize = 256;
/// Largest figure, of whatever unit: a larger one would only make pages and tables wide.
const LARGEST: f64 = 1e18;
/// Most counted rounds of a row; the bench allows 1000.
const MAX_SAMPLES: usize = 10_000;
/// Most buckets of a distribution: eight an octave make 512 of 64 bits.
const MAX_BUCKETS: usize = 1024;
/// Most of any other list in a row, and of errors, warnings and counters.
const MAX_LIST: usize = 10_000;
/// Most samples of VRAM, and most cells in each.
const MAX_VRAM_SAMPLES: usize = 1000;
const MAX_VRAM_CELLS: u64 = 1024;

/// Why a file is no result.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is longer than any result.
    #[error("{} has more than {} MiB: this is no result of 'hmmgpu bench'", path.display(), MAX_FILE_BYTES >> 20)]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It ends before the JSON does.
    #[error("{} ends too early: it was cut off while it was written or copied", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
    },
    /// It is no JSON.
    #[error("{} is no JSON; 'hmmgpu bench --json FILE' writes a result", path.display())]
    NotJson {
        /// The file.
        path: PathBuf,
        /// Where it goes wrong.
        source: serde_json::Error,
    },
    /// It is JSON of another schema, or of none.
    #[error("{} is of schema '{found}' and not '{SCHEMA}'{}", path.display(), advice(found))]
    Schema {
        /// The file.
        path: PathBuf,
        /// Its schema; empty if it has none.
        found: String,
    },
    /// It has the schema's name and does not keep it.
    #[error("{} is not what schema '{SCHEMA}' says: {what}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

fn advice(found: &str) -> &'static str {
    if found.starts_with("hmmgpu.bench/") {
        ": another version of hmmgpu made it; use that one, or measure again"
    } else {
        "; 'hmmgpu bench --json FILE' writes a result"
    }
}

/// Reads a result; `-` is standard input.
pub fn read(path: &Path) -> Result<BenchResult, FileError> {
    parse(&read_text(path)?, path)
}

/// Reads a file that may hold results, if it is no longer than one may be; `-` is standard input.
pub(crate) fn read_text(path: &Path) -> Result<Vec<u8>, FileError> {
    let failed = |source| FileError::Read {
        path: path.to_owned(),
        source,
    };
    let mut text = Vec::new();
    let taken = if path == Path::new("-") {
        (io::stdin().lock().take(MAX_FILE_BYTES + 1)).read_to_end(&mut text)
    } else {
        let file = File::open(path).map_err(failed)?;
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut text)
    };
    taken.map_err(failed)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(FileError::TooLarge {
            path: path.to_owned(),
        });
    }
    Ok(text)
}

/// The result that a text holds; `path` is what errors call it.
pub fn parse(text: &[u8], path: &Path) -> Result<BenchResult, FileError> {
    /// All that is common to every version.
    #[derive(Deserialize)]
    struct Head {
        #[serde(default)]
        schema: String,
    }
    let path = || path.to_owned();
    let head: Head = serde_json::from_slice(text).map_err(|source| {
        if source.is_eof() {
            FileError::Truncated { path: path() }
        } else if source.is_data() {
            let found = String::new();
            FileError::Schema {
                path: path(),
                found,
            }
        } else {
            FileError::NotJson {
                path: path(),
                source,
            }
        }
    })?;
    if head.schema != SCHEMA {
        let found: String = head.schema.chars().take(80).collect();
        let found = crate::text::printable(found.as_bytes());
        return Err(FileError::Schema {
            path: path(),
            found,
        });
    }
    let invalid = |what: String| FileError::Invalid { path: path(), what };
    let result: BenchResult =
        serde_json::from_slice(text).map_err(|error| invalid(error.to_string()))?;
    check(&result).map_err(invalid)?;
    Ok(result)
}

/// What the types do not say: lists have bounds, no row is there twice, nothing is negative.
pub(crate) fn check(result: &BenchResult) -> Result<(), String> {
    bounded("rows", result.rows.len(), MAX_ROWS)?;
    bounded("errors", result.errors.len(), MAX_LIST)?;
    bounded("warnings", result.warnings.len(), MAX_LIST)?;
    bounded("counters", result.counters.len(), MAX_LIST)?;
    bounded("sources of the plan", result.plan.sources.len(), MAX_LIST)?;
    let mut keys: Vec<_> = result.rows.iter().map(Row::key).collect();
    keys.sort();
    if let Some(pair) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(format!("the row '{}' is there twice", pair[0]));
    }
    for row in &result.rows {
        check_row(row).map_err(|what| format!("row '{}': {what}", row.key()))?;
    }
    if let Some(boot) = &result.boot {
        for figure in [boot.init_s, boot.first_migration_s] {
            positive(figure).map_err(|what| format!("boot: {what}"))?;
        }
    }
    match &result.vram_history {
        Some(history) => check_history(history),
        None => Ok(()),
    }
}

fn check_row(row: &Row) -> Result<(), String> {
    for (name, stat) in [
        ("migration_bytes_per_s", &row.migration_bytes_per_s),
        ("engine_bytes_per_s", &row.engine_bytes_per_s),
        ("migration_s", &row.migration_s),
        ("guest_s", &row.guest_s),
    ] {
        check_stat(stat, row.repeats).map_err(|what| format!("{name}: {what}"))?;
    }
    // These have a sample for each round that could be paired with another one.
    for (name, stat) in [
        ("floor_bytes_per_s", &row.floor_bytes_per_s),
        ("limit_bytes_per_s", &row.limit_bytes_per_s),
        ("limit_ratio", &row.limit_ratio),
        ("test_hmm_bytes_per_s", &row.test_hmm_bytes_per_s),
        ("test_hmm_ratio", &row.test_hmm_ratio),
    ] {
        if let Some(stat) = stat {
            check_figures(stat).map_err(|what| format!("{name}: {what}"))?;
        }
    }
    bounded("latency_buckets", row.latency_buckets.len(), MAX_BUCKETS)?;
    bounded("fallbacks", row.fallbacks.len(), MAX_LIST)?;
    let figures = [
        row.source_share,
        row.copy_share,
        row.latency_us.p50,
        row.latency_us.p99,
        row.queue_wait_us.p50,
        row.queue_wait_us.p99,
        row.s_per_gib.unwrap_or_default(),
        row.doorbells_per_2mib.unwrap_or_default(),
    ];
    let phases = row.phases.iter().flat_map(|phases| phases.in_order());
    for figure in figures
        .into_iter()
        .chain(phases.map(|(_, seconds)| seconds))
    {
        positive(figure)?;
    }
    Ok(())
}

fn check_stat(stat: &Stat, repeats: u32) -> Result<(), String> {
    if usize::try_from(repeats) != Ok(stat.samples.len()) {
        return Err(format!(
            "{} samples of {repeats} rounds",
            stat.samples.len()
        ));
    }
    check_figures(stat)
}

fn check_figures(stat: &Stat) -> Result<(), String> {
    bounded("samples", stat.samples.len(), MAX_SAMPLES)?;
    for figure in [stat.min, stat.median, stat.max] {
        positive(figure)?;
    }
    for sample in &stat.samples {
        positive(*sample)?;
        if *sample < stat.min || *sample > stat.max {
            return Err(format!(
                "the sample {sample} is not between {} and {}",
                stat.min, stat.max
            ));
        }
    }
    if stat.min > stat.median || stat.median > stat.max {
        return Err(format!(
            "the median {} is not between {} and {}",
            stat.median, stat.min, stat.max
        ));
    }
    Ok(())
}

fn check_history(history: &VramHistory) -> Result<(), String> {
    bounded("vram_history", history.samples.len(), MAX_VRAM_SAMPLES)?;
    let mut last = 0.0;
    for sample in &history.samples {
        let cells: u64 = sample.cells.iter().map(|run| u64::from(run.cells)).sum();
        if cells > MAX_VRAM_CELLS || sample.cells.len() as u64 > MAX_VRAM_CELLS {
            return Err(format!("vram_history: {cells} cells in a sample"));
        }
        bounded("vram_history.orders", sample.orders.len(), MAX_LIST)?;
        positive(sample.time_s)?;
        if sample.time_s < last {
            return Err(format!("vram_history: {} s after {last} s", sample.time_s));
        }
        last = sample.time_s;
    }
    Ok(())
}

fn bounded(what: &str, length: usize, most: usize) -> Result<(), String> {
    if length > most {
        return Err(format!("{length} {what} are more than {most}"));
    }
    Ok(())
}

fn positive(figure: f64) -> Result<(), String> {
    if (0.0..=LARGEST).contains(&figure) {
        Ok(())
    } else {
        Err(format!("{figure} is no figure that can be measured"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::example::{result, row};
    use crate::bench::result::BenchError;
    use crate::bench::warning::Warning;

    fn read_text(text: &str) -> Result<BenchResult, String> {
        parse(text.as_bytes(), Path::new("r.json")).map_err(|error| error.to_string())
    }

    fn example() -> BenchResult {
        let mut made = result(vec![row(0, 0, 3e8), row(9, 9, 9e9)]);
        made.warnings = vec![
            Warning::FewRepeats { repeats: 2 },
            Warning::Noisy {
                row: made.rows[0].key(),
                spread: 4.0,
            },
        ];
        made.errors = vec![BenchError::CountersDiffer {
            name: "folios".into(),
            order: Some(9),
            driver: 1,
            host: 2,
        }];
        made
    }

    /// The example with one thing changed.
    fn changed(change: impl FnOnce(&mut serde_json::Value)) -> Result<BenchResult, String> {
        let mut value = serde_json::to_value(example()).unwrap();
        change(&mut value);
        read_text(&value.to_string())
    }

    #[test]
    fn a_result_round_trips() {
        let text = serde_json::to_string_pretty(&example()).unwrap();
        assert_eq!(read_text(&text).unwrap(), example());
    }

    #[test]
    fn a_file_is_read_from_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("result.json");
        std::fs::write(&path, serde_json::to_vec(&example()).unwrap()).unwrap();
        assert_eq!(read(&path).unwrap(), example());
        let missing = read(&folder.path().join("none")).unwrap_err();
        assert!(matches!(missing, FileError::Read { .. }), "{missing}");
        let file = File::create(&path).unwrap();
        file.set_len(MAX_FILE_BYTES + 1).unwrap();
        let large = read(&path).unwrap_err();
        assert!(matches!(large, FileError::TooLarge { .. }), "{large}");
    }

    #[test]
    fn what_is_no_result_is_told_apart() {
        let error = |text: &str| read_text(text).unwrap_err();
        let text = serde_json::to_string_pretty(&example()).unwrap();
        for (text, words) in [
            ("", "ends too early"),
            (&text[..text.len() / 2], "ends too early"),
            ("order  way\n", "is no JSON"),
            ("{\"schema\":\"hmmgpu.bench/1\"}", "another version"),
            ("{\"schema\":\"x\\u001b[31m\"}", "schema 'x' and not"),
            ("{}", "hmmgpu bench --json"),
            ("[]", "hmmgpu bench --json"),
            ("{\"schema\":\"hmmgpu.bench/2\"}", "missing field"),
        ] {
            let error = error(text);
            assert!(error.contains(words), "{text}: {error}");
            assert!(error.starts_with("r.json "), "{error}");
        }
    }

    #[test]
    fn hostile_figures_are_refused() {
        use serde_json::json;
        for (pointer, value, words) in [
            ("/rows/0/copy_share", json!(-1.0), "no figure"),
            ("/rows/0/copy_share", json!(null), "invalid type"),
            ("/rows/0/source_order", json!(256), "invalid value"),
            ("/rows/0/repeats", json!(4), "5 samples of 4 rounds"),
            (
                "/rows/0/migration_bytes_per_s/median",
                json!(1e17),
                "not between",
            ),
            (
                "/rows/0/migration_bytes_per_s/samples/1",
                json!(1e300),
                "no figure",
            ),
            ("/rows/0/latency_us/p50", json!("fast"), "invalid type"),
            ("/rows/0/source_order", json!(9), "twice"),
            (
                "/rows/0/latency_buckets",
                json!(vec![(1, 1); 2000]),
                "more than",
            ),
        ] {
            let error = changed(|result| *result.pointer_mut(pointer).unwrap() = value);
            let error = error.expect_err(pointer);
            assert!(error.contains(words), "{pointer}: {error}");
        }
        let text = serde_json::to_string(&example()).unwrap();
        let huge = text.replace("0.756", "1e999");
        assert!(read_text(&huge).is_err());
        let deep = format!("{{\"schema\":\"{SCHEMA}\",\"rows\":{}", "[".repeat(100_000));
        assert!(read_text(&deep).is_err());
    }

    #[test]
    fn a_history_has_bounds() {
        use serde_json::json;
        let sample = |cells: u64| {
            json!({"time_s": 1.0, "used_bytes": 0, "orders": [],
                   "cells": [{"cells": cells, "order": null, "used": 0.0, "split": false}]})
        };
        let history = |samples: Vec<serde_json::Value>| json!({"vram_bytes": 1, "cell_bytes": 1, "samples": samples});
        let with = |history| changed(|result| result["vram_history"] = history);
        assert!(with(history(vec![sample(128); 200])).is_ok());
        assert!(with(history(vec![sample(128); 2000])).is_err());
        assert!(with(history(vec![sample(4_000_000_000)])).is_err());
        let mut backwards = vec![sample(1), sample(1)];
        backwards[1]["time_s"] = json!(0.5);
        assert!(with(history(backwards)).is_err());
    }
}
