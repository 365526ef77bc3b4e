//! `hmmgpu doctor`: what is there, what is missing, what was chosen and why.
//!
//! It makes nothing and changes nothing.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hmmgpu_images::{Images, ImagesOptions, Silent};
use serde::Serialize;

use super::Error;
use crate::accel::{self, Choice, HostKey, Memory};
use crate::cli::DoctorArgs;
use crate::exit;
use crate::profile::Profile;
use crate::size::{GIB, MIB, Size};
use crate::vm::{REVISION, find_server_program, runtime_dir};

/// Schema of the JSON.
const SCHEMA: &str = "hmmgpu.doctor/1";
/// Room for making the tool root, about.
const ROOT_ROOM: u64 = 1300 * MIB;
/// Room for the rest of the cache and for a run.
const RUN_ROOM: u64 = 512 * MIB;

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    /// As it should be.
    Ok,
    /// Worth knowing; nothing needs to be done.
    Note,
    /// Needed, and not there.
    Missing,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Check {
    name: &'static str,
    status: Status,
    value: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    schema: &'static str,
    revision: &'static str,
    ok: bool,
    checks: Vec<Check>,
}

fn check(name: &'static str, status: Status, value: impl Into<String>) -> Check {
    Check {
        name,
        status,
        value: value.into(),
        advice: None,
    }
}

impl Check {
    fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

pub(super) fn doctor(args: &DoctorArgs) -> Result<u8, Error> {
    let checks = all_checks();
    let ok = checks.iter().all(|check| check.status != Status::Missing);
    let report = Report {
        schema: SCHEMA,
        revision: REVISION,
        ok,
        checks,
    };
    let text = if args.json {
        let mut text =
            serde_json::to_string_pretty(&report).map_err(|error| anyhow::anyhow!(error))?;
        text.push('\n');
        text
    } else {
        render(&report)
    };
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(if ok { exit::OK } else { exit::NEGATIVE })
}

fn render(report: &Report) -> String {
    let width = report
        .checks
        .iter()
        .map(|check| check.name.len())
        .max()
        .unwrap_or(0);
    let mut text = format!("hmmgpu {}\n", report.revision);
    for check in &report.checks {
        let status = match check.status {
            Status::Ok => "ok",
            Status::Note => "note",
            Status::Missing => "MISSING",
        };
        text.push_str(&format!(
            "{status:<7}  {:<width$}  {}\n",
            check.name, check.value
        ));
        if let Some(advice) = &check.advice {
            text.push_str(&format!("{:<7}  {:<width$}  -> {advice}\n", "", ""));
        }
    }
    text.push_str(if report.ok {
        "Everything that is needed is there.\n"
    } else {
        "Something that is needed is missing.\n"
    });
    text
}

fn all_checks() -> Vec<Check> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let images = Images::new(ImagesOptions {
        progress: std::sync::Arc::new(Silent),
        ..ImagesOptions::default()
    });
    let mut checks = Vec::new();
    let root = images
        .as_ref()
        .ok()
        .and_then(|images| tool_root(images.cache_folder()));

    checks.push(tool(
        "bwrap",
        "bubblewrap",
        &path,
        "runs QEMU and compilers in a sandbox",
    ));
    checks.push(sandbox());
    checks.push(device_sandbox());
    if root.is_none() {
        checks.push(tool(
            "mmdebstrap",
            "mmdebstrap",
            &path,
            "makes the tool root",
        ));
    }
    checks.push(match find(&path, "cargo") {
        Some(file) => check("cargo", Status::Ok, file.display().to_string()),
        None => check("cargo", Status::Missing, "not in PATH")
            .advise("it builds the programs for the guest: install Rust"),
    });
    match &images {
        Err(error) => checks.push(check("cache", Status::Missing, error.to_string())),
        Ok(images) => {
            checks.push(source(images.source_folder()));
            checks.push(cache(images.cache_folder(), root.is_some()));
            checks.extend(root_checks(root.as_deref()));
            checks.extend(more_kernels(images.cache_folder()));
        }
    }
    checks.push(match find_server_program() {
        Ok(program) => check("device server", Status::Ok, program.display().to_string()),
        Err(error) => check("device server", Status::Missing, error.to_string()),
    });
    checks.push(runtime_folder());
    checks.push(host_memory());
    checks.push(kvm(images.as_ref().ok().map(Images::cache_folder)));
    checks
}

/// The first file of this name in PATH that can be run.
fn find(path: &std::ffi::OsStr, program: &str) -> Option<PathBuf> {
    std::env::split_paths(path)
        .map(|folder| folder.join(program))
        .find(|file| {
            rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok() && file.is_file()
        })
}

