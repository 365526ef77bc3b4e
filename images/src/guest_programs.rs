//! Building the programs that run in the guest: init and the workloads, statically linked, from
//! this workspace's sources, by cargo.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::{Artefact, Cache};
use crate::context::Context;
use crate::keys::Key;
use crate::{ImageError, host_tools, run, sandbox};

/// Counts changes in how the programs are built.
const VERSION: u32 = 1;
/// Init, and where its crate is.
const INIT: (&str, &str) = ("hmmgpu-init", "images/init");
/// All workloads, and where their crate is.
const WORKLOADS: (&str, &str) = ("hmmgpu-guest-workloads", "tests/workloads");
/// The gnu target: its C library can be linked statically, and it comes with every toolchain.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// A target folder of some small crates.
const ROOM: u64 = 400 << 20;
/// Sources may change while they are built; so often is tried again.
const TRIES: u32 = 3;

/// Programs for the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GuestPrograms {
    /// PID 1.
    pub(crate) init: PathBuf,
    /// The program of all workloads.
    pub(crate) workloads: PathBuf,
    /// Names that the workloads are called by.
    pub(crate) names: Vec<String>,
    /// What they were made from.
    pub(crate) key: String,
}

/// The programs, built if need be from the workspace in `source`.
pub(crate) fn get(
    context: &Context,
    cache: &Cache,
    source: &Path,
) -> Result<GuestPrograms, ImageError> {
    for _ in 0..TRIES {
        let key = key(source)?;
        let artefact = Artefact {
            kind: "guest",
            key: &key,
            what: "programs for the guest",
            room: ROOM,
        };
        let made = cache.get(context, &artefact, |partial| {
            make(context, cache, &key, source, partial)?;
            // What was compiled may be newer than what was hashed.
            if self::key(source)? != key {
                return Err(ImageError::SourcesChange {
                    what: artefact.what.to_owned(),
                });
            }
            Ok(())
        });
        match made {
            Err(ImageError::SourcesChange { .. }) => {}
            Err(e) => return Err(e),
            Ok(path) => {
                let names = path.join("names");
                let text = fs::read_to_string(&names).map_err(ImageError::io("read", &names))?;
                return Ok(GuestPrograms {
                    init: path.join("init"),
                    workloads: path.join("workloads"),
                    names: text.lines().map(str::to_owned).collect(),
                    key,
                });
            }
        }
    }
    Err(ImageError::SourcesChange {
        what: "programs for the guest".into(),
    })
}

/// Hash of the crates that the programs consist of, the lock file and the compiler's choice.
fn key(source: &Path) -> Result<String, ImageError> {
    let mut key = Key::new("guest", VERSION);
    for file in ["Cargo.toml", "Cargo.lock"] {
        key.file(file, &source.join(file))?;
    }
    for file in ["rust-toolchain.toml", "rust-toolchain"] {
        if source.join(file).exists() {
            key.file(file, &source.join(file))?;
        }
    }
    for folder in crates(source, &[INIT.1, WORKLOADS.1])? {
        key.field("crate", folder.to_string_lossy().as_bytes());
        key.tree(&source.join(&folder), &|path| {
            path.file_name().is_some_and(|name| name == "Cargo.toml")
                || path.extension().is_some_and(|e| e == "rs" || e == "h")
        })?;
    }
    Ok(key.finish())
}

/// The crates at `roots` and all crates of the workspace that they depend on, as folders relative
/// to it.
fn crates(source: &Path, roots: &[&str]) -> Result<BTreeSet<PathBuf>, ImageError> {
    let workspace = manifest(source, Path::new(""))?;
    let shared = workspace
        .get("workspace")
        .and_then(|w| w.get("dependencies"));
    let mut found = BTreeSet::new();
    let mut to_do: Vec<PathBuf> = roots.iter().map(PathBuf::from).collect();
    while let Some(folder) = to_do.pop() {
        if !found.insert(folder.clone()) {
            continue;
        }
        let manifest = manifest(source, &folder)?;
        for section in ["dependencies", "build-dependencies"] {
            let Some(table) = manifest.get(section).and_then(|d| d.as_table()) else {
                continue;
            };
            for (name, entry) in table {
                let path_of = |value: &toml::Value| {
                    value
                        .get("path")
                        .and_then(|p| p.as_str())
                        .map(PathBuf::from)
                };
                let local = path_of(entry).map(|path| normal(&folder.join(path)));
                let inherited = entry
                    .get("workspace")
                    .and_then(|_| shared?.get(name))
                    .and_then(path_of);
                to_do.extend(local.or(inherited));
            }
        }
    }
    Ok(found)
}

fn manifest(source: &Path, folder: &Path) -> Result<toml::Table, ImageError> {
    let relative = folder.join("Cargo.toml");
    let path = source.join(&relative);
    let missing = || ImageError::NoSource {
        path: source.to_owned(),
        missing: relative.display().to_string(),
    };
    let text = fs::read_to_string(&path).map_err(|_| missing())?;
    toml::from_str(&text).map_err(|e| {
        let text = e.message().to_owned();
        ImageError::io("parse", path)(std::io::Error::other(text))
    })
}

/// Without `..` steps, so that a crate has one name.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        if part == std::path::Component::ParentDir {
            out.pop();
        } else {
            out.push(part);
        }
    }
    out
}

