//! The parts of a kernel's source that upstream's own tests are built from.
//!
//! They come from Debian's source package of the very version that the kernel was built from, from
//! the tree that it was built in, or from a tree that the user names. The package is some 170 MB; only a
//! few files of it are kept.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cache::{Artefact, Cache};
use crate::context::Context;
use crate::debian::Sources;
use crate::host_tools::{self, BWRAP, MMDEBSTRAP};
use crate::kernel::{Kernel, Source};
use crate::keys::Key;
use crate::sandbox::{self, Bind, ToolRoot};
use crate::{ImageError, run};

/// Counts changes in what is kept and how it is fetched.
const VERSION: u32 = 1;
/// The package, and its content for a while.
const ROOM: u64 = 600 << 20;
/// What is kept of the package: files and whole folders.
pub(crate) const KEPT: &[&str] = &[
    "Makefile",
    "lib/test_hmm.c",
    "lib/test_hmm_uapi.h",
    "mm/gup_test.h",
    "tools/arch/x86/include/uapi",
    "tools/include/uapi",
    "tools/testing/selftests/kselftest.h",
    "tools/testing/selftests/kselftest_harness.h",
    "tools/testing/selftests/mm",
];
/// What a tree must have to be of use.
const NEEDED: &[&str] = &[
    "Makefile",
    "lib/test_hmm_uapi.h",
    "mm/gup_test.h",
    "tools/include/uapi",
    "tools/testing/selftests/kselftest_harness.h",
    "tools/testing/selftests/mm/hmm-tests.c",
];

/// Run by mmdebstrap when it has read the package lists: fetches PACKAGE, of VERSION where the
/// mirror still has that, and unpacks it. apt tells its progress on standard output.
const FETCH: &str = r#"set -e
cd "$1"
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
fetch() { apt-get -o APT::Status-Fd=1 -o APT::Sandbox::User=root download "$1"; }
fetch "PACKAGE=VERSION" || fetch "PACKAGE"
echo "hmmgpu: unpacking the package"
dpkg-deb -x PACKAGE_*.deb unpacked
rm PACKAGE_*.deb"#;
/// Run in the tool root: keeps of a packed source only the paths that follow the first argument.
const KEEP: &str = r#"packed="$1"; shift
xz -dc "$packed" | busybox tar -x -f - -C /source/kept "$@""#;

/// A Linux source tree, or the parts of one that tests are built from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelSource {
    /// Its top folder.
    pub path: PathBuf,
    /// What its `Makefile` says, for example `7.3.4`.
    pub version: String,
}

impl KernelSource {
    /// A tree that is there.
    ///
    /// # Errors
    /// [`ImageError::NotKernelSource`].
    pub fn at(path: &Path) -> Result<Self, ImageError> {
        let refuse = |missing: &str| ImageError::NotKernelSource {
            path: path.to_owned(),
            missing: missing.to_owned(),
        };
        if let Some(missing) = NEEDED.iter().find(|needed| !path.join(needed).exists()) {
            return Err(refuse(missing));
        }
        let makefile = fs::read_to_string(path.join("Makefile")).unwrap_or_default();
        let version = version_of(&makefile).ok_or_else(|| refuse("VERSION in Makefile"))?;
        Ok(Self {
            path: fs::canonicalize(path).map_err(ImageError::io("find", path))?,
            version,
        })
    }

    /// Whether the kernel is of this source's version.
    pub fn fits(&self, kernel: &Kernel) -> bool {
        kernel
            .release
            .strip_prefix(&self.version)
            .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit() || c == '.'))
    }
}

/// The version that a kernel's top Makefile says.
fn version_of(makefile: &str) -> Option<String> {
    let value = |name: &str| {
        makefile.lines().take(20).find_map(|line| {
            let (key, value) = line.split_once('=')?;
            (key.trim() == name).then(|| value.trim().to_owned())
        })
    };
    Some(format!(
        "{}.{}.{}{}",
        value("VERSION")?,
        value("PATCHLEVEL")?,
        value("SUBLEVEL")?,
        value("EXTRAVERSION").unwrap_or_default()
    ))
}

