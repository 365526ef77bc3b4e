//! What peers can make a server hold: whatever they leave behind, and at whatever byte, descriptors and
//! memory have a bound.
//!
//! Each test runs in a process of its own, which is counted; it is client and server.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use hmmgpu_server::MAX_CONTROL_CLIENTS;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::bytes;
use crate::common::*;
use crate::serve::Running;

/// Most that a server may keep of clients that have gone: what its allocator does not give back.
const ROOM: u64 = 8 << 20;

/// A message of a session, and how many descriptors come with it, of memory or events.
struct Sent {
    bytes: Vec<u8>,
    memory: usize,
    events: usize,
}

fn sent(command: u16, flags: u32, payload: &[u8]) -> Sent {
    Sent {
        bytes: message(command, command, flags, payload),
        memory: 0,
        events: 0,
    }
}

/// What a client may well say, from the first byte to the last; with descriptors of both kinds.
fn session() -> Vec<Sent> {
    let map = bytes![32u32, 3u32, 0u64, 0x10_0000u64, 1u64 << 20];
    let trigger = bytes![20u32, 36u32, 2u32, 0u32, 2u32];
    vec![
        sent(VERSION, COMMAND, &version(0, 0, QEMU_JSON)),
        sent(DEVICE_GET_INFO, COMMAND, &bytes![16u32, 0u32, 0u32, 0u32]),
        sent(
            GET_REGION_INFO,
            COMMAND,
            &bytes![32u32, 0u32, 0u32, 0u32, 0u64, 0u64],
        ),
        Sent {
            memory: 1,
            ..sent(DMA_MAP, COMMAND, &map)
        },
        Sent {
            events: 2,
            ..sent(SET_IRQS, COMMAND, &trigger)
        },
        sent(REGION_WRITE, POSTED, &bytes![4u64, CONFIG, 2u32, 6u16]),
        sent(REGION_READ, COMMAND, &bytes![0u64, 0u32, 4u32]),
        sent(DEVICE_RESET, COMMAND, &[]),
        sent(
            DMA_UNMAP,
            COMMAND,
            &bytes![24u32, 0u32, 0x10_0000u64, 1u64 << 20],
        ),
    ]
}

fn length(session: &[Sent]) -> usize {
    session.iter().map(|sent| sent.bytes.len()).sum()
}

/// Sends the session in pieces that end at these bytes of it, or at the ends of messages; as far as the
/// last of them. Descriptors come with the first byte of their message.
fn send_pieces(client: &Raw, session: &[Sent], cuts: &[usize]) {
    let memory: OwnedFd = memory(1 << 20).into();
    let events = [event(), event()];
    let end = cuts.last().copied().unwrap_or(0);
    let mut at = 0;
    for sent in session {
        let mut fds: Vec<BorrowedFd<'_>> = vec![memory.as_fd(); sent.memory];
        fds.extend(events[..sent.events].iter().map(AsFd::as_fd));
        let last = at + sent.bytes.len();
        let inside = cuts.iter().copied().filter(|cut| (at..last).contains(cut));
        let mut ends: Vec<usize> = inside.chain([last.min(end)]).collect();
        ends.sort_unstable();
        let mut from = at;
        for to in ends.into_iter().filter(|to| *to > at) {
            if to > from {
                client.send(&sent.bytes[from - at..to - at], &fds);
                fds.clear();
                from = to;
            }
        }
        at = last;
    }
}

