//! Bytes and file descriptors of a stream socket, cut into whole messages.
//!
//! **Which message do file descriptors belong to?** The kernel may hand several small messages
//! to one `recvmsg`, but it stops behind the first segment that carries descriptors. So those
//! that come with a chunk belong to the message that holds the chunk's last byte, not to the
//! chunk's first message.
//!
//! A register read costs two system calls: one `recvmsg` that takes all the socket holds, and
//! one send. The socket is blocking; whoever wants the server to stop shuts the socket down.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, send, sendmsg,
};

use crate::wire::{HEADER_BYTES, Header, MAX_MESSAGE_BYTES, MAX_MESSAGE_FDS};

/// Bytes that are received at once. Larger messages get room while they are received.
const CHUNK_BYTES: usize = 64 << 10;

/// Descriptors that may be held at once: those of a message that is not complete, and those of
/// the one behind it that came with its last bytes. The bound stops a peer that sends
/// descriptors with every byte.
const MAX_HELD_FDS: usize = 2 * MAX_MESSAGE_FDS;

/// Why a connection ended other than by its client's leave.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// A header that cannot be true: nothing after it can be told from noise.
    #[error(
        "a message header announces {size} bytes, which is not in {HEADER_BYTES}..={MAX_MESSAGE_BYTES}"
    )]
    Framing {
        /// The size announced.
        size: u32,
    },
    /// The connection ended inside a message.
    #[error("the client went away inside a message, after {received} bytes of it")]
    Truncated {
        /// Bytes of the message that had come.
        received: usize,
    },
    /// Nothing came within the time that the socket waits, if it was given one.
    #[error("the client is silent")]
    Silent,
    /// The socket failed.
    #[error("the connection failed: {0}")]
    Socket(std::io::Error),
}

impl From<Errno> for ConnectionError {
    fn from(errno: Errno) -> Self {
        Self::Socket(errno.into())
    }
}

/// One whole message.
#[derive(Debug)]
pub(crate) struct Message<'a> {
    pub(crate) header: Header,
    pub(crate) payload: &'a [u8],
    /// At most [`MAX_MESSAGE_FDS`].
    pub(crate) fds: Vec<OwnedFd>,
    /// Descriptors were sent with the message that could not be taken: too many, or the
    /// process has no room for more.
    pub(crate) fds_lost: bool,
}

/// Descriptors that came with one chunk.
#[derive(Debug)]
struct Arrival {
    /// Position in the stream of the chunk's last byte.
    position: u64,
    fds: Vec<OwnedFd>,
    lost: bool,
}

/// The receiving half.
#[derive(Debug)]
pub(crate) struct Receiver {
    buffer: Vec<u8>,
    /// The bytes received and not yet handed out are `buffer[start..end]`.
    start: usize,
    end: usize,
    /// Position in the stream of `buffer[start]`.
    position: u64,
    arrivals: VecDeque<Arrival>,
}

impl Receiver {
    pub(crate) fn new() -> Self {
        Self {
            buffer: vec![0; CHUNK_BYTES],
            start: 0,
            end: 0,
            position: 0,
            arrivals: VecDeque::new(),
        }
    }

    /// The next whole message; waits for it. `None`: the client has gone.
    ///
    /// # Errors
    /// When the client goes inside a message, when a header announces an impossible size, and
    /// when the socket fails.
    pub(crate) fn next(
        &mut self,
        socket: BorrowedFd<'_>,
    ) -> Result<Option<Message<'_>>, ConnectionError> {
        let header = loop {
            let held = &self.buffer[self.start..self.end];
            let needed = match held.first_chunk() {
                None => HEADER_BYTES,
                Some(bytes) => {
                    let header = Header::parse(bytes);
                    let size = usize::try_from(header.size).unwrap_or(usize::MAX);
                    if !(HEADER_BYTES..=MAX_MESSAGE_BYTES).contains(&size) {
                        return Err(ConnectionError::Framing { size: header.size });
                    }
                    if held.len() >= size {
                        break header;
                    }
                    size
                }
            };
            self.make_room(needed);
            if self.receive(socket)? == 0 {
                return match self.end - self.start {
                    0 => Ok(None),
                    received => Err(ConnectionError::Truncated { received }),
                };
            }
        };
        let size = header.size as usize;
        let (fds, fds_lost) = self.take_fds(self.position + u64::from(header.size));
        let payload = self.start + HEADER_BYTES..self.start + size;
        self.start += size;
        self.position += u64::from(header.size);
        Ok(Some(Message {
            header,
            payload: &self.buffer[payload],
            fds,
            fds_lost,
        }))
    }

    /// Makes the buffer hold a message of `needed` bytes from `start` on, and at least one byte
    /// more than it holds now.
    fn make_room(&mut self, needed: usize) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.buffer.len() > CHUNK_BYTES && needed <= CHUNK_BYTES {
                self.buffer.truncate(CHUNK_BYTES);
                self.buffer.shrink_to_fit();
            }
        }
        if self.start + needed > self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if needed > self.buffer.len() {
            self.buffer.resize(needed, 0);
        }
    }

    /// Receives what there is; waits while there is nothing. Zero: no more will come.
    fn receive(&mut self, socket: BorrowedFd<'_>) -> Result<usize, ConnectionError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_MESSAGE_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = retry_on_intr(|| {
            recvmsg(
                socket,
                &mut [IoSliceMut::new(&mut self.buffer[self.end..])],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            )
        });
        let received = match received {
            Ok(received) => received,
            // The client was killed with our replies unread.
            Err(Errno::CONNRESET) => return Ok(0),
            Err(Errno::AGAIN) => return Err(ConnectionError::Silent),
            Err(errno) => return Err(errno.into()),
        };
        let mut fds: Vec<OwnedFd> = control
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            })
            .flatten()
            .collect();
        let mut lost = received.flags.contains(ReturnFlags::CTRUNC);
        self.end += received.bytes;
        if received.bytes == 0 {
            return Ok(0);
        }
        if !fds.is_empty() || lost {
            let held: usize = self.arrivals.iter().map(|arrival| arrival.fds.len()).sum();
            let room = MAX_HELD_FDS - held;
            if fds.len() > room {
                fds.truncate(room);
                lost = true;
            }
            let position = self.position + (self.end - self.start) as u64 - 1;
            let full = self.arrivals.len() == MAX_HELD_FDS;
            match self.arrivals.back_mut() {
                Some(last) if full => last.lost = true,
                _ => self.arrivals.push_back(Arrival {
                    position,
                    fds,
                    lost,
                }),
            }
        }
        Ok(received.bytes)
    }

    /// The descriptors of the message that ends before stream position `end`.
    fn take_fds(&mut self, end: u64) -> (Vec<OwnedFd>, bool) {
        let mut fds = Vec::new();
        let mut lost = false;
        while self
            .arrivals
            .front()
            .is_some_and(|arrival| arrival.position < end)
        {
            if let Some(arrival) = self.arrivals.pop_front() {
                fds.extend(arrival.fds);
                lost |= arrival.lost;
            }
        }
        if fds.len() > MAX_MESSAGE_FDS {
            fds.truncate(MAX_MESSAGE_FDS);
            lost = true;
        }
        (fds, lost)
    }
}

