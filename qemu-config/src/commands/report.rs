//! `hmmgpu report`: the page, or the text, of a result that was measured before.

use std::io::{self, Write};
use std::path::Path;

use super::Error;
use super::output::Output;
use crate::bench::{file, format};
use crate::cli::ReportArgs;
use crate::exit;
use crate::progress::Ui;
use crate::report;

pub(super) fn report(args: &ReportArgs, ui: &Ui) -> Result<u8, Error> {
    let result = file::read(&args.result)
        .map_err(|error| Error::Usage(format!("{:#}", anyhow::Error::from(error))))?;
    if let Some(format) = args.format {
        let mut stdout = io::stdout().lock();
        stdout.write_all(format::render(&result, format).as_bytes())?;
        stdout.flush()?;
        return Ok(exit::OK);
    }
    let path = match &args.output {
        Some(path) => path.clone(),
        // A page has no name of its own there.
        None if args.result == Path::new("-") => "-".into(),
        None => args.result.with_extension("html"),
    };
    Output::open(&path)?.write(report::render(&result).as_bytes())?;
    if path != Path::new("-") {
        ui.note(&format!("wrote {}", path.display()));
    }
    Ok(exit::OK)
}
