//! Programs that the host must have. Root on a Debian host gets them installed; others are told
//! the one command to run.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::ImageError;
use crate::cache::Cache;
use crate::context::Context;
use crate::progress::Ended;
use crate::run::{self, OnInterrupt};

/// A program and the Debian package that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tool {
    program: &'static str,
    package: &'static str,
}

/// Makes sandboxes.
pub(crate) const BWRAP: Tool = Tool {
    program: "bwrap",
    package: "bubblewrap",
};
/// Makes the tool root.
pub(crate) const MMDEBSTRAP: Tool = Tool {
    program: "mmdebstrap",
    package: "mmdebstrap",
};

/// The first file of this name in PATH that can be run.
pub(crate) fn find(program: &str, path: Option<&OsStr>) -> Option<PathBuf> {
    std::env::split_paths(path?)
        .map(|folder| folder.join(program))
        .find(|file| {
            file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
        })
}

/// Those of `tools` that are not in PATH.
fn missing(tools: &[Tool], path: Option<&OsStr>) -> Vec<Tool> {
    tools
        .iter()
        .copied()
        .filter(|tool| find(tool.program, path).is_none())
        .collect()
}

/// Sees to it that the tools are there.
pub(crate) fn ensure(context: &Context, cache: &Cache, tools: &[Tool]) -> Result<(), ImageError> {
    let path = std::env::var_os("PATH");
    let root = rustix::process::geteuid().is_root();
    let lacking = missing(tools, path.as_deref());
    if lacking.is_empty() {
        return Ok(());
    }
    if !root || find("apt-get", path.as_deref()).is_none() {
        return Err(to_install(&lacking));
    }
    let _lock = cache.lock(context, "host-tools", "host's tools")?;
    let lacking = missing(tools, path.as_deref());
    if lacking.is_empty() {
        return Ok(()); // another run installed them
    }
    let packages: Vec<_> = lacking.iter().map(|tool| tool.package).collect();
    context.progress.note(&format!(
        "installing on this host by apt-get: {}",
        packages.join(", ")
    ));
    context.progress.begin("host's tools");
    let installed = install(context, cache, &packages);
    context.progress.end(Ended::of(&installed));
    installed?;
    let lacking = missing(tools, path.as_deref());
    if lacking.is_empty() {
        Ok(())
    } else {
        Err(to_install(&lacking))
    }
}

fn to_install(tools: &[Tool]) -> ImageError {
    let packages: Vec<_> = tools.iter().map(|tool| tool.package).collect();
    ImageError::MissingTools {
        missing: tools.iter().map(|tool| tool.program.to_owned()).collect(),
        command: format!("sudo apt-get install {}", packages.join(" ")),
    }
}

fn install(context: &Context, cache: &Cache, packages: &[&str]) -> Result<(), ImageError> {
    let log = cache.log("host-tools", "apt")?;
    let apt = |arguments: &[&str], on_interrupt| {
        let mut command = Command::new("apt-get");
        command
            .args([
                "-y",
                "-o",
                "DPkg::Lock::Timeout=300",
                "-o",
                "Acquire::Retries=3",
            ])
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C");
        run::run_with(
            context,
            "installing the host's tools",
            &mut command,
            &log,
            on_interrupt,
            |line| {
                context.progress.update(None, line);
            },
        )
    };
    let install = |more: &[&str], on_interrupt| {
        let mut arguments = vec!["install", "--no-install-recommends"];
        arguments.extend(more);
        arguments.extend(packages);
        apt(&arguments, on_interrupt)
    };
    // Downloading can be stopped at any time. Half an installation would leave the host's package
    // manager to be repaired by hand: nothing stops that.
    let download = || install(&["--download-only"], OnInterrupt::Stop);
    let put_in = || install(&[], OnInterrupt::Finish);
    // Lists that are there may be outdated: then the second try helps.
    if !lists_are_there(Path::new("/var/lib/apt/lists")) || download().is_err() {
        context.check_interrupted("host's tools")?;
        apt(&["update", "-q"], OnInterrupt::Stop)?;
        download()?;
    }
    context.check_interrupted("host's tools")?;
    put_in()
}

/// Whether apt has any list of packages; a fresh machine has none.
fn lists_are_there(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|entries| {
        entries
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_tool_is_found_only_when_it_can_be_run() {
        let folder = tempfile::tempdir().unwrap();
        let path = Some(folder.path().as_os_str());
        assert_eq!(missing(&[BWRAP], path), [BWRAP]);
        let file = folder.path().join("bwrap");
        std::fs::write(&file, "").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(missing(&[BWRAP], path), [BWRAP]);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(missing(&[BWRAP, MMDEBSTRAP], path), [MMDEBSTRAP]);
        assert_eq!(missing(&[BWRAP], None), [BWRAP]);
    }

    #[test]
    fn the_error_is_one_command_to_run() {
        let error = to_install(&[MMDEBSTRAP, BWRAP]).to_string();
        assert!(
            error.ends_with("run: sudo apt-get install mmdebstrap bubblewrap"),
            "{error}"
        );
    }

    #[test]
    fn empty_lists_are_seen() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("partial")).unwrap();
        std::fs::write(folder.path().join("lock"), "").unwrap();
        assert!(!lists_are_there(folder.path()));
        std::fs::write(folder.path().join("x_main_binary-amd64_Packages.lz4"), "").unwrap();
        assert!(lists_are_there(folder.path()));
    }
}
