//! What a client sends: messages near to ones that are right, and bytes that are none.

use arbitrary::{Arbitrary, Result, Unstructured};
use hmmgpu_contract::PAGE_SIZE;

/// Bytes in a header.
pub(super) const HEADER_BYTES: usize = 16;

const QEMU_JSON: &str = r#"{"capabilities": {"max_msg_fds": 16, "max_data_xfer_size": 1048576, "migration": {"pgsize": 4096, "max_bitmap_size": 268435456}, "pgsizes": 4096, "max_dma_maps": 65535, "write_multiple": true}}"#;
const JSON: [&str; 4] = [
    QEMU_JSON,
    "{}",
    r#"{"capabilities":{"max_msg_fds":-1}}"#,
    r#"{"capabilities":[]}"#,
];

/// What is sent at once: a message, with descriptors, in one piece or two.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) bytes: Vec<u8>,
    /// Which of the descriptors that there are.
    pub(super) fds: Vec<u8>,
    /// Where it is cut: the descriptors come with the second piece.
    pub(super) cut: Option<usize>,
}

#[derive(Debug, Arbitrary)]
enum Body {
    Version {
        major: bool,
        minor: u8,
        json: u8,
    },
    DeviceInfo {
        argsz: Size,
    },
    RegionInfo {
        argsz: Size,
        index: u8,
    },
    IrqInfo {
        argsz: Size,
        index: u8,
    },
    SetIrqs {
        flags: u8,
        index: u8,
        start: u8,
        count: Count,
        data: u8,
    },
    Read {
        region: u8,
        offset: Offset,
        count: Count,
    },
    Write {
        region: u8,
        offset: Offset,
        value: [u8; 8],
        len: u8,
        /// The count is another one.
        lie: bool,
    },
    DmaMap {
        flags: u8,
        page: u8,
        at: u8,
        pages: u8,
    },
    DmaUnmap {
        flags: u8,
        at: u8,
        pages: u8,
    },
    Reset,
    /// Any command with any payload.
    Other {
        command: u16,
        words: [u32; 4],
        len: u8,
    },
    /// A size that may not be true.
    Announced {
        command: u8,
        size: u32,
    },
    Noise(u64),
}

#[derive(Debug, Arbitrary)]
enum Size {
    Right,
    Small(u8),
    Any(u32),
}

impl Size {
    fn get(&self, right: u32) -> u32 {
        match self {
            Self::Right => right,
            Self::Small(size) => (*size).into(),
            Self::Any(size) => *size,
        }
    }
}

#[derive(Debug, Arbitrary)]
enum Count {
    Small(u8),
    Any(u32),
}

impl Count {
    fn get(&self) -> u32 {
        match self {
            Self::Small(count) => (*count).into(),
            Self::Any(count) => *count,
        }
    }
}

#[derive(Debug, Arbitrary)]
enum Offset {
    Small(u16),
    Any(u64),
}

impl Offset {
    fn get(&self) -> u64 {
        match self {
            Self::Small(offset) => (*offset).into(),
            Self::Any(offset) => *offset,
        }
    }
}

/// The bytes of fields, in order.
macro_rules! bytes {
    ($($field:expr),* $(,)?) => {{
        let mut bytes: Vec<u8> = Vec::new();
        $( bytes.extend_from_slice(&$field.to_ne_bytes()); )*
        bytes
    }};
}

/// Maps are at a few addresses, so that they meet.
fn address(at: u8) -> u64 {
    match at {
        0..=127 => 0x1_0000_0000 + u64::from(at) * PAGE_SIZE,
        128..=191 => u64::MAX - 0xfff - u64::from(at - 128) * PAGE_SIZE,
        192..=223 => u64::from(at - 192) * PAGE_SIZE,
        _ => u64::from(at) * 0x123_4567_89ab,
    }
}

impl Body {
    fn command(&self) -> u16 {
        match self {
            Self::Version { .. } => 1,
            Self::DmaMap { .. } => 2,
            Self::DmaUnmap { .. } => 3,
            Self::DeviceInfo { .. } => 4,
            Self::RegionInfo { .. } => 5,
            Self::IrqInfo { .. } => 7,
            Self::SetIrqs { .. } => 8,
            Self::Read { .. } => 9,
            Self::Write { .. } => 10,
            Self::Reset => 13,
            Self::Other { command, .. } => *command,
            Self::Announced { command, .. } => (*command).into(),
            Self::Noise(_) => 0,
        }
    }