fn make(
    context: &Context,
    cache: &Cache,
    key: &str,
    source: &Path,
    partial: &Path,
) -> Result<(), ImageError> {
    let path = std::env::var_os("PATH");
    let cargo = std::env::var_os("CARGO")
        .map(PathBuf::from)
        .filter(|path| path.is_file())
        .or_else(|| host_tools::find("cargo", path.as_deref()))
        .ok_or(ImageError::NoCargo)?;
    // Not the caller's own target folder: its lock may be held by the cargo that started us.
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| source.join("target"), |folder| source.join(folder))
        .join("guest");
    // One at a time: the next one to build replaces what this one has not copied yet.
    let _lock = cache.lock(context, "guest-build", "programs for the guest")?;

    let mut command = sandbox::contained(cargo);
    for name in disturbing(std::env::vars_os().map(|(name, _)| name)) {
        command.env_remove(name);
    }
    command
        .current_dir(source)
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        // They are loaded into the guest's memory at every boot.
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
        .env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo")
        .env("CARGO_TERM_COLOR", "never")
        .args(["build", "--release", "--locked", "--target", TARGET])
        .args(["-p", INIT.0, "-p", WORKLOADS.0])
        .arg("--target-dir")
        .arg(&target);
    let log = cache.log("guest", key)?;
    run::run(
        context,
        "building the programs for the guest",
        &mut command,
        &log,
        |line| {
            context.progress.update(None, line.trim());
        },
    )?;

    fs::create_dir(partial).map_err(ImageError::io("create", partial))?;
    let built = target.join(TARGET).join("release");
    for (program, name) in [(INIT.0, "init"), (WORKLOADS.0, "workloads")] {
        let from = built.join(program);
        fs::copy(&from, partial.join(name)).map_err(ImageError::io("copy", &from))?;
    }
    // Static, so it runs here as well as in the guest.
    let mut names = String::new();
    let mut list = Command::new(partial.join("workloads"));
    run::run(
        context,
        "listing the workloads",
        list.arg("--list"),
        &log,
        |line| {
            names.push_str(line);
            names.push('\n');
        },
    )?;
    let path = partial.join("names");
    fs::write(&path, names).map_err(ImageError::io("write", path))
}

/// Variables that cargo or a user set for another build and that would change this one. Those
/// about the network, the registry and cargo's home stay.
fn disturbing(names: impl Iterator<Item = OsString>) -> Vec<OsString> {
    const EXACT: &[&str] = &[
        "CARGO",
        "CARGO_CRATE_NAME",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_INCREMENTAL",
        "CARGO_MAKEFLAGS",
        "CARGO_PRIMARY_PACKAGE",
        "LD_LIBRARY_PATH",
        "LLVM_PROFILE_FILE",
        "MAKEFLAGS",
        "MFLAGS",
        "RUSTC",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_WRAPPER",
        "RUSTDOCFLAGS",
        "RUSTFLAGS",
    ];
    const PREFIXES: &[&str] = &[
        "CARGO_BIN_",
        "CARGO_BUILD_",
        "CARGO_CFG_",
        "CARGO_FEATURE_",
        "CARGO_MANIFEST_",
        "CARGO_PKG_",
        "CARGO_PROFILE_",
        "CARGO_TARGET_",
    ];
    names
        .filter(|name| {
            let name = name.to_string_lossy();
            EXACT.contains(&&*name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, content) in [
            (
                "Cargo.toml",
                "[workspace.dependencies]\nb = { path = \"b\" }\nx = \"=1.0\"\n",
            ),
            ("Cargo.lock", ""),
            (
                "images/init/Cargo.toml",
                "[dependencies]\nb.workspace = true\nx.workspace = true\n",
            ),
            (
                "tests/workloads/Cargo.toml",
                "[dependencies]\nc = { path = \"../../c\" }\n",
            ),
            ("b/Cargo.toml", "[dependencies]\n"),
            ("b/src/lib.rs", ""),
            ("c/Cargo.toml", ""),
            ("other/Cargo.toml", ""),
            ("other/src/lib.rs", ""),
        ] {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        folder
    }

    #[test]
    fn dependencies_within_the_workspace_are_followed() {
        let folder = workspace();
        let found = crates(folder.path(), &[INIT.1, WORKLOADS.1]).unwrap();
        let found: Vec<_> = found.iter().map(|p| p.to_str().unwrap()).collect();
        assert_eq!(found, ["b", "c", "images/init", "tests/workloads"]);
    }

    #[test]
    fn only_what_is_built_counts() {
        let folder = workspace();
        let base = key(folder.path()).unwrap();
        fs::write(folder.path().join("other/src/lib.rs"), "changed").unwrap();
        assert_eq!(base, key(folder.path()).unwrap());
        fs::write(folder.path().join("b/src/lib.rs"), "changed").unwrap();
        assert_ne!(base, key(folder.path()).unwrap());
    }

    #[test]
    fn a_folder_that_is_no_checkout_says_which_variable_to_set() {
        let folder = tempfile::tempdir().unwrap();
        let error = crates(folder.path(), &[INIT.1]).unwrap_err().to_string();
        assert!(error.contains("HMMGPU_SOURCE"), "{error}");
    }

    #[test]
    fn variables_of_an_outer_build_are_dropped() {
        let names = [
            "CARGO_PKG_NAME",
            "RUSTFLAGS",
            "CARGO_HOME",
            "CARGO_NET_OFFLINE",
            "PATH",
        ];
        let dropped = disturbing(names.iter().map(OsString::from));
        assert_eq!(dropped, ["CARGO_PKG_NAME", "RUSTFLAGS"]);
    }
}
