//! The system calls that are allowed, and what for.

use libc::c_long;

/// What an argument has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Only {
    /// Any.
    Any,
    /// The argument of this number has none of these bits.
    Without(u8, u32),
    /// It is one of these.
    OneOf(u8, &'static [u32]),
    /// It is the number of this process.
    OwnProcess(u8),
}

/// A call that is allowed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) number: c_long,
    pub(crate) only: Only,
}

const fn any(number: c_long) -> Call {
    only(number, Only::Any)
}

const fn only(number: c_long, only: Only) -> Call {
    Call { number, only }
}

/// Memory that could be executed is none that a server needs.
const NOT_EXECUTABLE: u32 = libc::PROT_EXEC.cast_unsigned();
/// A name for a thread, and glibc's names for its memory.
const NAMES: &[u32] = &[
    libc::PR_SET_NAME.cast_unsigned(),
    libc::PR_SET_VMA.cast_unsigned(),
];

/// Whether a descriptor is one.
const IS_OPEN: &[u32] = &[libc::F_GETFD.cast_unsigned()];

/// What all threads may call.
pub(crate) const ALL: &[Call] = &[
    // Memory: the allocator, stacks of threads, VRAM, guest RAM that is taken out of the map, and
    // what takes the place of guest RAM that has gone.
    any(libc::SYS_brk),
    only(libc::SYS_mmap, Only::Without(2, NOT_EXECUTABLE)),
    any(libc::SYS_munmap),
    any(libc::SYS_mremap),
    only(libc::SYS_mprotect, Only::Without(2, NOT_EXECUTABLE)),
    any(libc::SYS_madvise), // also: populating memory, scrubbing VRAM
    // Threads: engines are started when the device is made, and end with it.
    any(libc::SYS_clone),           // another filter leaves threads alone of it
    any(libc::SYS_set_robust_list), // glibc, in a new thread
    any(libc::SYS_rseq),            // the same
    any(libc::SYS_sched_getaffinity), // std asks for the bounds of a new thread's stack
    any(libc::SYS_sigaltstack),     // std, for reports of stack overflows
    only(libc::SYS_prctl, Only::OneOf(0, NAMES)),
    any(libc::SYS_gettid),
    any(libc::SYS_getpid),
    any(libc::SYS_exit),
    any(libc::SYS_exit_group),
    // Waiting: locks, channels, engines that sleep, and those that are about to.
    any(libc::SYS_futex),
    any(libc::SYS_sched_yield),
    any(libc::SYS_clock_nanosleep),
    any(libc::SYS_nanosleep),
    any(libc::SYS_restart_syscall), // the kernel, when a stopped process goes on
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_poll),
    any(libc::SYS_ppoll),
    // The clock, where the host's is slow and cannot be read without a call.
    any(libc::SYS_clock_gettime),
    any(libc::SYS_clock_getres),
    // Signals: Ctrl-C, guest RAM that has gone, refused calls, abort() after a panic in a panic.
    any(libc::SYS_rt_sigaction),
    any(libc::SYS_rt_sigprocmask),
    any(libc::SYS_rt_sigreturn),
    only(libc::SYS_tgkill, Only::OwnProcess(0)),
    // What is open already: logs, events of interrupts, the host's free memory.
    any(libc::SYS_read),
    any(libc::SYS_pread64),
    any(libc::SYS_write),
    any(libc::SYS_writev),
    any(libc::SYS_close),
    only(libc::SYS_fcntl, Only::OneOf(1, IS_OPEN)), // std, before it closes; builds for debugging
    // Handlers of signals tell of them so, on whatever thread they run; to none but the other end.
    only(libc::SYS_sendto, Only::OneOf(5, &[0])),
    any(libc::SYS_eventfd2), // to tell the server of guest RAM that has gone, when it is made
    // Seeds of hash tables.
    any(libc::SYS_getrandom),
];

/// What threads may call as well that talk to clients, write the trace, and end the server.
pub(crate) const SERVER: &[Call] = &[
    // Clients of sockets that were bound before. There is no socket(), and no connect().
    any(libc::SYS_accept4),
    any(libc::SYS_recvmsg), // with the files of guest RAM and the events of interrupts
    any(libc::SYS_recvfrom),
    any(libc::SYS_sendmsg),
    any(libc::SYS_shutdown),
    any(libc::SYS_getsockname), // std, for the address of who was accepted
    any(libc::SYS_getpeername), // the same
    any(libc::SYS_getsockopt),  // tokio asks a connection for its error
    any(libc::SYS_setsockopt),
    // The runtime of the control socket and the metrics.
    any(libc::SYS_epoll_create1),
    any(libc::SYS_epoll_ctl),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_epoll_wait),
    any(libc::SYS_epoll_pwait),
    any(libc::SYS_epoll_pwait2),
    any(libc::SYS_fcntl), // descriptors of listeners are duplicated
    only(libc::SYS_ioctl, Only::OneOf(1, &[0x5421])), // FIONBIO: std makes a socket not block
    // A client's file: how long it is, and where it lies.
    any(libc::SYS_fstat),
    any(libc::SYS_newfstatat),
    any(libc::SYS_statx),
    any(libc::SYS_fstatfs),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_readlink), // whether it is an event
    any(libc::SYS_readlinkat),
    // The end: the telemetry takes the place of an older one, sockets and their folder go. Where
    // that may be is Landlock's part.
    any(libc::SYS_openat),
    any(libc::SYS_lseek),
    any(libc::SYS_fchmod),
    any(libc::SYS_getcwd),
    any(libc::SYS_geteuid),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_rename),
    any(libc::SYS_renameat),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_unlink),
    any(libc::SYS_unlinkat),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_rmdir),
];
