//! What is told of a device while it works: metrics, snapshots and the trace, against what it says
//! at its end.

mod scrape;
mod trace;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hmmgpu_contract::PAGE_SIZE;
use hmmgpu_telemetry::snapshot::{Direction, Snapshot};
use hmmgpu_vm_tests::leftovers;
use hmmgpu_vm_tests::program::Program;
use libtest_mimic::Trial;
use serde::Deserialize;
use serde_json::Value;

use crate::{Check, short_folder, trials_of};
use scrape::{Checker, Endpoint, Series};

/// Time for a guest to boot, on a slow and busy host.
const BOOT: Duration = Duration::from_secs(300);
/// Time for the whole bench.
const LIMIT: Duration = Duration::from_secs(600);
/// Time for what was done to be counted, and for everything to end.
const END: Duration = Duration::from_secs(90);
/// Time between two scrapes of a bench.
const INTERVAL: Duration = Duration::from_millis(200);

pub(crate) fn trials(program: &Arc<Program>) -> Vec<Trial> {
    let checks: [Check; 2] = [
        ("views::of_a_bench_agree_with_its_result", of_a_bench),
        ("views::of_a_run_agree_with_each_other", of_a_run),
    ];
    trials_of(program, &checks)
}

/// The metrics of a bench are read all the time, and its trace when it has ended.
fn of_a_bench(program: &Program) -> Result<()> {
    let checker = Checker::new()?;
    let runtime = short_folder()?;
    let results = tempfile::tempdir()?;
    let path = |name: &str| results.path().join(name).display().to_string();
    let (json, trace) = (path("result.json"), path("trace.json"));
    let arguments = [
        "bench",
        "--size",
        "16M",
        "--orders",
        "0,9",
        "--repeat",
        "2",
        "--vram",
        "64M",
        "--json",
        &json,
        "--metrics",
        "127.0.0.1:0",
        "--trace",
        &trace,
    ];
    let mut running = program.start(&arguments, b"", runtime.path())?;
    let endpoint = Endpoint::of(&mut running, BOOT)?;
    let deadline = Instant::now() + LIMIT;
    let mut checked = BTreeSet::new();
    let mut first: Option<Series> = None;
    let mut last: Option<Series> = None;
    while !running.ends_within(INTERVAL)? {
        ensure!(Instant::now() < deadline, "the bench does not end");
        let Some(text) = endpoint.scrape()? else {
            continue;
        };
        let series = Series::of(&text)?;
        // Where only values differ, there is nothing new for it.
        if checked.insert(series.names()) {
            checker.check(&text)?;
        }
        if series.is_empty() {
            // No device yet, or no more.
            continue;
        }
        match last.filter(|before| before.same_server(&series)) {
            Some(before) => series.grew_from(&before)?,
            // Also where another accelerator had to be tried, which has a server of its own.
            None => first = Some(series.clone()),
        }
        last = Some(series);
    }
    running.finish(END)?.expect_code(0)?;
    leftovers::nothing_in(runtime.path())?;

    let result: Value = serde_json::from_slice(&std::fs::read(&json).context("no result")?)?;
    let told = Snapshot::deserialize(&result["telemetry"]).context("no telemetry")?;
    let end = Series::of_snapshot(&told)?;
    ensure!(checked.len() > 1, "nothing was checked");
    let (first, last) = first.zip(last).context("no scrape had a device")?;
    ensure!(
        first.moved_pages(Direction::SysToDev) < last.moved_pages(Direction::SysToDev),
        "nothing was seen to move"
    );
    end.grew_from(&last)?;
    trace::agrees(&std::fs::read(&trace).context("no trace")?, &told)
}

/// A guest that waits while it is looked at, so that all views are of the same moment.
fn of_a_run(program: &Program) -> Result<()> {
    let checker = Checker::new()?;
    let runtime = short_folder()?;
    let results = tempfile::tempdir()?;
    let path = |name: &str| results.path().join(name).display().to_string();
    let (telemetry, trace) = (path("telemetry.json"), path("trace.json"));
    let arguments = [
        "run",
        "--memory",
        "1G",
        "--vram",
        "64M",
        "--metrics",
        "127.0.0.1:0",
        "--trace",
        &trace,
        "--telemetry",
        &telemetry,
        "--",
        "sh",
        "-c",
        "hmmgpu-hold-pages; read line",
    ];
    let mut running = program.start_open(&arguments, runtime.path())?;
    let endpoint = Endpoint::of(&mut running, BOOT)?;
    let scrape = || -> Result<Series> {
        let text = endpoint.scrape()?.context("the endpoint is closed")?;
        checker.check(&text)?;
        Series::of(&text)
    };
    let smi = || -> Result<Series> {
        let output = program.run(&["smi", "--json"], b"", runtime.path(), END)?;
        output.expect_code(0)?;
        let document: Value = serde_json::from_str(&output.stdout)?;
        let snapshot = &document["gpus"][0]["snapshot"];
        Series::of_snapshot(&Snapshot::deserialize(snapshot).context("no snapshot")?)
    };

    let line = running.wait_for_line("holding ", BOOT)?;
    let bytes: u64 = line.trim().rsplit(' ').next().unwrap_or_default().parse()?;
    let held = bytes / PAGE_SIZE;
    let holding = until_moved(Direction::SysToDev, held, scrape)?;
    smi()?.moved_the_same_as(&holding)?;

    running.say(b"\n")?;
    running.wait_for_line("verified ", END)?;
    let verified = until_moved(Direction::DevToSys, held, scrape)?;
    verified.grew_from(&holding)?;
    smi()?.moved_the_same_as(&verified)?;
    scrape()?.moved_the_same_as(&verified)?;

    running.say(b"\n")?;
    running.finish(END)?.expect_code(0)?;
    leftovers::nothing_in(runtime.path())?;
    let told = std::fs::read(&telemetry).context("no telemetry")?;
    let told: Vec<Snapshot> = serde_json::from_slice(&told)?;
    let [told] = &told[..] else {
        anyhow::bail!("telemetry of {} devices", told.len())
    };
    let end = Series::of_snapshot(told)?;
    end.grew_from(&verified)?;
    end.moved_the_same_as(&verified)?;
    trace::agrees(&std::fs::read(&trace).context("no trace")?, told)
}

/// The first scrape in which so many pages have moved this way: the guest may say so before the
/// engine has come to the end of the last migration.
fn until_moved(
    direction: Direction,
    pages: u64,
    scrape: impl Fn() -> Result<Series>,
) -> Result<Series> {
    let deadline = Instant::now() + END;
    loop {
        let series = scrape()?;
        let moved = series.moved_pages(direction);
        if moved == pages {
            return Ok(series);
        }
        ensure!(
            Instant::now() < deadline,
            "{moved} pages moved {direction:?} by the metrics, {pages} by the guest"
        );
    }
}
