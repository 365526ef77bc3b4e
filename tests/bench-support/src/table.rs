//! The table of a run, and what is kept of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, ensure};

use crate::{Options, Row, SCHEMA, Target};

/// Longest line of a baseline, in bytes; stops a file that is none from filling memory.
const MAX_LINE_BYTES: u64 = 16 << 20;

/// Rows are printed as they come, and kept in the file that was asked for.
#[derive(Debug)]
pub struct Table {
    json: Option<File>,
    baseline: Option<BTreeMap<String, Row>>,
    worse: usize,
}

impl Table {
    /// Prints the head. Files are opened before anything is measured.
    ///
    /// # Errors
    /// The baseline cannot be read, or the file not written.
    pub fn new(title: &str, options: &Options) -> anyhow::Result<Self> {
        let baseline = options.baseline.as_deref().map(read).transpose()?;
        let create = |path: &std::path::PathBuf| {
            File::create(path).with_context(|| format!("cannot write {}", path.display()))
        };
        let json = options.json.as_ref().map(create).transpose()?;
        println!("{title}\n");
        println!("| What | Beside | Target | Measured | Quartiles | Ours | Theirs | Met |");
        println!("|---|---|---|---|---|---|---|---|");
        Ok(Self {
            json,
            baseline,
            worse: 0,
        })
    }

    /// Prints a row, compares it with its baseline, and keeps it; `None` where nothing was measured.
    ///
    /// # Errors
    /// There is no row, or it cannot be written.
    pub fn add(&mut self, row: Option<Row>) -> anyhow::Result<()> {
        let row = row.context("nothing was measured")?;
        println!("{}", line(&row));
        if let Some(before) = self.baseline.as_ref().and_then(|rows| rows.get(&row.name)) {
            let worse = row.worse_than(before);
            self.worse += usize::from(worse);
            eprintln!(
                "{}: {:.3} before, {:.3} now{}",
                row.name,
                before.spread.median,
                row.spread.median,
                if worse {
                    ": worse, beyond the spread"
                } else {
                    ""
                }
            );
        }
        if let Some(file) = &mut self.json {
            let mut text = serde_json::to_string(&row)?;
            text.push('\n');
            file.write_all(text.as_bytes())
                .context("cannot write a row")?;
        }
        Ok(())
    }

    /// How it went as the program's exit code: 1 if a row is worse than its baseline.
    pub fn finish(self) -> ExitCode {
        ExitCode::from(u8::from(self.worse > 0))
    }
}

fn line(row: &Row) -> String {
    let met = match row.target.met(row.spread.median) {
        Some(true) => "yes",
        Some(false) => "no",
        None => "",
    };
    let side = |figures: &[f64]| match figures {
        [] => String::new(),
        _ => format!("{:.4} {}", crate::median(figures.iter().copied()), row.unit),
    };
    let target = match row.target {
        Target::None => String::new(),
        target => target.to_string(),
    };
    format!(
        "| {} | {} | {target} | {:.3} | {:.3} to {:.3} | {} | {} | {met} |",
        row.name,
        row.beside,
        row.spread.median,
        row.spread.low,
        row.spread.high,
        side(&row.ours),
        side(&row.theirs),
    )
}

/// Rows of a file by name.
fn read(path: &Path) -> anyhow::Result<BTreeMap<String, Row>> {
    let name = path.display();
    let file = File::open(path).with_context(|| format!("cannot read {name}"))?;
    let mut reader = BufReader::new(file);
    let mut rows = BTreeMap::new();
    loop {
        let mut text = String::new();
        let read = std::io::Read::take(&mut reader, MAX_LINE_BYTES)
            .read_line(&mut text)
            .with_context(|| format!("cannot read {name}"))?;
        if read == 0 {
            return Ok(rows);
        }
        let row: Row = serde_json::from_str(&text)
            .with_context(|| format!("{name} is not what --json writes"))?;
        ensure!(
            row.schema == SCHEMA,
            "{name} follows {:?}, not {SCHEMA:?}: measure it anew",
            row.schema
        );
        rows.insert(row.name.clone(), row);
    }
}
