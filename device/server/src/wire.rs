//! The layout of vfio-user messages, and how to read one without trusting it.
//!
//! A message is a header of 16 bytes and a payload. Both ends run on one host, so that all
//! values are in the host's byte order.

use rustix::io::Errno;

/// Bytes in a message header.
pub(crate) const HEADER_BYTES: usize = 16;
/// Bytes before the data in a region access: offset, region, count.
pub(crate) const REGION_ACCESS_BYTES: usize = 16;
/// Most bytes of data that one region access may carry, as VERSION announces it.
pub const MAX_DATA_BYTES: usize = 1 << 20;
/// Most bytes in a message. The bound stops a peer from making the server allocate what a
/// 32-bit length can name.
pub const MAX_MESSAGE_BYTES: usize = HEADER_BYTES + REGION_ACCESS_BYTES + MAX_DATA_BYTES;
/// Most file descriptors that one message may carry, as VERSION announces it.
pub const MAX_MESSAGE_FDS: usize = 16;

/// Header flags: mask of the message type.
const TYPE_MASK: u32 = 0xf;
/// Message type: a command.
const TYPE_COMMAND: u32 = 0;
/// Message type: the reply to a command.
const TYPE_REPLY: u32 = 1;
/// Header flag: the sender of a command wants no reply.
const NO_REPLY: u32 = 1 << 4;
/// Header flag of a reply: the command failed and `error` says why.
const ERROR: u32 = 1 << 5;

/// What kind of message a header announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A command whose sender waits for the reply.
    Command,
    /// A command whose sender takes no reply.
    Posted,
    /// A reply.
    Reply,
    /// Flags that the protocol does not define; `no_reply` tells whether an answer is wanted.
    Undefined { no_reply: bool },
}

/// A message header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Chosen by the sender of a command, repeated in the reply.
    pub(crate) id: u16,
    /// Command number.
    pub(crate) command: u16,
    /// Bytes in the message, header included.
    pub(crate) size: u32,
    flags: u32,
    error: u32,
}

impl Header {
    pub(crate) fn parse(bytes: &[u8; HEADER_BYTES]) -> Self {
        let word = |at: usize| {
            u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        Self {
            id: u16::from_ne_bytes([bytes[0], bytes[1]]),
            command: u16::from_ne_bytes([bytes[2], bytes[3]]),
            size: word(4),
            flags: word(8),
            error: word(12),
        }
    }

    pub(crate) fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..2].copy_from_slice(&self.id.to_ne_bytes());
        bytes[2..4].copy_from_slice(&self.command.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.size.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.flags.to_ne_bytes());
        bytes[12..16].copy_from_slice(&self.error.to_ne_bytes());
        bytes
    }

    /// The header of the reply to this command: `size` bytes in all, or failed with `error`.
    pub(crate) fn reply(&self, size: u32, error: Option<Errno>) -> Self {
        Self {
            id: self.id,
            command: self.command,
            size,
            flags: TYPE_REPLY | if error.is_some() { ERROR } else { 0 },
            error: error.map_or(0, |errno| errno.raw_os_error().unsigned_abs()),
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        let no_reply = self.flags & NO_REPLY != 0;
        match (self.flags & TYPE_MASK, self.flags & !TYPE_MASK) {
            (TYPE_REPLY, _) => Kind::Reply,
            (TYPE_COMMAND, 0) => Kind::Command,
            (TYPE_COMMAND, NO_REPLY) => Kind::Posted,
            _ => Kind::Undefined { no_reply },
        }
    }
}

/// The fields of a payload, taken from its front. Where the payload is too short: `EINVAL`.
#[derive(Debug)]
pub(crate) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn new(payload: &'a [u8]) -> Self {
        Self(payload)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Errno> {
        let (field, rest) = self.0.split_first_chunk::<N>().ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(*field)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Errno> {
        self.take().map(u16::from_ne_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Errno> {
        self.take().map(u32::from_ne_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Errno> {
        self.take().map(u64::from_ne_bytes)
    }

    /// What follows the fields taken so far.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }

    /// Refuses a payload that goes on after the last field.
    pub(crate) fn end(self) -> Result<(), Errno> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Errno::INVAL)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_its_bytes() {
        let header = Header {
            id: 0x1234,
            command: 9,
            size: 48,
            flags: NO_REPLY,
            error: 7,
        };
        assert_eq!(Header::parse(&header.to_bytes()), header);
    }

    #[test]
    fn flags_name_the_kind() {
        let kind = |flags| {
            Header {
                id: 0,
                command: 0,
                size: 16,
                flags,
                error: 0,
            }
            .kind()
        };
        assert_eq!(kind(0), Kind::Command);
        assert_eq!(kind(NO_REPLY), Kind::Posted);
        assert_eq!(kind(TYPE_REPLY), Kind::Reply);
        assert_eq!(kind(TYPE_REPLY | ERROR), Kind::Reply);
        assert_eq!(kind(ERROR), Kind::Undefined { no_reply: false });
        assert_eq!(kind(ERROR | NO_REPLY), Kind::Undefined { no_reply: true });
        assert_eq!(kind(2), Kind::Undefined { no_reply: false });
        assert_eq!(kind(1 << 31), Kind::Undefined { no_reply: false });
    }

    #[test]
    fn an_error_reply_carries_the_errno() {
        let command = Header {
            id: 3,
            command: 2,
            size: 48,
            flags: 0,
            error: 0,
        };
        let reply = command.reply(16, Some(Errno::EXIST));
        assert_eq!(reply.id, 3);
        assert_eq!(reply.flags, TYPE_REPLY | ERROR);
        assert_eq!(reply.error, 17);
    }

    #[test]
    fn a_short_payload_is_invalid() {
        let mut fields = Fields::new(&[1, 0, 0, 0, 2, 0, 0]);
        assert_eq!(fields.u32(), Ok(1));
        assert_eq!(fields.u32(), Err(Errno::INVAL));
        assert_eq!(fields.u16(), Ok(2));
        assert_eq!(fields.rest(), [0]);
    }
}
