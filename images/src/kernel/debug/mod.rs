//! Debug kernels: small ones with the kernel's own checkers on, built here from Debian's source or
//! from a tree, and named `debug` or `debug:VERSION`.

mod recipe;
mod workshop;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::tree::{BUILT_CONFIG, SYMBOLS, open_image};
use super::{Build, Kernel, Modules, Place, Source};
use crate::cache::{Artefact, Cache};
use crate::context::Context;
use crate::debian::{Sources, archive};
use crate::kernel::spec::KernelSpec;
use crate::kernel_source::{self, KernelSource};
use crate::keys::Key;
use crate::sandbox::{Bind, ToolRoot};
use crate::tool_root::COMPILER;
use crate::{ImageError, host_tools};
use workshop::Workshop;

/// Names a folder of the cache.
const KIND: &str = "debug-kernel";
/// What is told of a kernel, beside it.
const ABOUT: &str = "about.json";
/// The source unpacked, objects, and the package for a while.
const ROOM: u64 = 5 << 30;
/// What a tree that was built in has; kbuild builds elsewhere only from one that was not.
const DIRTY: &[&str] = &[".config", "include/config", "arch/x86/include/generated"];

/// A debug kernel that was built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DebugKernel {
    /// What `uname -r` says when it runs.
    pub release: String,
    /// Of its source, for example `7.3.4`.
    pub version: String,
    /// Where its source came from, in words.
    pub source: String,
    /// When it was built: seconds since 1970.
    pub built: u64,
    /// Hash of the recipe.
    recipe: String,
    /// Its folder; not in the file.
    #[serde(skip)]
    pub path: PathBuf,
}

impl DebugKernel {
    /// Whether it was built by the recipe of this program.
    pub fn is_current(&self) -> bool {
        self.recipe == recipe::key().finish()
    }

