//! A client that speaks bytes, and a backend that records.

use std::fs::File;
use std::io::{self, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use hmmgpu_server::{ClientLog, Description, serve_client};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tempfile::TempDir;
use vfio_user::{DmaMapFlags, DmaUnmapFlags, ServerBackend};

/// Longest that anything may take before a test fails. Nothing here is slow: it only makes a
/// hang a failure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Of the devices of servers here.
pub(crate) const VRAM_BYTES: u64 = 64 << 20;

pub(crate) const VERSION: u16 = 1;
pub(crate) const DMA_MAP: u16 = 2;
pub(crate) const DMA_UNMAP: u16 = 3;
pub(crate) const DEVICE_GET_INFO: u16 = 4;
pub(crate) const GET_REGION_INFO: u16 = 5;
pub(crate) const GET_IRQ_INFO: u16 = 7;
pub(crate) const SET_IRQS: u16 = 8;
pub(crate) const REGION_READ: u16 = 9;
pub(crate) const REGION_WRITE: u16 = 10;
pub(crate) const DEVICE_RESET: u16 = 13;

pub(crate) const COMMAND: u32 = 0;
pub(crate) const POSTED: u32 = 1 << 4;

pub(crate) const EIO: u32 = 5;
pub(crate) const EEXIST: u32 = 17;
pub(crate) const EINVAL: u32 = 22;
pub(crate) const EMFILE: u32 = 24;
pub(crate) const EOPNOTSUPP: u32 = 95;

/// The configuration space's region.
pub(crate) const CONFIG: u32 = 7;

/// The bytes of fields, in order.
#[macro_export]
macro_rules! bytes {
    ($($field:expr),* $(,)?) => {{
        let mut bytes: Vec<u8> = Vec::new();
        $( bytes.extend_from_slice(&$field.to_ne_bytes()); )*
        bytes
    }};
}

/// A message as it goes over the socket.
pub(crate) fn message(id: u16, command: u16, flags: u32, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(16 + payload.len()).expect("size");
    let mut message = bytes![id, command, size, flags, 0u32];
    message.extend_from_slice(payload);
    message
}

/// The capabilities that QEMU sends, as far as they matter.
pub(crate) fn version(major: u16, minor: u16, json: &str) -> Vec<u8> {
    let mut payload = bytes![major, minor];
    payload.extend_from_slice(json.as_bytes());
    payload.push(0);
    payload
}

pub(crate) const QEMU_JSON: &str = r#"{"capabilities": {"max_msg_fds": 16,
    "max_data_xfer_size": 1048576, "migration": {"pgsize": 4096, "max_bitmap_size": 268435456},
    "pgsizes": 4096, "max_dma_maps": 65535, "write_multiple": true}}"#;

/// A reply as it came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) id: u16,
    pub(crate) command: u16,
    /// Zero: it worked.
    pub(crate) errno: u32,
    pub(crate) payload: Vec<u8>,
}

impl Reply {
    pub(crate) fn u32(&self, at: usize) -> u32 {
        u32::from_ne_bytes(self.payload[at..at + 4].try_into().expect("4 bytes"))
    }

    pub(crate) fn u64(&self, at: usize) -> u64 {
        u64::from_ne_bytes(self.payload[at..at + 8].try_into().expect("8 bytes"))
    }

    /// The payload of a reply that must say success.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.errno, 0, "{self:?}");
        self
    }

    /// Checks that it says failure, and has no payload.
    #[track_caller]
    pub(crate) fn fails(&self, errno: u32) {
        assert_eq!(self.errno, errno, "{self:?}");
        assert!(self.payload.is_empty(), "{self:?}");
    }
}

/// A client that speaks bytes.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) stream: UnixStream,
    next_id: u16,
}

