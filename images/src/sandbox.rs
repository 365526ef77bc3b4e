//! Running programs in a sandbox: inside the tool root, or on the host with all but a few folders
//! read-only. By bubblewrap, as root or as an ordinary user. A sandbox has a process namespace of
//! its own, so when its first process dies, everything in it does.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::ImageError;

/// A path of the host that a program in a sandbox may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// On the host.
    pub host: PathBuf,
    /// In the sandbox.
    pub inside: PathBuf,
    /// May be written.
    pub writable: bool,
}

impl Bind {
    /// At the same path inside, not to be written.
    pub fn read_only(path: impl Into<PathBuf>) -> Self {
        let host = path.into();
        Self {
            inside: host.clone(),
            host,
            writable: false,
        }
    }

    /// At the same path inside, to be written.
    pub fn writable(path: impl Into<PathBuf>) -> Self {
        Self {
            writable: true,
            ..Self::read_only(path)
        }
    }
}

/// A Debian root with QEMU, kernel and compiler. Its files are read-only for what runs in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolRoot {
    pub(crate) path: PathBuf,
    /// Hash of the packages in it.
    pub(crate) identity: String,
}

impl ToolRoot {
    /// Folder of the root on the host.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Hash of the packages in the root, with their versions.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// A command that runs `program` in the root. It sees `/usr` and `/etc` of the root, `/dev`
    /// with `/dev/kvm` where the host has it, `/proc`, `/sys`, a `/tmp` of its own, and `binds`
    /// (parents are made; a bind may not be below `/usr` or `/etc`). Environment and working
    /// folder: the caller's, the latter `/` if it is not in the sandbox.
    ///
    /// It dies when the **thread** that started it ends: start it from one that outlives it.
    pub fn command(&self, program: &str, binds: &[Bind]) -> Command {
        let mut command = in_root(&self.path, binds);
        command.arg(program);
        command
    }
}

/// bubblewrap with a root's folders, up to and with `--`.
pub(crate) fn in_root(root: &Path, binds: &[Bind]) -> Command {
    let mut command = Command::new("bwrap");
    command.args(["--die-with-parent", "--unshare-pid"]);
    for folder in ["usr", "etc"] {
        let inside = Path::new("/").join(folder);
        command.arg("--ro-bind").arg(root.join(folder)).arg(inside);
    }
    for link in ["bin", "sbin", "lib", "lib64"] {
        command.args(["--symlink", &format!("usr/{link}"), &format!("/{link}")]);
    }
    command.args(["--proc", "/proc", "--dev", "/dev"]);
    command.args(["--dev-bind-try", "/dev/kvm", "/dev/kvm"]);
    command.args(["--ro-bind-try", "/sys", "/sys", "--tmpfs", "/tmp"]);
    add_binds(&mut command, binds);
    command.arg("--");
    command
}

/// A command that runs a program of the host that sees the host's files, read-only except for
/// `binds`, and has a `/tmp` of its own.
pub(crate) fn on_host(program: &str, binds: &[Bind]) -> Command {
    let mut command = Command::new("bwrap");
    command.args(["--die-with-parent", "--unshare-pid", "--ro-bind", "/", "/"]);
    command.args(["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]);
    command.args(["--setenv", "TMPDIR", "/tmp"]);
    add_binds(&mut command, binds);
    command.arg("--").arg(program);
    command
}

/// A command that runs a program of the host without any limits, only that it and all that it
/// starts die with the thread that started it.
pub(crate) fn contained(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("bwrap");
    command.args(["--die-with-parent", "--unshare-pid", "--dev-bind", "/", "/"]);
    command.args(["--proc", "/proc", "--"]).arg(program);
    command
}

fn add_binds(command: &mut Command, binds: &[Bind]) {
    for bind in binds {
        command.arg(if bind.writable { "--bind" } else { "--ro-bind" });
        command.arg(&bind.host).arg(&bind.inside);
    }
}

/// Whether sandboxes can be made here at all; what forbids it is better said once and early.
pub(crate) fn probe() -> Result<(), ImageError> {
    let output = on_host("true", &[])
        .output()
        .map_err(ImageError::io("run", "bwrap"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(ImageError::Sandbox {
        detail: said
            .lines()
            .last()
            .unwrap_or("no message")
            .trim()
            .to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds_come_after_the_private_folders() {
        let root = ToolRoot {
            path: "/cache/root/x".into(),
            identity: String::new(),
        };
        let command = root.command(
            "qemu-system-x86_64",
            &[Bind::writable("/tmp/run"), Bind::read_only("/boot/vmlinuz")],
        );
        let arguments: Vec<_> = command.get_args().map(|a| a.to_str().unwrap()).collect();
        let at = |wanted: &[&str]| {
            arguments
                .windows(wanted.len())
                .position(|w| w == wanted)
                .unwrap_or_else(|| panic!("{wanted:?} not in {arguments:?}"))
        };
        assert!(at(&["--tmpfs", "/tmp"]) < at(&["--bind", "/tmp/run", "/tmp/run"]));
        at(&["--ro-bind", "/boot/vmlinuz", "/boot/vmlinuz"]);
        at(&["--ro-bind", "/cache/root/x/usr", "/usr"]);
        at(&["--die-with-parent"]);
        assert_eq!(arguments.last(), Some(&"qemu-system-x86_64"));
    }
}
