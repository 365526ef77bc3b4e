//! What can go wrong, each with what to do about it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// An artefact could not be made or found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// Neither an option nor the environment says where the cache is.
    #[error("no cache folder: set HMMGPU_CACHE (or HOME) to a folder that can be written")]
    NoCacheFolder,
    /// The sources of guest programs and driver are not where they were.
    #[error(
        "{path} is no source tree of hmmgpu ({missing} is missing): set HMMGPU_SOURCE to a checkout"
    )]
    NoSource {
        /// Where they were looked for.
        path: PathBuf,
        /// What is not there.
        missing: String,
    },
    /// Programs of the host are missing, and only the user can install them.
    #[error("missing on this host: {}; run: {command}", missing.join(", "))]
    MissingTools {
        /// Names of the programs.
        missing: Vec<String>,
        /// The command that installs them.
        command: String,
    },
    /// cargo is not to be found.
    #[error("cargo is not in PATH; it builds the programs for the guest: install Rust")]
    NoCargo,
    /// Too little room for what is to be made.
    #[error(
        "{path} has {} free, and making the {what} needs {}: free some room, or set HMMGPU_CACHE \
         to a folder on a larger disk", Size(*free), Size(*needed)
    )]
    DiskSpace {
        /// The cache folder.
        path: PathBuf,
        /// What was to be made.
        what: String,
        /// Bytes free.
        free: u64,
        /// Bytes needed.
        needed: u64,
    },
    /// bubblewrap cannot make a sandbox here.
    #[error(
        "bubblewrap cannot make a sandbox on this host ({detail}); {}",
        sandbox_advice()
    )]
    Sandbox {
        /// What it said.
        detail: String,
    },
    /// A program ended badly.
    #[error("{what} failed ({status}){}\nlog: {}{}", hint_text(hint), log.display(), tail_text(tail))]
    Command {
        /// What was being done.
        what: String,
        /// How the program ended.
        status: String,
        /// The likely cause and what to do, where the log tells.
        hint: Option<String>,
        /// Its output.
        log: PathBuf,
        /// The last lines of it.
        tail: Vec<String>,
    },
    /// The user stopped it.
    #[error("interrupted ({what}); nothing half-made is left")]
    Interrupted {
        /// What was going on.
        what: String,
    },
    /// The root has no kernel that boots.
    #[error("{path} holds no kernel with modules and headers: remove the folder and run again")]
    NoKernel {
        /// The root.
        path: PathBuf,
    },
    /// Debian's archive has no kernel of this name.
    #[error(
        "Debian's archive holds no kernel debian:{name} with its headers; it holds:\n  {}\n\
         (a mirror that still has it, such as a snapshot, can be named by HMMGPU_MIRROR)",
        there.join("\n  ")
    )]
    NoSuchKernel {
        /// The name.
        name: String,
        /// What there is, a line for each series.
        there: Vec<String>,
    },
    /// No debug kernel of this name was built here.
    #[error(
        "there is no kernel {name} here{}; build one by: hmmgpu kernel build --debug",
        built_text(there)
    )]
    NoDebugKernel {
        /// As it was named.
        name: String,
        /// Versions of those that are there.
        there: Vec<String>,
    },
    /// What the user named is not what a kernel is made of.
    #[error("{} is no kernel for the guest: {why}", path.display())]
    NotKernel {
        /// The file or folder.
        path: PathBuf,
        /// What it lacks, and what to name.
        why: String,
    },
    /// A kernel is not configured for the guest.
    #[error(
        "the kernel of {} is not configured for the guest; it needs:\n  {}\n\
         set that (make menuconfig, or scripts/config), and run make again",
        file.display(), missing.join("\n  ")
    )]
    KernelConfig {
        /// Its configuration.
        file: PathBuf,
        /// A line for each option: how it has to be, and for what.
        missing: Vec<String>,
    },
    /// A tree is not built, or not since it was changed.
    #[error("{} is not built: {why}; run make in it first", path.display())]
    KernelNotBuilt {
        /// The tree.
        path: PathBuf,
        /// What shows it.
        why: String,
    },
    /// No compiler for a kernel's modules.
    #[error(
        "the kernel was built by '{built_by}', and to build the driver for it needs that: install \
         {program} and make, or build the kernel by what is there"
    )]
    NoCompiler {
        /// What the kernel says of its compiler.
        built_by: String,
        /// The compiler's name.
        program: String,
    },
    /// A module is neither built in nor there.
    #[error("kernel {release} has no module {module}, which the guest needs")]
    NoModule {
        /// The kernel's release.
        release: String,
        /// The module.
        module: String,
    },
    /// A folder that the user named has no kernel source.
    #[error(
        "{} is no Linux source tree that has hmm-tests ({missing} is missing): name the top folder of one",
        path.display()
    )]
    NotKernelSource {
        /// The folder.
        path: PathBuf,
        /// What is not there.
        missing: String,
    },
    /// The kernel in use is neither a package's nor of a tree.
    #[error("nobody knows the source of kernel {release}: name its tree (--kernel-source TREE)")]
    NoSourcePackage {
        /// The kernel's release.
        release: String,
    },
    /// A file for the guest cannot be taken along.
    #[error("cannot put {} into the guest as {guest}: {reason}", host.display())]
    UserFile {
        /// On the host.
        host: PathBuf,
        /// In the guest.
        guest: String,
        /// Why not.
        reason: String,
    },
    /// A file operation failed.
    #[error("cannot {what} {}: {source}{}", path.display(), io_hint(source))]
    Io {
        /// For example `write`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The sources changed again and again while they were built.
    #[error("the sources of the {what} keep changing while it is built: try again")]
    SourcesChange {
        /// What was being built.
        what: String,
    },
}

