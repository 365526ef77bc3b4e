//! What goes wrong with the process of a device server: it is killed, or stands still.
//!
//! Nothing of the device takes part, as nothing does when a host runs out of memory or is debugged: it
//! is done from outside, by signals, to whatever process listens on the control socket.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::str::FromStr;
use std::time::Duration;

use hmmgpu_server::parse_fault_time;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// What a fault of the server begins with.
pub const SITE: &str = "server:";

/// What happens to the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerFault {
    /// SIGKILL.
    Kill,
    /// SIGSTOP, and SIGCONT so much later.
    Stop(Duration),
}

impl FromStr for ServerFault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let action = text.strip_prefix(SITE).unwrap_or_default();
        let fault = match action.split_once('=') {
            None if action == "kill" => Ok(Self::Kill),
            Some(("stop", time)) => parse_fault_time(time).map(Self::Stop),
            _ => Err("of a server there are kill and stop=TIME, which happen at once".to_owned()),
        };
        fault.map_err(|reason| format!("'{text}' is not a fault: {reason}"))
    }
}

/// The process of a server, which no other can take the place of.
#[derive(Debug)]
pub struct ServerProcess {
    pid: Pid,
    handle: OwnedFd,
}

impl ServerProcess {
    /// Whoever listens at the other end of a connection.
    ///
    /// # Errors
    /// When it has ended, or is of another PID namespace.
    pub fn behind(stream: &UnixStream) -> rustix::io::Result<Self> {
        let pid = rustix::net::sockopt::socket_peercred(stream)?.pid;
        let handle = pidfd_open(pid, PidfdFlags::empty())?;
        Ok(Self { pid, handle })
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Ends it, as it stands.
    ///
    /// # Errors
    /// When it has ended, or is another user's; so below.
    pub fn kill(&self) -> rustix::io::Result<()> {
        pidfd_send_signal(&self.handle, Signal::KILL)
    }

    /// All of it stands still.
    ///
    /// # Errors
    /// As [`kill`](Self::kill).
    pub fn stop(&self) -> rustix::io::Result<()> {
        pidfd_send_signal(&self.handle, Signal::STOP)
    }

    /// It goes on.
    ///
    /// # Errors
    /// As [`kill`](Self::kill).
    pub fn go_on(&self) -> rustix::io::Result<()> {
        pidfd_send_signal(&self.handle, Signal::CONT)
    }
}

/// What a failed signal means.
pub fn explain(error: Errno) -> String {
    match error {
        Errno::SRCH => "the server has ended".to_owned(),
        Errno::PERM => "it is another user's server".to_owned(),
        other => format!("the server cannot be signalled: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_of_a_server_are_read() {
        for (text, fault) in [
            ("server:kill", ServerFault::Kill),
            ("server:stop=2s", ServerFault::Stop(Duration::from_secs(2))),
            (
                "server:stop=50ms",
                ServerFault::Stop(Duration::from_millis(50)),
            ),
        ] {
            assert_eq!(text.parse(), Ok(fault));
        }
    }

    #[test]
    fn others_are_refused_with_what_there_is() {
        for text in ["server:", "server:stop", "server:kill@3", "server:kill=1s"] {
            let error = text.parse::<ServerFault>().expect_err(text);
            assert!(
                error.contains(text) && error.contains("kill and stop=TIME"),
                "{error}"
            );
        }
        let error = "server:stop=2h"
            .parse::<ServerFault>()
            .expect_err("no unit");
        assert!(error.contains("a time is"), "{error}");
    }
}