    fn payload(&self) -> Vec<u8> {
        match self {
            Self::Version { major, minor, json } => {
                let mut payload = bytes![u16::from(*major), u16::from(*minor)];
                let json = JSON[usize::from(*json) % JSON.len()];
                payload.extend_from_slice(json.as_bytes());
                payload.push(0);
                payload
            }
            Self::DeviceInfo { argsz } => bytes![argsz.get(16), 0_u32, 0_u32, 0_u32],
            Self::RegionInfo { argsz, index } => {
                bytes![argsz.get(32), 0_u32, u32::from(*index), 0_u32, 0_u64, 0_u64]
            }
            Self::IrqInfo { argsz, index } => {
                bytes![argsz.get(16), 0_u32, u32::from(*index), 0_u32]
            }
            Self::SetIrqs {
                flags,
                index,
                start,
                count,
                data,
            } => {
                let (flags, index) = (u32::from(*flags), u32::from(*index));
                let mut payload = bytes![20_u32, flags, index, u32::from(*start), count.get()];
                payload.resize(payload.len() + usize::from(*data % 40), 1);
                payload
            }
            Self::Read {
                region,
                offset,
                count,
            } => bytes![offset.get(), u32::from(*region), count.get()],
            Self::Write {
                region,
                offset,
                value,
                len,
                lie,
            } => {
                let len = *len % 9;
                let count = u32::from(len) + u32::from(*lie);
                let mut payload = bytes![offset.get(), u32::from(*region), count];
                payload.extend_from_slice(&value[..usize::from(len)]);
                payload
            }
            Self::DmaMap {
                flags,
                page,
                at,
                pages,
            } => {
                let offset = u64::from(*page) * PAGE_SIZE;
                let size = u64::from(*pages) * PAGE_SIZE;
                bytes![32_u32, u32::from(*flags), offset, address(*at), size]
            }
            Self::DmaUnmap { flags, at, pages } => {
                let size = u64::from(*pages) * PAGE_SIZE;
                bytes![24_u32, u32::from(*flags), address(*at), size]
            }
            Self::Other { words, len, .. } => {
                let mut payload = words.map(u32::to_ne_bytes).as_flattened().to_vec();
                payload.truncate(usize::from(*len) % 17);
                payload
            }
            Self::Reset | Self::Announced { .. } | Self::Noise(_) => Vec::new(),
        }
    }
}

/// Header flags: commands, posted ones, replies, and what is not defined.
const FLAGS: [u32; 8] = [0, 0x10, 0, 0x10, 1, 0x21, 0x30, 2];

impl<'a> Arbitrary<'a> for Sent {
    fn arbitrary(input: &mut Unstructured<'a>) -> Result<Self> {
        let body = Body::arbitrary(input)?;
        let how: u8 = input.arbitrary()?;
        let bytes = if let Body::Noise(noise) = body {
            noise.to_ne_bytes()[..usize::from(how % 9)].to_vec()
        } else {
            let payload = body.payload();
            let size = match body {
                Body::Announced { size, .. } => size,
                _ => u32::try_from(HEADER_BYTES + payload.len()).unwrap_or(u32::MAX),
            };
            let flags = FLAGS[usize::from(how % 8)];
            let id = u16::from(how) << 3;
            let mut bytes = bytes![id, body.command(), size, flags, 0_u32];
            bytes.extend(payload);
            bytes
        };
        let count = usize::from(input.arbitrary::<u8>()?);
        // Mostly none or one, sometimes more than a message may carry.
        let count = if count < 128 { count % 2 } else { count % 24 };
        let fds = (0..count)
            .map(|_| input.arbitrary())
            .collect::<Result<_>>()?;
        let cut = usize::from(input.arbitrary::<u8>()?);
        let cut = (cut >= 128 && bytes.len() > 1).then(|| 1 + cut % (bytes.len() - 1));
        Ok(Self { bytes, fds, cut })
    }
}
