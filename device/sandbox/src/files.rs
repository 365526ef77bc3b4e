//! Landlock: which files a thread can still reach.

use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, PathBeneath, PathFd, PathFdError,
    RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus,
    Scope,
};

/// The newest version that is asked for: files with all that can be done to them, TCP, and signals
/// and abstract sockets of others. Older kernels do as much as they know.
const WANTED: ABI = ABI::V6;

/// What the versions after the first took, and seccomp takes too; and in which Linux the newest came.
const LATER: [(i32, &str); 4] = [
    (3, "truncating files"),
    (4, "TCP"),
    (5, "controlling devices"),
    (6, "signals to others and their abstract sockets"),
];
const NEWEST: &str = "Linux 6.12";

/// What can be done in a folder and those below it. Landlock knows no narrower place for files that
/// are made or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grant {
    /// Files can be removed: a server removes its sockets at its end.
    RemoveFiles(PathBuf),
    /// Empty folders can be removed: the last server removes the folder of control sockets.
    RemoveFolders(PathBuf),
    /// Files can be made, and replaced by others: a server writes its telemetry at its end.
    ReplaceFiles(PathBuf),
}

impl Grant {
    fn rule(&self) -> (&PathBuf, BitFlags<AccessFs>) {
        match self {
            Self::RemoveFiles(folder) => (folder, AccessFs::RemoveFile.into()),
            Self::RemoveFolders(folder) => (folder, AccessFs::RemoveDir.into()),
            Self::ReplaceFiles(folder) => (
                folder,
                AccessFs::MakeReg | AccessFs::WriteFile | AccessFs::RemoveFile,
            ),
        }
    }
}

/// Confines this thread.
fn restrict(grants: &[Grant]) -> Result<RestrictionStatus, FilesError> {
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(WANTED))?
        .handle_access(AccessNet::from_all(WANTED))?
        .scope(Scope::from_all(WANTED))?
        .create()?;
    for grant in grants {
        let (folder, access) = grant.rule();
        ruleset = ruleset.add_rule(PathBeneath::new(PathFd::new(folder)?, access))?;
    }
    Ok(ruleset.restrict_self()?)
}

/// Why Landlock was not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilesError {
    #[error(transparent)]
    Folder(#[from] PathFdError),
    #[error(transparent)]
    Ruleset(#[from] RulesetError),
}

/// Takes all files but those of the grants from this thread, as far as the host can.
pub(crate) fn confine(grants: &[Grant]) -> Result<(), FilesError> {
    restrict(grants).map(drop)
}

/// What the host does, tried on a thread that ends at once. It is not to be had by a question: a
/// container may refuse what the kernel could do.
fn probe() -> Option<RestrictionStatus> {
    std::thread::spawn(|| restrict(&[])).join().ok()?.ok()
}

/// The sentence for what is missing.
pub(crate) fn missing() -> Option<String> {
    let status = probe();
    match status.as_ref().map(|status| &status.ruleset) {
        Some(RulesetStatus::FullyEnforced) => None,
        Some(RulesetStatus::PartiallyEnforced) => Some(older(version(status.as_ref()).unwrap_or(1))),
        Some(RulesetStatus::NotEnforced) | None => Some(
            "this host has no Landlock (Linux 5.13 has it, with landlock among its lsm=), so that a \
             device server could open all files of its user"
                .to_owned(),
        ),
    }
}

/// The sentence for a version before the newest.
fn older(version: i32) -> String {
    let later = LATER.iter().filter(|(since, _)| *since > version);
    let later: Vec<_> = later.map(|(_, what)| *what).collect();
    format!(
        "Landlock {version} is not all that there is to Landlock ({NEWEST} has it), so that seccomp \
         alone keeps a device server from {}",
        later.join(", ")
    )
}

/// What the host has.
pub(crate) fn available() -> String {
    match version(probe().as_ref()) {
        Some(version) => format!("Landlock {version}"),
        None => "no Landlock".to_owned(),
    }
}

fn version(status: Option<&RestrictionStatus>) -> Option<i32> {
    match status?.landlock {
        LandlockStatus::Available {
            effective_abi,
            kernel_abi,
        } => Some(kernel_abi.unwrap_or(effective_abi as i32)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::TcpListener;

    use super::*;

    /// Runs on a thread of its own, which stays confined.
    fn confined(grants: Vec<Grant>, run: impl FnOnce() + Send + 'static) {
        let thread = std::thread::spawn(move || {
            confine(&grants).unwrap();
            run();
        });
        thread.join().unwrap();
    }

    #[test]
    fn only_what_is_granted_can_be_done() {
        if missing().is_some() {
            return eprintln!("skipped: {}", missing().unwrap_or_default());
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        let [own, telemetry, other] = ["own", "telemetry", "other"].map(|name| path.join(name));
        for folder in [&own, &telemetry, &other] {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("file"), "before").unwrap();
        }
        fs::create_dir(other.join("empty")).unwrap();
        let grants = vec![
            Grant::RemoveFiles(own.clone()),
            Grant::ReplaceFiles(telemetry.clone()),
        ];
        confined(grants, move || {
            for denied in [&own, &telemetry, &other] {
                fs::read(denied.join("file")).unwrap_err();
                fs::read_dir(denied).unwrap_err();
            }
            for denied in [&own, &other] {
                fs::write(denied.join("new"), "").unwrap_err();
                fs::write(denied.join("file"), "").unwrap_err();
            }
            fs::remove_file(own.join("file")).unwrap();
            fs::remove_file(other.join("file")).unwrap_err();
            fs::remove_dir(other.join("empty")).unwrap_err();
            fs::write(telemetry.join("new"), "after").unwrap();
            fs::rename(telemetry.join("new"), telemetry.join("file")).unwrap();
            TcpListener::bind("127.0.0.1:0").unwrap_err();
        });
        assert_eq!(fs::read(path.join("telemetry/file")).unwrap(), b"after");
    }

    #[test]
    fn what_an_older_landlock_does_not_take_is_said() {
        for version in 1..WANTED as i32 {
            let said = older(version);
            assert!(said.starts_with(&format!("Landlock {version} ")), "{said}");
            assert!(said.contains(NEWEST), "{said}");
            let later = [
                ("truncating", 3),
                ("TCP", 4),
                ("devices", 5),
                ("signals", 6),
                ("abstract sockets", 6),
            ];
            for (what, since) in later {
                assert_eq!(said.contains(what), version < since, "{what}: {said}");
            }
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        let thread = std::thread::spawn(|| {
            confine(&[Grant::RemoveFiles("/nonexistent".into())]).map_err(|error| error.to_string())
        });
        let error = thread.join().unwrap().unwrap_err();
        assert!(error.contains("/nonexistent"), "{error}");
    }
}
