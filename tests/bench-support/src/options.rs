//! What a benchmark is asked for on its command line.

use std::path::PathBuf;

use clap::Parser;

/// Arguments of each benchmark, behind the `--` of `cargo bench`.
#[derive(Clone, Debug, Default, Parser)]
#[command(after_help = "Examples:
  cargo bench -p hmmgpu-model --bench copy
  cargo bench -p hmmgpu-model --bench copy -- --json before.jsonl
  cargo bench -p hmmgpu-model --bench copy -- --baseline before.jsonl 4KiB

Exit codes: 0 all was measured; 1 a row is worse than its baseline, or something is wrong;
2 usage. A target that is missed is shown, and no error: it may be the host's.")]
pub struct Options {
    /// Rows that are wanted: those whose name contains one of these; none: all.
    pub rows: Vec<String>,
    /// Writes each row to a file, one line of JSON each.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Compares each row with the one of the same name in a file that --json has written.
    #[arg(long, value_name = "FILE")]
    pub baseline: Option<PathBuf>,
    /// Rounds, each of which makes everything anew.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: Option<u32>,
    /// What `cargo bench` passes to each benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    /// From the command line; wrong usage ends the program.
    pub fn from_arguments() -> Self {
        Self::parse()
    }

    /// Whether a row is wanted.
    pub fn wants(&self, name: &str) -> bool {
        self.rows.is_empty() || self.rows.iter().any(|part| name.contains(part.as_str()))
    }

    /// Number of rounds, or so many by default.
    pub fn rounds(&self, default: usize) -> usize {
        let asked = self.rounds.and_then(|rounds| usize::try_from(rounds).ok());
        asked.unwrap_or(default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cargo_passes_is_taken_and_rows_are_chosen_by_a_part_of_their_name() {
        let options = Options::try_parse_from(["copy", "--bench", "read", "--rounds", "3"]);
        let options = options.expect("good usage");
        assert!(options.wants("register read") && !options.wants("posted write"));
        assert_eq!(options.rounds(8), 3);
        assert!(Options::default().wants("anything"));
        assert_eq!(Options::default().rounds(8), 8);
        assert!(Options::try_parse_from(["copy", "--rounds", "0"]).is_err());
    }
}
