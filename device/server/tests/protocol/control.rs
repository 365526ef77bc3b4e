//! The control socket: what it says, what it refuses, and whom it never waits for.

use std::io::{self, BufRead, BufReader, Write};
use std::net::Shutdown as Half;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use hmmgpu_server::{ControlOptions, MAX_CONTROL_CLIENTS, ServeError, Server, SocketError};
use hmmgpu_telemetry::control::{Answer, Hello, MAX_REQUEST_BYTES, PROTOCOL, Reply};
use hmmgpu_telemetry::snapshot::{SCHEMA, Snapshot};

use crate::common::*;
use crate::serve::{LABEL, Running, options};

const SNAPSHOT: &str = "{\"id\":1,\"command\":\"snapshot\"}\n";

/// A client that was greeted.
struct Reader {
    lines: BufReader<UnixStream>,
    hello: Hello,
}

impl Reader {
    fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("time-out");
        stream.set_write_timeout(Some(PATIENCE)).expect("time-out");
        let mut lines = BufReader::new(stream);
        let mut line = String::new();
        lines.read_line(&mut line).expect("a greeting");
        let hello = serde_json::from_str(&line).expect("a greeting");
        Self { lines, hello }
    }

    fn send(&mut self, text: impl AsRef<[u8]>) {
        self.lines.get_mut().write_all(text.as_ref()).expect("send");
    }

    /// The next line, or nothing at the end.
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.lines.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(line),
            // What was not read when the server closed.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("{error}"),
        }
    }

    #[track_caller]
    fn reply(&mut self) -> Reply {
        let line = self.line().expect("a reply");
        serde_json::from_str(&line).expect("a reply")
    }

    /// The next reply, which is a snapshot with this id.
    #[track_caller]
    fn snapshot(&mut self, id: u64) -> Snapshot {
        match self.reply() {
            Reply {
                id: found,
                answer: Answer::Snapshot(snapshot),
            } if found == id => *snapshot,
            other => panic!("{other:?}"),
        }
    }

    /// The next reply, which is an error with this id.
    #[track_caller]
    fn error(&mut self, id: u64) -> String {
        match self.reply() {
            Reply {
                id: found,
                answer: Answer::Error(why),
            } if found == id => why,
            other => panic!("{other:?}"),
        }
    }

    /// Shows that the connection is as good as ever.
    #[track_caller]
    fn works(&mut self) {
        self.send("{\"id\":77,\"command\":\"snapshot\"}\n");
        assert_eq!(self.snapshot(77).schema, SCHEMA);
    }
}

#[test]
fn it_says_who_it_is() {
    let server = Running::start();
    let hello = Reader::connect(&server.control).hello;
    let expected = Hello {
        protocol: PROTOCOL.to_owned(),
        revision: "test".to_owned(),
        pid: std::process::id(),
        label: LABEL.to_owned(),
        socket: server.socket.display().to_string(),
    };
    assert_eq!(hello, expected);
    server.stop();
}

#[test]
fn a_snapshot_is_of_now() {
    let server = Running::start();
    let mut reader = Reader::connect(&server.control);
    reader.send(SNAPSHOT);
    let before = reader.snapshot(1);
    assert_eq!(before.schema, SCHEMA);
    let mut client = Raw::negotiated(&server.socket);
    client.call(DEVICE_RESET, &[]).ok();
    reader.send("{\"command\":\"snapshot\"}\n");
    let after = reader.snapshot(0);
    assert!(after.generation > before.generation, "{after:?}");
    assert!(after.time_ns > before.time_ns);
    drop(client);
    server.stop();
}

#[test]
fn the_last_events_are_told() {
    let server = Running::start();
    let mut reader = Reader::connect(&server.control);
    let mut client = Raw::negotiated(&server.socket);
    client.call(DEVICE_RESET, &[]).ok();
    let mut events = |request: &str| {
        reader.send(request);
        match reader.reply().answer {
            Answer::Events(events) => events,
            other => panic!("{other:?}"),
        }
    };
    let last = events("{\"command\":\"events\"}\n");
    let reset = last.last().expect("an event");
    assert_eq!(reset.event, "reset");
    assert_eq!(reset.text, "by vfio_user, begins generation 1");
    assert!(events("{\"command\":\"events\",\"last\":0}\n").is_empty());
    drop(client);
    server.stop();
}

