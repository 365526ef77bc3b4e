//! Arguments of `hmmgpu report`.

use std::path::PathBuf;

use clap::Args;

use crate::bench::format::Format;

pub(super) const HELP: &str = "\
Examples:
  hmmgpu report result.json
  hmmgpu report result.json --output page.html
  hmmgpu report result.json --format markdown
  hmmgpu bench --json - | hmmgpu report - --output page.html

The page is one file: it needs no network and no script. With --format the result is printed on
standard output as 'hmmgpu bench' would, and no page is written.

Exits with 0 when the page or text was written, also when the result says that something is wrong;
with 2 when the file cannot be read or is no result of 'hmmgpu bench --json'. Other codes: see 'hmmgpu --help'.";

/// See [`Command::Report`](super::Command::Report).
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// What 'hmmgpu bench --json' wrote; - is standard input.
    #[arg(value_name = "RESULT.json|-")]
    pub result: PathBuf,
    /// Write the page into this file; - is standard output. [default: the result's name with .html]
    #[arg(short, long, value_name = "FILE.html|-", conflicts_with = "format")]
    pub output: Option<PathBuf>,
    /// Print text instead of writing a page.
    #[arg(long, value_enum)]
    pub format: Option<Format>,
}
