//! A client of QEMU's control socket, as far as the launcher needs it.
//!
//! QMP is one JSON object a line: a greeting, then replies in the order of the commands, with
//! events in between. That is less code than any of the general clients would bring in, and every
//! wait here is bounded.

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

/// How long QEMU may take for an answer.
pub const ANSWER_TIME: Duration = Duration::from_secs(10);
/// Longest line; a peer that sends a longer one is not QEMU.
const MAX_LINE: u64 = 4 << 20;

/// What QEMU says without being asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// An event: its name and data.
    Event(String, Value),
    /// Nothing more will come.
    Closed,
}

/// A command failed.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// QEMU refused a command.
    #[error("QEMU refused '{command}': {reason}")]
    Refused {
        /// The command.
        command: String,
        /// QEMU's words.
        reason: String,
    },
    /// No answer in time.
    #[error("QEMU did not answer '{command}' in {} s", ANSWER_TIME.as_secs())]
    Silent {
        /// The command.
        command: String,
    },
    /// The connection ended.
    #[error("QEMU closed its control socket")]
    Closed,
    /// The peer does not speak QMP.
    #[error("no valid QMP: {0}")]
    Protocol(String),
}

/// A connection.
#[derive(Debug)]
pub struct Qmp {
    stream: UnixStream,
    replies: Receiver<Value>,
    next_id: u64,
    /// QEMU's version, for example `11.1.3 (Debian 1:11.1.3+ds-1)`.
    pub version: String,
}

impl Qmp {
    /// Takes the greeting and leaves negotiation mode. `notify` is called on a thread of its own
    /// and must not block; its last call is [`Notice::Closed`].
    pub fn new(
        stream: UnixStream,
        notify: impl FnMut(Notice) + Send + 'static,
    ) -> Result<Self, QmpError> {
        let (sender, replies) = unbounded();
        let reader = stream
            .try_clone()
            .map_err(|error| QmpError::Protocol(error.to_string()))?;
        std::thread::Builder::new()
            .name("qmp".into())
            .spawn(move || read(reader, &sender, notify))
            .map_err(|error| QmpError::Protocol(error.to_string()))?;
        let mut qmp = Self {
            stream,
            replies,
            next_id: 0,
            version: String::new(),
        };
        let greeting = qmp.reply("greeting", Instant::now() + ANSWER_TIME)?;
        let about = &greeting["QMP"]["version"];
        let number = |part: &str| about["qemu"][part].as_u64();
        let (Some(major), Some(minor), Some(micro)) =
            (number("major"), number("minor"), number("micro"))
        else {
            return Err(QmpError::Protocol("the greeting has no version".into()));
        };
        let package = about["package"].as_str().unwrap_or_default();
        qmp.version = format!("{major}.{minor}.{micro}");
        if !package.is_empty() {
            qmp.version.push_str(&format!(" ({package})"));
        }
        qmp.execute("qmp_capabilities", None)?;
        Ok(qmp)
    }

    /// Runs a command and waits for its result, at most [`ANSWER_TIME`].
    pub fn execute(&mut self, command: &str, arguments: Option<Value>) -> Result<Value, QmpError> {
        self.next_id += 1;
        let id = self.next_id;
        let mut request = Map::new();
        request.insert("execute".into(), command.into());
        request.insert("id".into(), id.into());
        if let Some(arguments) = arguments {
            request.insert("arguments".into(), arguments);
        }
        let mut line = Value::Object(request).to_string();
        line.push('\n');
        // A command is far smaller than the socket's buffer: this does not block.
        self.stream
            .write_all(line.as_bytes())
            .map_err(|_| QmpError::Closed)?;
        let deadline = Instant::now() + ANSWER_TIME;
        loop {
            let mut reply = self.reply(command, deadline)?;
            if reply["id"] != id {
                // The late answer to a command that was given up.
                continue;
            }
            if let Some(error) = reply.get("error") {
                return Err(QmpError::Refused {
                    command: command.to_owned(),
                    reason: error["desc"]
                        .as_str()
                        .unwrap_or("no reason given")
                        .to_owned(),
                });
            }
            return Ok(reply["return"].take());
        }
    }

    /// `status` of `query-status`: `running`, `paused`, `internal-error`, `guest-panicked`, ...
    pub fn status(&mut self) -> Result<String, QmpError> {
        let reply = self.execute("query-status", None)?;
        reply["status"]
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| QmpError::Protocol("query-status has no status".into()))
    }

    fn reply(&self, command: &str, deadline: Instant) -> Result<Value, QmpError> {
        match self
            .replies
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            Ok(reply) => Ok(reply),
            Err(RecvTimeoutError::Timeout) => Err(QmpError::Silent {
                command: command.to_owned(),
            }),
            Err(RecvTimeoutError::Disconnected) => Err(QmpError::Closed),
        }
    }
}

