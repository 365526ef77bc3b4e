//! A result as text, in the format that its reader wants.

mod csv;
mod hmm_tests;
mod markdown;

use clap::ValueEnum;

use super::result::BenchResult;
use super::table;

/// How a result is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table for people, with a summary and the doubts.
    #[default]
    Table,
    /// The table of upstream's benchmark_thp_migration (hmm-tests): order 9 beside order 0.
    HmmTests,
    /// The table in Markdown, for a mail or an issue.
    Markdown,
    /// One line for each row, with the units in the header.
    Csv,
}

/// The text of a result.
pub fn render(result: &BenchResult, format: Format) -> String {
    match format {
        Format::Table => table::render(result),
        Format::HmmTests => hmm_tests::render(result),
        Format::Markdown => markdown::render(result),
        Format::Csv => csv::render(result),
    }
}
