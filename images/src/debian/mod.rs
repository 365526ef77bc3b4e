//! Debian's archive: package lists, packages, and roots made of them.
//!
//! All of it by mmdebstrap, which knows the keys and chooses a mirror itself; where it is to look
//! into more than one suite, the others come from the mirror that it has chosen.

pub(crate) mod archive;
pub(crate) mod kernels;
pub(crate) mod meter;
pub(crate) mod root;

use std::path::Path;
use std::process::Command;

use crate::sandbox::{self, Bind};

/// A suite, with the suites that it needs beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sources {
    /// A suite that is complete by itself.
    pub(crate) suite: &'static str,
    /// Suites that come on top of it, as its equals: the newest version of a package wins.
    pub(crate) added: &'static [&'static str],
}

/// The suite that most is taken from. Its backports have what is newer.
pub(crate) const STABLE: Sources = Sources {
    suite: "trixie",
    added: &["trixie-backports"],
};

/// Adds the suite ADDED to the sources of BASE, from the same mirror, in either of the two formats
/// that mmdebstrap writes.
const ADD_SUITE: &str = r#"set -e
apt="$1/etc/apt"
for list in "$apt/sources.list" "$apt"/sources.list.d/*.list; do
    [ ! -f "$list" ] || sed -n "s/ BASE / ADDED /p" "$list"
done > "$apt/added.new"
[ ! -s "$apt/added.new" ] || cp "$apt/added.new" "$apt/sources.list.d/ADDED.list"
rm "$apt/added.new"
for list in "$apt"/sources.list.d/*.sources; do
    [ ! -f "$list" ] || sed -i "/^Suites:/s/ BASE\( \|$\)/ BASE ADDED\1/" "$list"
done
for name in n=ADDED a=ADDED; do
    printf 'Package: *\nPin: release %s\nPin-Priority: 500\n\n' "$name"
done > "$apt/preferences.d/ADDED""#;

impl Sources {
    /// Scripts that mmdebstrap runs before it reads package lists.
    pub(crate) fn hooks(&self) -> Vec<String> {
        self.added
            .iter()
            .map(|added| {
                ADD_SUITE
                    .replace("ADDED", added)
                    .replace("BASE", self.suite)
            })
            .collect()
    }

    /// mmdebstrap with these sources, and nothing of the host but `target` to write to; what it
    /// is to do there and [`Sources::into_folder`] are to be added.
    pub(crate) fn mmdebstrap(&self, target: &Path) -> Command {
        let mut command = sandbox::on_host("mmdebstrap", &[Bind::writable(target)]);
        command
            .env("LC_ALL", "C")
            .arg("--verbose")
            .arg("--mode=chrootless")
            // It warns that chrootless mode could write to the host; here the host is read-only.
            .arg("--skip=check/chrootless")
            // The folder is there and holds nothing but is not new.
            .arg("--skip=check/empty")
            .arg("--aptopt=Acquire::Retries \"3\"")
            // Signatures count; their age does not: a mirror that stands still, such as a snapshot
            // that still has an older kernel, is as good.
            .arg("--aptopt=Acquire::Check-Valid-Until \"false\"")
            .arg("--architectures=amd64");
        for hook in self.hooks() {
            command.arg(format!("--setup-hook={hook}"));
        }
        command
    }

    /// The last arguments of mmdebstrap: what is made, where, and from where. `mirror`: what to
    /// ask instead of mmdebstrap's choice.
    pub(crate) fn into_folder(self, command: &mut Command, target: &Path, mirror: Option<&str>) {
        command
            .arg("--format=directory")
            .arg(self.suite)
            .arg(target);
        if let Some(mirror) = mirror {
            command.arg(mirror);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const SOURCES: Sources = Sources {
        suite: "suite",
        added: &["suite-backports", "next"],
    };

    fn add_suites(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let apt = root.path().join("etc/apt");
        fs::create_dir_all(apt.join("sources.list.d")).unwrap();
        fs::create_dir_all(apt.join("preferences.d")).unwrap();
        for (name, content) in files {
            fs::write(apt.join(name), content).unwrap();
        }
        for hook in SOURCES.hooks() {
            let status = Command::new("sh")
                .args(["-c", &hook, "sh"])
                .arg(root.path())
                .status()
                .unwrap();
            assert!(status.success());
        }
        root
    }

    #[test]
    fn added_suites_come_from_the_mirror_of_the_first() {
        let root = add_suites(&[(
            "sources.list",
            "deb [signed-by=/k] mirror suite main\ndeb mirror suite-updates main\n",
        )]);
        let apt = root.path().join("etc/apt");
        for added in SOURCES.added {
            let list = apt.join(format!("sources.list.d/{added}.list"));
            assert_eq!(
                fs::read_to_string(list).unwrap(),
                format!("deb [signed-by=/k] mirror {added} main\n")
            );
            let pin = fs::read_to_string(apt.join("preferences.d").join(added)).unwrap();
            assert!(pin.contains(&format!("Pin: release n={added}\n")), "{pin}");
        }
    }

    #[test]
    fn added_suites_join_a_stanza_of_the_newer_format() {
        let root = add_suites(&[(
            "sources.list.d/main.sources",
            "Types: deb\nURIs: mirror\nSuites: suite suite-updates\nComponents: main\n",
        )]);
        let lists = root.path().join("etc/apt/sources.list.d");
        assert!(
            fs::read_to_string(lists.join("main.sources"))
                .unwrap()
                .contains("Suites: suite next suite-backports suite-updates\n")
        );
        assert!(!lists.join("next.list").exists());
    }
}
