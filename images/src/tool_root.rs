//! Making the tool root: a Debian suite's packages, unpacked and never configured.
//!
//! Nothing in the root runs as a system: QEMU, make and gcc need their files and no more. So
//! mmdebstrap only downloads and unpacks (its `extract` variant). No maintainer script runs, which
//! makes it quick (no initramfs is generated), needs neither root nor subordinate user ids, and
//! cannot touch the host, which is read-only for it anyway.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::cache::{Artefact, Cache};
use crate::context::Context;
use crate::host_tools::{self, BWRAP, MMDEBSTRAP};
use crate::keys::Key;
use crate::sandbox::{self, Bind, ToolRoot};
use crate::{ImageError, kernel, run};

/// Counts changes in how the root is made that the other parts of the key do not show.
const VERSION: u32 = 1;
/// The Debian suite; its backports have the QEMU and the kernel that are needed.
const SUITE: &str = "trixie";
/// QEMU with `vfio-user-pci` (10.1 or later), a kernel with device-private huge pages (7.2 or
/// later) with its headers and compiler, and what kbuild and the initramfs need.
const PACKAGES: &[&str] = &[
    "base-files",
    "bash",
    "binutils",
    "busybox-static",
    "coreutils",
    "dash",
    "diffutils",
    "findutils",
    "gcc-14",
    "grep",
    "gzip",
    "kmod",
    "libc6-dev",
    "linux-headers-amd64",
    "linux-image-amd64",
    "make",
    "mawk",
    "qemu-system-x86",
    "sed",
    "xz-utils",
    "zstd",
];
/// Folders that no program needs.
const UNNEEDED: &[&str] = &[
    "usr/share/doc",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "var/cache",
    "var/lib/apt",
];
/// Names that Debian's maintainer scripts would have made.
const LINKS: &[(&str, &str)] = &[("mawk", "usr/bin/awk")];
/// Names of the packages, with versions, that are in the root.
const MANIFEST: &str = "packages";
/// 250 MB of packages and 700 MB unpacked, both at once for a while, and some reserve.
const ROOM: u64 = 1300 << 20;

