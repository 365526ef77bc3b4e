//! Roots: packages of a suite, unpacked and never configured.
//!
//! Nothing in a root runs as a system: QEMU, make and gcc need their files and no more. So
//! mmdebstrap only downloads and unpacks (its `extract` variant). No maintainer script runs, which
//! makes it quick (no initramfs is generated), needs neither root nor subordinate user ids, and
//! cannot touch the host, which is read-only for it anyway.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use super::Sources;
use super::meter::Meter;
use crate::cache::{Artefact, Cache};
use crate::context::Context;
use crate::host_tools::{self, BWRAP, MMDEBSTRAP};
use crate::keys::Key;
use crate::sandbox::{self, Bind, ToolRoot};
use crate::{ImageError, kernel, run};

/// Counts changes in how a root is made that the other parts of the key do not show.
const VERSION: u32 = 2;
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

/// Run by mmdebstrap when all is unpacked and the packages are still there.
const LIST_PACKAGES: &str =
    r#"cd "$1/var/cache/apt/archives" && ls | grep '\.deb$' > "$1/packages""#;

/// What a root is made of.
#[derive(Clone, Debug)]
pub(crate) struct Recipe<'a> {
    /// Names a folder of the cache.
    pub(crate) kind: &'a str,
    /// What a person calls it.
    pub(crate) what: &'a str,
    /// Where packages come from.
    pub(crate) sources: Sources,
    /// Packages, each perhaps with `=VERSION`; what they need comes with them. `mawk` must be
    /// among them, and with a kernel its headers.
    pub(crate) packages: &'a [&'a str],
    /// Bytes for the packages and what is in them, both at once for a while.
    pub(crate) room: u64,
}

/// The root, made if need be. `mirror`: what to ask instead of mmdebstrap's choice.
pub(crate) fn get(
    context: &Context,
    cache: &Cache,
    recipe: &Recipe<'_>,
    mirror: Option<&str>,
) -> Result<ToolRoot, ImageError> {
    host_tools::ensure(context, cache, &[BWRAP])?;
    let key = key(recipe);
    let artefact = Artefact {
        kind: recipe.kind,
        key: &key,
        what: recipe.what,
        room: recipe.room,
    };
    let path = cache.get(context, &artefact, |partial| {
        host_tools::ensure(context, cache, &[BWRAP, MMDEBSTRAP])?;
        sandbox::probe()?;
        make(context, cache, recipe, &key, mirror, partial)
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
fn key(recipe: &Recipe<'_>) -> String {
    let mut key = Key::new("root", VERSION);
    key.field("suite", recipe.sources.suite.as_bytes());
    for hook in recipe.sources.hooks() {
        key.field("hook", hook.as_bytes());
    }
    for package in recipe.packages {
        key.field("package", package.as_bytes());
    }
    for folder in UNNEEDED {
        key.field("unneeded", folder.as_bytes());
    }
    for (target, link) in LINKS {
        key.field(link, target.as_bytes());
    }
    key.field("list", LIST_PACKAGES.as_bytes());
    key.finish()
}

fn make(
    context: &Context,
    cache: &Cache,
    recipe: &Recipe<'_>,
    key: &str,
    mirror: Option<&str>,
    partial: &Path,
) -> Result<(), ImageError> {
    fs::create_dir(partial).map_err(ImageError::io("create", partial))?;
    // As an absolute path: the sandbox starts elsewhere.
    let target = fs::canonicalize(partial).map_err(ImageError::io("find", partial))?;
    let log = cache.log(recipe.kind, key)?;
    let mut command = recipe.sources.mmdebstrap(&target);
    command
        .arg("--variant=extract")
        .arg(format!("--extract-hook={LIST_PACKAGES}"))
        .arg(format!("--include={}", recipe.packages.join(",")));
    recipe.sources.into_folder(&mut command, &target, mirror);
    let mut meter = Meter::default();
    run::run(
        context,
        &format!("making the {}", recipe.what),
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
    for release in kernel::releases(&target) {
        let modules = target.join("usr/lib/modules");
        let inside = Bind {
            host: modules,
            inside: "/lib/modules".into(),
            writable: true,
        };
        // `/lib` is a link to the read-only `/usr/lib`; depmod gets its own view of both.
        let mut depmod = depmod(&target, &inside);
        depmod.arg(&release);
        run::run(
            context,
            "listing the kernel's modules",
            &mut depmod,
            &log,
            |_| {},
        )?;
    }
    let wants_kernel = |package: &&str| package.starts_with("linux-image-");
    if recipe.packages.iter().any(wants_kernel) && kernel::releases(&target).is_empty() {
        return Err(ImageError::NoKernel { path: target });
    }
    Ok(())
}

fn depmod(root: &Path, modules: &Bind) -> Command {
    let inside = Bind {
        inside: "/modules/lib/modules".into(),
        ..modules.clone()
    };
    let mut command = sandbox::in_root(root, &[inside]);
    // The PATH of an ordinary user does not have it.
    command.args(["/usr/sbin/depmod", "-b", "/modules"]);
    command
}

/// The version of a package of a root, or none if it has no such package.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::debian::STABLE;

    #[test]
    fn the_key_is_the_recipe() {
        let of = |suite, packages: &[&str]| {
            key(&Recipe {
                kind: "root",
                what: "root",
                sources: Sources { suite, ..STABLE },
                packages,
                room: 0,
            })
        };
        assert_eq!(of("a", &["x", "y"]), of("a", &["x", "y"]));
        assert_ne!(of("a", &["x", "y"]), of("b", &["x", "y"]));
        assert_ne!(of("a", &["x", "y"]), of("a", &["x"]));
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
}
