//! `hmmgpu compare`: two results of the bench, row by row.

use std::io::{self, Write};

use anstream::AutoStream;
use serde::Serialize;

use super::Error;
use super::output::Output;
use crate::cli::{CompareArgs, CompareFormat};
use crate::compare::comparison::Comparison;
use crate::compare::read::{compare_alternation, compare_files};
use crate::compare::render;
use crate::exit;

pub(super) fn compare(args: &CompareArgs) -> Result<u8, Error> {
    let settings = args.judge.settings();
    let comparison = match &args.b {
        Some(b) => compare_files(&args.a, b, settings),
        None => compare_alternation(&args.a, settings),
    };
    // What is wrong with a file, and why: on one line.
    let comparison =
        comparison.map_err(|error| Error::Usage(format!("{:#}", anyhow::Error::from(error))))?;
    let json = args.json.as_deref().map(Output::open).transpose()?;
    show(&comparison, args.format, &comparison, json)?;
    Ok(exit_code(&comparison, args.judge.strict))
}

/// The exit code for a comparison.
pub(super) fn exit_code(comparison: &Comparison, strict: bool) -> u8 {
    if comparison.is_negative() || (strict && !comparison.is_conclusive()) {
        exit::NEGATIVE
    } else {
        exit::OK
    }
}

/// Text to standard output, or to standard error where the JSON of `document` needs standard
/// output.
pub(super) fn show(
    comparison: &Comparison,
    format: CompareFormat,
    document: &impl Serialize,
    json: Option<Output>,
) -> anyhow::Result<()> {
    let text = match format {
        CompareFormat::Table => render::table(comparison),
        CompareFormat::Markdown => render::markdown(comparison),
    };
    let to_stderr = matches!(json, Some(Output::Stdout));
    if to_stderr {
        AutoStream::auto(io::stderr()).write_all(text.as_bytes())?;
    }
    if let Some(json) = json {
        let mut document = serde_json::to_vec_pretty(document)?;
        document.push(b'\n');
        json.write(&document)?;
    }
    if !to_stderr {
        let mut stdout = AutoStream::auto(io::stdout());
        stdout.write_all(text.as_bytes())?;
        stdout.flush()?;
    }
    Ok(())
}
