//! TAP, as far as the guest programs speak it.

use std::collections::BTreeMap;

/// How a test went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Well.
    Ok,
    /// Not well; what was said before the verdict and directly after it.
    NotOk(String),
    /// It could not be done; why.
    Skipped(String),
}

/// The verdicts by name. A comment belongs to the verdict that follows it, or, when it follows a
/// bad verdict, to that.
pub fn parse(text: &str) -> BTreeMap<String, Verdict> {
    let mut verdicts: BTreeMap<String, Verdict> = BTreeMap::new();
    let mut comments = String::new();
    let mut failed: Option<String> = None;
    for line in text.lines() {
        let (ok, rest) = if let Some(rest) = line.strip_prefix("not ok ") {
            (false, rest)
        } else if let Some(rest) = line.strip_prefix("ok ") {
            (true, rest)
        } else {
            match (
                &failed,
                line.starts_with("# ended") || line.starts_with("# no end"),
            ) {
                (Some(name), true) => {
                    if let Some(Verdict::NotOk(said)) = verdicts.get_mut(name) {
                        said.push_str(line);
                        said.push('\n');
                    }
                }
                _ => {
                    comments.push_str(line);
                    comments.push('\n');
                }
            }
            continue;
        };
        let name = rest.split_once(" - ").map_or(rest, |(_, name)| name);
        let (name, directive) = name.split_once(" # ").unwrap_or((name, ""));
        let said = std::mem::take(&mut comments);
        let verdict = match (ok, directive.starts_with("SKIP")) {
            (true, false) => Verdict::Ok,
            (true, true) => Verdict::Skipped(said),
            (false, _) => Verdict::NotOk(said),
        };
        failed = (!ok).then(|| name.to_owned());
        verdicts.insert(name.to_owned(), verdict);
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_have_what_was_said() {
        let text = "TAP version 13\n1..4\nok 1 - first\n# page 3 differs\nnot ok 2 - second\n\
                    # ended by signal 11\n# no disk\nok 3 - third # SKIP\nok 4 - fourth\n";
        let verdicts = parse(text);
        assert_eq!(verdicts["first"], Verdict::Ok);
        let said = "# page 3 differs\n# ended by signal 11\n";
        assert_eq!(verdicts["second"], Verdict::NotOk(said.into()));
        assert_eq!(verdicts["third"], Verdict::Skipped("# no disk\n".into()));
        assert_eq!(verdicts["fourth"], Verdict::Ok);
    }
}
