//! Exit codes, for all commands.
//!
//! `hmmgpu run` and `hmmgpu shell` pass the status of the guest's command through (128 plus the
//! number when a signal ended it). hmmgpu's own failures take the codes from 120 on, and always
//! write a line that begins with `hmmgpu: error:` to standard error.

use std::process::ExitCode;

/// All went well.
pub const OK: u8 = 0;
/// The work was done and its verdict is negative: data not verified, a test failed, something
/// needed is missing.
pub const NEGATIVE: u8 = 1;
/// The command line or a profile is wrong; nothing was started.
pub const USAGE: u8 = 2;
/// Something that is needed is missing or could not be made: a host tool, the tool root, the
/// kernel, the initramfs, room on the disk.
pub const MISSING: u8 = 120;
/// The VM could not run: no guest reached user space.
pub const COULD_NOT_RUN: u8 = 121;
/// The VM was lost: QEMU, the device server or the guest's kernel went away midway.
pub const LOST: u8 = 122;
/// The time limit has passed.
pub const TIMED_OUT: u8 = 123;
/// The guest runs but cannot do the job: its driver does not load. (A command that the guest does
/// not have ends with a shell's status, 126 or 127.)
pub const GUEST_FAILED: u8 = 124;
/// Anything else on the host: an output that cannot be written, a socket that is in use.
pub const HOST: u8 = 125;
/// Added to the number of a signal that ended the program (130 is Ctrl-C).
pub const SIGNAL: u8 = 128;

/// The code for a signal of this number.
pub fn of_signal(signal: i32) -> u8 {
    u8::try_from(signal).map_or(u8::MAX, |signal| SIGNAL.saturating_add(signal))
}

/// The code for the status of a command in the guest.
pub fn of_guest(status: hmmgpu_guest_protocol::ExitStatus) -> u8 {
    match status {
        // As wait(2) gives it: the low eight bits.
        hmmgpu_guest_protocol::ExitStatus::Code(code) => code.to_le_bytes()[0],
        hmmgpu_guest_protocol::ExitStatus::Signal(signal) => of_signal(signal),
    }
}

/// For the end of every `--help`.
pub const HELP: &str = "\
Exit codes:
  0    all went well
  1    the verdict is negative (data not verified, a test failed, something needed is missing)
  2    wrong command line or profile; nothing was started
  120  something needed is missing or could not be made (host tool, tool root, kernel, disk)
  121  the VM could not run: no guest reached user space
  122  the VM was lost: QEMU, the device server or the guest's kernel went away
  123  the time limit has passed
  124  the guest runs but cannot do the job (its driver does not load)
  125  any other failure on the host
  130  Ctrl-C; 128+n for another signal n";

/// As the type that `main` returns.
pub fn code(code: u8) -> ExitCode {
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hmmgpu_guest_protocol::ExitStatus;

    #[test]
    fn guest_status_is_passed_through() {
        assert_eq!(of_guest(ExitStatus::Code(0)), 0);
        assert_eq!(of_guest(ExitStatus::Code(7)), 7);
        assert_eq!(of_guest(ExitStatus::Code(255)), 255);
        assert_eq!(of_guest(ExitStatus::Code(-1)), 255);
        assert_eq!(of_guest(ExitStatus::Code(256)), 0);
    }

    #[test]
    fn signals_are_told_as_a_shell_does() {
        assert_eq!(of_guest(ExitStatus::Signal(9)), 137);
        assert_eq!(of_signal(2), 130);
        assert_eq!(of_signal(-4), 255);
        assert_eq!(of_signal(200), 255);
    }

    #[test]
    fn codes_differ_and_are_all_in_the_help() {
        let codes = [
            OK,
            NEGATIVE,
            USAGE,
            MISSING,
            COULD_NOT_RUN,
            LOST,
            TIMED_OUT,
            GUEST_FAILED,
            HOST,
        ];
        for (index, code) in codes.iter().enumerate() {
            assert!(!codes[..index].contains(code));
            assert!(
                HELP.lines()
                    .any(|line| line.trim_start().starts_with(&format!("{code} ")))
            );
        }
    }
}