#[test]
fn a_subscription_goes_on_until_it_is_ended() {
    let server = Running::start();
    let mut reader = Reader::connect(&server.control);
    reader.send("{\"id\":5,\"command\":\"subscribe\",\"interval_ms\":50}\n");
    let times: Vec<u64> = (0..4).map(|_| reader.snapshot(5).time_ns).collect();
    assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");
    // Other requests are answered in between.
    reader.send("{\"id\":6,\"command\":\"snapshot\"}\n");
    while reader.reply().id != 6 {}
    // Another subscription takes the place of the first.
    reader.send("{\"id\":7,\"command\":\"subscribe\",\"interval_ms\":60}\n");
    while reader.reply().id != 7 {}
    reader.snapshot(7);
    reader.snapshot(7);
    reader.send("{\"id\":8,\"command\":\"unsubscribe\"}\n");
    let end = loop {
        match reader.reply() {
            Reply { id: 7, .. } => {}
            end => break end,
        }
    };
    assert_eq!((end.id, end.answer), (8, Answer::Done {}));
    // Nothing comes by itself any more, however long one waits.
    let silence = std::time::Duration::from_millis(200);
    reader
        .lines
        .get_ref()
        .set_read_timeout(Some(silence))
        .expect("time-out");
    reader.lines.fill_buf().expect_err("nothing to read");
    reader
        .lines
        .get_ref()
        .set_read_timeout(Some(PATIENCE))
        .expect("time-out");
    reader.works();
    server.stop();
}

#[test]
fn an_interval_out_of_bounds_is_refused() {
    let server = Running::start();
    let mut reader = Reader::connect(&server.control);
    for interval in ["0", "49", "3600001", "18446744073709551615"] {
        reader.send(format!(
            "{{\"id\":3,\"command\":\"subscribe\",\"interval_ms\":{interval}}}\n"
        ));
        let why = reader.error(3);
        assert!(why.contains("give 50 to 3600000"), "{why}");
    }
    reader.works();
    server.stop();
}

#[test]
fn what_is_no_request_is_answered_and_the_connection_goes_on() {
    let server = Running::start();
    let mut reader = Reader::connect(&server.control);
    let deep = "[".repeat(MAX_REQUEST_BYTES - 10);
    for line in [
        &b""[..],
        b" ",
        b"\r",
        b"{",
        b"{}",
        b"null",
        b"[]",
        b"snapshot",
        b"\xff\xfe\x00",
        b"{\"id\":1}",
        b"{\"id\":1,\"command\":\"dance\"}",
        b"{\"id\":-1,\"command\":\"snapshot\"}",
        b"{\"id\":1,\"command\":\"snapshot\",\"windows\":7}",
        b"{\"id\":1,\"command\":\"subscribe\"}",
        b"{\"id\":1,\"command\":\"snapshot\"} {}",
        deep.as_bytes(),
    ] {
        reader.send(line);
        reader.send("\n");
        let why = reader.error(0);
        assert!(why.contains("not a request"), "{why}");
    }
    reader.works();
    server.stop();
}

#[test]
fn requests_may_come_in_pieces_and_many_at_once() {
    let server = Running::start();
    let mut reader = Reader::connect(&server.control);
    for byte in SNAPSHOT.as_bytes() {
        reader.send([*byte]);
    }
    reader.snapshot(1);
    let many: String = (0..20)
        .map(|id| format!("{{\"id\":{id},\"command\":\"snapshot\"}}\n"))
        .collect();
    reader.send(many);
    for id in 0..20 {
        reader.snapshot(id);
    }
    // The last one needs no end of line where the client's input ends.
    reader.send(SNAPSHOT.trim_end());
    reader
        .lines
        .get_ref()
        .shutdown(Half::Write)
        .expect("shutdown");
    reader.snapshot(1);
    assert_eq!(reader.line(), None);
    server.stop();
}

