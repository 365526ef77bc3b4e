//! What must come back for a stream of bytes, by the protocol's rules for messages alone.

use hmmgpu_server::{ConnectionError, MAX_MESSAGE_BYTES};

use super::message::HEADER_BYTES;

const TYPE_MASK: u32 = 0xf;
const TYPE_COMMAND: u32 = 0;
const TYPE_REPLY: u32 = 1;
const NO_REPLY: u32 = 1 << 4;
const ERROR: u32 = 1 << 5;
/// The VERSION command.
const VERSION: u16 = 1;

/// How a stream ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    Whole,
    /// With a size that cannot be.
    Framing(u32),
    /// After so many bytes of a message.
    Cut(usize),
}

impl From<Result<(), ConnectionError>> for End {
    fn from(result: Result<(), ConnectionError>) -> Self {
        match result {
            Ok(()) => Self::Whole,
            Err(ConnectionError::Framing { size }) => Self::Framing(size),
            Err(ConnectionError::Truncated { received }) => Self::Cut(received),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Id and command of a message that is answered.
type Asked = (u16, u16);

struct Header {
    asked: Asked,
    size: usize,
    flags: u32,
    error: u32,
}

fn header(bytes: &[u8]) -> Option<Header> {
    let bytes = bytes.get(..HEADER_BYTES)?;
    let half = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
    let word =
        |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    Some(Header {
        asked: (half(0), half(2)),
        size: usize::try_from(word(4)).expect("32 bits"),
        flags: word(8),
        error: word(12),
    })
}

/// The messages of a stream that are answered, in order, and how it ends.
pub(super) fn answered(mut bytes: &[u8]) -> (Vec<Asked>, End) {
    let mut asked = Vec::new();
    loop {
        let Some(header) = header(bytes) else {
            let end = match bytes.len() {
                0 => End::Whole,
                cut => End::Cut(cut),
            };
            return (asked, end);
        };
        if !(HEADER_BYTES..=MAX_MESSAGE_BYTES).contains(&header.size) {
            let size = u32::try_from(header.size).expect("32 bits");
            return (asked, End::Framing(size));
        }
        let Some(rest) = bytes.get(header.size..) else {
            return (asked, End::Cut(bytes.len()));
        };
        if header.flags & TYPE_MASK != TYPE_REPLY && header.flags & NO_REPLY == 0 {
            asked.push(header.asked);
        }
        bytes = rest;
    }
}

/// Looks at all that the server said to a client.
///
/// # Panics
/// It is not one whole reply to each of `asked`, or something but VERSION worked before VERSION.
pub(super) fn check_replies(mut bytes: &[u8], asked: &[Asked]) {
    let mut negotiated = false;
    for asked in asked {
        let reply = header(bytes).expect("a reply to each message");
        assert_eq!(reply.asked, *asked, "the reply to something else");
        let failed = reply.flags & ERROR != 0;
        let kind = TYPE_REPLY | if failed { ERROR } else { TYPE_COMMAND };
        assert_eq!(reply.flags, kind, "flags of a reply");
        assert_eq!(reply.error != 0, failed, "error flag and errno disagree");
        assert!(
            !failed || reply.size == HEADER_BYTES,
            "an error with a payload"
        );
        assert!(reply.size <= MAX_MESSAGE_BYTES);
        let (_, command) = asked;
        negotiated |= !failed && *command == VERSION;
        assert!(failed || negotiated, "{command} worked before VERSION");
        bytes = bytes.get(reply.size..).expect("a whole reply");
    }
    assert!(
        bytes.is_empty(),
        "{} bytes in reply to nothing",
        bytes.len()
    );
}