impl Raw {
    /// Connects, and no more.
    pub(crate) fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("time-out");
        stream.set_write_timeout(Some(PATIENCE)).expect("time-out");
        Self {
            stream,
            next_id: 100,
        }
    }

    /// Connects and negotiates the version.
    pub(crate) fn negotiated(path: &Path) -> Self {
        let mut client = Self::connect(path);
        client.call(VERSION, &version(0, 0, QEMU_JSON)).ok();
        client
    }

    pub(crate) fn id(&mut self) -> u16 {
        self.next_id += 1;
        self.next_id
    }

    /// Sends bytes, in one segment.
    pub(crate) fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        }
        let mut sent = 0;
        while sent < bytes.len() {
            let rest = [IoSlice::new(&bytes[sent..])];
            sent += sendmsg(&self.stream, &rest, &mut control, SendFlags::NOSIGNAL).expect("send");
            control = SendAncillaryBuffer::default();
        }
    }

    /// The next reply.
    #[track_caller]
    pub(crate) fn reply(&mut self) -> Reply {
        let mut header = [0; 16];
        self.stream.read_exact(&mut header).expect("a reply");
        let word = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().expect("word"));
        let half = |at: usize| u16::from_ne_bytes(header[at..at + 2].try_into().expect("half"));
        let (size, flags, errno) = (word(4), word(8), word(12));
        assert!(size >= 16, "size {size}");
        let mut payload = vec![0; size as usize - 16];
        self.stream
            .read_exact(&mut payload)
            .expect("the reply's payload");
        assert!(flags == 1 || flags == 0x21, "flags {flags:#x}");
        assert_eq!(errno != 0, flags == 0x21, "error flag and errno disagree");
        Reply {
            id: half(0),
            command: half(2),
            errno,
            payload,
        }
    }

    #[track_caller]
    pub(crate) fn call(&mut self, command: u16, payload: &[u8]) -> Reply {
        self.call_with(command, payload, &[])
    }

    /// Sends a command and takes its reply. What was sent before must not have been answered.
    #[track_caller]
    pub(crate) fn call_with(
        &mut self,
        command: u16,
        payload: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Reply {
        let id = self.id();
        self.send(&message(id, command, COMMAND, payload), fds);
        let reply = self.reply();
        assert_eq!(
            (reply.id, reply.command),
            (id, command),
            "the reply to something else"
        );
        reply
    }

    pub(crate) fn post(&mut self, command: u16, payload: &[u8]) {
        let id = self.id();
        self.send(&message(id, command, POSTED, payload), &[]);
    }

    /// Reads a region.
    #[track_caller]
    pub(crate) fn read(&mut self, region: u32, offset: u64, count: u32) -> Vec<u8> {
        let reply = self.call(REGION_READ, &bytes![offset, region, count]).ok();
        assert_eq!(reply.payload[..16], bytes![offset, region, count]);
        assert_eq!(reply.payload.len(), 16 + count as usize);
        reply.payload[16..].to_vec()
    }

    /// The end of the connection, with nothing before it.
    #[track_caller]
    pub(crate) fn expect_end(&mut self) {
        match self.stream.read(&mut [0; 1]) {
            Ok(0) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            other => panic!("the connection is not closed: {other:?}"),
        }
    }
}

/// What a backend was asked.
#[derive(Debug)]
pub(crate) enum Call {
    Read {
        region: u32,
        offset: u64,
        bytes: usize,
    },
    Write {
        region: u32,
        offset: u64,
        data: Vec<u8>,
    },
    Map {
        flags: u32,
        offset: u64,
        address: u64,
        size: u64,
        file: Option<File>,
    },
    Unmap {
        all: bool,
        address: u64,
        size: u64,
    },
    Reset,
    SetIrqs {
        index: u32,
        flags: u32,
        start: u32,
        count: u32,
        fds: Vec<File>,
    },
}

/// Records, and fails on demand.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorder {
    calls: Arc<Mutex<Vec<Call>>>,
    failure: Arc<Mutex<Option<io::ErrorKind>>>,
    errno: Arc<Mutex<Option<i32>>>,
}

impl Recorder {
    /// Takes what was asked since the last time.
    pub(crate) fn take(&self) -> Vec<Call> {
        std::mem::take(&mut *self.calls.lock().expect("calls"))
    }

