//! The vfio-user socket: a stream of bytes with file descriptors, into the server's own code.

mod message;
mod reference;

use std::fs::{self, File};
use std::io::{ErrorKind, IoSlice, Read};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;

use arbitrary::{Arbitrary, Unstructured};
use hmmgpu_model::ResetCause;
use hmmgpu_server::{ClientLog, ModelBackend, serve_client};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::device::{copies_well, small_device};
use message::Sent;
use reference::{End, answered, check_replies};

/// Most messages of an input: what a socket holds before somebody reads.
const MOST: usize = 64;
/// Most descriptors that one piece can carry here.
const MOST_FDS: usize = 24;
/// Size of files for guest RAM.
const RAM_BYTES: u64 = 64 << 10;

/// Messages of a client, which then leaves. Holds: each that wants an answer gets one, in order and
/// whole, and nothing else does; the connection ends as its last bytes say; nothing works before
/// VERSION; no descriptor stays behind; and the device works for the next client.
pub fn protocol(data: &[u8]) {
    let device = small_device();
    device.reset(ResetCause::Disconnect);
    let files = files();
    let open_before = open_files();
    {
        let (client, server) = UnixStream::pair().expect("a pair of sockets");
        let sent = send(&client, &mut Unstructured::new(data), files);
        client.shutdown(Shutdown::Write).expect("the client's end");
        let description = ModelBackend::describe(device);
        let log = ClientLog::default();
        let mut backend = ModelBackend::new(device, &log);
        // A client reads, lest the server waits for it.
        let (told, served) = std::thread::scope(|scope| {
            let reader = scope.spawn(|| read_all(client));
            let (_, served) = serve_client(&server, &description, &mut backend, &log, &mut || {});
            drop(server);
            (reader.join().expect("a reader"), served)
        });
        backend.disconnect();
        let (asked, end) = answered(&sent);
        check_replies(&told, &asked);
        assert_eq!(End::from(served), end);
    }
    assert_eq!(open_files(), open_before, "descriptors are left open");
    copies_well(device);
    device.reset(ResetCause::Disconnect);
}

/// Sends what the input says, as far as the socket holds it. Returns the bytes that were sent.
fn send(client: &UnixStream, input: &mut Unstructured<'_>, files: &[OwnedFd]) -> Vec<u8> {
    let mut sent = Vec::new();
    for _ in 0..MOST {
        if input.is_empty() {
            break;
        }
        let Ok(Sent { bytes, fds, cut }) = Sent::arbitrary(input) else {
            break;
        };
        let fds: Vec<_> = fds
            .iter()
            .map(|fd| files[usize::from(*fd) % files.len()].as_fd())
            .collect();
        let (first, second) = bytes.split_at(cut.unwrap_or(0));
        if !(send_piece(client, first, &[], &mut sent)
            && send_piece(client, second, &fds, &mut sent))
        {
            break;
        }
    }
    sent
}

/// Whether it could be sent.
fn send_piece(
    client: &UnixStream,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
    sent: &mut Vec<u8>,
) -> bool {
    if bytes.is_empty() {
        return true;
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    match sendmsg(client, &[IoSlice::new(bytes)], &mut control, flags) {
        Ok(count) => {
            sent.extend_from_slice(&bytes[..count]);
            count == bytes.len()
        }
        Err(Errno::AGAIN) => false,
        Err(error) => panic!("the socket failed: {error}"),
    }
}

/// All that the server says.
fn read_all(mut client: UnixStream) -> Vec<u8> {
    let mut told = Vec::new();
    match client.read_to_end(&mut told) {
        Ok(_) => {}
        // It has left with messages unread.
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
    }
    told
}

/// Descriptors of all kinds, made once.
fn files() -> &'static [OwnedFd] {
    static FILES: OnceLock<Vec<OwnedFd>> = OnceLock::new();
    FILES.get_or_init(|| {
        let ram = |size| {
            let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
            let file = memfd_create("hmmgpu-fuzz", flags).expect("a memfd");
            ftruncate(&file, size).expect("memory");
            fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW).expect("seals");
            file
        };
        let event = || eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd");
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
        let open = |path| File::open(path).expect("a file").into();
        vec![
            ram(RAM_BYTES),
            event(),
            ram(2 * RAM_BYTES),
            event(),
            ram(4096),
            ram(100),
            reader,
            writer,
            open("/dev/null"),
            open("/"),
        ]
    })
}

/// Number of descriptors that the process has open.
fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").expect("/proc").count()
}
