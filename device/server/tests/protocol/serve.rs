//! The life of a server: its socket, its end, its telemetry.

use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use hmmgpu_server::{
    ControlOptions, LinkSpec, MetricsListener, ServeError, ServeOptions, Server, Shutdown,
    SocketError, TelemetryOutput, serve,
};
use hmmgpu_telemetry::CheckMode;
use hmmgpu_telemetry::snapshot::{SCHEMA, Snapshot};
use tempfile::TempDir;

use crate::bytes;
use crate::common::*;

/// What the server says it is for.
pub(crate) const LABEL: &str = "a test";

/// A server on a thread.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) socket: PathBuf,
    pub(crate) control: PathBuf,
    pub(crate) metrics: SocketAddr,
    pub(crate) telemetry: PathBuf,
    shutdown: Shutdown,
    thread: JoinHandle<Result<(), ServeError>>,
    directory: TempDir,
}

impl Running {
    pub(crate) fn start() -> Self {
        Self::start_with(|_| {})
    }

    /// With other options than the usual ones.
    pub(crate) fn start_with(change: impl FnOnce(&mut ServeOptions)) -> Self {
        let directory = tempfile::tempdir().expect("tempdir");
        let socket = directory.path().join("gpu.sock");
        let control = directory.path().join("gpu.control");
        let telemetry = directory.path().join("telemetry.json");
        let mut options = options(&socket);
        options.control = Some(ControlOptions {
            path: Some(control.clone()),
            label: LABEL.to_owned(),
            revision: "test".to_owned(),
        });
        options.telemetry = Some(TelemetryOutput::File(telemetry.clone()));
        change(&mut options);
        let metrics = MetricsListener::bind(([127, 0, 0, 1], 0).into()).expect("bind");
        let address = metrics.address();
        let server = Server::bind(&options).expect("bind").with_metrics(metrics);
        let shutdown = Shutdown::new().expect("shutdown");
        let handle = shutdown.clone();
        let thread = std::thread::spawn(move || server.run(&handle));
        Self {
            socket,
            control,
            metrics: address,
            telemetry,
            shutdown,
            thread,
            directory,
        }
    }

    /// Stops it, wherever it is, and returns its telemetry.
    pub(crate) fn stop(self) -> Snapshot {
        self.shutdown.trigger();
        let thread = self.thread;
        bounded(move || thread.join().expect("no panic")).expect("a good end");
        let text = std::fs::read(&self.telemetry).expect("telemetry");
        let names: Vec<_> = std::fs::read_dir(self.directory.path())
            .expect("read_dir")
            .map(|entry| entry.expect("entry").file_name())
            .collect();
        assert_eq!(names, ["telemetry.json"], "nothing else is left");
        serde_json::from_slice(&text).expect("a snapshot")
    }
}

pub(crate) fn options(socket: &Path) -> ServeOptions {
    ServeOptions {
        socket: socket.to_owned(),
        vram_bytes: VRAM_BYTES,
        check: CheckMode::Folio,
        telemetry: None,
        control: None,
        trace: None,
        inject: Vec::new(),
        link: LinkSpec::off(),
        sandbox: false,
    }
}

/// An error and what it comes from, as a program tells them.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<_> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}

