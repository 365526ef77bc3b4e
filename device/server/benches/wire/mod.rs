//! A client of one register over the socket, as cheap as one can be: what it writes was prepared
//! before, and replies are read into a buffer.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use anyhow::{Context, ensure};
use hmmgpu_contract::pci::BAR_REGISTERS;

const HEADER: usize = 16;
/// Bytes of a read: the header and what it is about.
pub(crate) const READ: usize = HEADER + 16;
/// Bytes of its reply: the same, and a word.
pub(crate) const REPLY: usize = READ + 4;
const WORD_BYTES: u32 = 4;
const VERSION: u16 = 1;
const REGION_READ: u16 = 9;

/// A command as it goes over the socket.
fn message(command: u16, flags: u32, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(HEADER + payload.len()).unwrap_or(u32::MAX);
    let mut bytes = [1_u16, command].map(u16::to_ne_bytes).concat();
    bytes.extend([size, flags, 0].map(u32::to_ne_bytes).concat());
    bytes.extend_from_slice(payload);
    bytes
}

/// An access to a word of the registers.
pub(crate) fn access(command: u16, flags: u32, register: u32, data: &[u8]) -> Vec<u8> {
    let mut payload = u64::from(register).to_ne_bytes().to_vec();
    payload.extend([BAR_REGISTERS, WORD_BYTES].map(u32::to_ne_bytes).concat());
    payload.extend_from_slice(data);
    message(command, flags, &payload)
}

/// A client of one register.
pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    read: Vec<u8>,
}

impl Client {
    /// One that does not negotiate.
    pub(crate) fn new(stream: UnixStream, register: u32) -> Self {
        Self {
            stream,
            read: access(REGION_READ, 0, register, &[]),
        }
    }

    /// One that a server of the protocol takes.
    pub(crate) fn negotiated(stream: UnixStream, register: u32) -> anyhow::Result<Self> {
        let mut client = Self::new(stream, register);
        let mut payload = vec![0, 0, 1, 0];
        payload.extend_from_slice(b"{\"capabilities\":{\"max_msg_fds\":8}}\0");
        client.stream.write_all(&message(VERSION, 0, &payload))?;
        let mut header = [0; HEADER];
        client.stream.read_exact(&mut header)?;
        let size = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
        let rest = usize::try_from(size)?.checked_sub(HEADER);
        let rest = rest.context("no reply")?;
        client.stream.read_exact(&mut vec![0; rest])?;
        Ok(client)
    }

    /// Reads the register once.
    pub(crate) fn read(&mut self, expected: u32) -> anyhow::Result<()> {
        self.stream.write_all(&self.read)?;
        let mut reply = [0; REPLY];
        self.stream.read_exact(&mut reply)?;
        let [.., a, b, c, d] = reply;
        let word = u32::from_le_bytes([a, b, c, d]);
        ensure!(word == expected, "a wrong word was read: {word:#x}");
        Ok(())
    }

    /// Reads it so often. Returns thousands a second.
    pub(crate) fn reads(&mut self, times: u32, expected: u32) -> anyhow::Result<f64> {
        let since = Instant::now();
        for _ in 0..times {
            self.read(expected)?;
        }
        Ok(thousands(times, since))
    }
}

/// So many since then, in thousands a second.
pub(crate) fn thousands(times: u32, since: Instant) -> f64 {
    f64::from(times) / since.elapsed().as_secs_f64() / 1e3
}
