//! What a debug kernel is configured for: a fragment of a configuration, and whether it held.
//!
//! kbuild drops without a word an option that a kernel does not have, or whose dependencies are
//! not met. A checker that is not there finds nothing, so every line is looked for afterwards.

use crate::kernel::config::Config;
use crate::keys::Key;

/// Counts changes in how a kernel is built by a recipe.
const VERSION: u32 = 1;
/// What is merged into `make tinyconfig`.
pub(super) const FRAGMENT: &str = include_str!("../../../kernels/debug.config");

/// A line of a fragment: an option without `CONFIG_`, and its value, none for one that is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wanted<'a> {
    option: &'a str,
    value: Option<&'a str>,
}

/// The lines of a fragment that say something; of those for one option the last counts, as it
/// does for kbuild.
fn wanted(fragment: &str) -> Vec<Wanted<'_>> {
    let mut all: Vec<Wanted<'_>> = Vec::new();
    for line in fragment.lines() {
        let off = line
            .strip_prefix("# CONFIG_")
            .and_then(|rest| rest.strip_suffix(" is not set"))
            .map(|option| (option, None));
        let set = line
            .strip_prefix("CONFIG_")
            .and_then(|rest| rest.split_once('='))
            .map(|(option, value)| (option, Some(value.trim())));
        if let Some((option, value)) = off.or(set) {
            let value = value.filter(|value| *value != "n");
            all.retain(|known| known.option != option);
            all.push(Wanted { option, value });
        }
    }
    all
}

/// What a configuration has otherwise than the fragment says: a line for each option.
pub(super) fn unmet(fragment: &str, config: &Config) -> Vec<String> {
    let unquoted = |value: &str| value.trim_matches('"').to_owned();
    wanted(fragment)
        .into_iter()
        .filter(|wanted| config.get(wanted.option) != wanted.value.map(unquoted).as_deref())
        .map(|Wanted { option, value }| {
            let is = config.get(option).unwrap_or("off");
            format!(
                "CONFIG_{option}: {} wanted, {is} got",
                value.unwrap_or("off")
            )
        })
        .collect()
}

/// Changes whenever another kernel would come of the same source.
pub(super) fn key() -> Key {
    let mut key = Key::new("debug-kernel", VERSION);
    key.field("fragment", FRAGMENT.as_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_told_from_prose() {
        let text = "# A kernel.\n\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=n\nCONFIG_D=\"x\"\n";
        let option = |option, value| Wanted { option, value };
        assert_eq!(
            wanted(text),
            [
                option("A", Some("y")),
                option("B", None),
                option("C", None),
                option("D", Some("\"x\"")),
            ]
        );
        // As kbuild has it: the last one.
        assert_eq!(wanted("CONFIG_A=y\nCONFIG_A=m\n"), [option("A", Some("m"))]);
    }

    #[test]
    fn every_option_that_did_not_hold_is_named() {
        let fragment =
            "CONFIG_A=y\nCONFIG_B=m\n# CONFIG_C is not set\nCONFIG_D=\"x\"\nCONFIG_E=20\n";
        let held = "CONFIG_A=y\nCONFIG_B=m\nCONFIG_D=\"x\"\nCONFIG_E=20\nCONFIG_F=y\n";
        assert_eq!(unmet(fragment, &Config::of(held)), Vec::<String>::new());
        let got = "CONFIG_B=y\nCONFIG_C=y\nCONFIG_D=\"\"\nCONFIG_E=17\n";
        assert_eq!(
            unmet(fragment, &Config::of(got)),
            [
                "CONFIG_A: y wanted, off got",
                "CONFIG_B: m wanted, y got",
                "CONFIG_C: off wanted, y got",
                "CONFIG_D: \"x\" wanted,  got",
                "CONFIG_E: 20 wanted, 17 got",
            ]
        );
    }

    #[test]
    fn the_recipe_has_the_checkers_and_no_option_twice() {
        let all = wanted(FRAGMENT);
        let lines = FRAGMENT.lines().filter(|line| line.contains("CONFIG_"));
        assert_eq!(lines.count(), all.len(), "an option is there twice");
        for option in [
            "DEBUG_VM",
            "DEBUG_VM_PGTABLE",
            "KASAN_GENERIC",
            "PROVE_LOCKING",
            "PAGE_TABLE_CHECK_ENFORCED",
            "DEBUG_ATOMIC_SLEEP",
            "DEBUG_LIST",
            "FAILSLAB",
            "FAIL_PAGE_ALLOC",
        ] {
            let value = all.iter().find(|wanted| wanted.option == option);
            assert_eq!(value.and_then(|wanted| wanted.value), Some("y"), "{option}");
        }
    }
}
