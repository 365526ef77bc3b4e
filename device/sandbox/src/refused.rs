//! How a refused call shows: it fails with `EPERM`, as the caller can report, and a line on standard
//! error says which it was and what to do. Without that line, a library that has come to use another
//! call would fail in a way that nobody can explain.
#![allow(unsafe_code)] // A signal handler.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

/// Lines in all. Stops one who was let in from filling the log.
const MOST_LINES: u32 = 16;

/// Whether this architecture's registers are known here. If not, calls fail without a line.
pub(crate) const TELLS: bool = cfg!(target_arch = "x86_64");

/// Handles the signal of refused calls from now on.
///
/// # Errors
/// The host refuses the handler.
pub(crate) fn tell() -> io::Result<()> {
    let handler: extern "C" fn(_, _, _) = on_refused;
    // SAFETY: the handler has the type that SA_SIGINFO asks for, and does only what a handler may at
    // any time: arithmetic, and the system calls prctl and write.
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut())
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

extern "C" fn on_refused(
    _signal: libc::c_int,
    _info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    let Some(number) = fail(context) else { return };
    static LINES: AtomicU32 = AtomicU32::new(0);
    if LINES.fetch_add(1, Ordering::Relaxed) < MOST_LINES {
        let mut line = Line::default();
        line.text(b"hmmgpu: the sandbox refused system call ");
        line.number(number);
        line.text(name(number));
        line.text(b"; if something does not work because of it, --no-sandbox goes without\n");
        line.print();
    }
}

/// Makes the call fail, and says which it was.
#[cfg(target_arch = "x86_64")]
fn fail(context: *mut libc::c_void) -> Option<libc::c_long> {
    let context = context.cast::<libc::ucontext_t>();
    let register = usize::try_from(libc::REG_RAX).ok()?;
    // SAFETY: the kernel passes the registers of this thread as this type, and takes them back when
    // the handler returns. At a refused call this one has its number, and then what it returns.
    let result = unsafe { (*context).uc_mcontext.gregs.get_mut(register)? };
    Some(std::mem::replace(result, -libc::c_long::from(libc::EPERM)))
}

#[cfg(not(target_arch = "x86_64"))]
fn fail(_context: *mut libc::c_void) -> Option<libc::c_long> {
    None
}

/// Those that an intruder would want; the others have a number.
fn name(number: libc::c_long) -> &'static [u8] {
    match number {
        libc::SYS_socket => b" (socket)",
        libc::SYS_connect => b" (connect)",
        libc::SYS_bind => b" (bind)",
        libc::SYS_openat => b" (openat)",
        libc::SYS_execve => b" (execve)",
        libc::SYS_clone => b" (clone)",
        libc::SYS_kill => b" (kill)",
        libc::SYS_ptrace => b" (ptrace)",
        libc::SYS_mmap => b" (mmap)",
        libc::SYS_mprotect => b" (mprotect)",
        _ => b"",
    }
}

/// A line that is made without memory of the allocator, which may be what was interrupted.
struct Line {
    bytes: [u8; 160],
    len: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            bytes: [0; 160],
            len: 0,
        }
    }
}

impl Line {
    fn text(&mut self, text: &[u8]) {
        for (to, from) in self.bytes[self.len..].iter_mut().zip(text) {
            *to = *from;
            self.len += 1;
        }
    }

    fn number(&mut self, number: libc::c_long) {
        let mut digits = [b'0'; 20];
        let mut rest = number.unsigned_abs();
        let mut first = digits.len();
        loop {
            first -= 1;
            // Less than ten.
            digits[first] += u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.text(&digits[first..]);
    }

    fn print(&self) {
        // SAFETY: the pointer is valid for as many bytes; where nobody reads it, so be it.
        let _ = unsafe { libc::write(libc::STDERR_FILENO, self.bytes.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_made_of_texts_and_numbers_and_has_an_end() {
        let mut line = Line::default();
        for number in [0, 7, 10, 441, libc::c_long::MAX] {
            line.number(number);
            line.text(b" ");
        }
        assert_eq!(&line.bytes[..line.len], b"0 7 10 441 9223372036854775807 ");
        line.text(&[b'x'; 500]);
        assert_eq!(line.len, line.bytes.len());
    }
}
