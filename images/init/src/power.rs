//! Ending the guest.

use rustix::system::{RebootCommand, reboot};

/// Powers off. The console's output is out by then: the kernel writes it synchronously.
pub(crate) fn off() -> ! {
    let _ = reboot(RebootCommand::PowerOff);
    // A machine that cannot power off can perhaps restart, which ends QEMU too (`-no-reboot`).
    let _ = reboot(RebootCommand::Restart);
    // The end of PID 1 is a kernel panic, and that a restart (`panic=-1`).
    std::process::exit(1)
}