    fn is_named(&self, name: &str) -> bool {
        let of_series = |version: &str| {
            let rest = version.strip_prefix(name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        self.release == name || of_series(&self.version)
    }
}

/// Where the source of a kernel to build comes from.
enum Origin {
    Package {
        sources: Sources,
        package: String,
        version: String,
    },
    Tree(PathBuf),
}

impl Origin {
    fn words(&self) -> String {
        match self {
            Self::Package {
                package, version, ..
            } => format!("Debian's {package} {version}"),
            Self::Tree(path) => path.display().to_string(),
        }
    }

    fn key(&self) -> String {
        let mut key = recipe::key();
        match self {
            Self::Package {
                package, version, ..
            } => key.field(package, version.as_bytes()),
            Self::Tree(path) => key.field("tree", path.as_os_str().as_encoded_bytes()),
        }
        key.finish()
    }
}

/// Builds a kernel from `source`: the tool root's where none is named. What was built of a package
/// is there already another time; of a tree, make sees what has changed.
pub(crate) fn build(
    context: &Context,
    cache: &Cache,
    mirror: Option<&str>,
    tool_root: &ToolRoot,
    source: Option<&KernelSpec>,
) -> Result<DebugKernel, ImageError> {
    let origin = origin(context, cache, mirror, tool_root, source)?;
    host_tools::ensure(context, cache, &[host_tools::BWRAP])?;
    let root = workshop::root(context, cache, mirror)?;
    let key = origin.key();
    let what = format!("debug kernel from {}", origin.words());
    let artefact = Artefact {
        kind: KIND,
        key: &key,
        what: &what,
        room: ROOM,
    };
    let make = |partial: &Path| {
        let work = cache.work(&artefact)?;
        let made = make(context, cache, mirror, &root, &origin, &key, &work, partial);
        match (&made, &origin) {
            (Ok(()), Origin::Package { .. }) => crate::cache::remove(&work)?,
            // make goes on from there when the tree has changed.
            (Ok(()), Origin::Tree(_)) => {}
            (Err(_), _) => context.progress.note(&format!(
                "what was made so far stays in {} for 30 days: the same command goes on from there",
                work.display()
            )),
        }
        made
    };
    let path = match origin {
        Origin::Package { .. } => cache.get(context, &artefact, make)?,
        Origin::Tree(_) => cache.renew(context, &artefact, make)?,
    };
    read(&path)
}

fn origin(
    context: &Context,
    cache: &Cache,
    mirror: Option<&str>,
    tool_root: &ToolRoot,
    source: Option<&KernelSpec>,
) -> Result<Origin, ImageError> {
    let of_package = |sources, release: &str, version: &str| {
        let package = kernel_source::package_of(release);
        let package = package.ok_or_else(|| ImageError::NoSourcePackage {
            release: release.to_owned(),
        })?;
        Ok(Origin::Package {
            sources,
            package,
            version: version.to_owned(),
        })
    };
    match source {
        None => {
            let kernel = super::of_tool_root(tool_root)?;
            match &kernel.source {
                Source::Package { sources, version } => {
                    of_package(*sources, &kernel.release, version)
                }
                Source::Tree(_) | Source::Unknown => Err(ImageError::NoSourcePackage {
                    release: kernel.release,
                }),
            }
        }
        Some(KernelSpec::Debian(name)) => {
            let found = archive::find(context, cache, mirror, name, false)?.kernel;
            of_package(found.sources(), &found.release, &found.version)
        }
        Some(KernelSpec::Tree(path)) => Ok(Origin::Tree(check_source(path)?)),
        Some(other @ (KernelSpec::Debug(_) | KernelSpec::Image { .. })) => {
            Err(ImageError::NotKernel {
                path: other.to_string().into(),
                why: "a kernel is built from debian:SERIES or from a source tree".to_owned(),
            })
        }
    }
}

/// A tree that can be built from.
fn check_source(path: &Path) -> Result<PathBuf, ImageError> {
    let source = KernelSource::at(path)?;
    super::tree::check_pagemap(&source.path).map_err(|why| ImageError::NotKernel {
        path: path.to_owned(),
        why,
    })?;
    match DIRTY.iter().find(|name| source.path.join(name).exists()) {
        None => Ok(source.path),
        Some(there) => Err(ImageError::NotKernel {
            path: path.to_owned(),
            why: format!(
                "it was built in (it has {there}), and a debug kernel is built elsewhere, for which \
                 kbuild wants a clean source: name another checkout (git worktree add), or run make \
                 mrproper in it, which removes its .config"
            ),
        }),
    }
}

#[expect(clippy::too_many_arguments)]
fn make(
    context: &Context,
    cache: &Cache,
    mirror: Option<&str>,
    root: &ToolRoot,
    origin: &Origin,
    key: &str,
    work: &Path,
    out: &Path,
) -> Result<(), ImageError> {
    let log = cache.log(KIND, key)?;
    let source = match origin {
        Origin::Tree(path) => path.clone(),
        Origin::Package {
            sources,
            package,
            version,
        } => {
            let unpacked = work.join("source");
            if !unpacked.exists() {
                let fetching = work.join("fetching");
                crate::cache::remove(&fetching)?;
                let from = (*sources, package.as_str(), version.as_str());
                kernel_source::whole(context, mirror, root, from, &fetching, &log)?;
                let tree = fetching.join(package);
                fs::rename(&tree, &unpacked).map_err(ImageError::io("find", &tree))?;
                crate::cache::remove(&fetching)?;
            }
            unpacked
        }
    };
    let workshop = Workshop {
        context,
        root,
        source: &source,
        build: &work.join("build"),
        out,
        log: &log,
    };
    workshop.make_all()?;
    let version = KernelSource::at(&out.join("source"))?.version;
    let (release, ..) = open(out)?;
    let about = DebugKernel {
        release,
        version,
        source: origin.words(),
        built: now(),
        recipe: recipe::key().finish(),
        path: PathBuf::new(),
    };
    let path = out.join(ABOUT);
    let text = serde_json::to_vec_pretty(&about).map_err(|error| ImageError::Io {
        what: "write",
        path: path.clone(),
        source: error.into(),
    })?;
    fs::write(&path, text).map_err(ImageError::io("write", &path))
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn read(path: &Path) -> Result<DebugKernel, ImageError> {
    let about = path.join(ABOUT);
    let text = fs::read(&about).map_err(ImageError::io("read", &about))?;
    let kernel: DebugKernel = serde_json::from_slice(&text).map_err(|error| ImageError::Io {
        what: "read",
        path: about,
        source: error.into(),
    })?;
    Ok(DebugKernel {
        path: path.to_owned(),
        ..kernel
    })
}

/// All that are there, the newest first.
pub(crate) fn list(cache: &Cache) -> Vec<DebugKernel> {
    let Ok(entries) = fs::read_dir(cache.folder().join(KIND)) else {
        return Vec::new();
    };
    let mut all: Vec<DebugKernel> = entries
        .flatten()
        // Locks and what is in the making have endings.
        .filter(|entry| entry.path().extension().is_none())
        .filter_map(|entry| read(&entry.path()).ok())
        .collect();
    all.sort_by(|a, b| (b.built, &b.release).cmp(&(a.built, &a.release)));
    all
}

/// The newest of a name: a release, a version or a series; any without one.
pub(crate) fn find(cache: &Cache, name: Option<&str>) -> Result<DebugKernel, ImageError> {
    let all = list(cache);
    let fits = |kernel: &&DebugKernel| name.is_none_or(|name| kernel.is_named(name));
    all.iter()
        .find(fits)
        .cloned()
        .ok_or_else(|| ImageError::NoDebugKernel {
            name: KernelSpec::Debug(name.map(str::to_owned)).to_string(),
            there: all.iter().map(|kernel| kernel.version.clone()).collect(),
        })
}

/// A kernel that was built, for a guest.
pub(crate) fn by_name(
    context: &Context,
    cache: &Cache,
    mirror: Option<&str>,
    name: Option<&str>,
) -> Result<Kernel, ImageError> {
    let kernel = find(cache, name)?;
    cache.used(KIND, &kernel.path);
    if !kernel.is_current() {
        context.progress.note(&format!(
            "debug kernel {} was built by an earlier recipe; hmmgpu kernel build --debug makes one \
             by today's",
            kernel.release
        ));
    }
    let root = workshop::root(context, cache, mirror)?;
    let (release, modules, headers) = open(&kernel.path)?;
    let image = kernel.path.join("bzImage");
    let mut identity = Key::new("debug", 1);
    identity.file("image", &image)?;
    for file in [BUILT_CONFIG, SYMBOLS] {
        identity.file(file, &headers.join(file))?;
    }
    Ok(Kernel {
        release,
        image,
        modules: Modules::Installed(modules),
        build: Build {
            // The programs among the headers were built in that root.
            place: Place::Root(root),
            headers: headers.clone(),
            binds: vec![Bind::read_only(headers)],
            arguments: vec![format!("CC={COMPILER}")],
        },
        source: Source::Tree(kernel.path.join("source")),
        identity: identity.finish(),
    })
}

/// Release, modules and headers of the kernel in a folder.
fn open(folder: &Path) -> Result<(String, PathBuf, PathBuf), ImageError> {
    let image = folder.join("bzImage");
    let release = super::boot_image::release(&image)?;
    let modules = folder.join("modules/lib/modules").join(&release);
    let headers = folder.join("headers");
    open_image(&image, &modules, Some(&headers))?;
    Ok((release, modules, headers))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(cache: &Path, key: &str, version: &str, built: u64) {
        let folder = cache.join(KIND).join(key);
        fs::create_dir_all(&folder).unwrap();
        let about = DebugKernel {
            release: format!("{version}-hmmgpu-debug"),
            version: version.to_owned(),
            source: "a tree".to_owned(),
            built,
            recipe: recipe::key().finish(),
            path: PathBuf::new(),
        };
        fs::write(folder.join(ABOUT), serde_json::to_vec(&about).unwrap()).unwrap();
    }

    #[test]
    fn a_name_is_a_series_a_version_or_a_release_and_the_newest_built_counts() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().to_owned());
        put(folder.path(), "a", "7.3.4", 1);
        put(folder.path(), "b", "7.3.4", 3);
        put(folder.path(), "c", "7.2.12", 2);
        // In the making, or broken.
        fs::create_dir(folder.path().join(KIND).join("d.partial")).unwrap();
        fs::create_dir(folder.path().join(KIND).join("e")).unwrap();
        let find = |name| find(&cache, name).map(|kernel| (kernel.version, kernel.built));
        let newest = ("7.3.4".to_owned(), 3);
        for name in [None, Some("7.3"), Some("7.3.4"), Some("7.3.4-hmmgpu-debug")] {
            assert_eq!(find(name).unwrap(), newest);
        }
        assert_eq!(find(Some("7.2")).unwrap(), ("7.2.12".to_owned(), 2));
        assert_eq!(list(&cache).len(), 3);
        assert!(list(&cache)[0].is_current());
        for name in ["7", "7.3.40", "7.2.1"] {
            // A series is not two digits of another one; "7" is a series of both.
            assert_eq!(find(Some(name)).is_ok(), name == "7", "{name}");
        }
        let error = super::find(&cache, Some("7.4")).unwrap_err().to_string();
        assert!(error.contains("hmmgpu kernel build --debug"), "{error}");
        assert!(error.contains("7.2.12"), "{error}");
    }

    #[test]
    fn without_any_the_error_says_how_to_build_one() {
        let folder = tempfile::tempdir().unwrap();
        let error = find(&Cache::new(folder.path().to_owned()), None).unwrap_err();
        assert!(error.is_usage());
        let error = error.to_string();
        assert!(error.contains("hmmgpu kernel build --debug"), "{error}");
    }

    #[test]
    fn a_tree_that_was_built_in_is_refused_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let makefile = "VERSION = 7\nPATCHLEVEL = 3\nSUBLEVEL = 4\nEXTRAVERSION =\n";
        put("Makefile", makefile);
        for name in [
            "lib/test_hmm_uapi.h",
            "mm/gup_test.h",
            "tools/include/uapi/x",
            "tools/testing/selftests/kselftest_harness.h",
            "tools/testing/selftests/mm/hmm-tests.c",
        ] {
            put(name, "");
        }
        put("include/linux/memremap.h", "void (*folio_split)(void);");
        assert_eq!(
            check_source(folder.path()).unwrap(),
            folder.path().canonicalize().unwrap()
        );
        put(".config", "");
        let error = check_source(folder.path()).unwrap_err();
        assert!(error.is_usage());
        assert!(error.to_string().contains("mrproper"), "{error}");
        put("include/linux/memremap.h", "");
        let error = check_source(folder.path()).unwrap_err().to_string();
        assert!(error.contains("7.2 or later"), "{error}");
    }

    #[test]
    fn keys_are_of_source_and_recipe() {
        let package = |version: &str| Origin::Package {
            sources: crate::debian::STABLE,
            package: "linux-source-7.3".to_owned(),
            version: version.to_owned(),
        };
        assert_eq!(package("1").key(), package("1").key());
        assert_ne!(package("1").key(), package("2").key());
        assert_ne!(package("1").key(), Origin::Tree("/linux".into()).key());
    }
}
