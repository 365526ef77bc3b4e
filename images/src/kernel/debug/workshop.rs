//! The steps of building a kernel, each a program in a root that has what they need.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::recipe;
use crate::cache::Cache;
use crate::context::Context;
use crate::debian::STABLE;
use crate::debian::root::{self, Recipe};
use crate::kernel::config::Config;
use crate::kernel_source::KEPT;
use crate::sandbox::{Bind, ToolRoot};
use crate::tool_root::COMPILER;
use crate::{ImageError, run};

/// The compiler, and what a kernel's build needs beside it.
const PACKAGES: &[&str] = &[
    "base-files",
    "bash",
    "bc",
    "binutils",
    "bison",
    "coreutils",
    "dash",
    "diffutils",
    "findutils",
    "flex",
    "gcc-14",
    "grep",
    "gzip",
    "kmod",
    "libc6-dev",
    "libelf-dev",
    "make",
    "mawk",
    "sed",
    "tar",
    "xz-utils",
    "zstd",
];
/// 110 MB of packages and 350 MB unpacked, and some reserve.
const ROOM: u64 = 600 << 20;
/// Files that the recipe has compiled, linked or packed on Linux 7.3 in the end. For the share
/// that is told; nothing depends on it.
const STEPS: usize = 1930;
/// A rate is told only after so much of it was seen.
const RATE_AFTER: Duration = Duration::from_secs(20);

/// Where things are in the sandbox.
const SOURCE: &str = "/src";
const BUILD: &str = "/build";
const OUT: &str = "/out";

/// A root in which kernels are built.
pub(super) fn root(
    context: &Context,
    cache: &Cache,
    mirror: Option<&str>,
) -> Result<ToolRoot, ImageError> {
    let recipe = Recipe {
        kind: "build-root",
        what: "root that builds kernels",
        sources: STABLE,
        packages: PACKAGES,
        room: ROOM,
    };
    root::get(context, cache, &recipe, mirror)
}

/// A kernel in the making.
#[derive(Debug)]
pub(super) struct Workshop<'a> {
    pub(super) context: &'a Context,
    pub(super) root: &'a ToolRoot,
    /// The kernel's source, which is only read.
    pub(super) source: &'a Path,
    /// Where objects are; what is there is not made again.
    pub(super) build: &'a Path,
    /// Where the kernel goes.
    pub(super) out: &'a Path,
    pub(super) log: &'a Path,
}

impl Workshop<'_> {
    /// Builds and installs: `bzImage`, `config`, `System.map`, `modules`, `headers` and `source`
    /// in the folder for it.
    pub(super) fn make_all(&self) -> Result<(), ImageError> {
        for folder in [self.build, self.out] {
            fs::create_dir_all(folder).map_err(ImageError::io("create", folder))?;
        }
        self.configure()?;
        self.compile()?;
        self.install()
    }

    /// Words of a program in the sandbox, in the folder of the objects.
    fn command(&self, words: &[&str]) -> Command {
        let bind = |host: &Path, inside: &str, writable| Bind {
            host: host.to_owned(),
            inside: inside.into(),
            writable,
        };
        let binds = [
            bind(self.source, SOURCE, false),
            bind(self.build, BUILD, true),
            bind(self.out, OUT, true),
        ];
        let mut command = self.root.command("env", &binds);
        // The caller's environment may hold variables that mean something to make or gcc.
        command.args(["-i", "-C", BUILD, "PATH=/usr/bin:/usr/sbin", "LC_ALL=C"]);
        command.args(["KBUILD_BUILD_USER=hmmgpu", "KBUILD_BUILD_HOST=hmmgpu"]);
        command.args(words);
        command
    }

    fn make(&self, words: &[&str]) -> Command {
        let compiler = format!("CC={COMPILER}");
        let host_compiler = format!("HOSTCC={COMPILER}");
        let mut all = vec!["make", "-C", SOURCE, "O=/build", &compiler, &host_compiler];
        all.extend(words);
        self.command(&all)
    }

    fn run(
        &self,
        what: &str,
        mut command: Command,
        follow: impl FnMut(&str),
    ) -> Result<(), ImageError> {
        self.context.progress.update(None, what);
        run::run(self.context, what, &mut command, self.log, follow)
    }

    /// `tinyconfig`, then the fragment, then whatever these imply.
    fn configure(&self) -> Result<(), ImageError> {
        let what = "configuring the kernel";
        self.run(what, self.make(&["tinyconfig"]), |_| {})?;
        let path = self.build.join(".config");
        let tiny = fs::read_to_string(&path).map_err(ImageError::io("read", &path))?;
        // Of what is said twice kbuild takes the last.
        let merged = format!("{tiny}{}", recipe::FRAGMENT);
        fs::write(&path, merged).map_err(ImageError::io("write", &path))?;
        self.run(what, self.make(&["olddefconfig"]), |_| {})?;
        let config = Config::read(&path)?;
        config.check(&path)?;
        let unmet = recipe::unmet(recipe::FRAGMENT, &config);
        if !unmet.is_empty() {
            self.context.progress.note(&format!(
                "this kernel does not take all of the recipe; without it goes:\n  {}",
                unmet.join("\n  ")
            ));
        }
        Ok(())
    }

    fn compile(&self) -> Result<(), ImageError> {
        let jobs = std::thread::available_parallelism().map_or(1, |n| n.get());
        let jobs = format!("-j{jobs}");
        let mut meter = Meter::new(objects(self.build));
        let command = self.make(&[&jobs, "bzImage", "modules"]);
        self.run("compiling the kernel", command, |line| {
            if let Some((percent, detail)) = meter.line(line) {
                self.context.progress.update(Some(percent), &detail);
            }
        })
    }

    fn install(&self) -> Result<(), ImageError> {
        let modules = format!("INSTALL_MOD_PATH={OUT}/modules");
        let what = "installing the modules";
        self.run(what, self.make(&[&modules, "modules_install"]), |_| {})?;
        // Upstream's own script for what modules are built against.
        let headers = format!(
            "KBUILD_RUN_COMMAND=$(srctree)/scripts/package/install-extmod-build {OUT}/headers"
        );
        let what = "installing the headers";
        self.run(what, self.make(&[&headers, "run-command"]), |_| {})?;
        let mut kept = vec!["cp", "-a", "--parents", "-t", "/out/source"];
        kept.extend(KEPT);
        let source = self.out.join("source");
        fs::create_dir_all(&source).map_err(ImageError::io("create", &source))?;
        let mut words = vec!["env", "-C", SOURCE];
        words.extend(kept);
        self.run("keeping the tests' source", self.command(&words), |_| {})?;
        for (from, to) in [
            ("arch/x86/boot/bzImage", "bzImage"),
            (".config", "config"),
            ("System.map", "System.map"),
        ] {
            let (from, to) = (self.build.join(from), self.out.join(to));
            fs::copy(&from, &to).map_err(ImageError::io("copy", &from))?;
        }
        Ok(())
    }
}

