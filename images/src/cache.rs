//! The cache: artefacts under the hash of what they are made from, published whole or not at all.
//!
//! Layout: `<cache>/<kind>/<key>` is the artefact, `<key>.lock` is held while it is made, and
//! `<key>.partial` is what is being made. A partial whose lock is free was left by a run that was
//! killed; the next run that makes anything of the kind removes it. `<key>.work` holds what is worth
//! keeping of a run that was broken off.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, flock};

use crate::ImageError;
use crate::context::Context;
use crate::progress::Ended;

/// An artefact that no run has used for so long goes.
const KEEP: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How often a wait for another run looks whether the user has had enough.
const POLL: Duration = Duration::from_millis(100);
/// So often is a folder removed that fills again.
const REMOVE_TRIES: u32 = 20;
/// Ending of a folder that outlives a run that was broken off.
const WORK: &str = "work";

/// Where artefacts are.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
}

/// One kind of artefact and one key of it.
#[derive(Clone, Debug)]
pub(crate) struct Artefact<'a> {
    /// For example `root`; names a folder of the cache.
    pub(crate) kind: &'a str,
    /// From [`crate::keys::Key`].
    pub(crate) key: &'a str,
    /// What a person calls it.
    pub(crate) what: &'a str,
    /// Bytes that must be free before it is made.
    pub(crate) room: u64,
}

impl Cache {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the log of making an artefact goes; whoever makes it holds its lock.
    pub(crate) fn log(&self, kind: &str, key: &str) -> Result<PathBuf, ImageError> {
        let folder = self.folder.join("logs");
        fs::create_dir_all(&folder).map_err(ImageError::io("create", &folder))?;
        Ok(folder.join(format!("{kind}-{}.log", key.get(..8).unwrap_or(key))))
    }

    /// The artefact, made by `make` at the path it is given unless it is there.
    pub(crate) fn get(
        &self,
        context: &Context,
        artefact: &Artefact<'_>,
        make: impl FnOnce(&Path) -> Result<(), ImageError>,
    ) -> Result<PathBuf, ImageError> {
        let path = self.folder.join(artefact.kind).join(artefact.key);
        if path.exists() {
            // Its age is the time since its last use.
            self.used(artefact.kind, &path);
            return Ok(path);
        }
        let _lock = self.lock_of(context, artefact)?;
        if path.exists() {
            return Ok(path); // another run made it while this one waited
        }
        self.make(context, artefact, make)
    }

    /// The artefact, made anew in any case: what is there stays until it is replaced.
    pub(crate) fn renew(
        &self,
        context: &Context,
        artefact: &Artefact<'_>,
        make: impl FnOnce(&Path) -> Result<(), ImageError>,
    ) -> Result<PathBuf, ImageError> {
        let _lock = self.lock_of(context, artefact)?;
        self.make(context, artefact, make)
    }

    /// The lock of an artefact, held while it is made.
    fn lock_of(&self, context: &Context, artefact: &Artefact<'_>) -> Result<File, ImageError> {
        let folder = self.folder.join(artefact.kind);
        fs::create_dir_all(&folder).map_err(ImageError::io("create", &folder))?;
        let path = folder.join(format!("{}.lock", artefact.key));
        lock(context, &path, artefact.what)
    }

    /// A folder for what is worth keeping when making the artefact is broken off; whoever makes
    /// it holds its lock. It goes when nothing has used it for long.
    pub(crate) fn work(&self, artefact: &Artefact<'_>) -> Result<PathBuf, ImageError> {
        let folder = self.folder.join(artefact.kind);
        let path = folder.join(format!("{}.{WORK}", artefact.key));
        fs::create_dir_all(&path).map_err(ImageError::io("create", &path))?;
        self.used(artefact.kind, &folder.join(artefact.key));
        Ok(path)
    }