#[test]
fn a_session_in_any_pieces_is_the_same_session() {
    let harness = Harness::new();
    let session = session();
    let all = length(&session);
    let answers = |cuts: &[usize]| -> Vec<Reply> {
        let mut client = Raw::connect(&harness.path);
        send_pieces(&client, &session, cuts);
        // All but the write are answered.
        let replies = (1..session.len()).map(|_| client.reply()).collect();
        let calls = harness.recorder.take();
        assert!(
            matches!(
                calls[..],
                [
                    Call::Map { file: Some(_), .. },
                    Call::SetIrqs { .. },
                    Call::Write { .. },
                    Call::Read { .. },
                    Call::Reset,
                    Call::Unmap { .. },
                ]
            ),
            "{calls:?}"
        );
        replies
    };
    let whole = answers(&[all]);
    // Every byte on its own, and at random.
    assert_eq!(answers(&(1..=all).collect::<Vec<_>>()), whole);
    let cuts = proptest::collection::btree_set(1..all, 0..40);
    let config = Config {
        cases: 64,
        failure_persistence: None,
        ..Config::default()
    };
    let result = TestRunner::new(config).run(&cuts, |cuts| {
        let cuts: Vec<usize> = cuts.into_iter().chain([all]).collect();
        prop_assert!(answers(&cuts) == whole, "other answers");
        Ok(())
    });
    result.expect("no difference");
}

#[test]
fn sessions_cut_at_every_byte_leave_nothing() {
    if !alone("bounds::sessions_cut_at_every_byte_leave_nothing") {
        return;
    }
    let server = Running::start();
    let session = session();
    let all = length(&session);
    let mut before = None;
    for round in 0..3 {
        for cut in 0..=all {
            let client = Raw::connect(&server.socket);
            send_pieces(&client, &session, &[cut]);
        }
        // It is served when everything of those before is done.
        let mut next = Raw::negotiated(&server.socket);
        next.call(DEVICE_RESET, &[]).ok();
        match before {
            None => before = Some(Held::now()),
            Some(before) => Held::expect_no_more(before, ROOM),
        }
        println!("round {round}: {} clients, {:?}", all + 1, Held::now());
    }
    server.stop();
}

#[test]
fn clients_that_come_all_at_once_wait_outside() {
    if !alone("bounds::clients_that_come_all_at_once_wait_outside") {
        return;
    }
    let server = Running::start();
    let mut first = Raw::negotiated(&server.socket);
    let before = Held::now();
    let address = rustix::net::SocketAddrUnix::new(&server.socket).expect("address");
    let waiting: Vec<OwnedFd> = (0..300)
        .map_while(|_| {
            use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
            let socket = socket.expect("a socket");
            connect(&socket, &address).is_ok().then_some(socket)
        })
        .collect();
    // As many as the kernel lets wait; the server has accepted none of them.
    assert!((1..40).contains(&waiting.len()), "{} wait", waiting.len());
    first.call(DEVICE_RESET, &[]).ok();
    assert_eq!(
        Held::now().descriptors,
        before.descriptors + waiting.len(),
        "the server holds some"
    );
    drop(waiting);
    drop(first);
    let mut next = Raw::negotiated(&server.socket);
    next.call(DEVICE_RESET, &[]).ok();
    Held::expect_no_more(before, ROOM);
    server.stop();
}

const REQUEST: &str = "{\"id\":1,\"command\":\"snapshot\"}\n";

/// Asks on the control socket until there is room, which shows that others have gone.
fn ask_control(path: &Path) {
    let path = path.to_owned();
    bounded(move || {
        loop {
            let mut stream = UnixStream::connect(&path).expect("connect");
            let mut answer = String::new();
            // Refused, it may have been closed already.
            let sent = stream.write_all(REQUEST.as_bytes()).is_ok();
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let read = stream.read_to_string(&mut answer).is_ok();
            if sent && read && answer.contains("\"snapshot\"") {
                return;
            }
            std::thread::yield_now();
        }
    });
}

const GET: &str = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";

/// Most connections that are served at once.
const HTTP_CONNECTIONS: usize = 16;

