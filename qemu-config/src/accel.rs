//! The accelerator: what was asked for, what this host can do, and remembering it.
//!
//! That `/dev/kvm` opens proves nothing: on some nested or para-virtualised hosts no ordinary
//! guest runs with it. Only a guest that reaches user space proves KVM, so `auto` tries it, falls
//! back to TCG, and remembers the outcome for this host until something that matters changes.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// KVM where a guest reaches user space with it, else TCG.
    #[default]
    Auto,
    /// KVM or nothing.
    Kvm,
    /// QEMU's own translator: slower, and works everywhere.
    Tcg,
}

/// What a guest runs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accel {
    /// The host's processor.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

/// What decides whether KVM works: as long as none of it changes, what was found stays true.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostKey {
    /// Changes at every boot of the host.
    pub boot_id: String,
    /// Release of the host's kernel.
    pub kernel: String,
    /// Model of the processor.
    pub cpu: String,
}

impl HostKey {
    /// This host.
    pub fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo")
            .lines()
            .find_map(|line| {
                line.strip_prefix("model name")?
                    .split_once(':')
                    .map(|(_, name)| name)
            })
            .unwrap_or_default()
            .trim()
            .to_owned();
        Self {
            boot_id: read("/proc/sys/kernel/random/boot_id").trim().to_owned(),
            kernel: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
            cpu,
        }
    }
}

/// What was found out about KVM on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Where it was found.
    pub host: HostKey,
    /// A guest reached user space.
    pub kvm_works: bool,
    /// Why not.
    pub reason: String,
}

/// The file that remembers.
#[derive(Clone, Debug)]
pub struct Memory {
    path: PathBuf,
}

impl Memory {
    /// In this cache folder.
    pub fn new(cache: &Path) -> Self {
        Self {
            path: cache.join("accel.json"),
        }
    }

    /// What is known of this host. A file that is missing, damaged or of another host is no
    /// knowledge.
    pub fn recall(&self, host: &HostKey) -> Option<Finding> {
        let text = std::fs::read(&self.path).ok()?;
        let finding: Finding = serde_json::from_slice(&text).ok()?;
        (finding.host == *host).then_some(finding)
    }

    /// Remembers. Two at once are no problem: the file is replaced whole.
    pub fn remember(&self, finding: &Finding) -> std::io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        let file = tempfile::NamedTempFile::new_in(folder)?;
        serde_json::to_writer_pretty(&file, finding)?;
        file.persist(&self.path).map_err(|error| error.error)?;
        Ok(())
    }
}

/// KVM's device node opens for reading and writing; the error says why not.
pub fn kvm_opens() -> Result<(), String> {
    std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .map(drop)
        .map_err(|error| format!("/dev/kvm does not open: {error}"))
}

/// What to try, in this order, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempts {
    /// The first, and the one to fall back to.
    pub order: Vec<Accel>,
    /// One line for a person.
    pub why: String,
}

/// Decides from what was asked for, whether KVM opens, and what is known.
pub fn attempts(choice: Choice, kvm: &Result<(), String>, known: Option<&Finding>) -> Attempts {
    let (order, why) = match (choice, kvm, known) {
        (Choice::Kvm, _, _) => (vec![Accel::Kvm], "kvm was asked for".to_owned()),
        (Choice::Tcg, _, _) => (vec![Accel::Tcg], "tcg was asked for".to_owned()),
        (Choice::Auto, Err(why), _) => (vec![Accel::Tcg], why.clone()),
        (Choice::Auto, Ok(()), Some(known)) if !known.kvm_works => (
            vec![Accel::Tcg],
            format!(
                "KVM did not work on this host before ({}); --accel kvm tries again",
                known.reason
            ),
        ),
        (Choice::Auto, Ok(()), Some(_)) => (
            vec![Accel::Kvm, Accel::Tcg],
            "KVM worked on this host before".to_owned(),
        ),
        (Choice::Auto, Ok(()), None) => (
            vec![Accel::Kvm, Accel::Tcg],
            "/dev/kvm opens; a guest has to prove it".to_owned(),
        ),
    };
    Attempts { order, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(kvm_works: bool) -> Finding {
        Finding {
            host: HostKey::here(),
            kvm_works,
            reason: "internal-error".into(),
        }
    }

    #[test]
    fn what_was_asked_for_is_obeyed() {
        let closed = Err("/dev/kvm does not open: no".to_owned());
        let known = finding(false);
        assert_eq!(
            attempts(Choice::Kvm, &closed, Some(&known)).order,
            [Accel::Kvm]
        );
        assert_eq!(attempts(Choice::Tcg, &Ok(()), None).order, [Accel::Tcg]);
    }

    #[test]
    fn auto_tries_kvm_unless_it_cannot_work() {
        assert_eq!(
            attempts(Choice::Auto, &Ok(()), None).order,
            [Accel::Kvm, Accel::Tcg]
        );
        let works = finding(true);
        assert_eq!(
            attempts(Choice::Auto, &Ok(()), Some(&works)).order,
            [Accel::Kvm, Accel::Tcg]
        );
        let broken = attempts(Choice::Auto, &Ok(()), Some(&finding(false)));
        assert_eq!(broken.order, [Accel::Tcg]);
        assert!(broken.why.contains("internal-error"), "{}", broken.why);
        let closed = attempts(Choice::Auto, &Err("no device".into()), None);
        assert_eq!(closed.order, [Accel::Tcg]);
        assert_eq!(closed.why, "no device");
    }

    #[test]
    fn a_finding_holds_for_its_host_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let memory = Memory::new(&folder.path().join("made/on/demand"));
        let host = HostKey::here();
        assert_eq!(memory.recall(&host), None);
        let known = finding(false);
        memory.remember(&known).expect("writes");
        assert_eq!(memory.recall(&host), Some(known));
        for other in [
            HostKey {
                boot_id: "another".into(),
                ..host.clone()
            },
            HostKey {
                kernel: "another".into(),
                ..host.clone()
            },
            HostKey {
                cpu: "another".into(),
                ..host.clone()
            },
        ] {
            assert_eq!(memory.recall(&other), None);
        }
    }

    #[test]
    fn a_damaged_file_is_no_knowledge_and_is_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("accel.json"), "{\"host\":").expect("writes");
        let memory = Memory::new(folder.path());
        assert_eq!(memory.recall(&HostKey::here()), None);
        memory.remember(&finding(true)).expect("replaces");
        assert!(memory.recall(&HostKey::here()).expect("known").kvm_works);
        let files = std::fs::read_dir(folder.path()).expect("reads").count();
        assert_eq!(files, 1, "no temporary file stays");
    }
}
