//! How far processes are confined, as the kernel tells it, and a host that confines nobody.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Pid;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};

/// A thread of another process.
#[derive(Clone, Debug)]
pub(crate) struct Thread {
    /// What it is called; shown when it is not as it should be.
    #[allow(dead_code)] // Shown by `Debug`.
    name: String,
    /// Whether it has filters of system calls.
    filtered: bool,
    /// Whether it can gain no privileges.
    no_new_privileges: bool,
}

/// All threads of a process.
pub(crate) fn threads(process: Pid) -> Result<Vec<Thread>> {
    let folder = format!("/proc/{}/task", process.as_raw_nonzero());
    let entries = std::fs::read_dir(folder).context("no threads")?;
    let threads = entries.flatten().map(|entry| {
        let status = std::fs::read_to_string(entry.path().join("status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(|value| value.trim().to_owned())
        };
        let fields = ["Name:", "Seccomp:", "NoNewPrivs:"].map(field);
        let [Some(name), Some(seccomp), Some(no_new_privileges)] = fields else {
            bail!("no such fields in {status}");
        };
        Ok(Thread {
            name,
            filtered: seccomp == "2",
            no_new_privileges: no_new_privileges == "1",
        })
    });
    threads.collect()
}

/// Whether device servers can be confined here; where not, a test says so and has nothing to look at.
pub(crate) fn is_possible() -> bool {
    let missing = hmmgpu_sandbox::missing();
    if !missing.is_empty() {
        println!("skipped in part: {}", missing.join("; "));
    }
    hmmgpu_sandbox::has_seccomp()
}

/// Fails unless each thread of a device server is confined; or, with `wanted` off, none is.
pub(crate) fn expect(server: Pid, wanted: bool) -> Result<()> {
    if wanted && !is_possible() {
        return Ok(());
    }
    let threads = threads(server)?;
    ensure!(threads.len() > 3, "the engines are missing: {threads:?}");
    for thread in &threads {
        let as_wanted = thread.filtered == wanted && (!wanted || thread.no_new_privileges);
        ensure!(
            as_wanted,
            "confined should be {wanted}: {thread:?} of {threads:?}"
        );
    }
    Ok(())
}

/// Runs where the kernel has neither Landlock nor seccomp, for all that the processes started there
/// can tell: the calls are not there.
pub(crate) fn without_either<T: Send>(run: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let filter = no_calls(&[libc::SYS_landlock_create_ruleset, libc::SYS_seccomp])?;
    std::thread::scope(|scope| {
        // A thread of its own: the filter stays with it, and with what it starts.
        let thread = scope.spawn(move || {
            apply_filter(&filter)?;
            run()
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Answers these calls with `ENOSYS`.
fn no_calls(calls: &[libc::c_long]) -> Result<BpfProgram> {
    let calls: BTreeMap<_, _> = calls.iter().map(|call| (*call, Vec::new())).collect();
    let missing = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    let target = TargetArch::try_from(std::env::consts::ARCH)?;
    Ok(SeccompFilter::new(calls, SeccompAction::Allow, missing, target)?.try_into()?)
}
