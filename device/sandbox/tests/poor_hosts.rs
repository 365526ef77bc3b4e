//! Hosts, and containers, that have no Landlock or no seccomp, or let nobody use them: a server does
//! without, and can say what it lost.
//!
//! A filter makes such a host: the calls fail as they do there.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::TcpListener;

use hmmgpu_sandbox::{Role, available, confine_calls, confine_files, has_seccomp, missing};
use libc::{SYS_landlock_create_ruleset as LANDLOCK, SYS_seccomp as SECCOMP};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

/// Whether there is a file to be had, and a socket.
type Reach = (bool, bool);

/// What is said to be missing, and what a thread can reach that was confined as far as possible, on a
/// host where these calls fail so. `None` where this host is one of those.
fn confined(refused: &[libc::c_long], errno: libc::c_int) -> Option<(Vec<String>, Reach)> {
    if !missing().is_empty() {
        eprintln!("skipped: {}", missing().join("; "));
        return None;
    }
    let calls: BTreeMap<_, _> = refused.iter().map(|call| (*call, Vec::new())).collect();
    let answer = SeccompAction::Errno(errno.cast_unsigned());
    let target = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(calls, SeccompAction::Allow, answer, target).unwrap();
    let filter = BpfProgram::try_from(filter).unwrap();
    // It stays confined.
    let thread = std::thread::spawn(move || {
        apply_filter(&filter).unwrap();
        let missing = missing();
        assert_eq!(has_seccomp(), !available().contains("no seccomp"));
        confine_files(&[]).unwrap();
        confine_calls(Role::Engine).unwrap();
        let reach = (
            File::open("/proc/self/status").is_ok(),
            TcpListener::bind("127.0.0.1:0").is_ok(),
        );
        (missing, reach)
    });
    Some(thread.join().unwrap())
}

/// Of a kernel without it, and of a container that forbids it.
const WAYS: [libc::c_int; 2] = [libc::ENOSYS, libc::EPERM];

#[test]
fn without_landlock_seccomp_is_used_alone() {
    for errno in WAYS {
        let Some((missing, reach)) = confined(&[LANDLOCK], errno) else {
            return;
        };
        assert_eq!(missing.len(), 1, "{missing:?}");
        assert!(missing[0].contains("no Landlock"), "{missing:?}");
        assert!(
            missing[0].contains("all files"),
            "what is lost: {missing:?}"
        );
        assert_eq!(reach, (false, false));
    }
}

#[test]
fn without_seccomp_landlock_is_used_alone() {
    for errno in WAYS {
        let Some((missing, reach)) = confined(&[SECCOMP], errno) else {
            return;
        };
        assert_eq!(missing.len(), 1, "{missing:?}");
        assert!(missing[0].contains("no seccomp"), "{missing:?}");
        assert!(
            missing[0].contains("any system call"),
            "what is lost: {missing:?}"
        );
        // Landlock takes files and TCP.
        assert_eq!(reach, (false, false));
    }
}

#[test]
fn without_either_it_says_both() {
    for errno in WAYS {
        let Some((missing, reach)) = confined(&[LANDLOCK, SECCOMP], errno) else {
            return;
        };
        assert_eq!(missing.len(), 2, "{missing:?}");
        assert_eq!(reach, (true, true));
    }
}