/// The source of a kernel, fetched if need be. `root`: has the programs that unpack it.
pub(crate) fn get(
    context: &Context,
    cache: &Cache,
    mirror: Option<&str>,
    root: &ToolRoot,
    kernel: &Kernel,
) -> Result<KernelSource, ImageError> {
    let no_package = || ImageError::NoSourcePackage {
        release: kernel.release.clone(),
    };
    let (sources, version) = match &kernel.source {
        Source::Package { sources, version } => (*sources, version),
        Source::Tree(path) => return KernelSource::at(path),
        Source::Unknown => return Err(no_package()),
    };
    let package = package_of(&kernel.release).ok_or_else(no_package)?;
    let mut key = Key::new("source", VERSION);
    key.field(&package, version.as_bytes());
    for path in KEPT {
        key.field("kept", path.as_bytes());
    }
    let key = key.finish();
    let what = format!("kernel source {package} {version}");
    let artefact = Artefact {
        kind: "source",
        key: &key,
        what: &what,
        room: ROOM,
    };
    let path = cache.get(context, &artefact, |partial| {
        host_tools::ensure(context, cache, &[BWRAP, MMDEBSTRAP])?;
        sandbox::probe()?;
        fs::create_dir(partial).map_err(ImageError::io("create", partial))?;
        let partial = fs::canonicalize(partial).map_err(ImageError::io("find", partial))?;
        let log = cache.log("source", &key)?;
        let apt = partial.join("apt");
        fs::create_dir(&apt).map_err(ImageError::io("create", &apt))?;
        fetch(context, sources, mirror, &package, version, &apt, &log)?;
        keep(context, root, &package, &partial, &log)?;
        crate::cache::remove(&apt)
    })?;
    KernelSource::at(&path.join("kept").join(&package))
}

/// `linux-source-7.3` for the release `7.3.4+deb13-amd64`.
pub(crate) fn package_of(release: &str) -> Option<String> {
    let mut numbers = release.splitn(3, '.');
    let (major, minor) = (numbers.next()?, numbers.next()?);
    let digits = minor.bytes().take_while(u8::is_ascii_digit).count();
    let minor = minor.get(..digits).filter(|minor| !minor.is_empty())?;
    let plain = !major.is_empty() && major.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| format!("linux-source-{major}.{minor}"))
}

/// The package, unpacked into `folder/unpacked`.
fn fetch(
    context: &Context,
    sources: Sources,
    mirror: Option<&str>,
    package: &str,
    version: &str,
    folder: &Path,
    log: &Path,
) -> Result<(), ImageError> {
    let hook = FETCH
        .replace("PACKAGE", package)
        .replace("VERSION", version);
    let mut command = sources.mmdebstrap(folder);
    command
        .arg("--variant=custom")
        .arg(format!("--customize-hook={hook}"));
    sources.into_folder(&mut command, folder, mirror);
    run::run(
        context,
        "fetching the kernel's source",
        &mut command,
        log,
        |line| {
            if let Some(percent) = percent(line) {
                context
                    .progress
                    .update(Some(percent), "downloading the kernel's source");
            } else if let Some(step) = line.strip_prefix("hmmgpu: ") {
                context.progress.update(None, step);
            }
        },
    )
}

/// Per cent of a download, from apt's status line `dlstatus:NUMBER:PERCENT:TEXT`.
fn percent(line: &str) -> Option<u8> {
    let share: f64 = line
        .strip_prefix("dlstatus:")?
        .split(':')
        .nth(1)?
        .parse()
        .ok()?;
    // In 0 to 100 by the clamp.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let percent = share.clamp(0.0, 100.0) as u8;
    Some(percent)
}

/// All of a package's source, in a folder of the package's name in `folder`. `root`: has the
/// programs that unpack it.
pub(crate) fn whole(
    context: &Context,
    mirror: Option<&str>,
    root: &ToolRoot,
    (sources, package, version): (Sources, &str, &str),
    folder: &Path,
    log: &Path,
) -> Result<(), ImageError> {
    let apt = folder.join("apt");
    fs::create_dir_all(&apt).map_err(ImageError::io("create", &apt))?;
    let apt = fs::canonicalize(&apt).map_err(ImageError::io("find", &apt))?;
    fetch(context, sources, mirror, package, version, &apt, log)?;
    let inside = Bind {
        host: folder.to_owned(),
        inside: "/source".into(),
        writable: true,
    };
    let what = "unpacking the kernel's source";
    context.progress.update(None, what);
    let mut command = root.command("tar", &[inside]);
    command
        .args(["-C", "/source", "--no-same-owner", "-xf"])
        .arg(format!("/source/apt/unpacked/usr/src/{package}.tar.xz"));
    run::run(context, what, &mut command, log, |_| {})
}