fn get_metrics(server: &Running) {
    let mut stream = TcpStream::connect(server.metrics).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("time-out");
    stream.write_all(GET.as_bytes()).expect("send");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// What is held when all have been answered once and nobody is connected.
fn idle(server: &Running) -> Held {
    get_metrics(server);
    // The same thread answers it, and has closed what was before.
    ask_control(&server.control);
    Held::now()
}

/// Waits until the server has let go of as many descriptors as it held before.
#[track_caller]
fn expect_let_go(before: Held) {
    let limit = std::time::Instant::now() + PATIENCE;
    while Held::now().descriptors > before.descriptors && std::time::Instant::now() < limit {
        std::thread::yield_now();
    }
    Held::expect_no_more(before, ROOM);
}

#[test]
fn control_requests_cut_at_every_byte_leave_nothing() {
    if !alone("bounds::control_requests_cut_at_every_byte_leave_nothing") {
        return;
    }
    let server = Running::start();
    let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("pipe");
    let before = idle(&server);
    for _ in 0..10 {
        for cut in 1..=REQUEST.len() {
            let client = Raw::connect(&server.control);
            // Descriptors are none of this protocol's: they are not kept.
            client.send(&REQUEST.as_bytes()[..cut], &[pipe.1.as_fd(); 5]);
        }
        ask_control(&server.control);
        expect_let_go(before);
    }
    // The end of the pipe comes when its last writer is closed.
    let (reader, writer) = pipe;
    drop(writer);
    let end = bounded(move || std::fs::File::from(reader).read(&mut [0; 1]).expect("read"));
    assert_eq!(end, 0);
    server.stop();
}

#[test]
fn many_control_clients_at_once_are_bounded() {
    if !alone("bounds::many_control_clients_at_once_are_bounded") {
        return;
    }
    let server = Running::start();
    let before = idle(&server);
    let clients: Vec<UnixStream> = (0..200)
        .map(|_| {
            let stream = UnixStream::connect(&server.control).expect("connect");
            stream.set_read_timeout(Some(PATIENCE)).expect("time-out");
            // The greeting, so that it was accepted.
            (&stream).read_exact(&mut [0; 1]).expect("a greeting");
            stream
        })
        .collect();
    // One more while it is told that there is no room.
    let held = Held::now()
        .descriptors
        .saturating_sub(before.descriptors + clients.len());
    assert!(held <= MAX_CONTROL_CLIENTS + 1, "{held} are held");
    drop(clients);
    ask_control(&server.control);
    expect_let_go(before);
    server.stop();
}

#[test]
fn http_requests_cut_at_every_byte_leave_nothing() {
    if !alone("bounds::http_requests_cut_at_every_byte_leave_nothing") {
        return;
    }
    let server = Running::start();
    let before = idle(&server);
    for _ in 0..10 {
        for cut in 0..=GET.len() {
            let mut stream = TcpStream::connect(server.metrics).expect("connect");
            stream.write_all(&GET.as_bytes()[..cut]).expect("send");
        }
    }
    get_metrics(&server);
    expect_let_go(before);
    server.stop();
}

#[test]
fn many_http_clients_at_once_are_bounded_and_answered() {
    if !alone("bounds::many_http_clients_at_once_are_bounded_and_answered") {
        return;
    }
    let server = Running::start();
    let before = idle(&server);
    let mut clients: Vec<TcpStream> = (0..100)
        .map(|_| {
            let stream = TcpStream::connect(server.metrics).expect("connect");
            stream.set_read_timeout(Some(PATIENCE)).expect("time-out");
            stream
        })
        .collect();
    let held = Held::now()
        .descriptors
        .saturating_sub(before.descriptors + clients.len());
    assert!(held <= HTTP_CONNECTIONS, "{held} are held");
    // Twice, and with nobody reading yet: one answer each.
    for client in &mut clients {
        client.write_all(GET.repeat(2).as_bytes()).expect("send");
    }
    for client in &mut clients {
        let mut answer = Vec::new();
        // What it did not read of the second request may reset the connection.
        let _ = client.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert_eq!(answer.matches("HTTP/1.1 200").count(), 1, "{answer}");
    }
    drop(clients);
    get_metrics(&server);
    expect_let_go(before);
    server.stop();
}
