//! The ends of the guest's ports: sockets that QEMU connects to, and the threads that serve them.

use crossbeam_channel::Sender;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Sink;

/// How often a wait for a connection looks whether it still makes sense.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};
/// Output that waits for a slow reader, at most; beyond it the guest has to wait. It is large, so
/// that output is complete here when a guest that has written it powers off.
const SPOOL_BYTES: usize = 64 << 20;

/// A socket on which QEMU is expected.
#[derive(Debug)]
pub(crate) struct Port {
    listener: UnixListener,
}

impl Port {
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener })
    }

    /// Waits until QEMU has connected, until `deadline`, and as long as `go_on` says so.
    pub(crate) fn accept<E: From<io::Error>>(
        &self,
        deadline: Instant,
        mut go_on: impl FnMut() -> Result<(), E>,
    ) -> Result<UnixStream, E> {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false)?;
                    return Ok(stream);
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(error.into()),
            }
            go_on()?;
            if Instant::now() >= deadline {
                return Err(io::Error::from(io::ErrorKind::TimedOut).into());
            }
            let mut waited = [PollFd::new(&self.listener, PollFlags::IN)];
            match poll(&mut waited, Some(&LOOK)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(io::Error::from(errno).into()),
            }
        }
    }
}

/// Bytes on their way from a port to a sink.
#[derive(Default)]
struct Spool {
    state: Mutex<SpoolState>,
    changed: Condvar,
}

#[derive(Default)]
struct SpoolState {
    chunks: VecDeque<Vec<u8>>,
    bytes: usize,
    closed: bool,
    broken: bool,
}

impl Spool {
    fn lock(&self) -> std::sync::MutexGuard<'_, SpoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(
        &'a self,
        guard: std::sync::MutexGuard<'a, SpoolState>,
    ) -> std::sync::MutexGuard<'a, SpoolState> {
        self.changed
            .wait(guard)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room. What nobody wants any more is dropped.
    fn push(&self, chunk: Vec<u8>) {
        let mut state = self.lock();
        while state.bytes >= SPOOL_BYTES && !state.broken {
            state = self.wait(state);
        }
        if !state.broken {
            state.bytes += chunk.len();
            state.chunks.push_back(chunk);
            self.changed.notify_all();
        }
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// The next chunk, or `None` at the end.
    fn pop(&self) -> Option<Vec<u8>> {
        let mut state = self.lock();
        loop {
            if let Some(chunk) = state.chunks.pop_front() {
                state.bytes -= chunk.len();
                self.changed.notify_all();
                return Some(chunk);
            }
            if state.closed {
                return None;
            }
            state = self.wait(state);
        }
    }

    fn give_up(&self) {
        let mut state = self.lock();
        state.broken = true;
        state.chunks.clear();
        state.bytes = 0;
        self.changed.notify_all();
    }
}

/// Copies what comes from a port into a sink until the port's end. `failed` is called once if the
/// sink does not take it any more; what follows is dropped then, so that the guest does not hang
/// meanwhile. `done` is dropped when all is written.
pub(crate) fn pump(
    name: &str,
    stream: UnixStream,
    sink: Option<Sink>,
    done: Sender<Infallible>,
    failed: impl FnOnce(io::Error) + Send + 'static,
) -> io::Result<()> {
    let spool = Arc::new(Spool::default());
    let reader = Arc::clone(&spool);
    std::thread::Builder::new()
        .name(format!("{name} read"))
        .spawn(move || {
            let mut stream = stream;
            let mut buffer = vec![0; 64 << 10];
            loop {
                match stream.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(count) => {
                        reader.push(buffer[..count].to_vec());
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
            reader.close();
        })?;
    std::thread::Builder::new()
        .name(format!("{name} write"))
        .spawn(move || {
            let _done = done;
            let mut failed = Some(failed);
            while let Some(chunk) = spool.pop() {
                let Some(sink) = &sink else { continue };
                if failed.is_none() {
                    continue;
                }
                let mut sink = sink.lock().unwrap_or_else(PoisonError::into_inner);
                if let Err(error) = sink.write_all(&chunk).and_then(|()| sink.flush()) {
                    spool.give_up();
                    if let Some(failed) = failed.take() {
                        failed(error);
                    }
                }
            }
        })?;
    Ok(())
}

/// Copies from a file, pipe or terminal into a port. It ends when either side does; at the end of
/// the input the port gets its end of file.
pub(crate) fn feed(name: &str, input: OwnedFd, stream: UnixStream) -> io::Result<()> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            let mut stream = stream;
            let mut buffer = vec![0; 16 << 10];
            loop {
                let mut waited = [
                    PollFd::new(&input, PollFlags::IN),
                    // Only that QEMU has gone.
                    PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::empty()),
                ];
                match poll(&mut waited, None) {
                    Ok(_) => {}
                    Err(rustix::io::Errno::INTR) => continue,
                    Err(_) => break,
                }
                if !waited[1].revents().is_empty() {
                    return;
                }
                match rustix::io::read(&input, &mut buffer) {
                    Ok(0) => break,
                    Ok(count) => {
                        if stream.write_all(&buffer[..count]).is_err() {
                            return;
                        }
                    }
                    Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                    Err(_) => break,
                }
            }
            // Half of it: QEMU first reads what is on the way, then sees the end.
            let _ = stream.shutdown(Shutdown::Write);
            // The other half stays open until QEMU goes, or QEMU would drop what it has not read.
            wait_for_end(&stream);
        })
        .map(drop)
}

