//! Kernels: how they are named, and where they come from.

mod boot_image;
mod compiler;
mod config;
mod debian;
pub(crate) mod debug;
pub(crate) mod spec;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};

use crate::ImageError;
use crate::debian::root as debian_root;
use crate::debian::{STABLE, Sources};
use crate::keys::Key;
use crate::sandbox::{Bind, ToolRoot};

pub(crate) use debian::by_name;
pub(crate) use tree::{of_image, of_tree};

/// A kernel; the paths are the host's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// What `uname -r` says when it runs.
    pub release: String,
    /// The bootable image (`vmlinuz`); QEMU in the tool root needs a [`crate::Bind`] to see it.
    pub image: PathBuf,
    pub(crate) modules: Modules,
    pub(crate) build: Build,
    pub(crate) source: Source,
    /// Hash of what it consists of.
    pub(crate) identity: String,
}

impl Kernel {
    /// Adds it to the key of something that is made for it.
    pub(crate) fn add_to(&self, key: &mut Key) {
        key.field("kernel", self.release.as_bytes());
        key.field("identity", self.identity.as_bytes());
    }
}

/// Where a kernel's own modules are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Modules {
    /// Installed: a folder with `modules.dep` and `modules.builtin`.
    Installed(PathBuf),
    /// In the tree that they were built in, which has `modules.order` if there are any.
    Tree(PathBuf),
}

/// How more modules are built for a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Build {
    /// Where the compiler runs.
    pub(crate) place: Place,
    /// The folder to build against, as it is seen there.
    pub(crate) headers: PathBuf,
    /// What has to be seen there.
    pub(crate) binds: Vec<Bind>,
    /// Words for make.
    pub(crate) arguments: Vec<String>,
}

/// Where a compiler runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a root.
    Root(ToolRoot),
    /// On the host, which it can only read.
    Host,
}

/// Where the source of a kernel is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// In Debian's source package of this version.
    Package { sources: Sources, version: String },
    /// In a tree.
    Tree(PathBuf),
    /// Nobody knows.
    Unknown,
}

/// Releases of all kernels of a root that have an image, modules and headers.
pub(crate) fn releases(root: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(root.join("usr/lib/modules")) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|release| image(root, release).is_some() && headers(root, release).is_dir())
        .collect()
}

/// Debian's newer packages have the image beside the modules, older ones in /boot.
fn image(root: &Path, release: &str) -> Option<PathBuf> {
    [
        root.join(format!("usr/lib/modules/{release}/vmlinuz")),
        root.join(format!("boot/vmlinuz-{release}")),
    ]
    .into_iter()
    .find(|path| path.is_file())
}

fn headers(root: &Path, release: &str) -> PathBuf {
    root.join(format!("usr/src/linux-headers-{release}"))
}

/// The newest kernel of the tool root.
pub(crate) fn of_tool_root(root: &ToolRoot) -> Result<Kernel, ImageError> {
    let newest = releases(root.path())
        .into_iter()
        .max_by_key(|release| version(release));
    let kernel = newest.map(|release| of_root(root, &release, STABLE));
    kernel.unwrap_or_else(|| {
        Err(ImageError::NoKernel {
            path: root.path().to_owned(),
        })
    })
}

/// A kernel that is in a root, whose packages came from `sources`.
pub(crate) fn of_root(
    root: &ToolRoot,
    release: &str,
    sources: Sources,
) -> Result<Kernel, ImageError> {
    let image = image(root.path(), release).ok_or_else(|| ImageError::NoKernel {
        path: root.path().to_owned(),
    })?;
    let package = format!("linux-image-{release}");
    let version = match debian_root::package_version(root, &package)? {
        Some(version) => Some(version),
        None => debian_root::package_version(root, &format!("{package}-unsigned"))?,
    };
    Ok(Kernel {
        release: release.to_owned(),
        image,
        modules: Modules::Installed(root.path().join("usr/lib/modules").join(release)),
        build: Build {
            place: Place::Root(root.clone()),
            headers: format!("/lib/modules/{release}/build").into(),
            binds: Vec::new(),
            arguments: Vec::new(),
        },
        source: version.map_or(Source::Unknown, |version| Source::Package {
            sources,
            version,
        }),
        identity: root.identity().to_owned(),
    })
}

/// The numbers in a release, in order: `6.12.9+x` comes before `7.3.4`, and `7.3` before `7.10`.
fn version(release: &str) -> Vec<u64> {
    release
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    impl Kernel {
        /// With nothing behind its name.
        pub(crate) fn named(release: &str) -> Self {
            Self {
                release: release.into(),
                image: "/".into(),
                modules: Modules::Installed("/".into()),
                build: Build {
                    place: Place::Host,
                    headers: "/".into(),
                    binds: Vec::new(),
                    arguments: Vec::new(),
                },
                source: Source::Unknown,
                identity: String::new(),
            }
        }
    }

    #[test]
    fn versions_compare_by_number() {
        assert!(version("7.3.4+deb13-amd64") > version("7.3.1+deb13-amd64"));
        assert!(version("7.10.0") > version("7.9.9"));
        assert!(version("7.2") > version("6.19.30"));
    }

    #[test]
    fn a_kernel_needs_image_modules_and_headers() {
        let folder = tempfile::tempdir().unwrap();
        let root = ToolRoot {
            path: folder.path().to_owned(),
            identity: "identity".into(),
        };
        let at = |path: &str| folder.path().join(path);
        for release in ["6.1", "7.2", "7.3"] {
            fs::create_dir_all(at(&format!("usr/lib/modules/{release}"))).unwrap();
        }
        fs::create_dir_all(at("boot")).unwrap();
        assert!(of_tool_root(&root).is_err());
        for path in [
            "usr/lib/modules/6.1/vmlinuz",
            "boot/vmlinuz-7.2",
            "boot/vmlinuz-7.3",
        ] {
            fs::write(at(path), "").unwrap();
        }
        for release in ["6.1", "7.2"] {
            fs::create_dir_all(at(&format!("usr/src/linux-headers-{release}"))).unwrap();
        }
        fs::write(at("packages"), "linux-image-7.2_7.2-1_amd64.deb\n").unwrap();
        let newest = of_tool_root(&root).unwrap();
        assert_eq!(newest.release, "7.2");
        assert_eq!(newest.image, at("boot/vmlinuz-7.2"));
        assert_eq!(newest.identity, "identity");
        let source = Source::Package {
            sources: STABLE,
            version: "7.2-1".into(),
        };
        assert_eq!(newest.source, source);
        assert_eq!(releases(folder.path()).len(), 2);
        assert_eq!(
            of_root(&root, "6.1", STABLE).unwrap().source,
            Source::Unknown
        );
    }
}
