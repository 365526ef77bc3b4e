//! Asking Debian's archive which kernels it holds.
//!
//! The package lists of all suites are some 30 MB, of which a few lines are kept: the list of
//! kernels. It is good for a day; a kernel that is not in it is looked for in a new one.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::kernels::{ALL, ArchiveKernel, choose, parse, shown};
use super::meter::Meter;
use crate::cache::{self, Cache};
use crate::context::Context;
use crate::host_tools::{self, BWRAP, MMDEBSTRAP};
use crate::keys::Key;
use crate::progress::Ended;
use crate::{ImageError, run, sandbox};

/// Counts changes in what is looked for.
const VERSION: u32 = 1;
/// A list is taken without asking the archive for so long.
const GOOD_FOR: Duration = Duration::from_secs(24 * 60 * 60);
const WHAT: &str = "list of Debian's kernels";
/// Lines of the hook's output that say something begin with it.
const MARK: &str = "kernel: ";

/// Run by mmdebstrap when it has read the package lists: a line for each package that a kernel
/// consists of. apt knows how it keeps the lists.
const LIST_KERNELS: &str = r#"set -e
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
apt-get indextargets --format '$(RELEASE) $(FILENAME)' 'Created-By: Packages' |
while read -r suite file; do
    /usr/lib/apt/apt-helper cat-file "$file" | awk -v mark="MARK" -v suite="$suite" '
        /^Package: / { name = $2 }
        /^Version: / && name ~ /^linux-(image|headers)-[0-9]/ { print mark suite, name, $2 }'
done"#;

/// What a lookup has found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) kernel: ArchiveKernel,
    /// The archive was not asked: it may not have that kernel any more.
    pub(crate) from_memory: bool,
}

/// Finds a kernel by series, version or release. `anew`: ask the archive in any case.
pub(crate) fn find(
    context: &Context,
    cache: &Cache,
    mirror: Option<&str>,
    name: &str,
    anew: bool,
) -> Result<Found, ImageError> {
    let path = list_path(cache, mirror);
    let known = |kernel: &ArchiveKernel| Found {
        kernel: kernel.clone(),
        from_memory: true,
    };
    let old = read(&path)?;
    if let Some((list, age)) = &old
        && *age < GOOD_FOR
        && !anew
        && let Some(kernel) = choose(&parse(list), name)
    {
        return Ok(known(kernel));
    }
    let list = match look(context, cache, mirror, &path) {
        Ok(list) => list,
        // Without a network, what was there is better than nothing.
        Err(error @ ImageError::Command { .. }) if !anew => {
            let Some((list, age)) = old else {
                return Err(error);
            };
            let Some(found) = choose(&parse(&list), name).map(known) else {
                return Err(error);
            };
            let days = age.as_secs() / GOOD_FOR.as_secs();
            context.progress.note(&format!(
                "Debian's archive cannot be asked; taking its {WHAT} of {days} days ago"
            ));
            return Ok(found);
        }
        Err(error) => return Err(error),
    };
    let kernels = parse(&list);
    match choose(&kernels, name) {
        Some(kernel) => Ok(Found {
            kernel: kernel.clone(),
            from_memory: false,
        }),
        None => Err(ImageError::NoSuchKernel {
            name: name.to_owned(),
            there: shown(&kernels),
        }),
    }
}

/// Another mirror may have other kernels.
fn list_path(cache: &Cache, mirror: Option<&str>) -> PathBuf {
    let mut key = Key::new("kernels", VERSION);
    key.field("mirror", mirror.unwrap_or_default().as_bytes());
    let name = format!("{}.list", key.finish());
    cache.folder().join("kernels").join(name)
}

/// A list and its age.
fn read(path: &Path) -> Result<Option<(String, Duration)>, ImageError> {
    let Ok(meta) = fs::metadata(path) else {
        return Ok(None);
    };
    let list = fs::read_to_string(path).map_err(ImageError::io("read", path))?;
    let age = meta.modified().map(|at| at.elapsed());
    // A time in the future is none.
    let age = age.ok().and_then(Result::ok).unwrap_or(Duration::MAX);
    Ok(Some((list, age)))
}