/// As [`feed`], from memory.
pub(crate) fn feed_bytes(name: &str, bytes: Vec<u8>, stream: UnixStream) -> io::Result<()> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            let mut stream = stream;
            if stream.write_all(&bytes).is_ok() {
                let _ = stream.shutdown(Shutdown::Write);
                wait_for_end(&stream);
            }
        })
        .map(drop)
}

fn wait_for_end(stream: &UnixStream) {
    let mut byte = [0];
    let mut stream = stream;
    loop {
        match stream.read(&mut byte) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// Time for QEMU to connect to all sockets.
pub(crate) const CONNECT_TIME: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::{RecvTimeoutError, unbounded};

    const LIMIT: Duration = Duration::from_secs(30);

    #[test]
    fn a_port_is_given_up_when_it_makes_no_sense() {
        let folder = tempfile::tempdir().expect("a folder");
        let port = Port::bind(&folder.path().join("port")).expect("binds");
        let mut looks = 0;
        let error = port
            .accept(Instant::now() + LIMIT, || {
                looks += 1;
                if looks < 3 {
                    Ok(())
                } else {
                    Err(io::Error::other("dead"))
                }
            })
            .expect_err("gives up");
        assert_eq!(error.to_string(), "dead");
        let error = port
            .accept(Instant::now(), || Ok::<(), io::Error>(()))
            .expect_err("too late");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let _client = UnixStream::connect(folder.path().join("port")).expect("connects");
        port.accept(Instant::now() + LIMIT, || Ok::<(), io::Error>(()))
            .expect("accepts");
    }

    #[test]
    fn output_is_complete_when_the_pump_has_ended() {
        let (mut guest, ours) = UnixStream::pair().expect("a pair");
        let sink = Arc::new(Mutex::new(Vec::new()));
        let (done, ended) = unbounded();
        pump("test", ours, Some(sink.clone()), done, |_| {}).expect("starts");
        let data: Vec<u8> = (0..1_000_000u32).map(|n| n.to_le_bytes()[0]).collect();
        guest.write_all(&data).expect("writes");
        drop(guest);
        assert_eq!(
            ended.recv_timeout(LIMIT),
            Err(RecvTimeoutError::Disconnected)
        );
        assert!(*sink.lock().expect("no panic") == data);
    }

    #[test]
    fn a_sink_that_breaks_is_told_once_and_does_not_stop_the_guest() {
        struct Broken;
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (mut guest, ours) = UnixStream::pair().expect("a pair");
        let (sender, errors) = unbounded();
        let (done, ended) = unbounded();
        pump(
            "test",
            ours,
            Some(super::super::sink(Broken)),
            done,
            move |error| {
                sender.send(error.kind()).expect("sends");
            },
        )
        .expect("starts");
        guest
            .write_all(&vec![0; 4 << 20])
            .expect("is read all the same");
        drop(guest);
        assert_eq!(
            ended.recv_timeout(LIMIT),
            Err(RecvTimeoutError::Disconnected)
        );
        assert_eq!(
            errors.iter().collect::<Vec<_>>(),
            [io::ErrorKind::BrokenPipe]
        );
    }

    #[test]
    fn input_arrives_whole_before_its_end() {
        let (input, mut typed) = std::io::pipe().expect("a pipe");
        let (ours, mut guest) = UnixStream::pair().expect("a pair");
        feed("test", input.into(), ours).expect("starts");
        typed.write_all(b"some input").expect("writes");
        drop(typed);
        let mut got = Vec::new();
        guest.read_to_end(&mut got).expect("reads");
        assert_eq!(got, b"some input");

        let (ours, mut guest) = UnixStream::pair().expect("a pair");
        feed_bytes("test", b"bytes".to_vec(), ours).expect("starts");
        let mut got = Vec::new();
        guest.read_to_end(&mut got).expect("reads");
        assert_eq!(got, b"bytes");
    }

    #[test]
    fn input_stops_when_the_guest_has_gone() {
        let (input, typed) = std::io::pipe().expect("a pipe");
        let (ours, guest) = UnixStream::pair().expect("a pair");
        feed("test", input.into(), ours).expect("starts");
        drop(guest);
        // The thread has closed its end of the pipe once this says so: bounded by the poll.
        let mut waited = [PollFd::new(&typed, PollFlags::empty())];
        let limit = Timespec {
            tv_sec: 30,
            tv_nsec: 0,
        };
        assert_eq!(
            poll(&mut waited, Some(&limit)),
            Ok(1),
            "nobody reads the input any more"
        );
    }
}