impl ImageError {
    /// Whether it is about what the user has named, not about what was made of it.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::UserFile { .. }
                | Self::NotKernelSource { .. }
                | Self::NoSuchKernel { .. }
                | Self::NoDebugKernel { .. }
                | Self::NotKernel { .. }
                | Self::KernelConfig { .. }
                | Self::KernelNotBuilt { .. }
        )
    }

    pub(crate) fn io(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }

    pub(crate) fn user_file(host: &Path, guest: &str, reason: impl Into<String>) -> Self {
        Self::UserFile {
            host: host.to_owned(),
            guest: guest.to_owned(),
            reason: reason.into(),
        }
    }
}

fn built_text(there: &[String]) -> String {
    match there {
        [] => String::new(),
        there => format!(" (built: {})", there.join(", ")),
    }
}

fn hint_text(hint: &Option<String>) -> String {
    hint.as_ref().map_or(String::new(), |h| format!(": {h}"))
}

fn tail_text(tail: &[String]) -> String {
    tail.iter().map(|line| format!("\n  | {line}")).collect()
}

fn io_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            " (free some room, or set HMMGPU_CACHE to a folder on a larger disk)"
        }
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
            " (set HMMGPU_CACHE to a folder that can be written)"
        }
        _ => "",
    }
}

/// The advice depends on what this host forbids.
fn sandbox_advice() -> String {
    let says = |path: &str, value: &str| {
        std::fs::read_to_string(path).is_ok_and(|text| text.trim() == value)
    };
    if says("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        "allow it by: sudo sysctl kernel.unprivileged_userns_clone=1".into()
    } else if says(
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
    ) {
        "allow it by: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0".into()
    } else if says("/proc/sys/user/max_user_namespaces", "0") {
        "allow it by: sudo sysctl user.max_user_namespaces=10000".into()
    } else {
        "in a container, let it create mount and pid namespaces (for example by --privileged)"
            .into()
    }
}

/// Bytes as a person reads them.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = self.0 / (1024 * 1024);
        if mib >= 1024 {
            write!(f, "{}.{} GiB", mib / 1024, mib % 1024 * 10 / 1024)
        } else {
            write!(f, "{mib} MiB")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        assert_eq!(Size(300 << 20).to_string(), "300 MiB");
        assert_eq!(Size(1536 << 20).to_string(), "1.5 GiB");
    }

    #[test]
    fn a_full_disk_says_what_to_do() {
        let error = ImageError::io("write", "/x")(io::ErrorKind::StorageFull.into());
        assert!(error.to_string().contains("HMMGPU_CACHE"), "{error}");
    }
}
