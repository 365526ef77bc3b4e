//! The initramfs: a base that only depends on what was built, and a part for one run.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use hmmgpu_guest_protocol::runner::RUNNER;
use hmmgpu_guest_protocol::{JOB_PATH, Job};

use crate::cache::{Artefact, Cache};
use crate::context::Context;
use crate::cpio::Archive;
use crate::guest_programs::GuestPrograms;
use crate::kernel::Kernel;
use crate::keys::Key;
use crate::modules::{self, ModuleFile, unpacker};
use crate::sandbox::{Bind, ToolRoot};
use crate::{ImageError, run};

/// Counts changes in what the base holds.
const VERSION: u32 = 3;
/// Shell, workloads and driver; little else.
const ROOM: u64 = 100 << 20;
/// Where init finds the paths of modules to load, in order, one a line.
const MODULE_LIST: &str = "hmmgpu/modules";
/// Where init finds the driver.
const DRIVER_LINK: &str = "hmmgpu/hmmgpu.ko";
/// The driver among the kernel's modules, so that `modprobe` finds it too.
const DRIVER: &str = "updates/hmmgpu.ko";
/// Folders that are there before anything is mounted.
const FOLDERS: &[&str] = &[
    "bin",
    "sbin",
    "usr/bin",
    "usr/sbin",
    "usr/local/bin",
    "dev",
    "etc",
    "hmmgpu",
    "mnt",
    "proc",
    "root",
    "run",
    "sys",
    "tmp",
    "var/log",
];
/// Folders that init mounts something over: a file in them would not be seen.
const COVERED: &[&str] = &["proc", "sys", "dev", "run"];
/// Small files that programs look for.
const ETC: &[(&str, &str)] = &[
    (
        "etc/passwd",
        "root::0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    ),
    ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ("etc/hosts", "127.0.0.1 localhost\n"),
    (
        "etc/nsswitch.conf",
        "passwd: files\ngroup: files\nhosts: files\n",
    ),
];

/// The base for a kernel, built if need be.
pub(crate) fn get(
    context: &Context,
    cache: &Cache,
    root: &ToolRoot,
    kernel: &Kernel,
    driver: &Path,
    programs: &GuestPrograms,
) -> Result<PathBuf, ImageError> {
    let mut key = Key::new("initramfs", VERSION);
    key.field("root", root.identity().as_bytes());
    kernel.add_to(&mut key);
    let modules = modules::needed(kernel)?;
    for module in &modules {
        key.file(&module.name.to_string_lossy(), &module.file)?;
    }
    key.file("driver", driver)?;
    key.field("programs", programs.key.as_bytes());
    for (name, content) in ETC {
        key.field(name, content.as_bytes());
    }
    let key = key.finish();
    let artefact = Artefact {
        kind: "initramfs",
        key: &key,
        what: "initramfs",
        room: ROOM,
    };
    let path = cache.get(context, &artefact, |partial| {
        std::fs::create_dir(partial).map_err(ImageError::io("create", partial))?;
        let log = cache.log("initramfs", &key)?;
        let unpacked = partial.join("modules");
        let modules = unpack_modules(context, root, modules, &unpacked, &log)?;
        let applets = applets(context, root, &log)?;
        let path = partial.join("base.cpio");
        write_base(&path, root, kernel, driver, programs, &applets, &modules)
            .map_err(ImageError::io("write", &path))?;
        crate::cache::remove(&unpacked)
    })?;
    Ok(path.join("base.cpio"))
}

/// Copies of the modules that the guest needs, unpacked, in the same order.
fn unpack_modules(
    context: &Context,
    root: &ToolRoot,
    needed: Vec<ModuleFile>,
    folder: &Path,
    log: &Path,
) -> Result<Vec<ModuleFile>, ImageError> {
    std::fs::create_dir(folder).map_err(ImageError::io("create", folder))?;
    let mut modules = Vec::new();
    for (number, module) in needed.into_iter().enumerate() {
        let Some((program, name)) = unpacker(&module.name) else {
            modules.push(module);
            continue;
        };
        let (from, path) = (module.file, module.name);
        let copy = folder.join(format!("{number}.ko"));
        let ending = path.extension().unwrap_or_default();
        let packed = folder.join(format!("{number}.ko.{}", ending.to_string_lossy()));
        std::fs::copy(&from, &packed).map_err(ImageError::io("copy", &from))?;
        let inside = Bind {
            host: folder.to_owned(),
            inside: "/unpack".into(),
            writable: true,
        };
        let mut command = root.command(program, &[inside]);
        command
            .args(["-d", "-q", "-f"])
            .arg(Path::new("/unpack").join(packed.file_name().unwrap_or_default()));
        run::run(
            context,
            "unpacking a kernel module",
            &mut command,
            log,
            |_| {},
        )?;
        let unpacked = |path: PathBuf| unpacker(&path).map_or(path, |(_, name)| name);
        modules.push(ModuleFile {
            file: copy,
            name,
            needs: module.needs.into_iter().map(unpacked).collect(),
            early: module.early,
        });
    }
    Ok(modules)
}

/// Paths of busybox's applets, relative to `/`.
fn applets(context: &Context, root: &ToolRoot, log: &Path) -> Result<Vec<String>, ImageError> {
    let mut applets = Vec::new();
    let mut command = root.command("busybox", &[]);
    command.arg("--list-full");
    run::run(
        context,
        "listing the shell's tools",
        &mut command,
        log,
        |line| {
            applets.push(line.to_owned());
        },
    )?;
    Ok(applets)
}

fn write_base(
    path: &Path,
    root: &ToolRoot,
    kernel: &Kernel,
    driver: &Path,
    programs: &GuestPrograms,
    applets: &[String],
    modules: &[ModuleFile],
) -> io::Result<()> {
    let mut archive = Archive::new(BufWriter::new(File::create(path)?));
    for folder in FOLDERS {
        archive.folder(folder)?;
    }
    // The kernel opens it for init before anything is mounted.
    archive.character_device("dev/console", 0o600, (5, 1))?;
    archive.copy("init", &programs.init)?;
    archive.link(&format!("usr/bin/{RUNNER}"), "/init")?;
    archive.copy("bin/busybox", &root.path().join("usr/bin/busybox"))?;
    for applet in applets.iter().filter(|path| *path != "bin/busybox") {
        archive.link(applet, "/bin/busybox")?;
    }
    archive.copy("usr/bin/hmmgpu-guest-workloads", &programs.workloads)?;
    for name in &programs.names {
        archive.link(&format!("usr/bin/{name}"), "hmmgpu-guest-workloads")?;
    }
    for (name, content) in ETC {
        archive.file(name, 0o644, content.as_bytes())?;
    }

    let home = format!("lib/modules/{}", kernel.release);
    let mut list = String::new();
    let mut dependencies = format!("{DRIVER}:\n");
    for module in modules {
        let name = module.name.display();
        archive.copy(&format!("{home}/{name}"), &module.file)?;
        if module.early {
            list.push_str(&format!("/{home}/{name}\n"));
        }
        dependencies.push_str(&format!("{name}:"));
        for path in &module.needs {
            dependencies.push_str(&format!(" {}", path.display()));
        }
        dependencies.push('\n');
    }
    archive.file(MODULE_LIST, 0o644, list.as_bytes())?;
    archive.copy(&format!("{home}/{DRIVER}"), driver)?;
    archive.link(DRIVER_LINK, &format!("/{home}/{DRIVER}"))?;
    archive.file(
        &format!("{home}/modules.dep"),
        0o644,
        dependencies.as_bytes(),
    )?;
    archive.finish()?.flush()
}

/// Base, job and user files in one file, as QEMU's `-initrd` takes it.
pub(crate) fn write_initrd(
    base: &Path,
    job: &Job,
    files: &[(PathBuf, String)],
    output: &Path,
) -> Result<(), ImageError> {
    let error = || ImageError::io("write", output);
    let mut file = File::create(output).map_err(error())?;
    let mut from = File::open(base).map_err(ImageError::io("open", base))?;
    io::copy(&mut from, &mut file).map_err(error())?;
    let mut file = BufWriter::new(file);
    overlay(&mut file, job, files)?;
    file.flush().map_err(error())
}

/// The part for one run.
pub(crate) fn overlay(
    output: &mut dyn Write,
    job: &Job,
    files: &[(PathBuf, String)],
) -> Result<(), ImageError> {
    let mut archive = Archive::new(output);
    let text =
        serde_json::to_vec_pretty(job).map_err(|e| ImageError::io("write", JOB_PATH)(e.into()))?;
    archive
        .file(JOB_PATH, 0o644, &text)
        .map_err(ImageError::io("write", JOB_PATH))?;
    for (host, guest) in files {
        let name = guest_name(host, guest)?;
        add(&mut archive, host, &name)?;
    }
    archive
        .finish()
        .map_err(ImageError::io("write", JOB_PATH))?;
    Ok(())
}

/// A path in the guest without its leading slash; a folder (`/x/`) takes the file's own name.
fn guest_name(host: &Path, guest: &str) -> Result<String, ImageError> {
    let refuse = |reason: &str| Err(ImageError::user_file(host, guest, reason));
    let mut parts: Vec<&str> = Vec::new();
    for part in Path::new(guest).components() {
        match part {
            Component::Normal(part) => parts.extend(part.to_str()),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return refuse("the path in the guest must not go up");
            }
        }
    }
    if guest.ends_with('/') || parts.is_empty() {
        let canonical = std::fs::canonicalize(host)
            .map_err(|e| ImageError::user_file(host, guest, e.to_string()))?;
        let own = host
            .file_name()
            .or(canonical.file_name())
            .and_then(|n| n.to_str());
        let Some(own) = own else {
            return refuse("its name is not UTF-8: name it in the guest");
        };
        let mut name = parts.join("/");
        if !name.is_empty() {
            name.push('/');
        }
        name.push_str(own);
        return Ok(name);
    }
    if COVERED.contains(&parts[0]) {
        return refuse("the guest mounts another file system there");
    }
    Ok(parts.join("/"))
}

