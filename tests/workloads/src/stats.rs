//! What the driver says, for people and for scripts.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use hmmgpu_uapi::{Query, Stats};
use serde_json::{Map, Value, json};

use crate::counters;
use crate::device::{self, Device};

/// Print what the driver says of the device and has counted since it was loaded, as one JSON
/// object on one line: `query` and `stats` as it answers, `counters` by their names.
#[derive(Debug, Parser)]
#[command(name = "hmmgpu-stats")]
struct Args {
    /// Device node.
    #[arg(long, default_value = device::NODE)]
    device: PathBuf,
    /// First let the device see all that was freed, so that what both sides count is the same. This
    /// closes the window in the device's telemetry that is open.
    #[arg(long)]
    settle: bool,
}

/// Runs the program.
pub(crate) fn main(args: Vec<OsString>) -> Result<ExitCode> {
    let args = Args::try_parse_from(args)?;
    let device = Device::open(&args.device)?;
    if args.settle {
        device.mark(0)?;
    }
    let (query, stats) = (device.query()?, device.stats()?);
    let counters = counters::named(&query, &stats);
    let query = fields(Query::DEF.fields, &query.to_le_bytes());
    let stats = fields(Stats::DEF.fields, &stats.to_le_bytes());
    println!(
        "{}",
        json!({ "query": query, "stats": stats, "counters": counters })
    );
    Ok(ExitCode::SUCCESS)
}

/// The fields of a structure by name; arrays as arrays. Their table comes with the definition,
/// so a field that is added there is printed here.
fn fields(table: &[hmmgpu_contract::FieldDef], bytes: &[u8]) -> Map<String, Value> {
    let mut object = Map::new();
    for field in table
        .iter()
        .filter(|field| !field.name.starts_with("reserved"))
    {
        let width = if field.ty.contains("u64") { 8 } else { 4 };
        let mut values = bytes[field.offset..field.offset + field.size]
            .chunks_exact(width)
            .map(|raw| {
                let mut word = [0; 8];
                word[..width].copy_from_slice(raw);
                Value::from(u64::from_le_bytes(word))
            });
        let value = if field.ty.starts_with('[') {
            Value::from(values.collect::<Vec<_>>())
        } else {
            values.next().unwrap_or_default()
        };
        object.insert(field.name.to_owned(), value);
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_their_values() {
        let mut stats = Stats::default();
        stats.vram_folios[9] = 7;
        stats.splits[9] = 3;
        stats.jobs = 4;
        let object = fields(Stats::DEF.fields, &stats.to_le_bytes());
        assert_eq!(object["vram_folios"][9], 7);
        assert_eq!(object["splits"][9], 3);
        assert_eq!(object["jobs"], 4);
        let query = Query {
            abi_version: 1,
            vram_bytes: 1 << 40,
            ..Query::default()
        };
        let object = fields(Query::DEF.fields, &query.to_le_bytes());
        assert_eq!(object["abi_version"], 1);
        assert_eq!(object["vram_bytes"], 1u64 << 40);
        assert!(!object.contains_key("reserved"));
    }
}
