//! Upstream's own tests of device-private memory, unmodified: the program `hmm-tests`, and the
//! kernel module `test_hmm` that it was written for.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cache::{Artefact, Cache};
use crate::context::Context;
use crate::kernel::Kernel;
use crate::kernel_source::KernelSource;
use crate::keys::{Key, files_below};
use crate::sandbox::{Bind, ToolRoot};
use crate::tool_root::COMPILER;
use crate::{ImageError, kbuild, run};

/// Counts changes in how they are built.
const VERSION: u32 = 1;
/// The program and the module.
const PROGRAM: &str = "hmm-tests";
const MODULE: &str = "test_hmm.ko";
const ROOM: u64 = 50 << 20;
/// Where the tests are in a kernel's source.
const TESTS: &str = "tools/testing/selftests/mm";
/// What upstream's Makefile links every test of that folder with: those of these that this
/// version has.
const SUPPORT: &[&str] = &["vm_util.c", "thp_settings.c", "hugepage_settings.c"];
/// Folders with headers.
const HEADERS: &[&str] = &["tools/include/uapi", "tools/arch/x86/include/uapi"];
/// Single headers.
const HEADER_FILES: &[&str] = &[
    "lib/test_hmm_uapi.h",
    "mm/gup_test.h",
    "tools/testing/selftests/kselftest.h",
    "tools/testing/selftests/kselftest_harness.h",
];
/// Upstream's compiler flags, for a program that needs no libraries of the guest.
const FLAGS: &[&str] = &[
    "-O2",
    "-U_FORTIFY_SOURCE",
    "-D_GNU_SOURCE=",
    "-static",
    "-I/linux",
    "-I/linux/tools/testing/selftests",
    "-isystem",
    "/linux/tools/include/uapi",
];
/// The module's own files.
const MODULE_FILES: &[&str] = &["lib/test_hmm.c", "lib/test_hmm_uapi.h"];

/// The statically linked program, built if need be.
pub(crate) fn program(
    context: &Context,
    cache: &Cache,
    root: &ToolRoot,
    source: &KernelSource,
) -> Result<PathBuf, ImageError> {
    let files = sources(&source.path)?;
    let mut key = Key::new("hmm-tests", VERSION);
    key.field("root", root.identity().as_bytes());
    key.field("flags", FLAGS.join(" ").as_bytes());
    for file in &files {
        key.file(&file.to_string_lossy(), &source.path.join(file))?;
    }
    let key = key.finish();
    let artefact = Artefact {
        kind: "hmm-tests",
        key: &key,
        what: "upstream's hmm-tests",
        room: ROOM,
    };
    let path = cache.get(context, &artefact, |partial| {
        fs::create_dir(partial).map_err(ImageError::io("create", partial))?;
        // A copy: a tree of the user's may be anywhere, and must not be written to.
        let tree = partial.join("tree");
        copy(&source.path, &tree, &files)?;
        let inside = Bind {
            host: tree.clone(),
            inside: "/linux".into(),
            writable: true,
        };
        let mut command = root.command("env", &[inside]);
        command
            // From their folder, so that assertions name a file as upstream's do.
            .args(["-i", "-C", &format!("/linux/{TESTS}")])
            .args(["PATH=/usr/bin", "LC_ALL=C", COMPILER])
            .args(FLAGS)
            .args(["-o", &format!("/linux/{PROGRAM}"), "hmm-tests.c"])
            .args(support(&source.path))
            .args(["-lrt", "-lpthread", "-lm"]);
        let log = cache.log("hmm-tests", &key)?;
        run::run(
            context,
            "building upstream's hmm-tests",
            &mut command,
            &log,
            |line| context.progress.update(None, line.trim()),
        )?;
        let program = partial.join(PROGRAM);
        fs::rename(tree.join(PROGRAM), &program).map_err(ImageError::io("find", &program))?;
        crate::cache::remove(&tree)
    })?;
    Ok(path.join(PROGRAM))
}

