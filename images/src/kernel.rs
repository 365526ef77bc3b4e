//! Kernels of a root.

use std::fs;
use std::path::{Path, PathBuf};

/// A kernel; the paths are the host's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// What `uname -r` says when it runs.
    pub release: String,
    /// The bootable image (`vmlinuz`); QEMU in the tool root needs a [`crate::Bind`] to see it.
    pub image: PathBuf,
    /// The folder with `modules.dep` and `modules.builtin`.
    pub modules: PathBuf,
    /// The folder to build modules against.
    pub headers: PathBuf,
}

/// All kernels of a root that have an image, modules and headers.
pub(crate) fn all(root: &Path) -> Vec<Kernel> {
    let Ok(entries) = fs::read_dir(root.join("usr/lib/modules")) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let release = entry.file_name().into_string().ok()?;
            let modules = entry.path();
            // Debian's newer packages have the image beside the modules, older ones in /boot.
            let image = [
                modules.join("vmlinuz"),
                root.join(format!("boot/vmlinuz-{release}")),
            ]
            .into_iter()
            .find(|path| path.is_file())?;
            let headers = root.join(format!("usr/src/linux-headers-{release}"));
            headers.is_dir().then_some(Kernel {
                release,
                image,
                modules,
                headers,
            })
        })
        .collect()
}

/// The one with the highest version.
pub(crate) fn newest(root: &Path) -> Option<Kernel> {
    all(root)
        .into_iter()
        .max_by_key(|kernel| version(&kernel.release))
}

/// The numbers in a release, in order: `6.12.9+x` comes before `7.3.4`, and `7.3` before `7.10`.
fn version(release: &str) -> Vec<u64> {
    release
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(version("7.3.4+deb13-amd64") > version("7.3.1+deb13-amd64"));
        assert!(version("7.10.0") > version("7.9.9"));
        assert!(version("7.2") > version("6.19.30"));
    }

    #[test]
    fn a_kernel_needs_image_modules_and_headers() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        for release in ["6.1", "7.2", "7.3"] {
            fs::create_dir_all(at(&format!("usr/lib/modules/{release}"))).unwrap();
        }
        fs::create_dir_all(at("boot")).unwrap();
        assert_eq!(newest(root.path()), None);
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
        let newest = newest(root.path()).unwrap();
        assert_eq!(newest.release, "7.2");
        assert_eq!(newest.image, at("boot/vmlinuz-7.2"));
        assert_eq!(all(root.path()).len(), 2);
    }
}
