//! What is said on a device server's control socket.
//!
//! A unix stream socket; each message is one JSON object on one line. The server greets with
//! [`Hello`]. The client sends [`Request`]s, each of which gets one [`Reply`] with its `id`, in
//! order; a subscription's replies follow until the client asks for another or closes.

use serde::{Deserialize, Serialize};

use crate::events::Event;
use crate::snapshot::Snapshot;

/// Version of this protocol. Servers and clients of another major version do not talk.
pub const PROTOCOL: &str = "hmmgpu.control/1";
/// Longest line that a server reads, in bytes. A client that sends more is dropped.
pub const MAX_REQUEST_BYTES: usize = 4096;
/// Longest line that a client has to read, in bytes: far beyond a snapshot of full bounds.
pub const MAX_REPLY_BYTES: usize = 64 << 20;
/// Shortest and longest interval of a subscription, in milliseconds.
pub const INTERVAL_MS: std::ops::RangeInclusive<u64> = 50..=3_600_000;

/// The first line, from the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
pub struct Hello {
    /// [`PROTOCOL`].
    pub protocol: String,
    /// Revision of the server.
    pub revision: String,
    /// Its process.
    pub pid: u32,
    /// What it is for, for a person: the command and its number of the GPU, such as `bench` or
    /// `run, GPU 1`; empty if it was not told.
    pub label: String,
    /// Where its vfio-user socket is.
    pub socket: String,
}

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
pub struct Request {
    /// The client's name for it; in the reply.
    #[serde(default)]
    pub id: u64,
    /// What it wants.
    #[serde(flatten)]
    pub command: Command,
}

/// What there is to want.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// One snapshot. Windows are left out unless asked for.
    Snapshot {
        /// With windows.
        #[serde(default)]
        windows: bool,
    },
    /// A snapshot without windows now, and one after every interval. A client that does not keep
    /// up misses some; none is queued.
    Subscribe {
        /// Interval in milliseconds, [`INTERVAL_MS`].
        interval_ms: u64,
    },
    /// Ends the subscription.
    Unsubscribe,
    /// The last events of the device.
    Events {
        /// So many at most; there are [`MAX_EVENTS`](crate::MAX_EVENTS) at most.
        #[serde(default = "some_events")]
        last: usize,
    },
    /// Arms faults, all of them or none; see `docs/faults.md` for how they are written.
    Inject {
        /// The faults.
        faults: Vec<String>,
    },
    /// Disarms all faults; a device that was gone is there again, as after power-on.
    ClearInjected,
    /// Models a link between guest RAM and VRAM from now on; see `docs/link.md`.
    SetLink {
        /// Which one; `off`: none.
        link: String,
    },
}

/// Events for whoever does not say how many.
fn some_events() -> usize {
    64
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
pub struct Reply {
    /// As in the request; of a line that is no request: 0.
    pub id: u64,
    /// The answer.
    #[serde(flatten)]
    pub answer: Answer,
}

/// What there is to answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// A snapshot.
    Snapshot(Box<Snapshot>),
    /// The last events of the device, the oldest first.
    Events(Vec<Event>),
    /// It is done.
    Done {},
    /// It was not a request that can be answered; the reason, for a person.
    Error(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_easy_to_write_by_hand() {
        let parse = |text: &str| serde_json::from_str::<Request>(text).unwrap();
        assert_eq!(
            parse(r#"{"command":"snapshot"}"#),
            Request {
                id: 0,
                command: Command::Snapshot { windows: false }
            }
        );
        assert_eq!(
            parse(r#"{"command":"events"}"#).command,
            Command::Events { last: 64 }
        );
        assert_eq!(
            parse(r#"{"id":3,"command":"subscribe","interval_ms":500}"#),
            Request {
                id: 3,
                command: Command::Subscribe { interval_ms: 500 }
            }
        );
    }

    #[test]
    fn replies_say_what_they_are() {
        let error = Reply {
            id: 7,
            answer: Answer::Error("no".into()),
        };
        let text = serde_json::to_string(&error).unwrap();
        assert_eq!(text, r#"{"id":7,"error":"no"}"#);
        assert_eq!(serde_json::from_str::<Reply>(&text).unwrap(), error);
    }
}