/// A file, or a folder with all in it; symbolic links below it stay links.
fn add(archive: &mut Archive<impl Write>, host: &Path, name: &str) -> Result<(), ImageError> {
    let refuse = |reason: String| ImageError::user_file(host, &format!("/{name}"), reason);
    let failed = |e: io::Error| refuse(e.to_string());
    let meta = std::fs::metadata(host).map_err(failed)?;
    if meta.is_file() {
        return archive.copy(name, host).map_err(failed);
    }
    if !meta.is_dir() {
        return Err(refuse("it is neither a file nor a folder".into()));
    }
    archive.folder(name).map_err(failed)?;
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(host).map_err(failed)? {
        entries.push(entry.map_err(failed)?);
    }
    entries.sort_by_key(|entry| entry.file_name());
    for entry in entries {
        let own = entry.file_name();
        let Some(own) = own.to_str() else {
            let bytes = own.as_bytes().escape_ascii();
            return Err(refuse(format!("the name {bytes} in it is not UTF-8")));
        };
        let inner = format!("{name}/{own}");
        if entry.file_type().map_err(failed)?.is_symlink() {
            let target = std::fs::read_link(entry.path()).map_err(failed)?;
            archive
                .link(&inner, &target.to_string_lossy())
                .map_err(failed)?;
        } else {
            add(archive, &entry.path(), &inner)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpio::tests::parse;

    fn job() -> Job {
        Job {
            version: hmmgpu_guest_protocol::PROTOCOL_VERSION,
            argv: vec!["true".into()],
            env: vec![],
            interactive: false,
            terminal: None,
            driver: None,
        }
    }

    fn names(files: &[(PathBuf, String)]) -> Result<Vec<String>, ImageError> {
        let mut bytes = Vec::new();
        overlay(&mut bytes, &job(), files)?;
        Ok(parse(&bytes).into_iter().map(|entry| entry.0).collect())
    }

    #[test]
    fn the_job_comes_back() {
        let mut bytes = Vec::new();
        overlay(&mut bytes, &job(), &[]).unwrap();
        let entry = parse(&bytes).pop().unwrap();
        assert_eq!(entry.0, JOB_PATH.trim_start_matches('/'));
        assert_eq!(serde_json::from_slice::<Job>(&entry.3).unwrap(), job());
    }

    #[test]
    fn files_and_folders_come_along() {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        std::fs::create_dir_all(tree.join("sub")).unwrap();
        std::fs::write(tree.join("sub/file"), "x").unwrap();
        std::os::unix::fs::symlink("sub/file", tree.join("link")).unwrap();
        let file = tree.join("sub/file");
        let names = names(&[
            (tree.clone(), "/data".into()),
            (file.clone(), "/root/renamed".into()),
            (file, "/opt/".into()),
        ])
        .unwrap();
        for wanted in ["data/sub/file", "data/link", "root/renamed", "opt/file"] {
            assert!(
                names.iter().any(|name| name == wanted),
                "{wanted} not in {names:?}"
            );
        }
    }

    #[test]
    fn paths_that_cannot_be_are_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "x").unwrap();
        for (host, guest, reason) in [
            (file.clone(), "/a/../../b", "go up"),
            (file.clone(), "/proc/x", "mounts another"),
            (folder.path().join("missing"), "/x", "No such file"),
            (
                PathBuf::from("/dev/null"),
                "/x",
                "neither a file nor a folder",
            ),
        ] {
            let error = names(&[(host, guest.into())]).unwrap_err().to_string();
            assert!(error.contains(reason), "{guest}: {error}");
        }
    }

    #[test]
    fn base_and_overlay_are_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("base");
        let mut archive = Archive::new(File::create(&base).unwrap());
        archive.file("init", 0o755, b"odd").unwrap();
        archive.finish().unwrap();
        let output = folder.path().join("initrd");
        write_initrd(&base, &job(), &[], &output).unwrap();
        let entries = parse(&std::fs::read(&output).unwrap());
        assert_eq!(entries.first().unwrap().0, "init");
        assert_eq!(format!("/{}", entries.last().unwrap().0), JOB_PATH);
    }

    #[test]
    fn a_full_disk_is_an_error_that_says_what_to_do() {
        // Every write to /dev/full fails as on a full disk.
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("base");
        std::fs::write(&base, vec![0; 1 << 20]).unwrap();
        let error = write_initrd(&base, &job(), &[], Path::new("/dev/full"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("HMMGPU_CACHE"), "{error}");
    }
}