    /// Notes that an artefact is in use. A cache that cannot be written still serves.
    pub(crate) fn used(&self, kind: &str, path: &Path) {
        let Some(key) = path.file_name().and_then(|name| name.to_str()) else {
            return;
        };
        let lock = self.folder.join(kind).join(format!("{key}.lock"));
        let _ = File::open(lock).and_then(|f| f.set_modified(SystemTime::now()));
    }

    /// Makes an artefact whose lock is held.
    fn make(
        &self,
        context: &Context,
        artefact: &Artefact<'_>,
        make: impl FnOnce(&Path) -> Result<(), ImageError>,
    ) -> Result<PathBuf, ImageError> {
        let folder = self.folder.join(artefact.kind);
        let path = folder.join(artefact.key);
        sweep(&folder, artefact.key);
        self.check_room(artefact.what, artefact.room)?;

        let partial = folder.join(format!("{}.partial", artefact.key));
        context.progress.begin(artefact.what);
        let made = remove(&partial)
            .and_then(|()| make(&partial))
            .and_then(|()| {
                settle(&partial)?;
                publish(&partial, &path)
            });
        if made.is_err() {
            // The error of making it says more than one of removing it.
            let _ = remove(&partial);
        }
        context.progress.end(Ended::of(&made));
        made.map(|()| path)
    }

    /// A lock for something that is not an artefact.
    pub(crate) fn lock(
        &self,
        context: &Context,
        name: &str,
        what: &str,
    ) -> Result<File, ImageError> {
        fs::create_dir_all(&self.folder).map_err(ImageError::io("create", &self.folder))?;
        lock(context, &self.folder.join(format!("{name}.lock")), what)
    }

    fn check_room(&self, what: &str, needed: u64) -> Result<(), ImageError> {
        let stat = rustix::fs::statvfs(&self.folder)
            .map_err(|e| ImageError::io("look at", &self.folder)(e.into()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free < needed {
            return Err(ImageError::DiskSpace {
                path: self.folder.clone(),
                what: what.to_owned(),
                free,
                needed,
            });
        }
        Ok(())
    }
}

/// Takes a lock, waiting for another run that holds it; it is free again when the file is dropped
/// or the process dies.
fn lock(context: &Context, path: &Path, what: &str) -> Result<File, ImageError> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(ImageError::io("create", path))?;
    let mut told = false;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                if !told {
                    context
                        .progress
                        .note(&format!("waiting for another run that makes the {what}"));
                    told = true;
                }
                context.check_interrupted(what)?;
                std::thread::sleep(POLL);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(ImageError::io("lock", path)(e.into())),
        }
    }
}

/// Removes what killed runs left, and what nothing has used for long. What cannot be removed is
/// no reason to fail: the next run tries again.
fn sweep(folder: &Path, own_key: &str) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(key) = name.strip_suffix(".lock") else {
            continue;
        };
        if key == own_key {
            continue;
        }
        let Ok(file) = File::open(entry.path()) else {
            continue;
        };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue; // being made
        }
        let _ = remove(&folder.join(format!("{key}.partial")));
        let unused = entry
            .metadata()
            .and_then(|m| m.modified())
            .ok()
            .and_then(|at| at.elapsed().ok());
        if unused.is_some_and(|age| age > KEEP) {
            let partial = folder.join(format!("{key}.partial"));
            let _ = remove(&folder.join(format!("{key}.{WORK}")));
            // By way of the partial, so that nobody finds half of it.
            if fs::rename(folder.join(key), &partial).is_ok() {
                let _ = remove(&partial);
            }
        }
    }
}

/// Removes a file or a folder with all in it; nothing there is fine.
pub(crate) fn remove(path: &Path) -> Result<(), ImageError> {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(ImageError::io("remove", path)(e)),
    };
    if !meta.is_dir() {
        return fs::remove_file(path).map_err(ImageError::io("remove", path));
    }
    // Programs that were just killed may still be writing for a moment.
    for _ in 0..REMOVE_TRIES {
        match fs::remove_dir_all(path) {
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => std::thread::sleep(POLL),
            Err(_) if !path.exists() => return Ok(()),
            removed => return removed.map_err(ImageError::io("remove", path)),
        }
    }
    fs::remove_dir_all(path).map_err(ImageError::io("remove", path))
}

