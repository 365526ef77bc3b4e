//! Bytes between a command's pipes and the host's ports, on a thread for each direction, so that
//! one that is not read does not hold up the others.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use crate::ports::Port;

/// As much as one write to a port takes.
const CHUNK: usize = 32 * 1024;
/// What the command left behind and that keeps printing is heard for so long.
const LINGER: Duration = Duration::from_secs(5);
/// The host connects its end of the input before it starts the machine, but the guest's kernel
/// learns that a little later.
const CONNECT: Duration = Duration::from_secs(5);

/// A pipe: what is read from, and what is written to.
pub(crate) fn pipe() -> Result<(File, File)> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .context("cannot create a pipe")?;
    Ok((reader.into(), writer.into()))
}

/// Output on its way to the host.
#[derive(Debug)]
pub(crate) struct Output {
    stop: Arc<OwnedFd>,
    thread: JoinHandle<io::Result<()>>,
}

impl Output {
    /// Copies all that comes out of `pipe`.
    pub(crate) fn start(pipe: File, port: Port) -> Result<Self> {
        let stop = eventfd(0, EventfdFlags::CLOEXEC).context("cannot create an eventfd")?;
        let stop = Arc::new(stop);
        let until = Arc::clone(&stop);
        let thread = std::thread::spawn(move || copy(pipe, port, &until));
        Ok(Self { stop, thread })
    }

    /// The command has ended: what it printed is with the host when this returns. Processes that
    /// it left may hold the pipe for ever; they are not waited for.
    pub(crate) fn finish(self) -> Result<()> {
        rustix::io::write(&*self.stop, &1_u64.to_ne_bytes()).context("cannot end the output")?;
        match self.thread.join() {
            Ok(copied) => copied.context("cannot pass output on to the host"),
            Err(_) => Ok(()), // its panic has been reported
        }
    }
}

fn copy(mut pipe: File, mut port: impl Write, stop: &OwnedFd) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut ended: Option<Instant> = None;
    loop {
        let mut fds = [
            PollFd::new(&pipe, PollFlags::IN),
            PollFd::new(stop, PollFlags::IN),
        ];
        // Once the command has ended, only what is there counts.
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let (watched, timeout) = match ended {
            None => (2, None),
            Some(_) => (1, Some(&now)),
        };
        match poll(&mut fds[..watched], timeout) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        if ended.is_none() && !fds[1].revents().is_empty() {
            ended = Some(Instant::now());
        }
        if fds[0].revents().is_empty() {
            if ended.is_some() {
                return Ok(());
            }
            continue;
        }
        match pipe.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => port.write_all(&buffer[..length])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if ended.is_some_and(|at| at.elapsed() > LINGER) {
            return Ok(());
        }
    }
}

/// Copies what the host sends into the command's input until the host disconnects or the command
/// stops reading, or the machine is suspended. The thread ends with the machine.
pub(crate) fn input(mut port: File, mut pipe: impl Write + Send + 'static) {
    std::thread::spawn(move || {
        wait_for_host(&port);
        let mut buffer = vec![0; CHUNK];
        loop {
            match port.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => {
                    if pipe.write_all(&buffer[..length]).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    });
}

/// A port whose host end is not connected hangs up, without a notice of its connection.
fn wait_for_host(port: &impl AsFd) {
    let deadline = Instant::now() + CONNECT;
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    while Instant::now() < deadline {
        let mut fds = [PollFd::new(port, PollFlags::IN)];
        let polled = poll(&mut fds, Some(&now));
        let flags = fds[0].revents();
        if polled.is_ok() && (flags.contains(PollFlags::IN) || !flags.contains(PollFlags::HUP)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    struct Port(mpsc::Sender<Vec<u8>>);

    impl Write for Port {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            self.0.send(data.to_owned()).map_err(io::Error::other)?;
            Ok(data.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn all_that_was_printed_arrives_although_the_pipe_stays_open() {
        let (reader, mut writer) = pipe().unwrap();
        let (sender, receiver) = mpsc::channel();
        let stop = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        writer.write_all(b"output").unwrap();
        rustix::io::write(&stop, &1_u64.to_ne_bytes()).unwrap();
        copy(reader, Port(sender), &stop).unwrap();
        assert_eq!(receiver.iter().flatten().collect::<Vec<_>>(), b"output");
        drop(writer);
    }

    #[test]
    fn the_end_of_the_pipe_ends_the_copy() {
        let (reader, writer) = pipe().unwrap();
        let (sender, receiver) = mpsc::channel();
        let stop = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        drop(writer);
        copy(reader, Port(sender), &stop).unwrap();
        assert_eq!(receiver.iter().count(), 0);
    }
}
