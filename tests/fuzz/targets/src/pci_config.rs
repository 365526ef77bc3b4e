//! Configuration space: any accesses, held against the bits that the PCI specifications call
//! writable.

use arbitrary::{Arbitrary, Unstructured};
use hmmgpu_model::{Device, ResetCause};

use crate::device::{small_device, wait_until_ready};

const BYTES: usize = 4096;
const COMMAND: usize = 0x04;
const POWER: usize = 0x44;
const DEVICE_CONTROL: usize = 0x68;
/// Most accesses of an input, which stops inputs from getting long without getting better.
const MOST: usize = 256;

/// Offset, bytes of it, and the bits that software may write.
const WRITABLE: [(usize, usize, u64); 10] = [
    // Memory space, bus master, parity, SERR, INTx disable.
    (COMMAND, 2, 0x0546),
    // BAR 0 of 64 KiB, BAR 4 of 8 KiB, both of 64 bits.
    (0x10, 8, !0xffff),
    (0x20, 8, !0x1fff),
    // Interrupt line.
    (0x3c, 1, 0xff),
    // Power state.
    (POWER, 2, 0x3),
    // MSI-X: enable, mask all.
    (0x52, 2, 0xc000),
    // Device control (but for function-level reset, which reads zero), link control, and the
    // second of each.
    (DEVICE_CONTROL, 2, 0x7fff),
    (0x70, 2, 0x00cb),
    (0x88, 2, 0x0010),
    (0x90, 2, 0x000f),
];

#[derive(Debug, Arbitrary)]
enum Action {
    Write {
        at: Offset,
        data: [u8; 8],
        len: u8,
    },
    Read {
        at: Offset,
        len: u8,
    },
    /// Of registers, to see that they answer whatever the configuration is.
    Register {
        offset: u16,
    },
    Msix {
        offset: u16,
        data: [u8; 4],
        write: bool,
    },
}

/// Mostly where something is.
#[derive(Debug, Arbitrary)]
enum Offset {
    Header(u8),
    Any(u16),
    Far(u64),
    FunctionReset,
}

impl Offset {
    fn get(&self) -> u64 {
        match self {
            Self::Header(offset) => u64::from(*offset),
            Self::Any(offset) => u64::from(*offset),
            Self::Far(offset) => *offset,
            Self::FunctionReset => DEVICE_CONTROL as u64,
        }
    }
}

/// What the configuration space should be.
struct Model {
    power_on: Vec<u8>,
    bytes: Vec<u8>,
    writable: Vec<u8>,
}

impl Model {
    fn new(device: &Device) -> Self {
        let mut bytes = vec![0; BYTES];
        device.config_read(0, &mut bytes);
        let mut writable = vec![0; BYTES];
        for (offset, len, mask) in WRITABLE {
            writable[offset..offset + len].copy_from_slice(&mask.to_le_bytes()[..len]);
        }
        Self {
            power_on: bytes.clone(),
            bytes,
            writable,
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let power = self.bytes[POWER] & 3;
        let mut reset = false;
        for (byte, i) in data.iter().zip(0..) {
            let at = offset
                .checked_add(i)
                .and_then(|at| usize::try_from(at).ok());
            let Some(at) = at.filter(|at| *at < BYTES) else {
                break;
            };
            let mask = self.writable[at];
            self.bytes[at] = self.bytes[at] & !mask | byte & mask;
            reset |= at == DEVICE_CONTROL + 1 && byte & 0x80 != 0;
        }
        if matches!(self.bytes[POWER] & 3, 1 | 2) {
            self.bytes[POWER] = self.bytes[POWER] & !3 | power;
        }
        if reset {
            self.bytes.clone_from(&self.power_on);
        }
    }

    fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let byte = |at: u64| usize::try_from(at).ok().and_then(|at| self.bytes.get(at));
        (0..len as u64)
            .map(|i| {
                offset
                    .checked_add(i)
                    .and_then(byte)
                    .copied()
                    .unwrap_or(0xff)
            })
            .collect()
    }
}

/// Accesses to configuration space, of any width and anywhere. Holds: what the specifications call
/// read-only never changes, what they call writable is what was written, each width reads the
/// same, a function-level reset brings back the state after power-on, and registers go on
/// answering.
pub fn pci_config(data: &[u8]) {
    let device = small_device();
    device.reset(ResetCause::Disconnect);
    let mut model = Model::new(device);
    let mut input = Unstructured::new(data);
    for _ in 0..MOST {
        let Ok(action) = Action::arbitrary(&mut input) else {
            break;
        };
        act(device, &mut model, &action);
        if input.is_empty() {
            break;
        }
    }
    let mut all = vec![0; BYTES];
    device.config_read(0, &mut all);
    assert!(all == model.bytes, "configuration space is another one");
    let words: Vec<u8> = (0..BYTES as u64)
        .step_by(4)
        .flat_map(|offset| {
            let mut word = [0; 4];
            device.config_read(offset, &mut word);
            word
        })
        .collect();
    assert!(words == all, "words read otherwise than all of it");
    let (command, power) = (all[COMMAND], all[POWER]);
    let link = device.snapshot_without_windows().link;
    assert_eq!(link.bus_master, command & 4 != 0 && power & 3 == 0);
    wait_until_ready(device);
}

fn act(device: &Device, model: &mut Model, action: &Action) {
    match action {
        Action::Write { at, data, len } => {
            let data = &data[..usize::from(*len % 9)];
            device.config_write(at.get(), data);
            model.write(at.get(), data);
        }
        Action::Read { at, len } => {
            let mut data = vec![0xa5; usize::from(*len % 65)];
            device.config_read(at.get(), &mut data);
            assert_eq!(data, model.read(at.get(), data.len()), "{at:?}");
        }
        Action::Register { offset } => {
            device.bar_read(0, u64::from(*offset), &mut [0; 4]);
        }
        Action::Msix {
            offset,
            data,
            write: true,
        } => device.bar_write(4, u64::from(*offset), data),
        Action::Msix { offset, .. } => device.bar_read(4, u64::from(*offset), &mut [0; 4]),
    }
}