#[track_caller]
fn refused(socket: &Path) -> SocketError {
    match Server::bind(&options(socket)) {
        Err(ServeError::Socket(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_the_owner_can_connect() {
    let server = Running::start();
    let metadata = server.socket.metadata().expect("metadata");
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    server.stop();
}

#[test]
fn telemetry_is_written_at_the_end() {
    let server = Running::start();
    let mut client = Raw::negotiated(&server.socket);
    let memory = memory(1 << 20);
    let map = bytes![32u32, 3u32, 0u64, 0u64, 1u64 << 20];
    client
        .call_with(DMA_MAP, &map, &[std::os::fd::AsFd::as_fd(&memory)])
        .ok();
    assert!(!server.telemetry.exists(), "only at the end");
    // The client is still there: what it did shows.
    let snapshot = server.stop();
    assert_eq!(snapshot.schema, SCHEMA);
    assert_eq!(snapshot.vram.bytes, VRAM_BYTES);
    assert_eq!(snapshot.events.dma_maps, 1);
    client.expect_end();
}

#[test]
fn a_live_servers_socket_is_refused() {
    let server = Running::start();
    let error = refused(&server.socket);
    assert!(matches!(error, SocketError::InUse { .. }), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains(server.socket.to_str().expect("UTF-8")),
        "{text}"
    );
    // Busy with a client it is refused as well, and neither is disturbed.
    let mut client = Raw::negotiated(&server.socket);
    assert!(matches!(refused(&server.socket), SocketError::InUse { .. }));
    client.call(DEVICE_RESET, &[]).ok();
    drop(client);
    Raw::negotiated(&server.socket).call(DEVICE_RESET, &[]).ok();
    server.stop();
}

#[test]
fn a_live_socket_is_refused_whoever_listens() {
    let directory = tempfile::tempdir().expect("tempdir");
    let path = directory.path().join("s");
    let _listener = UnixListener::bind(&path).expect("bind");
    assert!(matches!(refused(&path), SocketError::InUse { .. }));
    // With a backlog that is full, too.
    let full: Vec<_> = std::iter::from_fn(|| {
        let socket = rustix::net::socket_with(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::STREAM,
            rustix::net::SocketFlags::NONBLOCK | rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .expect("socket");
        let address = rustix::net::SocketAddrUnix::new(&path).expect("address");
        rustix::net::connect(&socket, &address)
            .is_ok()
            .then_some(socket)
    })
    .take(5000)
    .collect();
    assert!(full.len() < 5000, "the backlog has a bound");
    assert!(matches!(refused(&path), SocketError::InUse { .. }));
    assert!(path.exists());
}

#[test]
fn a_dead_servers_socket_is_replaced() {
    let directory = tempfile::tempdir().expect("tempdir");
    let path = directory.path().join("s");
    drop(UnixListener::bind(&path).expect("bind"));
    let before = path.metadata().expect("the dead socket").ctime_nsec();
    let server = Server::bind(&options(&path)).expect("bind");
    assert_ne!(
        path.metadata().expect("the new socket").ctime_nsec(),
        before
    );
    drop(server);
    assert!(!path.exists());
}

#[test]
fn what_is_not_a_socket_is_refused_and_kept() {
    let directory = tempfile::tempdir().expect("tempdir");
    let file = directory.path().join("file");
    std::fs::write(&file, "precious").expect("write");
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(directory.path().join("nowhere"), &link).expect("symlink");
    for path in [file.as_path(), directory.path(), &link] {
        assert!(
            matches!(refused(path), SocketError::NotASocket { .. }),
            "{path:?}"
        );
    }
    assert_eq!(std::fs::read_to_string(&file).expect("read"), "precious");
    assert!(link.is_symlink());
}

#[test]
fn paths_that_cannot_work_are_refused_with_the_reason() {
    let directory = tempfile::tempdir().expect("tempdir");
    let long = directory.path().join("x".repeat(120));
    match refused(&long) {
        SocketError::TooLong { length, .. } => assert_eq!(length, long.as_os_str().len()),
        other => panic!("{other:?}"),
    }
    assert!(refused(&long).to_string().contains("107"));

    let bytes = directory.path().join(std::ffi::OsStr::from_bytes(b"\xff"));
    assert!(matches!(refused(&bytes), SocketError::NotUtf8 { .. }));

    let missing = directory.path().join("no/such/s");
    let text = chain(&refused(&missing));
    let parent = directory.path().join("no/such");
    let expected = format!(
        "there is no directory {} for the socket: make it, or choose another path",
        parent.display()
    );
    assert_eq!(text, expected);

    // Anything else the system says is said once.
    let file = directory.path().join("file");
    std::fs::write(&file, "").expect("write");
    let inside = file.join("s");
    let expected = format!(
        "cannot look at the socket {}: Not a directory (os error 20)",
        inside.display()
    );
    assert_eq!(chain(&refused(&inside)), expected);

    // The longest that works.
    let rest = 107 - directory.path().as_os_str().len() - 1;
    let longest = directory.path().join("y".repeat(rest));
    drop(Server::bind(&options(&longest)).expect("bind"));
}

#[test]
fn of_many_that_start_at_once_on_a_dead_socket_one_wins() {
    let directory = tempfile::tempdir().expect("tempdir");
    let path = directory.path().join("s");
    drop(UnixListener::bind(&path).expect("bind"));
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let options = options(&path);
            std::thread::spawn(move || Server::bind(&options))
        })
        .collect();
    let results: Vec<_> = bounded(move || {
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect()
    });
    let (servers, errors): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!(servers.len(), 1, "{errors:?}");
    for error in errors {
        assert!(
            matches!(error, Err(ServeError::Socket(SocketError::InUse { .. }))),
            "{error:?}"
        );
    }
    // The one that won is the one that listens there.
    let shutdown = Shutdown::new().expect("shutdown");
    let (handle, server) = (shutdown.clone(), servers.into_iter().next());
    let server = server.expect("one").expect("it won");
    let thread = std::thread::spawn(move || server.run(&handle));
    Raw::negotiated(&path).call(DEVICE_RESET, &[]).ok();
    shutdown.trigger();
    bounded(move || thread.join().expect("no panic")).expect("a good end");
    assert!(!path.exists());
}

#[test]
fn a_socket_that_was_replaced_meanwhile_is_left_alone() {
    let directory = tempfile::tempdir().expect("tempdir");
    let path = directory.path().join("s");
    let server = Server::bind(&options(&path)).expect("bind");
    std::fs::rename(&path, directory.path().join("moved")).expect("rename");
    std::fs::write(&path, "another's").expect("write");
    drop(server);
    assert_eq!(std::fs::read_to_string(&path).expect("read"), "another's");
}

#[test]
fn it_stops_wherever_a_client_is() {
    // Before any; after one that says nothing; inside a message; with replies that nobody reads.
    Running::start().stop();

    let server = Running::start();
    let _silent = Raw::connect(&server.socket);
    server.stop();

    let server = Running::start();
    let client = Raw::negotiated(&server.socket);
    client.send(&message(1, REGION_WRITE, COMMAND, &[0; 100])[..50], &[]);
    server.stop();

    let server = Running::start();
    let client = Raw::negotiated(&server.socket);
    for id in 0..100 {
        let read = bytes![0u64, CONFIG, 1u32 << 20];
        client.send(&message(id, REGION_READ, COMMAND, &read), &[]);
    }
    server.stop();
}

#[test]
fn it_stops_at_once_when_it_was_told_before_it_ran() {
    let directory = tempfile::tempdir().expect("tempdir");
    let options = options(&directory.path().join("s"));
    let shutdown = Shutdown::new().expect("shutdown");
    assert!(!shutdown.is_triggered());
    shutdown.trigger();
    assert!(shutdown.is_triggered());
    let handle = shutdown.clone();
    bounded(move || serve(&options, &handle)).expect("a good end");
    // And again: the handle stays triggered.
    assert!(shutdown.is_triggered());
}

#[test]
fn an_output_that_cannot_be_written_is_refused_before_the_socket_exists() {
    let directory = tempfile::tempdir().expect("tempdir");
    let mut options = options(&directory.path().join("s"));
    options.telemetry = Some(TelemetryOutput::File(directory.path().join("no/t.json")));
    let error = Server::bind(&options).expect_err("refused");
    assert!(matches!(error, ServeError::Telemetry { .. }), "{error:?}");
    let path = directory.path().display();
    let advice = "choose another file";
    assert_eq!(
        chain(&error),
        format!(
            "cannot write the telemetry to {path}/no/t.json, {advice}: there is no directory {path}/no"
        )
    );
    assert!(!options.socket.exists());

    // What the system says is said once, and names no file but the one that was chosen.
    options.telemetry = Some(TelemetryOutput::File("/proc/t.json".into()));
    let error = Server::bind(&options).expect_err("refused");
    let text = chain(&error);
    let start = format!("cannot write the telemetry to /proc/t.json, {advice}: ");
    assert!(text.starts_with(&start), "{text}");
    assert_eq!(text.matches("(os error").count(), 1, "{text}");
    assert!(!text.contains(".hmmgpu-telemetry"), "{text}");
    assert!(!options.socket.exists());
}

#[test]
fn vram_that_cannot_be_is_refused_before_the_socket_exists() {
    let directory = tempfile::tempdir().expect("tempdir");
    let mut options = options(&directory.path().join("s"));
    options.vram_bytes = 12345;
    assert!(matches!(Server::bind(&options), Err(ServeError::Device(_))));
    assert!(!options.socket.exists());
}
