//! Tool root, driver build, guest programs and initramfs.
//!
//! Everything is made on first use, kept in a cache under the hash of what it was made from, and
//! used again without asking the network.
#![forbid(unsafe_code)]

mod error;
mod progress;
mod sandbox;

use std::path::PathBuf;
use std::sync::Arc;

use hmmgpu_guest_protocol::Job;

pub use error::ImageError;
pub use progress::{PlainProgress, Progress, Silent};
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
    /// Who is told what goes on.
    pub progress: Arc<dyn Progress>,
}

impl std::fmt::Debug for ImagesOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImagesOptions")
            .field("cache", &self.cache)
            .field("source", &self.source)
            .field("mirror", &self.mirror)
            .finish_non_exhaustive()
    }
}

impl Default for ImagesOptions {
    fn default() -> Self {
        Self {
            cache: None,
            source: None,
            mirror: None,
            progress: Arc::new(PlainProgress::stderr()),
        }
    }
}

/// Makes and finds the artefacts.
#[derive(Debug)]
pub struct Images {
    options: ImagesOptions,
}

/// A kernel in the tool root; the paths are the host's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// What `uname -r` says when it runs.
    pub release: String,
    /// The bootable image (`vmlinuz`).
    pub image: PathBuf,
    /// The folder with `modules.dep`.
    pub modules: PathBuf,
    /// The folder to build modules against.
    pub headers: PathBuf,
}

impl Images {
    /// Settles the folders; makes nothing yet.
    pub fn new(options: ImagesOptions) -> Result<Self, ImageError> {
        Ok(Self { options })
    }

    /// Made on first use: minutes and the network. Later uses are instant.
    pub fn tool_root(&self) -> Result<ToolRoot, ImageError> {
        let _ = &self.options;
        Err(ImageError::NotBuilt("tool root".into()))
    }

    /// The newest kernel of the tool root.
    pub fn kernel(&self, _root: &ToolRoot) -> Result<Kernel, ImageError> {
        Err(ImageError::NotBuilt("kernel".into()))
    }

    /// The base initramfs (init, shell and tools, kernel modules, driver, workloads) for a kernel.
    pub fn initramfs(&self, _root: &ToolRoot, _kernel: &Kernel) -> Result<PathBuf, ImageError> {
        Err(ImageError::NotBuilt("initramfs".into()))
    }

    /// A cpio with the job and the user's files (host path, path in the guest), to be appended to
    /// the base.
    pub fn overlay(_job: &Job, _files: &[(PathBuf, String)]) -> Result<Vec<u8>, ImageError> {
        Err(ImageError::NotBuilt("overlay".into()))
    }

    /// Writes base and overlay into one file for QEMU's `-initrd`; user files are streamed, so
    /// they may be large.
    pub fn write_initrd(
        _base: &std::path::Path,
        _job: &Job,
        _files: &[(PathBuf, String)],
        _output: &std::path::Path,
    ) -> Result<(), ImageError> {
        Err(ImageError::NotBuilt("initrd".into()))
    }
}