    /// What was asked since the last time, which is one thing.
    #[track_caller]
    pub(crate) fn one(&self) -> Call {
        let mut calls = self.take();
        assert_eq!(calls.len(), 1, "{calls:?}");
        calls.remove(0)
    }

    /// Makes all that follows fail with an errno.
    pub(crate) fn fail_with(&self, errno: Option<u32>) {
        *self.errno.lock().expect("errno") =
            errno.map(|errno| i32::try_from(errno).expect("an errno"));
    }

    /// Makes all that follows fail with an error that has no errno.
    pub(crate) fn fail_without_errno(&self, kind: io::ErrorKind) {
        *self.failure.lock().expect("failure") = Some(kind);
    }

    fn record(&self, call: Call) -> io::Result<()> {
        self.calls.lock().expect("calls").push(call);
        if let Some(kind) = *self.failure.lock().expect("failure") {
            return Err(kind.into());
        }
        match *self.errno.lock().expect("errno") {
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => Ok(()),
        }
    }
}

/// What [`Recorder`] reads at an offset.
pub(crate) fn pattern(offset: u64) -> u8 {
    u8::try_from((offset * 7 + 1) % 251).expect("less than 251")
}

impl ServerBackend for Recorder {
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> io::Result<()> {
        for (at, byte) in (offset..).zip(data.iter_mut()) {
            *byte = pattern(at);
        }
        self.record(Call::Read {
            region,
            offset,
            bytes: data.len(),
        })
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        self.record(Call::Write {
            region,
            offset,
            data: data.to_vec(),
        })
    }

    fn dma_map(
        &mut self,
        flags: DmaMapFlags,
        offset: u64,
        address: u64,
        size: u64,
        file: Option<File>,
    ) -> io::Result<()> {
        self.record(Call::Map {
            flags: flags.bits(),
            offset,
            address,
            size,
            file,
        })
    }

    fn dma_unmap(&mut self, flags: DmaUnmapFlags, address: u64, size: u64) -> io::Result<()> {
        let all = flags.contains(DmaUnmapFlags::UNMAP_ALL);
        self.record(Call::Unmap { all, address, size })
    }

    fn reset(&mut self) -> io::Result<()> {
        self.record(Call::Reset)
    }

    fn set_irqs(
        &mut self,
        index: u32,
        flags: u32,
        start: u32,
        count: u32,
        fds: Vec<File>,
    ) -> io::Result<()> {
        self.record(Call::SetIrqs {
            index,
            flags,
            start,
            count,
            fds,
        })
    }
}

/// A device like ours: 64 KiB of registers, 8 KiB for MSI-X, 16 vectors.
pub(crate) fn plain() -> Description {
    let bar = |bar| match bar {
        0 => 0x1_0000,
        4 => 0x2000,
        _ => 0,
    };
    Description::pci(4096, bar, 16)
}

/// The protocol and the transport on a socket, with a [`Recorder`] behind them.
#[derive(Debug)]
pub(crate) struct Harness {
    pub(crate) path: PathBuf,
    pub(crate) recorder: Recorder,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    _directory: TempDir,
}

impl Harness {
    pub(crate) fn new() -> Self {
        Self::with(plain())
    }

    pub(crate) fn with(description: Description) -> Self {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path().join("s");
        let listener = UnixListener::bind(&path).expect("bind");
        let recorder = Recorder::default();
        let stop = Arc::new(AtomicBool::new(false));
        let (mut backend, stopped) = (recorder.clone(), Arc::clone(&stop));
        let log = ClientLog::default();
        let thread = std::thread::spawn(move || {
            for client in listener.incoming() {
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                // What a connection ends with is each client's affair.
                let _ = serve_client(
                    client.expect("accept"),
                    &description,
                    &mut backend,
                    &log,
                    &mut || {},
                );
            }
        });
        Self {
            path,
            recorder,
            stop,
            thread: Some(thread),
            _directory: directory,
        }
    }