fn tool(program: &'static str, package: &str, path: &std::ffi::OsStr, purpose: &str) -> Check {
    if let Some(file) = find(path, program) {
        return check(program, Status::Ok, file.display().to_string());
    }
    if rustix::process::geteuid().is_root() && find(path, "apt-get").is_some() {
        return check(
            program,
            Status::Note,
            "not there; it is installed by apt-get on first use",
        );
    }
    check(
        program,
        Status::Missing,
        format!("not in PATH; it {purpose}"),
    )
    .advise(format!("sudo apt-get install {package}"))
}

/// Whether a sandbox can be made.
fn sandbox() -> Check {
    let arguments = [
        "--unshare-pid",
        "--ro-bind",
        "/",
        "/",
        "--proc",
        "/proc",
        "--",
        "true",
    ];
    let output = Command::new("bwrap")
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    match output {
        Err(_) => check("sandbox", Status::Note, "not tried: bwrap does not start"),
        Ok(output) if output.status.success() => check("sandbox", Status::Ok, "works"),
        Ok(output) => {
            let said = crate::text::printable(
                output
                    .stderr
                    .split(|byte| *byte == b'\n')
                    .rfind(|line| !line.is_empty())
                    .unwrap_or(b""),
            );
            check(
                "sandbox",
                Status::Missing,
                format!("cannot be made: {said}"),
            )
            .advise("allow unprivileged user namespaces, or run as root")
        }
    }
}

/// What confines device servers.
fn device_sandbox() -> Check {
    let missing = hmmgpu_sandbox::missing();
    let status = match missing.is_empty() {
        true => Status::Ok,
        false => Status::Note,
    };
    let found = check("device sandbox", status, hmmgpu_sandbox::available());
    missing.into_iter().fold(found, Check::advise)
}

fn source(folder: &Path) -> Check {
    let shown = folder.display().to_string();
    if folder.join("guest-driver").is_dir() {
        check("source tree", Status::Ok, shown)
    } else {
        check(
            "source tree",
            Status::Missing,
            format!("{shown} is no checkout of hmmgpu"),
        )
        .advise("set HMMGPU_SOURCE to one: driver and guest programs are built from it")
    }
}

fn free_bytes(folder: &Path) -> Option<u64> {
    // The folder itself may not exist yet.
    let folder = folder.ancestors().find(|folder| folder.exists())?;
    let stat = rustix::fs::statvfs(folder).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

fn cache(folder: &Path, has_root: bool) -> Check {
    let needed = if has_root {
        RUN_ROOM
    } else {
        ROOT_ROOM + RUN_ROOM
    };
    let shown = folder.display();
    match free_bytes(folder) {
        None => check(
            "cache",
            Status::Missing,
            format!("{shown} cannot be looked at"),
        ),
        Some(free) => {
            let free_shown = Size(free / MIB * MIB);
            let value = format!("{shown}, {free_shown} free");
            if free >= needed {
                check("cache", Status::Ok, value)
            } else {
                check("cache", Status::Missing, value).advise(format!(
                    "free some room ({} is needed), or set HMMGPU_CACHE to another folder",
                    Size(needed)
                ))
            }
        }
    }
}

/// The newest tool root in a cache, without making one.
fn tool_root(cache: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(cache.join("root")).ok()?;
    entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_none() && path.join("usr/bin").is_dir())
        .max_by_key(|path| path.metadata().and_then(|found| found.modified()).ok())
}

/// Version of a package in the root's list of them: lines such as
/// `qemu-system-x86_1%3a11.1.3+ds-1_amd64.deb`.
fn package_version(list: &str, package: &str) -> Option<String> {
    list.lines().find_map(|line| {
        let version = line.strip_prefix(package)?.strip_prefix('_')?;
        let version = version
            .rsplit_once('_')
            .map_or(version, |(version, _)| version);
        // An epoch comes first, as `1%3a`.
        Some(
            version
                .split_once("%3a")
                .map_or(version, |(_, version)| version)
                .to_owned(),
        )
    })
}

fn root_checks(root: Option<&Path>) -> Vec<Check> {
    let Some(root) = root else {
        return vec![check(
            "tool root",
            Status::Note,
            "not there; it is made on first use (some 250 MB from the network)",
        )];
    };
    let mut checks = vec![check("tool root", Status::Ok, root.display().to_string())];
    let list = std::fs::read_to_string(root.join("packages")).unwrap_or_default();
    let qemu = package_version(&list, "qemu-system-x86").unwrap_or_else(|| "?".into());
    checks.push(check("QEMU", Status::Ok, qemu));
    checks.push(check("guest kernel", Status::Ok, kernels(root).join(", ")));
    checks
}