/// Asks the archive, and keeps what it says.
fn look(
    context: &Context,
    cache: &Cache,
    mirror: Option<&str>,
    path: &Path,
) -> Result<String, ImageError> {
    let begun = SystemTime::now();
    let _lock = cache.lock(context, "kernels", WHAT)?;
    // Another run may have asked while this one waited.
    let renewed = fs::metadata(path).and_then(|meta| meta.modified());
    if renewed.is_ok_and(|at| at > begun)
        && let Some((list, _)) = read(path)?
    {
        return Ok(list);
    }
    context.progress.begin(WHAT);
    let list = ask(context, cache, mirror, path);
    context.progress.end(Ended::of(&list));
    list
}

fn ask(
    context: &Context,
    cache: &Cache,
    mirror: Option<&str>,
    path: &Path,
) -> Result<String, ImageError> {
    context.check_interrupted(WHAT)?;
    host_tools::ensure(context, cache, &[BWRAP, MMDEBSTRAP])?;
    sandbox::probe()?;
    let scratch = path.with_extension("partial");
    cache::remove(&scratch)?;
    fs::create_dir_all(&scratch).map_err(ImageError::io("create", &scratch))?;
    let asked = list_by_apt(context, cache, mirror, &scratch);
    cache::remove(&scratch)?;
    let list = asked?;
    // Whole or not at all.
    let new = path.with_extension("new");
    fs::write(&new, &list).map_err(ImageError::io("write", &new))?;
    fs::rename(&new, path).map_err(ImageError::io("create", path))?;
    Ok(list)
}

fn list_by_apt(
    context: &Context,
    cache: &Cache,
    mirror: Option<&str>,
    scratch: &Path,
) -> Result<String, ImageError> {
    let log = cache.log("kernels", "archive")?;
    let mut command = ALL.mmdebstrap(scratch);
    let hook = LIST_KERNELS.replace("MARK", MARK);
    command
        .arg("--variant=custom")
        .arg(format!("--customize-hook={hook}"));
    ALL.into_folder(&mut command, scratch, mirror);
    let mut list = String::new();
    let mut meter = Meter::default();
    run::run(
        context,
        "asking Debian's archive for its kernels",
        &mut command,
        &log,
        |line| {
            if let Some(found) = line.strip_prefix(MARK) {
                list.push_str(found);
                list.push('\n');
            } else if let Some((percent, detail)) = meter.line(line) {
                context.progress.update(percent, &detail);
            }
        },
    )?;
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::super::kernels::tests::LIST;
    use super::*;

    fn with_list(age: Duration) -> (tempfile::TempDir, Cache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().to_owned());
        let path = list_path(&cache, Some("mirror"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, LIST).unwrap();
        let file = fs::File::open(&path).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
        (folder, cache)
    }

    #[test]
    fn a_young_list_serves_without_the_archive() {
        let (_folder, cache) = with_list(Duration::from_secs(60));
        let context = Context::silent();
        // Whoever asks the archive would find the user's patience at its end.
        context
            .cancel
            .store(true, std::sync::atomic::Ordering::SeqCst);
        let find = |mirror, name, anew| find(&context, &cache, Some(mirror), name, anew);
        let found = find("mirror", "7.2", false).unwrap();
        assert!(found.from_memory);
        assert_eq!(found.kernel.version, "7.2.13-1");
        assert!(find("mirror", "7.1", false).is_err(), "looks anew");
        assert!(find("mirror", "7.2", true).is_err(), "looks anew");
        assert!(find("other", "7.2", false).is_err(), "another mirror");
    }

    #[test]
    fn an_old_list_does_not() {
        let (_folder, cache) = with_list(2 * GOOD_FOR);
        let context = Context::silent();
        context
            .cancel
            .store(true, std::sync::atomic::Ordering::SeqCst);
        assert!(find(&context, &cache, Some("mirror"), "7.2", false).is_err());
    }
}