/// Sends all of `bytes`, with `fd` if there is one; waits while the client does not read.
///
/// # Errors
/// Those of the socket; `EPIPE` when the client has gone.
pub(crate) fn send_message(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fd: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let mut sent = 0;
    if let Some(fd) = fd {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let fds = [fd.as_fd()];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        sent += retry_on_intr(|| {
            sendmsg(
                socket,
                &[IoSlice::new(bytes)],
                &mut control,
                SendFlags::NOSIGNAL,
            )
        })?;
    }
    while sent < bytes.len() {
        sent += retry_on_intr(|| send(socket, &bytes[sent..], SendFlags::NOSIGNAL))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    /// A message of `size` bytes, all of them zero behind the size.
    fn message(size: usize) -> Vec<u8> {
        let mut bytes = vec![0; size];
        let announced = u32::try_from(size).expect("size");
        bytes[4..8].copy_from_slice(&announced.to_ne_bytes());
        bytes
    }

    #[test]
    fn descriptors_held_have_a_bound_before_their_message_is_whole() {
        let (client, server) = UnixStream::pair().expect("a pair");
        let event = eventfd(0, EventfdFlags::CLOEXEC).expect("eventfd");
        let fds = [event.as_fd(); MAX_MESSAGE_FDS];
        let mut receiver = Receiver::new();
        let bytes = message(200);
        let (last, rest) = bytes.split_last().expect("bytes");
        for (sent, byte) in (1..).zip(rest) {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
            let byte = [IoSlice::new(std::slice::from_ref(byte))];
            sendmsg(&client, &byte, &mut control, SendFlags::NOSIGNAL).expect("send");
            assert_eq!(receiver.receive(server.as_fd()).expect("receive"), 1);
            let arrivals = &receiver.arrivals;
            let held: usize = arrivals.iter().map(|arrival| arrival.fds.len()).sum();
            assert_eq!(held, MAX_HELD_FDS.min(sent * MAX_MESSAGE_FDS));
            assert!(
                arrivals.len() <= MAX_HELD_FDS,
                "{} arrivals",
                arrivals.len()
            );
        }
        (&client).write_all(&[*last]).expect("send");
        let message = receiver.next(server.as_fd()).expect("a message");
        let message = message.expect("no end");
        assert!(message.fds_lost);
        assert_eq!(message.fds.len(), MAX_MESSAGE_FDS);
        assert!(receiver.arrivals.is_empty());
    }

    #[test]
    fn a_large_message_keeps_its_memory_no_longer_than_needed() {
        let (client, server) = UnixStream::pair().expect("a pair");
        let mut receiver = Receiver::new();
        // The large one does not fit into the socket.
        let sender = std::thread::spawn(move || {
            (&client)
                .write_all(&message(MAX_MESSAGE_BYTES))
                .expect("send");
            (&client).write_all(&message(HEADER_BYTES)).expect("send");
        });
        for size in [MAX_MESSAGE_BYTES, HEADER_BYTES] {
            let message = receiver.next(server.as_fd()).expect("a message");
            let payload = message.expect("no end").payload.len();
            assert_eq!(payload, size - HEADER_BYTES);
        }
        sender.join().expect("the sender");
        // The next one is waited for with what any message gets.
        assert!(receiver.next(server.as_fd()).expect("the end").is_none());
        assert_eq!(receiver.buffer.len(), CHUNK_BYTES);
        assert!(receiver.buffer.capacity() < 2 * CHUNK_BYTES);
    }
}