/// Gives an artefact its name. An older one gives way at once, and goes.
fn publish(partial: &Path, path: &Path) -> Result<(), ImageError> {
    if !path.exists() {
        return fs::rename(partial, path).map_err(ImageError::io("create", path));
    }
    let exchange = rustix::fs::RenameFlags::EXCHANGE;
    rustix::fs::renameat_with(rustix::fs::CWD, partial, rustix::fs::CWD, path, exchange)
        .map_err(|error| ImageError::io("replace", path)(error.into()))?;
    remove(partial)
}

/// On disk before it gets its name: a machine that goes down must not leave a name with nothing
/// behind it.
fn settle(path: &Path) -> Result<(), ImageError> {
    let file = File::open(path).map_err(ImageError::io("open", path))?;
    rustix::fs::syncfs(&file).map_err(|e| ImageError::io("write", path)(e.into()))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::{Arc, Barrier, mpsc};

    use super::*;
    use crate::context::tests::Recorder;

    fn artefact<'a>(key: &'a str) -> Artefact<'a> {
        Artefact {
            kind: "kind",
            key,
            what: "thing",
            room: 0,
        }
    }

    #[test]
    fn made_once_and_used_again() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().to_owned());
        let context = Context::silent();
        let path = cache
            .get(&context, &artefact("k"), |p| {
                fs::write(p, "x").map_err(ImageError::io("write", p))
            })
            .unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "x");
        let again = cache
            .get(&context, &artefact("k"), |_| panic!("it is there"))
            .unwrap();
        assert_eq!(again, path);
    }

    #[test]
    fn a_failure_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().to_owned());
        let error = cache
            .get(&Context::silent(), &artefact("k"), |p| {
                fs::create_dir(p).unwrap();
                fs::write(p.join("half"), "x").unwrap();
                Err(ImageError::NoCargo)
            })
            .unwrap_err();
        assert!(matches!(error, ImageError::NoCargo));
        let left: Vec<_> = fs::read_dir(folder.path().join("kind"))
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(left, ["k.lock"]);
    }

    #[test]
    fn what_is_made_anew_replaces_what_was_there_and_a_failure_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().to_owned());
        let context = Context::silent();
        let renew = |text: Option<&str>| {
            cache.renew(&context, &artefact("k"), |path| {
                fs::create_dir(path).unwrap();
                fs::write(path.join("file"), text.unwrap_or("half")).unwrap();
                text.map(|_| ()).ok_or(ImageError::NoCargo)
            })
        };
        let path = renew(Some("one")).unwrap();
        let content = || fs::read_to_string(path.join("file")).unwrap();
        renew(Some("two")).unwrap();
        assert_eq!(content(), "two");
        assert!(matches!(renew(None), Err(ImageError::NoCargo)));
        assert_eq!(content(), "two");
        assert!(!folder.path().join("kind/k.partial").exists());
    }

    #[test]
    fn work_outlives_a_failure_until_nobody_comes_back_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().to_owned());
        let context = Context::silent();
        let mut work = PathBuf::new();
        let made = cache.get(&context, &artefact("k"), |_| {
            work = cache.work(&artefact("k"))?;
            fs::write(work.join("object"), "x").unwrap();
            Err(ImageError::NoCargo)
        });
        assert!(made.is_err());
        let other = |key: &str| {
            let make = |p: &Path| fs::write(p, "x").map_err(ImageError::io("write", p));
            cache.get(&context, &artefact(key), make).unwrap();
        };
        other("l");
        assert!(work.join("object").exists());
        let lock = File::open(folder.path().join("kind/k.lock")).unwrap();
        lock.set_modified(SystemTime::now() - 2 * KEEP).unwrap();
        other("m");
        assert!(!work.exists());
    }

    #[test]
    fn two_at_once_make_it_once() {
        let folder = tempfile::tempdir().unwrap();
        let made = AtomicU32::new(0);
        let start = Barrier::new(2);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let cache = Cache::new(folder.path().to_owned());
                    start.wait();
                    let path = cache
                        .get(&Context::silent(), &artefact("k"), |p| {
                            made.fetch_add(1, Ordering::SeqCst);
                            fs::write(p, "x").map_err(ImageError::io("write", p))
                        })
                        .unwrap();
                    assert_eq!(fs::read_to_string(path).unwrap(), "x");
                });
            }
        });
        assert_eq!(made.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn the_second_says_that_it_waits() {
        let folder = tempfile::tempdir().unwrap();
        let (noted, notes) = mpsc::channel();
        let (holding, held) = mpsc::channel();
        std::thread::scope(|scope| {
            let first = Cache::new(folder.path().to_owned());
            scope.spawn(move || {
                first
                    .get(&Context::silent(), &artefact("k"), |p| {
                        holding.send(()).unwrap();
                        // Goes on once the other one has said that it waits.
                        let note: String = notes.recv_timeout(Duration::from_secs(60)).unwrap();
                        assert!(note.contains("another run"), "{note}");
                        fs::write(p, "first").map_err(ImageError::io("write", p))
                    })
                    .unwrap();
            });
            held.recv_timeout(Duration::from_secs(60)).unwrap();
            let context = Context::with_progress(Arc::new(Recorder::notes_to(noted)));
            let path = Cache::new(folder.path().to_owned())
                .get(&context, &artefact("k"), |_| panic!("made by the first"))
                .unwrap();
            assert_eq!(fs::read_to_string(path).unwrap(), "first");
        });
    }

    #[test]
    fn waiting_can_be_interrupted() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().to_owned());
        let context = Context::silent();
        let _held = cache.lock(&context, "x", "thing").unwrap();
        context.cancel.store(true, Ordering::SeqCst);
        let error = cache.lock(&context, "x", "thing").unwrap_err();
        assert!(matches!(error, ImageError::Interrupted { .. }), "{error}");
    }

    #[test]
    fn leftovers_of_killed_runs_go_and_those_of_running_ones_stay() {
        let folder = tempfile::tempdir().unwrap();
        let kind = folder.path().join("kind");
        fs::create_dir_all(kind.join("dead.partial/sub")).unwrap();
        fs::write(kind.join("dead.lock"), "").unwrap();
        fs::create_dir_all(kind.join("live.partial")).unwrap();
        let context = Context::silent();
        let _live = lock(&context, &kind.join("live.lock"), "thing").unwrap();
        Cache::new(folder.path().to_owned())
            .get(&context, &artefact("k"), |p| {
                fs::write(p, "x").map_err(ImageError::io("write", p))
            })
            .unwrap();
        assert!(!kind.join("dead.partial").exists());
        assert!(kind.join("live.partial").exists());
    }

    #[test]
    fn what_nobody_uses_goes_and_what_is_used_stays() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().to_owned());
        let context = Context::silent();
        let make = |key: &str| {
            cache
                .get(&context, &artefact(key), |p| {
                    fs::write(p, "x").map_err(ImageError::io("write", p))
                })
                .unwrap()
        };
        let (old, used) = (make("old"), make("used"));
        let long_ago = SystemTime::now() - 2 * KEEP;
        for key in ["old", "used"] {
            let lock = File::open(folder.path().join(format!("kind/{key}.lock"))).unwrap();
            lock.set_modified(long_ago).unwrap();
        }
        make("used");
        make("new");
        assert!(!old.exists());
        assert!(used.exists());
    }

    #[test]
    fn too_little_room_is_said_before_anything_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let error = Cache::new(folder.path().to_owned())
            .get(
                &Context::silent(),
                &Artefact {
                    room: u64::MAX,
                    ..artefact("k")
                },
                |_| panic!("no room"),
            )
            .unwrap_err();
        assert!(error.to_string().contains("needs"), "{error}");
    }
}