/// Objects and archives that an earlier run has made.
fn objects(build: &Path) -> usize {
    let is_object = |path: &Path| path.extension().is_some_and(|end| end == "o" || end == "a");
    crate::keys::files_below(build, &is_object).map_or(0, |found: Vec<PathBuf>| found.len())
}

/// How far kbuild has come.
#[derive(Debug)]
struct Meter {
    begun: Instant,
    /// Made before, and by now.
    before: usize,
    done: usize,
}

impl Meter {
    fn new(before: usize) -> Self {
        Self {
            begun: Instant::now(),
            before,
            done: before,
        }
    }

    /// Per cent and what is at work, for a line that kbuild prints of a file.
    fn line(&mut self, line: &str) -> Option<(u8, String)> {
        // "  CC      mm/memory.o", "  CC [M]  lib/test_hmm.o"
        let what = line.strip_prefix("  ")?;
        if !what.starts_with(|first: char| first.is_ascii_uppercase()) {
            return None;
        }
        self.done += 1;
        let file = what.split_whitespace().last().unwrap_or_default();
        let elapsed = self.begun.elapsed();
        Some(self.told(file, elapsed))
    }

    fn told(&self, file: &str, elapsed: Duration) -> (u8, String) {
        let share = (self.done * 100 / STEPS).min(99);
        let percent = u8::try_from(share).unwrap_or(99);
        let made = self.done - self.before;
        let left = STEPS.saturating_sub(self.done);
        let total = STEPS.max(self.done);
        let mut detail = format!("{file} ({} of about {total}", self.done);
        if elapsed >= RATE_AFTER && made > 0 && left > 0 {
            let seconds = elapsed.as_secs_f64() / made as f64 * left as f64;
            detail.push_str(&format!(", {:.0} min left", (seconds / 60.0).ceil()));
        }
        detail.push(')');
        (percent, detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_kbuild_are_counted() {
        let mut meter = Meter::new(100);
        assert_eq!(meter.line("make[1]: Entering directory '/build'"), None);
        assert_eq!(meter.line("warning: something"), None);
        let (percent, detail) = meter.line("  CC      mm/memory.o").unwrap();
        assert_eq!(percent, 5);
        assert_eq!(detail, format!("mm/memory.o (101 of about {STEPS})"));
        meter.line("  CC [M]  lib/test_hmm.o").unwrap();
        assert_eq!(meter.done, 102);
    }

    #[test]
    fn what_is_left_follows_from_what_this_run_made() {
        let meter = Meter {
            begun: Instant::now(),
            before: STEPS - 200,
            done: STEPS - 100,
        };
        let (percent, detail) = meter.told("x.o", Duration::from_secs(300));
        assert_eq!(percent, 94);
        assert!(detail.ends_with(", 5 min left)"), "{detail}");
        // More than was thought is no reason to promise the end.
        let meter = Meter {
            done: STEPS + 9,
            ..meter
        };
        let (percent, detail) = meter.told("x.o", Duration::from_secs(300));
        assert_eq!(percent, 99);
        assert!(!detail.contains("left"), "{detail}");
    }

    #[test]
    fn objects_of_an_earlier_run_are_found() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("mm")).unwrap();
        for name in ["mm/a.o", "mm/a.c", "b.a"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(objects(folder.path()), 2);
        assert_eq!(objects(&folder.path().join("none")), 0);
    }
}
