//! Tool root, driver build, guest programs and initramfs.
//!
//! Everything is made on first use, kept in a cache under the hash of what it was made from, and
//! used again without asking the network:
//!
//! | Kind | Made from | By |
//! |---|---|---|
//! | `root` | the recipe in `tool_root.rs` | mmdebstrap, in a sandbox |
//! | `kernel` | a kernel's packages and its compiler | mmdebstrap, in a sandbox |
//! | `driver` | driver sources, kernel | kbuild, in the root of the kernel or on the host |
//! | `guest` | sources of init and workloads, lock file | cargo |
//! | `initramfs` | all of these | this crate |
//! | `source` | a kernel's source package | apt, xz in the root |
//! | `hmm-tests` | a kernel's source, packages of the root | gcc, in the root |
//! | `debug-kernel` | a kernel's source, the recipe in `kernels/` | kbuild, in a root of its own |
//! | `build-root` | the recipe in `kernel/debug/workshop.rs` | mmdebstrap, in a sandbox |
//! | `test-hmm` | a kernel's source, kernel | kbuild, as the driver |
//!
//! Beside them is `kernels`: lists of the kernels that Debian's archive holds, each good for a day.
//!
//! Two runs may start at once: the second waits for the first. What is made gets its name when it
//! is complete; errors and interruptions leave nothing behind but a log.
#![forbid(unsafe_code)]

mod cache;
mod context;
mod cpio;
mod debian;
mod driver;
mod error;
mod guest_programs;
mod hmm_tests;
mod host_tools;
mod initramfs;
mod kbuild;
mod kernel;
mod kernel_source;
mod keys;
mod modules;
mod progress;
mod promtool;
mod run;
mod sandbox;
mod tool_root;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use hmmgpu_guest_protocol::Job;

use cache::Cache;
use context::Context;
pub use error::ImageError;
pub use kernel::Kernel;
pub use kernel::debug::DebugKernel;
pub use kernel::spec::{KernelSpec, SpecError};
pub use kernel_source::KernelSource;
pub use progress::{
    Ended, PlainProgress, Progress, Quarters, Silent, TerminalProgress, for_stderr,
};
pub use sandbox::{Bind, ToolRoot};

/// Where things are kept and taken from.
#[derive(Clone)]
pub struct ImagesOptions {
    /// Cache folder. `None`: `$HMMGPU_CACHE`, else `$XDG_CACHE_HOME/hmmgpu`, else `~/.cache/hmmgpu`.
    pub cache: Option<PathBuf>,
    /// Source tree of this workspace. `None`: `$HMMGPU_SOURCE`, else the tree this was built from.
    pub source: Option<PathBuf>,
    /// Debian mirror. `None`: `$HMMGPU_MIRROR`, else what mmdebstrap takes by default.
    pub mirror: Option<String>,
    /// Variables that make gets when it builds the driver, as `NAME=VALUE`: `HMMGPU_MUTATIONS=1` makes
    /// one that makes mistakes when it is told to, for tests.
    pub driver_variables: Vec<String>,
    /// Who is told what goes on.
    pub progress: Arc<dyn Progress>,
    /// Set by the program's signal handler: what is being made stops within a moment, cleans up
    /// and returns [`ImageError::Interrupted`]. The programs that do the work are in a process
    /// group of their own, so Ctrl-C does not reach them otherwise.
    pub cancel: Arc<AtomicBool>,
}

impl std::fmt::Debug for ImagesOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImagesOptions")
            .field("cache", &self.cache)
            .field("source", &self.source)
            .field("mirror", &self.mirror)
            .field("driver_variables", &self.driver_variables)
            .finish_non_exhaustive()
    }
}

impl Default for ImagesOptions {
    fn default() -> Self {
        Self {
            cache: None,
            source: None,
            mirror: None,
            driver_variables: Vec::new(),
            progress: for_stderr(),
            cancel: Arc::default(),
        }
    }
}

/// Makes and finds the artefacts.
#[derive(Debug)]
pub struct Images {
    cache: Cache,
    source: PathBuf,
    mirror: Option<String>,
    driver_variables: Vec<String>,
    context: Context,
}

