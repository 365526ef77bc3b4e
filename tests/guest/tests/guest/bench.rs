//! `hmmgpu bench`, small.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use hmmgpu_vm_tests::leftovers;
use hmmgpu_vm_tests::program::Program;
use libtest_mimic::Trial;
use serde_json::Value;

use crate::trial;

/// Time for the whole bench, on a slow and busy host.
const LIMIT: Duration = Duration::from_secs(600);

/// A test: its name and what it does.
type Check = (&'static str, fn(&Value) -> Result<()>);

pub(crate) fn trials(program: &Arc<Program>) -> Vec<Trial> {
    let result: Arc<OnceLock<std::result::Result<Value, String>>> = Arc::default();
    let checks: [Check; 6] = [
        ("bench::the_result_has_its_schema", schema),
        ("bench::every_byte_is_verified", verified),
        ("bench::order_9_moves_whole", order_9_moves_whole),
        (
            "bench::other_orders_are_shown_as_single_pages",
            single_pages,
        ),
        ("bench::driver_and_host_count_the_same", counts_are_the_same),
        ("bench::vram_is_watched", vram_is_watched),
    ];
    checks
        .into_iter()
        .map(|(name, check)| {
            let (program, result) = (program.clone(), result.clone());
            trial(name, move || {
                let run = || run(&program).map_err(|error| format!("{error:#}"));
                match result.get_or_init(run) {
                    Ok(result) => check(result),
                    Err(error) => bail!("{error}"),
                }
            })
        })
        .collect()
}

fn run(program: &Program) -> Result<Value> {
    let runtime = tempfile::Builder::new().prefix("vmt-").tempdir_in("/tmp")?;
    let results = tempfile::tempdir()?;
    let json = results.path().join("result.json");
    let json = json.to_str().context("the path is no text")?;
    let page = results.path().join("result.html");
    let page = page.to_str().context("the path is no text")?;
    let arguments = [
        "bench", "--size", "32M", "--orders", "0,2,9", "--repeat", "2", "--vram", "64M", "--json",
        json, "--report", page,
    ];
    let finished = program.run(&arguments, b"", runtime.path(), LIMIT)?;
    finished.expect_code(0)?;
    ensure!(
        finished.stdout.lines().count() >= 9,
        "no table: {}",
        finished.stdout
    );
    leftovers::nothing_in(runtime.path())?;
    let text = std::fs::read_to_string(json).context("no result")?;
    let result = serde_json::from_str(&text).context("the result is no JSON")?;
    holds_the_rows(&std::fs::read_to_string(page).context("no page")?, &result)?;
    Ok(result)
}

/// The page has the figures of each row as the JSON has them.
fn holds_the_rows(page: &str, result: &Value) -> Result<()> {
    for (index, row) in rows(result)?.iter().enumerate() {
        for place in [
            "migration_bytes_per_s/median",
            "copy_share",
            "latency_us/p50",
        ] {
            let value = row.pointer(&format!("/{place}")).context("no figure")?;
            let there = format!("data-key=\"/rows/{index}/{place}\" data-value=\"{value}\"");
            ensure!(page.contains(&there), "not on the page: {there}");
        }
    }
    Ok(())
}

fn counts_are_the_same(result: &Value) -> Result<()> {
    let counters = result["counters"].as_array().context("no counters")?;
    let equal = |counter: &&Value| counter["equal"] == true;
    ensure!(
        counters.iter().filter(equal).count() > 20,
        "few counters were compared: {counters:?}"
    );
    ensure!(
        result["errors"] == serde_json::json!([]),
        "{}",
        result["errors"]
    );
    let boot = |field: &str| result["boot"][field].as_f64().context("no boot times");
    ensure!(
        0.0 < boot("init_s")? && boot("init_s")? < boot("first_migration_s")?,
        "{}",
        result["boot"]
    );
    for row in rows(result)? {
        ensure!(
            row["phases"].is_object(),
            "the driver told no phases: {row}"
        );
    }
    Ok(())
}

fn vram_is_watched(result: &Value) -> Result<()> {
    let history = &result["vram_history"];
    ensure!(history["vram_bytes"] == 64 << 20, "vram_bytes: {history}");
    let samples = history["samples"].as_array().context("no samples")?;
    // One is taken with the counters, however short the bench is.
    ensure!(!samples.is_empty(), "VRAM was never looked at");
    Ok(())
}

fn rows(result: &Value) -> Result<&Vec<Value>> {
    result["rows"].as_array().context("no rows")
}

fn schema(result: &Value) -> Result<()> {
    ensure!(
        result["schema"] == "hmmgpu.bench/2",
        "schema: {}",
        result["schema"]
    );
    for key in ["kernel", "cmdline", "qemu", "accel", "cpus", "revision"] {
        let value = &result["environment"][key];
        ensure!(
            value.is_string() || value.is_number(),
            "environment.{key}: {value}"
        );
    }
    let mut kinds = Vec::new();
    for row in rows(result)? {
        let key = |name: &str| row.get(name).with_context(|| format!("no {name}: {row}"));
        for rate in ["migration_bytes_per_s", "engine_bytes_per_s"] {
            let rate = key(rate)?;
            let number = |name: &str| rate[name].as_f64().unwrap_or(-1.0);
            let (min, median, max) = (number("min"), number("median"), number("max"));
            ensure!(0.0 < min && min <= median && median <= max, "rates: {row}");
        }
        let share = key("copy_share")?.as_f64().unwrap_or(-1.0);
        ensure!((0.0..=1.0).contains(&share), "copy_share: {row}");
        let latency = key("latency_us")?;
        let (p50, p99) = (latency["p50"].as_f64(), latency["p99"].as_f64());
        ensure!(
            matches!((p50, p99), (Some(p50), Some(p99)) if 0.0 < p50 && p50 <= p99),
            "latency: {row}"
        );
        ensure!(key("repeats")? == 2, "repeats: {row}");
        ensure!(
            key("bytes")?.as_u64().is_some_and(|bytes| bytes > 0),
            "bytes: {row}"
        );
        ensure!(key("splits")?.is_u64(), "splits: {row}");
        ensure!(
            key("source_share")?.as_f64() == Some(1.0),
            "source share: {row}"
        );
        let text = |name| key(name).map(|value| value.as_str().unwrap_or_default().to_owned());
        let order = key("source_order")?.as_u64().unwrap_or(99);
        kinds.push((order, text("direction")?, text("trigger")?));
    }
    kinds.sort();
    let mut expected = Vec::new();
    for order in [0, 2, 9] {
        for (direction, trigger) in [
            ("dev_to_sys", "cpu_fault"),
            ("dev_to_sys", "prefetch"),
            ("sys_to_dev", "prefetch"),
        ] {
            expected.push((order, direction.to_owned(), trigger.to_owned()));
        }
    }
    ensure!(kinds == expected, "rows: {kinds:?}");
    Ok(())
}

fn verified(result: &Value) -> Result<()> {
    for row in rows(result)? {
        ensure!(row["verified"] == true, "{row}");
    }
    Ok(())
}

/// The orders that the device saw in rows of a source order.
fn device_orders(result: &Value, source_order: u64, only: &str) -> Result<()> {
    for row in rows(result)?
        .iter()
        .filter(|row| row["source_order"] == source_order)
    {
        let orders = row["device_orders"]
            .as_object()
            .context("no device_orders")?;
        ensure!(
            orders.len() == 1 && orders.get(only).and_then(Value::as_u64).unwrap_or(0) > 0,
            "only order {only} was expected: {row}"
        );
    }
    Ok(())
}

fn order_9_moves_whole(result: &Value) -> Result<()> {
    device_orders(result, 9, "9")
}

fn single_pages(result: &Value) -> Result<()> {
    device_orders(result, 0, "0")?;
    device_orders(result, 2, "0")?;
    let split = rows(result)?
        .iter()
        .filter(|row| row["source_order"] == 2 && row["direction"] == "sys_to_dev")
        .all(|row| row["splits"].as_u64().unwrap_or(0) > 0);
    ensure!(
        split,
        "folios of order 2 went to the device, but no split is shown"
    );
    Ok(())
}