/// Run by mmdebstrap before it reads package lists: adds the backports of whatever mirror it has
/// chosen itself, in either of the two formats that it writes, as equals of the suite.
const ADD_BACKPORTS: &str = r#"set -e
apt="$1/etc/apt"
for list in "$apt/sources.list" "$apt"/sources.list.d/*.list; do
    [ ! -f "$list" ] || sed -n "s/ SUITE / SUITE-backports /p" "$list"
done > "$apt/backports.new"
[ ! -s "$apt/backports.new" ] || cp "$apt/backports.new" "$apt/sources.list.d/backports.list"
rm "$apt/backports.new"
for list in "$apt"/sources.list.d/*.sources; do
    [ ! -f "$list" ] || sed -i "/^Suites:/s/ SUITE\( \|$\)/ SUITE SUITE-backports\1/" "$list"
done
printf 'Package: *\nPin: release n=SUITE-backports\nPin-Priority: 500\n' \
    > "$apt/preferences.d/backports""#;
/// Run by mmdebstrap when all is unpacked and the packages are still there.
const LIST_PACKAGES: &str =
    r#"cd "$1/var/cache/apt/archives" && ls | grep '\.deb$' > "$1/packages""#;

/// The root, made if need be. `mirror`: what to ask instead of mmdebstrap's choice.
pub(crate) fn get(
    context: &Context,
    cache: &Cache,
    mirror: Option<&str>,
) -> Result<ToolRoot, ImageError> {
    host_tools::ensure(context, cache, &[BWRAP])?;
    let key = key(SUITE, PACKAGES);
    let artefact = Artefact {
        kind: "root",
        key: &key,
        what: "tool root",
        room: ROOM,
    };
    let path = cache.get(context, &artefact, |partial| {
        host_tools::ensure(context, cache, &[BWRAP, MMDEBSTRAP])?;
        sandbox::probe()?;
        make(context, cache, &key, mirror, partial)
    })?;
    // Also needed to use a root that is there.
    host_tools::ensure(context, cache, &[BWRAP])?;
    let mut identity = Key::new("packages", VERSION);
    identity.file("manifest", &path.join(MANIFEST))?;
    Ok(ToolRoot {
        path,
        identity: identity.finish(),
    })
}

/// The mirror is not in it: mirrors have the same packages.
fn key(suite: &str, packages: &[&str]) -> String {
    let mut key = Key::new("root", VERSION);
    key.field("suite", suite.as_bytes());
    for package in packages {
        key.field("package", package.as_bytes());
    }
    for folder in UNNEEDED {
        key.field("unneeded", folder.as_bytes());
    }
    for (target, link) in LINKS {
        key.field(link, target.as_bytes());
    }
    key.field("hooks", [ADD_BACKPORTS, LIST_PACKAGES].concat().as_bytes());
    key.finish()
}

fn make(
    context: &Context,
    cache: &Cache,
    key: &str,
    mirror: Option<&str>,
    partial: &Path,
) -> Result<(), ImageError> {
    fs::create_dir(partial).map_err(ImageError::io("create", partial))?;
    // As an absolute path: the sandbox starts elsewhere.
    let target = fs::canonicalize(partial).map_err(ImageError::io("find", partial))?;
    let log = cache.log("root", key)?;
    let mut command = mmdebstrap(&target);
    command
        .arg("--variant=extract")
        .arg(format!("--extract-hook={LIST_PACKAGES}"))
        .arg(format!("--include={}", PACKAGES.join(",")));
    suite_into(&mut command, &target, mirror);
    let mut meter = Meter::default();
    run::run(
        context,
        "making the tool root",
        &mut command,
        &log,
        |line| {
            if let Some((percent, detail)) = meter.line(line) {
                context.progress.update(percent, &detail);
            }
        },
    )?;

    for folder in UNNEEDED {
        crate::cache::remove(&target.join(folder))?;
    }
    for (points_to, link) in LINKS {
        let link = target.join(link);
        symlink(points_to, &link).map_err(ImageError::io("create", &link))?;
    }
    context.progress.update(None, "listing kernel modules");
    for kernel in kernel::all(&target) {
        let modules = target.join("usr/lib/modules");
        let inside = Bind {
            host: modules,
            inside: "/lib/modules".into(),
            writable: true,
        };
        // `/lib` is a link to the read-only `/usr/lib`; depmod gets its own view of both.
        let mut depmod = depmod(&target, &inside);
        depmod.arg(&kernel.release);
        run::run(
            context,
            "listing the kernel's modules",
            &mut depmod,
            &log,
            |_| {},
        )?;
    }
    if kernel::newest(&target).is_none() {
        return Err(ImageError::NoKernel { path: target });
    }
    Ok(())
}

/// mmdebstrap with the suite and its backports as sources, and nothing of the host but `target`
/// to write to; what it is to do there and [`suite_into`] are to be added.
pub(crate) fn mmdebstrap(target: &Path) -> Command {
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
        .arg("--architectures=amd64")
        .arg(format!(
            "--setup-hook={}",
            ADD_BACKPORTS.replace("SUITE", SUITE)
        ));
    command
}

/// The last arguments of mmdebstrap: what is made, where, and from where.
pub(crate) fn suite_into(command: &mut Command, target: &Path, mirror: Option<&str>) {
    command.arg("--format=directory").arg(SUITE).arg(target);
    if let Some(mirror) = mirror {
        command.arg(mirror);
    }
}

/// The version of a package of the root, or none if it has no such package.
pub(crate) fn package_version(
    root: &ToolRoot,
    package: &str,
) -> Result<Option<String>, ImageError> {
    let manifest = root.path().join(MANIFEST);
    let text = fs::read_to_string(&manifest).map_err(ImageError::io("read", &manifest))?;
    Ok(version_in(&text, package))
}

/// The version in a list of names such as `PACKAGE_VERSION_ARCHITECTURE.deb`, in which `%3a`
/// stands for a colon.
fn version_in(manifest: &str, package: &str) -> Option<String> {
    manifest.lines().find_map(|line| {
        let rest = line.strip_prefix(package)?.strip_prefix('_')?;
        Some(rest.split_once('_')?.0.replace("%3a", ":"))
    })
}

fn depmod(root: &Path, modules: &Bind) -> Command {
    let inside = Bind {
        inside: "/modules/lib/modules".into(),
        ..modules.clone()
    };
    let mut command = sandbox::in_root(root, &[inside]);
    command.args(["depmod", "-b", "/modules"]);
    command
}

/// Makes per cent out of what apt prints: the size of all it is to download and of each item.
#[derive(Debug, Default)]
struct Meter {
    total: f64,
    done: f64,
}

impl Meter {
    fn line(&mut self, line: &str) -> Option<(Option<u8>, String)> {
        if let Some(rest) = line.strip_prefix("Need to get ") {
            // "247 MB of archives." or "2 MB/247 MB of archives."
            let size = rest.split(" of archives").next()?;
            self.total = size_of(size.rsplit('/').next()?)?;
            self.done = 0.0;
            return Some((Some(0), format!("downloading {size}")));
        }
        if line.starts_with("Get:") && self.total > 0.0 {
            let size = line.rsplit_once('[')?.1.strip_suffix(']')?;
            self.done += size_of(size)?;
            let share = (self.done / self.total * 100.0).clamp(0.0, 100.0);
            // In 0 to 100 by the clamp.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let percent = share as u8;
            return Some((Some(percent), "downloading packages".into()));
        }
        let step = line.strip_prefix("I: ")?;
        let step = match step.trim_end_matches('.') {
            "running apt-get update" => "reading package lists",
            "downloading packages with apt" => "choosing packages",
            "extracting archives" => "unpacking",
            _ => return None,
        };
        Some((None, step.to_owned()))
    }
}

/// Bytes of a size as apt prints it, in powers of 1000.
fn size_of(text: &str) -> Option<f64> {
    let (number, unit) = text.trim().split_once(' ')?;
    let factor = match unit {
        "B" => 1.0,
        "kB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        _ => return None,
    };
    Some(number.replace(',', "").parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_the_recipe() {
        assert_eq!(key("a", &["x", "y"]), key("a", &["x", "y"]));
        assert_ne!(key("a", &["x", "y"]), key("b", &["x", "y"]));
        assert_ne!(key("a", &["x", "y"]), key("a", &["x"]));
    }

    #[test]
    fn versions_of_packages_are_in_the_manifest() {
        let manifest = "linux-image-7.3.4+deb13-amd64_7.3.4-1~bpo13+1_amd64.deb\n\
            qemu-system-x86_1%3a11.1.3+ds-1_amd64.deb\n";
        let version = |package| version_in(manifest, package);
        assert_eq!(
            version("linux-image-7.3.4+deb13-amd64").as_deref(),
            Some("7.3.4-1~bpo13+1")
        );
        assert_eq!(version("qemu-system-x86").as_deref(), Some("1:11.1.3+ds-1"));
        assert_eq!(version("linux-image"), None);
    }

    #[test]
    fn apts_lines_become_per_cent() {
        let mut meter = Meter::default();
        // A package list before the total is known is not counted.
        assert_eq!(meter.line("Get:1 http://h suite InRelease [140 kB]"), None);
        meter.line("Need to get 2,000 kB of archives.").unwrap();
        let (percent, _) = meter
            .line("Get:1 http://h suite/main amd64 make amd64 4.4 [500 kB]")
            .unwrap();
        assert_eq!(percent, Some(25));
        let (percent, _) = meter.line("Get:2 http://h x [9 GB]").unwrap();
        assert_eq!(percent, Some(100));
        assert_eq!(
            meter.line("I: extracting archives...").unwrap().1,
            "unpacking"
        );
        assert_eq!(meter.line("Get:3 no size"), None);
    }

    fn add_backports(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let apt = root.path().join("etc/apt");
        fs::create_dir_all(apt.join("sources.list.d")).unwrap();
        fs::create_dir_all(apt.join("preferences.d")).unwrap();
        for (name, content) in files {
            fs::write(apt.join(name), content).unwrap();
        }
        let status = Command::new("sh")
            .args(["-c", &ADD_BACKPORTS.replace("SUITE", "suite"), "sh"])
            .arg(root.path())
            .status()
            .unwrap();
        assert!(status.success());
        root
    }

    #[test]
    fn backports_come_from_the_mirror_of_the_suite() {
        let root = add_backports(&[(
            "sources.list",
            "deb [signed-by=/k] mirror suite main\ndeb mirror suite-updates main\n",
        )]);
        let added = root.path().join("etc/apt/sources.list.d/backports.list");
        assert_eq!(
            fs::read_to_string(added).unwrap(),
            "deb [signed-by=/k] mirror suite-backports main\n"
        );
    }

    #[test]
    fn backports_are_added_to_a_stanza_of_the_newer_format() {
        let root = add_backports(&[(
            "sources.list.d/main.sources",
            "Types: deb\nURIs: mirror\nSuites: suite suite-updates\nComponents: main\n",
        )]);
        let list = root.path().join("etc/apt/sources.list.d/main.sources");
        assert!(
            fs::read_to_string(list)
                .unwrap()
                .contains("Suites: suite suite-backports suite-updates\n")
        );
        assert!(
            !root
                .path()
                .join("etc/apt/sources.list.d/backports.list")
                .exists()
        );
    }
}
