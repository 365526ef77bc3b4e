//! Running programs inside the tool root.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A path of the host that a program in the tool root may see.
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
        let host = path.into();
        Self {
            inside: host.clone(),
            host,
            writable: true,
        }
    }
}

/// A Debian root with QEMU, kernel and compiler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolRoot {
    path: PathBuf,
}

impl ToolRoot {
    /// Folder of the root on the host.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A command that runs `program` in the root with `/dev`, `/proc` and a private `/tmp`. It dies
    /// when the thread that started it dies.
    pub fn command(&self, program: &str, binds: &[Bind]) -> Command {
        let mut command = Command::new("bwrap");
        command.args(["--die-with-parent", "--unshare-pid"]);
        for bind in binds {
            command.arg(if bind.writable { "--bind" } else { "--ro-bind" });
            command.arg(&bind.host).arg(&bind.inside);
        }
        command.arg("--").arg(program);
        command
    }
}