#[test]
fn a_line_that_is_too_long_ends_the_connection() {
    let server = Running::start();
    for end in ["", "\n"] {
        let mut reader = Reader::connect(&server.control);
        let long = format!("{}{end}", " ".repeat(MAX_REQUEST_BYTES + 1));
        reader.send(long);
        let why = reader.error(0);
        assert!(why.contains("4096 bytes"), "{why}");
        assert_eq!(reader.line(), None);
    }
    // The longest that is read is read.
    let mut reader = Reader::connect(&server.control);
    let padding = " ".repeat(MAX_REQUEST_BYTES - SNAPSHOT.trim_end().len());
    reader.send(format!("{padding}{SNAPSHOT}"));
    reader.snapshot(1);
    server.stop();
}

#[test]
fn a_line_that_does_not_end_ends_the_connection_and_silence_does_not() {
    let server = Running::start();
    let mut silent = Reader::connect(&server.control);
    // As many as there may be besides that one.
    let mut stopped: Vec<Reader> = (1..MAX_CONTROL_CLIENTS)
        .map(|_| {
            let mut reader = Reader::connect(&server.control);
            reader.send(&SNAPSHOT[..9]);
            reader
        })
        .collect();
    for reader in &mut stopped {
        let why = reader.error(0);
        assert!(why.contains("did not end"), "{why}");
        assert_eq!(reader.line(), None);
    }
    connect_when_there_is_room(&server.control).works();
    silent.works();
    server.stop();
}

#[test]
fn clients_may_close_at_any_byte() {
    let server = Running::start();
    // More often than there are clients at a time.
    for cut in 0..=SNAPSHOT.len() {
        let mut stream = UnixStream::connect(&server.control).expect("connect");
        // It fails where there was no room for one more.
        let _ = stream.write_all(&SNAPSHOT.as_bytes()[..cut]);
    }
    // In the middle of what it reads.
    for _ in 0..MAX_CONTROL_CLIENTS {
        let mut reader = connect_when_there_is_room(&server.control);
        reader.send("{\"id\":5,\"command\":\"subscribe\",\"interval_ms\":50}\n");
        reader.lines.fill_buf().expect("some of it");
    }
    connect_when_there_is_room(&server.control).works();
    server.stop();
}

/// Connects as soon as the server has noticed that others have gone.
fn connect_when_there_is_room(path: &Path) -> Reader {
    let path = path.to_owned();
    bounded(move || {
        loop {
            let mut reader = Reader::connect(&path);
            // Where it has closed already, sending fails.
            let sent = reader.lines.get_mut().write_all(SNAPSHOT.as_bytes());
            if sent.is_err() {
                continue;
            }
            match reader.line().map(|line| serde_json::from_str(&line)) {
                Some(Ok(Reply {
                    answer: Answer::Snapshot(_),
                    ..
                })) => return reader,
                _ => std::thread::yield_now(),
            }
        }
    })
}

#[test]
fn one_client_too_many_is_told() {
    let server = Running::start();
    let mut readers: Vec<Reader> = (0..MAX_CONTROL_CLIENTS)
        .map(|_| Reader::connect(&server.control))
        .collect();
    let mut late = Reader::connect(&server.control);
    let why = late.error(0);
    assert!(why.contains("16 clients are connected"), "{why}");
    assert_eq!(late.line(), None);
    // The others are none the worse, and the place of one that goes is free again.
    readers.iter_mut().for_each(Reader::works);
    readers.pop();
    connect_when_there_is_room(&server.control);
    server.stop();
}

#[test]
fn one_that_does_not_read_is_in_nobodys_way() {
    let server = Running::start();
    let mut slow = Reader::connect(&server.control);
    slow.send("{\"id\":5,\"command\":\"subscribe\",\"interval_ms\":50}\n");
    // Until the server takes no more, as its replies are not taken.
    let stream = slow.lines.get_mut();
    stream.set_nonblocking(true).expect("nonblocking");
    while stream.write(SNAPSHOT.as_bytes()).is_ok() {}
    stream.set_nonblocking(false).expect("blocking");

    let mut reader = Reader::connect(&server.control);
    reader.works();
    let mut client = Raw::negotiated(&server.socket);
    client.call(DEVICE_RESET, &[]).ok();
    reader.works();
    // It goes on where it was.
    let mut time = 0;
    for _ in 0..100 {
        match slow.reply().answer {
            Answer::Snapshot(snapshot) => {
                assert!(snapshot.time_ns > time);
                time = snapshot.time_ns;
            }
            other => panic!("{other:?}"),
        }
    }
    // And the server ends, whoever reads or not.
    server.stop();
}