impl Images {
    /// Settles the folders; makes nothing yet.
    ///
    /// # Errors
    /// [`ImageError::NoCacheFolder`].
    pub fn new(options: ImagesOptions) -> Result<Self, ImageError> {
        let cache = options
            .cache
            .or_else(|| cache_folder(|name| std::env::var_os(name).map(PathBuf::from)))
            .ok_or(ImageError::NoCacheFolder)?;
        // Sandboxes need absolute paths.
        let cache = std::path::absolute(&cache).map_err(ImageError::io("find", &cache))?;
        let source = options
            .source
            .or_else(|| set(std::env::var_os("HMMGPU_SOURCE").map(PathBuf::from)))
            .unwrap_or_else(|| {
                let own = Path::new(env!("CARGO_MANIFEST_DIR"));
                own.parent().unwrap_or(own).to_owned()
            });
        let mirror = options
            .mirror
            .or_else(|| std::env::var("HMMGPU_MIRROR").ok())
            .filter(|mirror| !mirror.is_empty());
        Ok(Self {
            cache: Cache::new(cache),
            source,
            mirror,
            driver_variables: options.driver_variables,
            context: Context {
                progress: options.progress,
                cancel: options.cancel,
            },
        })
    }

    /// The cache folder.
    pub fn cache_folder(&self) -> &Path {
        self.cache.folder()
    }

    /// The tree that driver and guest programs are built from.
    pub fn source_folder(&self) -> &Path {
        &self.source
    }

    /// Made on first use, which takes some 250 MB from the network and half a minute; later uses
    /// are instant.
    ///
    /// # Errors
    /// A missing host tool, no room, no network, a broken download, no sandbox, an interruption.
    pub fn tool_root(&self) -> Result<ToolRoot, ImageError> {
        tool_root::get(&self.context, &self.cache, self.mirror.as_deref())
    }

    /// The kernel that is named, or the tool root's. One of Debian's is fetched on first use, which
    /// takes some 200 MB from the network; the archive is asked for it at most once a day.
    ///
    /// # Errors
    /// No such kernel, one that lacks what the guest needs, one that is not built, no compiler for
    /// it; no room, no network, an interruption.
    pub fn kernel(&self, root: &ToolRoot, spec: Option<&KernelSpec>) -> Result<Kernel, ImageError> {
        match spec {
            None => kernel::of_tool_root(root),
            Some(KernelSpec::Debian(name)) => {
                let mirror = self.mirror.as_deref();
                kernel::by_name(&self.context, &self.cache, mirror, root, name)
            }
            Some(KernelSpec::Debug(name)) => {
                let mirror = self.mirror.as_deref();
                kernel::debug::by_name(&self.context, &self.cache, mirror, name.as_deref())
            }
            Some(KernelSpec::Tree(path)) => kernel::of_tree(root, path),
            Some(KernelSpec::Image {
                image,
                modules,
                headers,
            }) => kernel::of_image(root, image, modules, headers.as_deref()),
        }
    }

    /// Whether that kernel can be had, as far as that can be told before anything is made: whether
    /// Debian's archive holds it, or what the user's own lacks.
    ///
    /// # Errors
    /// No such kernel, one that lacks what the guest needs, one that is not built; no network, an
    /// interruption.
    pub fn check_kernel(&self, spec: &KernelSpec) -> Result<(), ImageError> {
        self.check_own_kernel(spec)?;
        if let KernelSpec::Debian(name) = spec {
            let mirror = self.mirror.as_deref();
            debian::archive::find(&self.context, &self.cache, mirror, name, false)?;
        }
        Ok(())
    }

    /// As [`Images::check_kernel`], without asking Debian's archive.
    ///
    /// # Errors
    /// No such kernel, one that lacks what the guest needs, one that is not built.
    pub fn check_own_kernel(&self, spec: &KernelSpec) -> Result<(), ImageError> {
        if let KernelSpec::Debug(name) = spec {
            kernel::debug::find(&self.cache, name.as_deref())?;
        }
        spec.check()
    }

    /// Builds a debug kernel, which takes a quarter to half an hour on two CPUs: from the source of
    /// the tool root's kernel, or from that of one of Debian's, or from a source tree.
    ///
    /// # Errors
    /// What the compiler says, a tree that cannot be built from, no room, no network, an
    /// interruption (what was compiled stays for the next time).
    pub fn build_debug_kernel(
        &self,
        root: &ToolRoot,
        source: Option<&KernelSpec>,
    ) -> Result<DebugKernel, ImageError> {
        let mirror = self.mirror.as_deref();
        kernel::debug::build(&self.context, &self.cache, mirror, root, source)
    }

    /// Debug kernels that were built, the newest first.
    pub fn debug_kernels(&self) -> Vec<DebugKernel> {
        kernel::debug::list(&self.cache)
    }

    /// The driver module for a kernel.
    ///
    /// # Errors
    /// What the compiler says, no room, no sources, an interruption.
    pub fn driver(&self, kernel: &Kernel) -> Result<PathBuf, ImageError> {
        let folder = self.source.join("guest-driver");
        if !folder.is_dir() {
            return Err(ImageError::NoSource {
                path: self.source.clone(),
                missing: "guest-driver".into(),
            });
        }
        let source = driver::Source {
            folder: &folder,
            variables: &self.driver_variables,
        };
        driver::get(&self.context, &self.cache, kernel, &source)
    }