/// Releases of the kernels in a root.
fn kernels(root: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(root.join("usr/lib/modules")) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// Kernels that `--kernel debian:...` has fetched.
fn more_kernels(cache: &Path) -> Option<Check> {
    let entries = std::fs::read_dir(cache.join("kernel")).ok()?;
    let mut releases: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.path().extension().is_none())
        .flat_map(|entry| kernels(&entry.path()))
        .collect();
    releases.sort();
    (!releases.is_empty()).then(|| check("more kernels", Status::Ok, releases.join(", ")))
}

fn runtime_folder() -> Check {
    let base = runtime_dir::base();
    match tempfile::Builder::new()
        .prefix(".hmmgpu-doctor-")
        .tempdir_in(&base)
    {
        Ok(_) => check("runtime folder", Status::Ok, base.display().to_string()),
        Err(error) => check(
            "runtime folder",
            Status::Missing,
            format!("{}: {error}", base.display()),
        )
        .advise("sockets are made there: set XDG_RUNTIME_DIR to a folder of your own"),
    }
}

fn host_memory() -> Check {
    let profile = Profile::load("default");
    let needed = profile.map_or(3 * GIB, |profile| profile.memory.0 + profile.vram.0);
    let available = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("MemAvailable:"))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        });
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    match available {
        None => check(
            "host",
            Status::Note,
            format!("{cpus} processors, memory not known"),
        ),
        Some(kib) => {
            let available = Size(kib / 1024 * MIB);
            let value = format!("{cpus} processors, {available} of memory available");
            if available.0 >= needed {
                check("host", Status::Ok, value)
            } else {
                check("host", Status::Note, value).advise(format!(
                    "guest memory and VRAM can take {} together; use --memory and --vram for less",
                    Size(needed)
                ))
            }
        }
    }
}

/// Accelerator that `auto` chooses, and why.
fn kvm(cache: Option<&Path>) -> Check {
    let host = HostKey::here();
    let known = cache.and_then(|cache| Memory::new(cache).recall(&host));
    let attempts = accel::attempts(Choice::Auto, &accel::kvm_opens(), known.as_ref());
    let order: Vec<String> = attempts.order.iter().map(ToString::to_string).collect();
    let value = format!("{}: {}", order.join(", else "), attempts.why);
    let settled = known.is_some_and(|known| known.kvm_works);
    check(
        "accelerator",
        if settled { Status::Ok } else { Status::Note },
        value,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_the_list_of_packages() {
        let list = "qemu-system-common_1%3a10.0_amd64.deb\n\
                    qemu-system-x86_1%3a11.1.3+ds-1~bpo13+1_amd64.deb\nmake_4.4.1-2_amd64.deb\n";
        assert_eq!(
            package_version(list, "qemu-system-x86").as_deref(),
            Some("11.1.3+ds-1~bpo13+1")
        );
        assert_eq!(package_version(list, "make").as_deref(), Some("4.4.1-2"));
        assert_eq!(package_version(list, "gcc"), None);
    }

    #[test]
    fn a_root_that_is_being_made_is_none() {
        let cache = tempfile::tempdir().expect("a folder");
        assert_eq!(tool_root(cache.path()), None);
        std::fs::create_dir_all(cache.path().join("root/abc.partial/usr/bin")).expect("makes");
        assert_eq!(tool_root(cache.path()), None);
        std::fs::create_dir_all(cache.path().join("root/abc/usr/bin")).expect("makes");
        assert_eq!(tool_root(cache.path()), Some(cache.path().join("root/abc")));
    }

    #[test]
    fn what_is_missing_stands_out_with_advice() {
        let path = std::ffi::OsStr::new("/nonexistent");
        let missing = tool("bwrap", "bubblewrap", path, "sandboxes");
        assert_eq!(missing.status, Status::Missing);
        let report = Report {
            schema: SCHEMA,
            revision: "v1",
            ok: false,
            checks: vec![missing],
        };
        let text = render(&report);
        assert!(text.contains("MISSING  bwrap"), "{text}");
        assert!(
            text.contains("-> sudo apt-get install bubblewrap"),
            "{text}"
        );
    }

    #[test]
    fn a_place_without_room_is_missing() {
        let folder = tempfile::tempdir().expect("a folder");
        let below = folder.path().join("not/there/yet");
        assert!(free_bytes(&below).is_some());
        assert_eq!(cache(&below, true).name, "cache");
    }
}