#[test]
fn the_end_of_the_server_ends_connections() {
    let server = Running::start();
    let mut reader = Reader::connect(&server.control);
    server.stop();
    assert_eq!(reader.line(), None);
}

/// Options with a control socket at this path.
fn with_control(directory: &Path, control: &Path) -> hmmgpu_server::ServeOptions {
    let mut options = options(&directory.join("gpu.sock"));
    options.control = Some(ControlOptions {
        path: Some(control.to_owned()),
        label: String::new(),
        revision: String::new(),
    });
    options
}

#[test]
fn its_path_is_treated_as_the_other_sockets() {
    let directory = tempfile::tempdir().expect("tempdir");
    let path = directory.path().join("gpu.control");
    let options = with_control(directory.path(), &path);
    // Of a dead server: replaced, and only for the owner.
    drop(UnixListener::bind(&path).expect("bind"));
    let server = Server::bind(&options).expect("bind");
    let mode = path.metadata().expect("metadata").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    drop(server);
    assert!(!path.exists());
    // Of a live one: refused, and nothing is left behind.
    let listener = UnixListener::bind(&path).expect("bind");
    let error = Server::bind(&options).expect_err("refused");
    assert!(
        matches!(error, ServeError::Socket(SocketError::InUse { .. })),
        "{error:?}"
    );
    assert!(!options.socket.exists() && path.exists());
    drop(listener);
    let missing = with_control(directory.path(), &directory.path().join("no/gpu.control"));
    let error = Server::bind(&missing).expect_err("refused");
    assert!(
        matches!(error, ServeError::Socket(SocketError::NoDirectory { .. })),
        "{error:?}"
    );
}

#[test]
fn a_link_is_set_and_taken_away() {
    let server = Running::start();
    let mut reader = Reader::connect(&server.control);
    let mut set = |link: &str| {
        let request = serde_json::json!({ "id": 1, "command": "set_link", "link": link });
        reader.send(format!("{request}\n"));
        let reply = reader.reply();
        reader.send(SNAPSHOT);
        (reply.answer, reader.snapshot(1).link_model)
    };
    let (answer, link) = set("c2c");
    let link = link.expect("a link");
    assert_eq!(answer, Answer::Done {});
    assert_eq!((link.spec.as_str(), link.latency_ns), ("c2c", 1000));
    assert_eq!(link.to_device.bytes_per_second, 375_000_000_000);
    let (answer, kept) = set("c3c");
    assert!(
        matches!(&answer, Answer::Error(why) if why.contains("'c3c' is not a link")),
        "{answer:?}"
    );
    assert_eq!(kept, Some(link));
    assert_eq!(set("off"), (Answer::Done {}, None));
    server.stop();
}

#[test]
fn faults_are_armed_all_or_none_and_cleared() {
    let server = Running::start();
    let mut reader = Reader::connect(&server.control);
    reader.send("{\"id\":1,\"command\":\"inject\",\"faults\":[\"copy:fail@9\",\"gpu:gone@5\"]}\n");
    let done = Reply {
        id: 1,
        answer: Answer::Done {},
    };
    assert_eq!(reader.reply(), done);
    reader.send("{\"id\":2,\"command\":\"inject\",\"faults\":[\"copy:drop\",\"copy:burn\"]}\n");
    let why = reader.error(2);
    assert!(why.contains("'copy:burn' is not a fault"), "{why}");
    let many = vec!["copy:drop"; 63];
    let many = serde_json::json!({ "id": 3, "command": "inject", "faults": many });
    reader.send(format!("{many}\n"));
    let why = reader.error(3);
    assert!(why.contains("64 faults can be armed"), "{why}");
    let armed = |snapshot: Snapshot| {
        let armed = snapshot.injected.into_iter().filter(|fault| fault.armed);
        armed.map(|fault| fault.spec).collect::<Vec<_>>()
    };
    reader.send(SNAPSHOT);
    assert_eq!(armed(reader.snapshot(1)), ["copy:fail@9", "gpu:gone@5"]);
    reader.send("{\"id\":1,\"command\":\"clear_injected\"}\n");
    assert_eq!(reader.reply(), done);
    reader.send(SNAPSHOT);
    assert_eq!(armed(reader.snapshot(1)), Vec::<String>::new());
    server.stop();
}