impl Drop for Qmp {
    fn drop(&mut self) {
        // Ends the reading thread.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

fn read(stream: UnixStream, replies: &Sender<Value>, mut notify: impl FnMut(Notice)) {
    let mut input = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        match input.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        let Ok(mut message) = serde_json::from_slice::<Value>(&line) else {
            tracing::warn!(
                "QEMU sent a line that is no JSON; its control socket is not used any more"
            );
            break;
        };
        if let Some(event) = message["event"].as_str().map(str::to_owned) {
            notify(Notice::Event(event, message["data"].take()));
        } else if replies.send(message).is_err() {
            break;
        }
    }
    notify(Notice::Closed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const GREETING: &str = r#"{"QMP":{"version":{"qemu":{"micro":3,"minor":1,"major":11},"package":"Debian"},"capabilities":["oob"]}}"#;

    /// A QEMU that greets, and answers each request by what `answer` makes of it.
    fn fake(
        greeting: &'static str,
        mut answer: impl FnMut(&Value) -> Vec<Value> + Send + 'static,
    ) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        std::thread::spawn(move || {
            let mut output = theirs.try_clone().expect("clones");
            let _ = writeln!(output, "{greeting}");
            for line in BufReader::new(theirs).lines() {
                let Ok(line) = line else { break };
                let request: Value = serde_json::from_str(&line).expect("JSON");
                for reply in answer(&request) {
                    let _ = writeln!(output, "{reply}");
                }
            }
        });
        ours
    }

    fn well(request: &Value) -> Value {
        json!({"return": {"status": "running"}, "id": request["id"]})
    }

    #[test]
    fn greeting_capabilities_and_a_command() {
        let mut seen = Vec::new();
        let (sender, commands) = unbounded();
        let stream = fake(GREETING, move |request| {
            sender
                .send(request["execute"].as_str().unwrap_or("").to_owned())
                .expect("sends");
            vec![well(request)]
        });
        let mut qmp = Qmp::new(stream, |_| {}).expect("connects");
        assert_eq!(qmp.version, "11.1.3 (Debian)");
        assert_eq!(qmp.status().expect("a status"), "running");
        drop(qmp);
        seen.extend(commands.iter());
        assert_eq!(seen, ["qmp_capabilities", "query-status"]);
    }

    #[test]
    fn events_between_replies_and_the_end_are_told() {
        let stream = fake(GREETING, |request| {
            vec![
                json!({"event": "STOP", "data": {"n": 1}, "timestamp": {}}),
                well(request),
            ]
        });
        let (sender, notices) = unbounded();
        let mut qmp =
            Qmp::new(stream, move |notice| sender.send(notice).expect("sends")).expect("connects");
        qmp.execute("cont", None).expect("answers");
        drop(qmp);
        let notices: Vec<_> = notices.iter().collect();
        let stop = Notice::Event("STOP".into(), json!({"n": 1}));
        assert_eq!(notices, [stop.clone(), stop, Notice::Closed]);
    }

    #[test]
    fn a_refusal_has_the_reason() {
        let stream = fake(GREETING, |request| {
            vec![if request["execute"] == "cont" {
                json!({"error": {"class": "GenericError", "desc": "no way"}, "id": request["id"]})
            } else {
                well(request)
            }]
        });
        let mut qmp = Qmp::new(stream, |_| {}).expect("connects");
        let error = qmp.execute("cont", None).expect_err("refused").to_string();
        assert_eq!(error, "QEMU refused 'cont': no way");
    }

    #[test]
    fn an_answer_to_another_command_is_passed_over() {
        let stream = fake(GREETING, |request| {
            vec![
                json!({"return": {"status": "wrong"}, "id": 1000}),
                well(request),
            ]
        });
        let mut qmp = Qmp::new(stream, |_| {}).expect("connects");
        assert_eq!(qmp.status().expect("a status"), "running");
    }

    #[test]
    fn a_peer_that_goes_away_or_talks_nonsense_is_an_error() {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        drop(theirs);
        assert!(matches!(Qmp::new(ours, |_| {}), Err(QmpError::Closed)));
        let stream = fake("nonsense", |_| vec![]);
        assert!(matches!(Qmp::new(stream, |_| {}), Err(QmpError::Closed)));
        let stream = fake("{}", |_| vec![]);
        assert!(matches!(
            Qmp::new(stream, |_| {}),
            Err(QmpError::Protocol(_))
        ));
    }
}
