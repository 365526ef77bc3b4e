//! How a list of calls becomes a filter of the kernel.

use std::collections::BTreeMap;
use std::error::Error;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

use crate::Role;
use crate::calls::{ALL, Call, Only, SERVER};
use crate::refused;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;
type Failure = Box<dyn Error + Send + Sync>;

/// What the kernel does with a call that is not on the list.
fn refusal() -> SeccompAction {
    if refused::TELLS {
        SeccompAction::Trap
    } else {
        SeccompAction::Errno(libc::EPERM.cast_unsigned())
    }
}

fn condition(argument: u8, operator: SeccompCmpOp, value: u32) -> Result<SeccompRule, Failure> {
    let length = SeccompCmpArgLen::Dword;
    let condition = SeccompCondition::new(argument, length, operator, value.into())?;
    Ok(SeccompRule::new(vec![condition])?)
}

/// Rules of which one has to hold; none: the call is allowed as it is.
fn rules(only: Only) -> Result<Vec<SeccompRule>, Failure> {
    use SeccompCmpOp::{Eq, MaskedEq};
    Ok(match only {
        Only::Any => Vec::new(),
        Only::Without(argument, bits) => vec![condition(argument, MaskedEq(bits.into()), 0)?],
        Only::OneOf(argument, values) => values
            .iter()
            .map(|value| condition(argument, Eq, *value))
            .collect::<Result<_, _>>()?,
        Only::OwnProcess(argument) => vec![condition(argument, Eq, std::process::id())?],
    })
}

fn program(
    calls: Rules,
    otherwise: SeccompAction,
    listed: SeccompAction,
) -> Result<BpfProgram, Failure> {
    let target = TargetArch::try_from(std::env::consts::ARCH)?;
    Ok(SeccompFilter::new(calls, otherwise, listed, target)?.try_into()?)
}

fn allow_list<'c>(calls: impl Iterator<Item = &'c Call>) -> Result<BpfProgram, Failure> {
    let mut list = Rules::new();
    // It is answered by the other filter.
    list.insert(libc::SYS_clone3, Vec::new());
    for call in calls {
        list.insert(call.number, rules(call.only)?);
    }
    program(list, refusal(), SeccompAction::Allow)
}

/// `clone3` keeps its flags in memory, where no filter sees them; where it is not there, glibc calls
/// `clone`, which can be told to make threads and nothing else.
fn no_clone3() -> Result<BpfProgram, Failure> {
    let list = Rules::from([(libc::SYS_clone3, Vec::new())]);
    let answer = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    program(list, SeccompAction::Allow, answer)
}

/// `clone` makes threads and nothing else. Without the signal by which other calls are refused: glibc
/// blocks all signals before it starts a program, and a process that blocks that one is killed by it.
fn no_processes() -> Result<BpfProgram, Failure> {
    let processes = rules(Only::Without(0, libc::CLONE_THREAD.cast_unsigned()))?;
    let list = Rules::from([(libc::SYS_clone, processes)]);
    let answer = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    program(list, SeccompAction::Allow, answer)
}

/// Leaves this thread the calls of its role.
pub(crate) fn confine(role: Role) -> Result<(), Failure> {
    let more = match role {
        Role::Engine => &[],
        Role::Server => SERVER,
    };
    // All are made first, and the list comes last: it does not allow others after it.
    let list = allow_list(ALL.iter().chain(more))?;
    let filters = [no_clone3()?, no_processes()?, list];
    refused::tell()?;
    for filter in &filters {
        apply_filter(filter)?;
    }
    Ok(())
}

/// The sentence for what is missing, tried on a thread that ends at once.
pub(crate) fn missing() -> Option<String> {
    let tried = std::thread::spawn(|| no_clone3().and_then(|filter| Ok(apply_filter(&filter)?)));
    match tried.join() {
        Ok(Ok(())) => None,
        _ => Some(
            "this host has no seccomp, so that a device server could make any system call"
                .to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::{TcpListener, UdpSocket};
    use std::os::unix::net::UnixStream;
    use std::process::Command;

    use super::*;

    /// Runs on a thread of its own, which stays confined.
    fn confined(role: Role, run: impl FnOnce() + Send + 'static) {
        if let Some(missing) = missing() {
            return eprintln!("skipped: {missing}");
        }
        let thread = std::thread::spawn(move || {
            confine(role).unwrap();
            run();
        });
        thread.join().unwrap();
    }

    fn refused<T>(result: std::io::Result<T>) -> bool {
        result.is_err_and(|error| error.raw_os_error() == Some(libc::EPERM))
    }

    fn reaches_the_network_or_programs() -> bool {
        !refused(TcpListener::bind("127.0.0.1:0"))
            || !refused(UdpSocket::bind("127.0.0.1:0"))
            || !refused(UnixStream::connect("/nonexistent"))
            || !refused(Command::new("/bin/true").spawn())
    }

    #[test]
    fn an_engine_opens_no_file_makes_no_socket_and_starts_no_program() {
        confined(Role::Engine, || {
            assert!(refused(File::open("/proc/self/status")));
            assert!(
                refused(File::open("/nonexistent")),
                "the call, not the file"
            );
            assert!(!reaches_the_network_or_programs());
        });
    }

    #[test]
    fn a_server_makes_no_socket_and_starts_no_program() {
        confined(Role::Server, || assert!(!reaches_the_network_or_programs()));
    }

    #[test]
    fn what_a_confined_thread_starts_is_confined() {
        confined(Role::Engine, || {
            let thread = std::thread::spawn(|| refused(File::open("/proc/self/status")));
            assert!(thread.join().unwrap());
        });
    }

    #[test]
    fn memory_and_threads_are_there() {
        confined(Role::Engine, || {
            let fill = |n: u8| vec![n; 4 << 20];
            let threads: Vec<_> = (0..4)
                .map(|n| std::thread::spawn(move || fill(n).len()))
                .collect();
            for thread in threads {
                assert_eq!(thread.join().unwrap(), 4 << 20);
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        });
    }
}