/// Unpacks what is kept, by programs of the tool root.
fn keep(
    context: &Context,
    root: &ToolRoot,
    package: &str,
    folder: &Path,
    log: &Path,
) -> Result<(), ImageError> {
    let kept = folder.join("kept");
    fs::create_dir(&kept).map_err(ImageError::io("create", &kept))?;
    let inside = Bind {
        host: folder.to_owned(),
        inside: "/source".into(),
        writable: true,
    };
    let mut command = root.command("bash", &[inside]);
    command
        .args(["-e", "-o", "pipefail", "-c", KEEP, "bash"])
        .arg(format!("/source/apt/unpacked/usr/src/{package}.tar.xz"))
        .args(KEPT.iter().map(|path| format!("{package}/{path}")));
    context
        .progress
        .update(None, "unpacking the kernel's source");
    run::run(
        context,
        "unpacking the kernel's source",
        &mut command,
        log,
        |_| {},
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAKEFILE: &str = "# SPDX\nVERSION = 7\nPATCHLEVEL = 3\nSUBLEVEL = 4\nEXTRAVERSION =\n";

    fn kernel(release: &str) -> Kernel {
        Kernel::named(release)
    }

    #[test]
    fn the_package_is_named_by_two_numbers() {
        let package = |release| package_of(release);
        let expected = Some("linux-source-7.3".to_owned());
        assert_eq!(package("7.3.4+deb13-amd64"), expected);
        assert_eq!(package("7.3-amd64"), expected);
        assert_eq!(package("7.3~rc1-amd64"), expected);
        assert_eq!(package("next"), None);
        assert_eq!(package("a.b"), None);
    }

    #[test]
    fn the_version_is_the_makefiles() {
        assert_eq!(version_of(MAKEFILE).as_deref(), Some("7.3.4"));
        let candidate = MAKEFILE.replace("EXTRAVERSION =", "EXTRAVERSION = -rc2");
        assert_eq!(version_of(&candidate).as_deref(), Some("7.3.4-rc2"));
        assert_eq!(version_of("all:\n\techo\n"), None);
    }

    #[test]
    fn a_source_fits_its_own_version_only() {
        let source = KernelSource {
            path: "/".into(),
            version: "7.3.4".into(),
        };
        assert!(source.fits(&kernel("7.3.4+deb13-amd64")));
        assert!(source.fits(&kernel("7.3.4")));
        assert!(!source.fits(&kernel("7.3.40-amd64")));
        assert!(!source.fits(&kernel("7.3.5+deb13-amd64")));
    }

    #[test]
    fn a_folder_that_is_no_tree_is_refused_by_what_it_lacks() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        let error = KernelSource::at(folder.path()).unwrap_err().to_string();
        assert!(error.contains("Makefile"), "{error}");
        for needed in NEEDED {
            fs::create_dir_all(at(needed).parent().unwrap()).unwrap();
            if needed.ends_with("uapi") {
                fs::create_dir_all(at(needed)).unwrap();
            } else {
                fs::write(at(needed), "").unwrap();
            }
        }
        let error = KernelSource::at(folder.path()).unwrap_err().to_string();
        assert!(error.contains("VERSION in Makefile"), "{error}");
        fs::write(at("Makefile"), MAKEFILE).unwrap();
        assert_eq!(KernelSource::at(folder.path()).unwrap().version, "7.3.4");
        fs::remove_file(at("lib/test_hmm_uapi.h")).unwrap();
        let error = KernelSource::at(folder.path()).unwrap_err().to_string();
        assert!(error.contains("lib/test_hmm_uapi.h"), "{error}");
    }

    #[test]
    fn apts_status_becomes_per_cent() {
        assert_eq!(
            percent("dlstatus:1:41.3694:Retrieving file 1 of 1"),
            Some(41)
        );
        assert_eq!(percent("dlstatus:1:100.0000:Retrieving"), Some(100));
        assert_eq!(percent("Fetched 167 MB in 3s"), None);
        assert_eq!(percent("dlstatus:1"), None);
    }
}