/// The module for a kernel, built if need be.
pub(crate) fn module(
    context: &Context,
    cache: &Cache,
    kernel: &Kernel,
    source: &KernelSource,
) -> Result<PathBuf, ImageError> {
    let files: Vec<PathBuf> = MODULE_FILES.iter().map(PathBuf::from).collect();
    if let Some(missing) = files.iter().find(|file| !source.path.join(file).is_file()) {
        return Err(ImageError::NotKernelSource {
            path: source.path.clone(),
            missing: missing.display().to_string(),
        });
    }
    let mut key = Key::new("test-hmm", VERSION);
    kernel.add_to(&mut key);
    for file in &files {
        key.file(&file.to_string_lossy(), &source.path.join(file))?;
    }
    let key = key.finish();
    let what = format!("upstream's test_hmm for {}", kernel.release);
    let artefact = Artefact {
        kind: "test-hmm",
        key: &key,
        what: &what,
        room: ROOM,
    };
    let path = cache.get(context, &artefact, |partial| {
        fs::create_dir(partial).map_err(ImageError::io("create", partial))?;
        let build = partial.join("build");
        copy(&source.path, &build, &files)?;
        let folder = build.join("lib");
        let kbuild_file = folder.join("Kbuild");
        fs::write(&kbuild_file, "obj-m := test_hmm.o\n")
            .map_err(ImageError::io("write", &kbuild_file))?;
        let log = cache.log("test-hmm", &key)?;
        let doing = "building upstream's test_hmm";
        kbuild::modules(context, kernel, &folder, "/test_hmm", &[], doing, &log)?;
        let module = partial.join(MODULE);
        fs::rename(folder.join(MODULE), &module).map_err(ImageError::io("find", &module))?;
        crate::cache::remove(&build)
    })?;
    Ok(path.join(MODULE))
}

/// Those of [`SUPPORT`] that a source has.
fn support(tree: &Path) -> Vec<&'static str> {
    let there = |name: &&&str| tree.join(TESTS).join(name).is_file();
    SUPPORT.iter().filter(there).copied().collect()
}

/// Paths, relative to the tree, of all that the program is compiled from.
fn sources(tree: &Path) -> Result<Vec<PathBuf>, ImageError> {
    let is_header = |path: &Path| path.extension().is_some_and(|ending| ending == "h");
    let mut files: Vec<PathBuf> = HEADER_FILES
        .iter()
        .map(PathBuf::from)
        .filter(|file| tree.join(file).is_file())
        .collect();
    for folder in HEADERS.iter().chain([&TESTS]) {
        if tree.join(folder).is_dir() {
            let headers = files_below(&tree.join(folder), &is_header)?;
            files.extend(headers.iter().map(|file| Path::new(folder).join(file)));
        }
    }
    let own = ["hmm-tests.c"].into_iter().chain(support(tree));
    files.extend(own.map(|name| Path::new(TESTS).join(name)));
    Ok(files)
}

fn copy(from: &Path, to: &Path, files: &[PathBuf]) -> Result<(), ImageError> {
    for file in files {
        let (from, to) = (from.join(file), to.join(file));
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(ImageError::io("create", parent))?;
        }
        fs::copy(&from, &to).map_err(ImageError::io("copy", &from))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compiled_is_what_this_version_has() {
        let folder = tempfile::tempdir().unwrap();
        for path in [
            "lib/test_hmm_uapi.h",
            "lib/test_hmm.c",
            "tools/include/uapi/linux/mman.h",
            "tools/testing/selftests/mm/hmm-tests.c",
            "tools/testing/selftests/mm/vm_util.c",
            "tools/testing/selftests/mm/vm_util.h",
            "tools/testing/selftests/mm/thp_settings.c",
            "tools/testing/selftests/mm/cow.c",
        ] {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let found: Vec<_> = sources(folder.path())
            .unwrap()
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        assert_eq!(
            found,
            [
                "lib/test_hmm_uapi.h",
                "tools/include/uapi/linux/mman.h",
                "tools/testing/selftests/mm/vm_util.h",
                "tools/testing/selftests/mm/hmm-tests.c",
                "tools/testing/selftests/mm/vm_util.c",
                "tools/testing/selftests/mm/thp_settings.c",
            ]
        );
    }
}