    /// The base initramfs (init, shell and tools, kernel modules, driver, workloads) for a kernel.
    ///
    /// # Errors
    /// What a compiler says, no room, no sources, an interruption.
    pub fn initramfs(&self, root: &ToolRoot, kernel: &Kernel) -> Result<PathBuf, ImageError> {
        let driver = self.driver(kernel)?;
        let programs = guest_programs::get(&self.context, &self.cache, &self.source)?;
        initramfs::get(&self.context, &self.cache, root, kernel, &driver, &programs)
    }

    /// The source of a kernel, as far as upstream's tests need it. That of a package is fetched on
    /// first use, which takes 170 MB from the network.
    ///
    /// # Errors
    /// A missing host tool, no room, no network, no such package, an interruption.
    pub fn kernel_source(
        &self,
        root: &ToolRoot,
        kernel: &Kernel,
    ) -> Result<KernelSource, ImageError> {
        let mirror = self.mirror.as_deref();
        kernel_source::get(&self.context, &self.cache, mirror, root, kernel)
    }

    /// Prometheus' `promtool`, to be run in the tool root.
    ///
    /// # Errors
    /// A missing host tool, no room, no network, an interruption.
    pub fn promtool(&self) -> Result<PathBuf, ImageError> {
        promtool::get(&self.context, &self.cache, self.mirror.as_deref())
    }

    /// Upstream's unmodified `hmm-tests`, statically linked.
    ///
    /// # Errors
    /// What the compiler says, no room, an interruption.
    pub fn hmm_tests(&self, root: &ToolRoot, source: &KernelSource) -> Result<PathBuf, ImageError> {
        hmm_tests::program(&self.context, &self.cache, root, source)
    }

    /// Upstream's unmodified module `test_hmm` for a kernel.
    ///
    /// # Errors
    /// What the compiler says, a source without it, no room, an interruption.
    pub fn test_hmm(&self, kernel: &Kernel, source: &KernelSource) -> Result<PathBuf, ImageError> {
        hmm_tests::module(&self.context, &self.cache, kernel, source)
    }

    /// A cpio with the job and the user's files (host path, path in the guest), to be appended to
    /// the base. A folder comes with all in it; a guest path that ends in `/` keeps the file's
    /// name. Files are held in memory: [`Images::write_initrd`] streams them.
    ///
    /// # Errors
    /// [`ImageError::UserFile`].
    pub fn overlay(job: &Job, files: &[(PathBuf, String)]) -> Result<Vec<u8>, ImageError> {
        let mut bytes = Vec::new();
        initramfs::overlay(&mut bytes, job, files)?;
        Ok(bytes)
    }

    /// Writes base and overlay into one file for QEMU's `-initrd`. The guest needs at least twice
    /// its size as memory to boot.
    ///
    /// # Errors
    /// [`ImageError::UserFile`], or the output cannot be written.
    pub fn write_initrd(
        base: &Path,
        job: &Job,
        files: &[(PathBuf, String)],
        output: &Path,
    ) -> Result<(), ImageError> {
        initramfs::write_initrd(base, job, files, output)
    }
}

/// The first folder that the environment names.
fn cache_folder(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    set(variable("HMMGPU_CACHE"))
        .or_else(|| set(variable("XDG_CACHE_HOME")).map(|folder| folder.join("hmmgpu")))
        .or_else(|| set(variable("HOME")).map(|home| home.join(".cache/hmmgpu")))
}

/// A variable that is set to nothing counts as not set.
fn set(value: Option<PathBuf>) -> Option<PathBuf> {
    value.filter(|path| !path.as_os_str().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_where_the_environment_says() {
        let folder = |variables: &[(&str, &str)]| {
            cache_folder(|name| {
                let found = variables.iter().find(|(n, _)| *n == name)?;
                Some(PathBuf::from(found.1))
            })
        };
        let (own, xdg, home) = (
            ("HMMGPU_CACHE", "/a"),
            ("XDG_CACHE_HOME", "/b"),
            ("HOME", "/c"),
        );
        assert_eq!(folder(&[own, xdg, home]), Some("/a".into()));
        assert_eq!(folder(&[xdg, home]), Some("/b/hmmgpu".into()));
        assert_eq!(
            folder(&[("XDG_CACHE_HOME", ""), home]),
            Some("/c/.cache/hmmgpu".into())
        );
        assert_eq!(folder(&[]), None);
    }
}
