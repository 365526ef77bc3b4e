//! A control server that is made up.

use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use hmmgpu_telemetry::Event;
use hmmgpu_telemetry::control::{Answer, Command, Hello, Reply, Request};

use crate::sample;

/// Answers until it is dropped: first with the older of the two snapshots, then with the newer.
/// A subscription gets both at once, and a third, but no more: nothing depends on the time.
pub(crate) struct Server {
    path: PathBuf,
    listener: Arc<UnixListener>,
    clients: Arc<Mutex<Vec<UnixStream>>>,
}

impl Server {
    /// Starts one in a runtime directory that has none.
    pub(crate) fn start(runtime: &Path, hello: Hello) -> Self {
        let folder = runtime.join("hmmgpu");
        let mut builder = std::fs::DirBuilder::new();
        builder.mode(0o700).create(&folder).expect("makes");
        let path = folder.join(format!("{}.control", hello.pid));
        let listener = Arc::new(UnixListener::bind(&path).expect("binds"));
        let clients = Arc::new(Mutex::new(Vec::new()));
        let (ours, all) = (Arc::clone(&listener), Arc::clone(&clients));
        std::thread::spawn(move || {
            while let Ok((client, _)) = ours.accept() {
                let copy = client.try_clone().expect("clones");
                all.lock().expect("locks").push(copy);
                let hello = hello.clone();
                std::thread::spawn(move || serve(client, &hello));
            }
        });
        Self {
            path,
            listener,
            clients,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        for client in self.clients.lock().expect("locks").iter() {
            let _ = client.shutdown(Shutdown::Both);
        }
    }
}

/// Until the client has gone.
fn serve(mut client: UnixStream, hello: &Hello) -> Option<()> {
    let requests = BufReader::new(client.try_clone().ok()?);
    writeln!(client, "{}", serde_json::to_string(hello).ok()?).ok()?;
    for (asked, line) in requests.lines().enumerate() {
        let request: Request = serde_json::from_str(&line.ok()?).ok()?;
        let mut later = sample::now();
        later.time_ns += 200_000_000;
        let snapshot = |snapshot| Answer::Snapshot(Box::new(snapshot));
        let answers = match request.command {
            Command::Snapshot { .. } if asked == 0 => vec![snapshot(sample::before())],
            Command::Snapshot { .. } => vec![snapshot(sample::now())],
            Command::Subscribe { .. } => [sample::before(), sample::now(), later]
                .map(snapshot)
                .into(),
            Command::Unsubscribe => vec![],
            Command::Events { last } => vec![Answer::Events(events(last))],
            Command::Inject { .. } | Command::ClearInjected | Command::SetLink { .. } => {
                vec![Answer::Done {}]
            }
        };
        for answer in answers {
            let reply = Reply {
                id: request.id,
                answer,
            };
            writeln!(client, "{}", serde_json::to_string(&reply).ok()?).ok()?;
        }
    }
    Some(())
}

/// The last events, of two.
fn events(last: usize) -> Vec<Event> {
    let event = |seconds: u64, event: &str, text: &str| Event {
        time_ns: sample::now().started_ns + seconds * 1_000_000_000,
        generation: 1,
        queue: None,
        event: event.into(),
        text: text.into(),
    };
    let mut events = vec![
        event(1, "reset", "by flr, begins generation 1"),
        event(2, "told", "something"),
    ];
    events.split_off(events.len().saturating_sub(last))
}
