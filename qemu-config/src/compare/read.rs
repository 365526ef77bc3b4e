//! Comparing what files hold, which anybody may have written.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::comparison::{Comparison, Settings};
use super::document::{self, Alternation};
use super::sides::Boot;
use super::verdict::{Input, compare};
use crate::bench::file::{self, FileError};

/// Why there is nothing to compare.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A file is no result.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file does not go with what is asked.
    #[error("{}: {what}", path.display())]
    Other {
        /// The file.
        path: PathBuf,
        /// Why.
        what: String,
    },
}

/// Compares what two files hold, each a result of the bench; `-` is standard input.
pub fn compare_files(a: &Path, b: &Path, settings: Settings) -> Result<Comparison, ReadError> {
    let (boot_a, boot_b) = (read_boot(a)?, read_boot(b)?);
    if !boot_a.rows.keys().any(|row| boot_b.rows.contains_key(row)) {
        return Err(other(
            b,
            format!("it has no row that {} has, too", a.display()),
        ));
    }
    let name = |path: &Path| path.display().to_string();
    let (name_a, name_b) = (name(a), name(b));
    let (boots_a, boots_b) = ([boot_a], [boot_b]);
    let input = |name, boots| Input { name, boots };
    Ok(compare(
        input(&name_a, &boots_a),
        input(&name_b, &boots_b),
        settings,
    ))
}

/// Compares again what one file holds: two kernels that the bench alternated.
pub fn compare_alternation(path: &Path, settings: Settings) -> Result<Comparison, ReadError> {
    compare_alternation_text(&file::read_text(path)?, path, settings)
}

/// The same for the text of a file; `path` is what errors call it.
pub fn compare_alternation_text(
    text: &[u8],
    path: &Path,
    settings: Settings,
) -> Result<Comparison, ReadError> {
    if schema(text) != document::SCHEMA {
        // Either it is a result, or the error says what it is.
        file::parse(text, path)?;
        return Err(other(
            path,
            "it is a single result; give a second one to compare it with",
        ));
    }
    let alternation: Alternation = serde_json::from_slice(text)
        .map_err(|error| other(path, format!("it does not follow its schema: {error}")))?;
    for result in alternation
        .boots
        .iter()
        .filter_map(|boot| boot.result.as_ref())
    {
        file::check(result).map_err(|what| other(path, what))?;
    }
    alternation
        .compare(settings)
        .map_err(|what| other(path, what))
}

fn read_boot(path: &Path) -> Result<Boot, ReadError> {
    let text = file::read_text(path)?;
    if schema(&text) == document::SCHEMA {
        let what = "it holds both sides already; give it alone: hmmgpu compare FILE";
        return Err(other(path, what));
    }
    let result = file::parse(&text, path)?;
    let boot = Boot::of(0, &result).map_err(|what| other(path, what))?;
    if boot.rows.is_empty() {
        return Err(other(path, "nothing was measured in it"));
    }
    Ok(boot)
}

fn other(path: &Path, what: impl Into<String>) -> ReadError {
    ReadError::Other {
        path: path.to_owned(),
        what: what.into(),
    }
}

/// The schema that a text names; empty if it names none.
fn schema(text: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Head {
        schema: String,
    }
    serde_json::from_slice(text).map_or_else(|_| String::new(), |head: Head| head.schema)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::example;
    use crate::compare::document::AlternatedBoot;
    use crate::compare::sides::Side;

    const FIVE: Settings = Settings {
        threshold: 0.05,
        confidence: 0.95,
    };

    fn json(value: &impl serde::Serialize) -> String {
        serde_json::to_string(value).expect("JSON")
    }

    fn alternation() -> Alternation {
        let result = example::result(vec![example::row(9, 9, 9e9)]);
        let boot = |side| AlternatedBoot {
            side,
            result: Some(result.clone()),
            failure: None,
        };
        let boots = vec![boot(Side::A), boot(Side::B)];
        Alternation::new("debian:7.2".into(), "/tree".into(), 2, boots, FIVE).expect("is right")
    }

    #[test]
    fn what_was_written_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str, text: String| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("writes");
            path
        };
        let one = example::result(vec![example::row(9, 9, 9e9)]);
        let small = example::result(vec![example::row(0, 0, 3e8)]);
        let both = alternation();
        let (one, small, both_file) = (
            file("one.json", json(&one)),
            file("small.json", json(&small)),
            file("both.json", json(&both)),
        );
        assert_eq!(
            compare_files(&one, &one, FIVE)
                .expect("compares")
                .rows
                .len(),
            1
        );
        let again = compare_alternation(&both_file, FIVE).expect("compares");
        assert_eq!(again, both.comparison);
        let text = |error: ReadError| error.to_string();
        for (error, word) in [
            (compare_files(&one, &small, FIVE), "no row that"),
            (compare_files(&one, &both_file, FIVE), "give it alone"),
            (compare_alternation(&one, FIVE), "a second one"),
            (compare_alternation(folder.path(), FIVE), "cannot read"),
        ] {
            let error = text(error.expect_err("refused"));
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn results_within_an_alternation_are_checked_as_well() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("both.json");
        let mut json = serde_json::to_value(alternation()).expect("JSON");
        json["boots"][1]["result"]["rows"][0]["repeats"] = 4.into();
        std::fs::write(&path, json.to_string()).expect("writes");
        let error = compare_alternation(&path, FIVE)
            .expect_err("refused")
            .to_string();
        assert!(error.contains("5 samples of 4 rounds"), "{error}");
        json["boots"] = "many".into();
        std::fs::write(&path, json.to_string()).expect("writes");
        let error = compare_alternation(&path, FIVE)
            .expect_err("refused")
            .to_string();
        assert!(error.contains("its schema"), "{error}");
    }
}