    /// A client that has negotiated.
    pub(crate) fn client(&self) -> Raw {
        Raw::negotiated(&self.path)
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the thread. If a client of a failed test is still connected it would wait for
        // that, so it is not waited for then.
        let _ = UnixStream::connect(&self.path);
        if std::thread::panicking() {
            return;
        }
        if let Some(thread) = self.thread.take() {
            bounded(move || thread.join().expect("the server panicked"));
        }
    }
}

/// Tells a process that it is there for one test.
const ALONE: &str = "HMMGPU_TEST_ALONE";

/// Whether this process is there for the test of this name alone, which wants to count what the process
/// holds. Where it is not, the test has been run in one that is.
pub(crate) fn alone(name: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let mut test = std::process::Command::new(std::env::current_exe().expect("this test"));
    let test = test.args(["--exact", name]).env(ALONE, "1").output();
    let output = test.expect("a process");
    assert!(output.status.success(), "{output:?}");
    let ran = String::from_utf8_lossy(&output.stdout);
    assert!(ran.contains("1 passed"), "no test of this name: {ran}");
    false
}

/// What this process holds, and with it the server in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) descriptors: usize,
    /// Bytes that are in use of mappings smaller than VRAM.
    pub(crate) memory: u64,
}

impl Held {
    pub(crate) fn now() -> Self {
        let descriptors = std::fs::read_dir("/proc/self/fd").expect("/proc").count();
        let maps = std::fs::read_to_string("/proc/self/smaps").expect("/proc");
        let (mut memory, mut size) = (0, 0);
        for line in maps.lines() {
            let kib = |name| {
                let value = line.strip_prefix(name)?.trim().strip_suffix(" kB")?;
                value.parse::<u64>().ok()
            };
            size = kib("Size:").unwrap_or(size);
            if let Some(anonymous) = kib("Anonymous:")
                && size << 10 < VRAM_BYTES
            {
                memory += anonymous << 10;
            }
        }
        Self {
            descriptors,
            memory,
        }
    }

    /// Fails if it holds more descriptors than before, or more than so much more memory.
    #[track_caller]
    pub(crate) fn expect_no_more(before: Self, room: u64) {
        let now = Self::now();
        assert!(
            now.descriptors <= before.descriptors && now.memory < before.memory + room,
            "something is left: {before:?}, {now:?}"
        );
    }
}

/// Runs something that has no time-out of its own, and fails if it does not end.
#[track_caller]
pub(crate) fn bounded<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, receive) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let _ = send.send(run());
    });
    match receive.recv_timeout(PATIENCE) {
        Ok(value) => value,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it hangs"),
        Err(mpsc::RecvTimeoutError::Disconnected) => match thread.join() {
            Ok(()) => unreachable!("it sends before it ends"),
            Err(panic) => std::panic::resume_unwind(panic),
        },
    }
}

pub(crate) fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC).expect("eventfd")
}

/// Waits until an event is raised, and returns how often it was.
#[track_caller]
pub(crate) fn wait(event: &OwnedFd) -> u64 {
    let patience = Timespec {
        tv_sec: PATIENCE.as_secs().try_into().expect("seconds"),
        tv_nsec: 0,
    };
    let ready = poll(&mut [PollFd::new(event, PollFlags::IN)], Some(&patience)).expect("poll");
    assert_eq!(ready, 1, "no event came");
    let mut count = [0; 8];
    assert_eq!(rustix::io::read(event, &mut count), Ok(8));
    u64::from_ne_bytes(count)
}

/// Whether an event is raised now.
pub(crate) fn is_raised(event: impl AsFd) -> bool {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut [PollFd::new(&event, PollFlags::IN)], Some(&now)).expect("poll") == 1
}

/// Memory of `bytes` that can be mapped elsewhere too.
pub(crate) fn memory(bytes: u64) -> File {
    let file = File::from(memfd_create("hmmgpu-test", MemfdFlags::CLOEXEC).expect("memfd"));
    file.set_len(bytes).expect("set_len");
    file
}

/// Which file a descriptor is of.
pub(crate) fn identity(file: impl AsFd) -> (u64, u64) {
    let stat = rustix::fs::fstat(file).expect("fstat");
    (stat.st_dev, stat.st_ino)
}
