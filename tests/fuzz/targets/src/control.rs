//! The control socket: any bytes on a connection, and the answers to them.

use hmmgpu_model::{Action, Device, FaultSpec, LinkSpec, MAX_FAULTS};
use hmmgpu_server::serve_control_client;
use hmmgpu_telemetry::control::{
    Answer, Command, Hello, INTERVAL_MS, MAX_REQUEST_BYTES, PROTOCOL, Reply, Request,
};
use hmmgpu_telemetry::snapshot::SCHEMA;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

use crate::breakage::is_at_once;
use crate::device::{is_gone, small_device};

/// Longest input: some requests of the greatest length.
const MOST_BYTES: usize = 4 * MAX_REQUEST_BYTES;

/// Bytes from a client that then closes its half. Holds: the greeting comes first; each line gets
/// one answer of its id, of its kind and in order, up to a line that is too long, which ends the
/// connection; every answer is one line of JSON; and what was asked for is armed and modelled.
pub fn control(data: &[u8]) {
    let data = &data[..data.len().min(MOST_BYTES)];
    let told = runtime().block_on(talk(data));
    assert!(told.ends_with(b"\n"), "an answer is cut off");
    let mut lines = told.split(|byte| *byte == b'\n');
    let greeting: Hello = next(&mut lines).expect("a greeting");
    assert_eq!(greeting, hello());

    // A subscription's snapshots come whenever nothing else has to be answered.
    let mut subscriptions = Vec::new();
    let mut asked = Asked::default();
    for line in requests(data) {
        let expected = asked.expected(line);
        if let Expected::Subscribed(id) = expected {
            subscriptions.push(id);
            continue;
        }
        let mut reply: Reply = next(&mut lines).expect("an answer to each line");
        while subscriptions.contains(&reply.id) && !expected.is(&reply) {
            assert!(is_snapshot(&reply.answer), "{reply:?}");
            reply = next(&mut lines).expect("an answer to each line");
        }
        assert!(expected.is(&reply), "{expected:?}: {reply:?}");
    }
    while let Some(reply) = next::<Reply>(&mut lines) {
        let subscribed = subscriptions.contains(&reply.id);
        assert!(subscribed, "an answer to nothing: {reply:?}");
        assert!(is_snapshot(&reply.answer), "{reply:?}");
    }
    asked.done_by(small_device());
}

/// Time stands still while anything happens, and jumps when nothing does: nobody waits.
fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("the host has room for a runtime")
}

fn hello() -> Hello {
    Hello {
        protocol: PROTOCOL.to_owned(),
        revision: "fuzz".to_owned(),
        pid: 1,
        label: String::new(),
        socket: "/nowhere".to_owned(),
    }
}

/// All that the server says to these bytes.
async fn talk(data: &[u8]) -> Vec<u8> {
    let (client, server) = UnixStream::pair().expect("a pair of sockets");
    let serving = serve_control_client(server, small_device().clone(), hello());
    let (mut reader, mut writer) = client.into_split();
    let writing = async {
        // The server may have closed before all is written.
        let _ = writer.write_all(data).await;
        let _ = writer.shutdown().await;
    };
    let reading = async {
        let mut told = Vec::new();
        let end = reader.read_to_end(&mut told).await;
        // A server that does not read all that was sent leaves a reset connection.
        if let Err(error) = end {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
        }
        told
    };
    let (_, (), told) = tokio::join!(serving, writing, reading);
    told
}

/// What a line should be answered with.
#[derive(Debug, PartialEq, Eq)]
enum Expected {
    Snapshot(u64),
    Subscribed(u64),
    Done(u64),
    Refused(u64),
    Events(u64),
}

impl Expected {
    fn is(&self, reply: &Reply) -> bool {
        let Reply { id, answer } = reply;
        match self {
            Self::Snapshot(of) => of == id && is_snapshot(answer),
            Self::Done(of) => of == id && *answer == Answer::Done {},
            Self::Refused(of) => of == id && matches!(answer, Answer::Error(_)),
            Self::Events(of) => of == id && matches!(answer, Answer::Events(_)),
            Self::Subscribed(_) => false,
        }
    }
}

fn is_snapshot(answer: &Answer) -> bool {
    matches!(answer, Answer::Snapshot(snapshot) if snapshot.schema == SCHEMA)
}

/// Lines as the server should see them: the last may lack its end.
fn requests(data: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<&[u8]> = data.split(|byte| *byte == b'\n').collect();
    lines.pop_if(|last| last.is_empty());
    // The line that is too long is the last that is answered.
    if let Some(long) = lines.iter().position(|line| line.len() > MAX_REQUEST_BYTES) {
        lines.truncate(long + 1);
    }
    lines
}

/// What was asked of the device, as far as it lasts.
#[derive(Debug, Default)]
struct Asked {
    /// Faults that are armed: nothing comes by, so that they stay so.
    armed: usize,
    gone: bool,
    link: Option<LinkSpec>,
}

impl Asked {
    fn expected(&mut self, line: &[u8]) -> Expected {
        if line.len() > MAX_REQUEST_BYTES {
            return Expected::Refused(0);
        }
        let Ok(Request { id, command }) = serde_json::from_slice(line) else {
            return Expected::Refused(0);
        };
        let done = match command {
            Command::Snapshot { .. } => return Expected::Snapshot(id),
            Command::Events { .. } => return Expected::Events(id),
            Command::Subscribe { interval_ms } if INTERVAL_MS.contains(&interval_ms) => {
                return Expected::Subscribed(id);
            }
            Command::Subscribe { .. } => false,
            Command::Unsubscribe => true,
            Command::Inject { faults } => self.inject(&faults),
            Command::ClearInjected => {
                (self.armed, self.gone) = (0, false);
                true
            }
            Command::SetLink { link } => match link.parse() {
                Ok(link) => {
                    self.link = Some(link);
                    true
                }
                Err(_) => false,
            },
        };
        if done {
            Expected::Done(id)
        } else {
            Expected::Refused(id)
        }
    }

    /// Whether these are armed.
    fn inject(&mut self, faults: &[String]) -> bool {
        let faults: Result<Vec<FaultSpec>, _> = faults.iter().map(|fault| fault.parse()).collect();
        let Ok(faults) = faults else { return false };
        if self.armed + faults.len() > MAX_FAULTS {
            return false;
        }
        for fault in faults {
            let at_once = is_at_once(&fault);
            self.gone |= at_once && fault.action == Action::Gone;
            self.armed += usize::from(!at_once || fault.times != Some(1));
        }
        true
    }

    /// The device is as it should be, and as before when this returns.
    fn done_by(self, device: &Device) {
        let snapshot = device.snapshot();
        let armed = snapshot.injected.iter().filter(|fault| fault.armed);
        assert_eq!(armed.count(), self.armed, "{:?}", snapshot.injected);
        assert_eq!(is_gone(device), self.gone, "{:?}", snapshot.injected);
        let asked = self.link.filter(|link| link.rates().is_some());
        let modelled = snapshot.link_model.map(|model| model.spec);
        assert_eq!(modelled, asked.map(|link| link.to_string()));
        device.clear_injected();
        assert!(!is_gone(device), "cleared");
        device.set_link(LinkSpec::off());
    }
}

/// The next line; `None` when there is none.
fn next<'a, T: serde::de::DeserializeOwned>(
    lines: &mut impl Iterator<Item = &'a [u8]>,
) -> Option<T> {
    let line = lines.next().filter(|line| !line.is_empty())?;
    Some(serde_json::from_slice(line).expect("a line of JSON"))
}
