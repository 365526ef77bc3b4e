//! Devices that are used again and again: to make one for each input would take most of the time.

use std::sync::{Arc, OnceLock};

use hmmgpu_contract::PAGE_SIZE;
use hmmgpu_contract::desc::Status;
use hmmgpu_contract::pci::BAR_REGISTERS;
use hmmgpu_contract::regs::{Reg, STATE_READY};
use hmmgpu_model::mock::descriptors::{Side, copy};
use hmmgpu_model::mock::{Driver, GuestRam, QueueConfig, sparse_device, until};
use hmmgpu_model::{Config, Device};

/// VRAM of all devices that are fuzzed.
pub(crate) const VRAM_BYTES: u64 = 64 << 20;
/// Their copy queues and contexts.
pub(crate) const COPY_QUEUES: u32 = 2;
pub(crate) const CONTEXTS: u32 = 4;

/// Where a driver that works has its memory: no input has any there.
const GOOD_BASE: u64 = 0x50_0000_0000;
const GOOD_BYTES: usize = 64 << 10;

/// The device of this process. Each input begins with a reset of it.
pub(crate) fn small_device() -> &'static Arc<Device> {
    static DEVICE: OnceLock<Arc<Device>> = OnceLock::new();
    DEVICE.get_or_init(|| {
        let config = Config {
            vram_bytes: VRAM_BYTES,
            copy_queues: COPY_QUEUES,
            contexts: CONTEXTS,
            compute_engines: 1,
            ..Config::default()
        };
        Arc::new(sparse_device(config).expect("the host has room for a device"))
    })
}

/// Reads a register.
pub(crate) fn register(device: &Device, offset: u32) -> u32 {
    let mut word = [0; 4];
    device.bar_read(BAR_REGISTERS, u64::from(offset), &mut word);
    u32::from_le_bytes(word)
}

/// Whether the device is not there, as far as a driver sees.
pub(crate) fn is_gone(device: &Device) -> bool {
    register(device, Reg::MAGIC.0) == u32::MAX
}

/// A device that is gone answers nothing.
///
/// # Panics
/// It does.
pub(crate) fn answers_nothing(device: &Device) {
    let mut head = [0; 64];
    device.config_read(0, &mut head);
    assert_eq!(head, [0xff; 64], "configuration space of nothing");
    for reg in [Reg::MAGIC, Reg::STATE, Reg::GENERATION, Reg::INT_CAUSE] {
        assert_eq!(register(device, reg.0), u32::MAX, "{reg:?} of nothing");
    }
}

/// Waits until a reset is over.
///
/// # Panics
/// It never is.
pub(crate) fn wait_until_ready(device: &Device) {
    until("ready state", || {
        register(device, Reg::STATE.0) == STATE_READY
    })
    .expect("ready again");
}

/// Power management control and status: full power.
const POWER: u64 = 0x44;
const D0: [u8; 2] = [0; 2];

/// Drives a device well that was reset: copies pages to VRAM and back by queue 0.
///
/// # Panics
/// The device does not do as it should, or VRAM is not empty.
pub(crate) fn copies_well(device: &Arc<Device>) {
    // A reset by register leaves the function as the bus sees it, maybe asleep.
    device.config_write(POWER, &D0);
    let ram = GuestRam::new(GOOD_BASE, GOOD_BYTES).expect("the host has room for guest RAM");
    let config = QueueConfig::default();
    let mut driver = Driver::new(device.clone(), ram, config).expect("a queue that runs");
    let pattern: Vec<u8> = (0..2 * PAGE_SIZE)
        .map(|i| (i % 251).to_le_bytes()[0])
        .collect();
    let data = driver.data();
    let back = data + 2 * PAGE_SIZE;
    let empty = back + 2 * PAGE_SIZE;
    let vram = 3 * PAGE_SIZE;
    driver.ram().write(data, &pattern);
    driver.ram().write(empty, &pattern);
    let copies = [
        copy(0, 2, Side::System(empty), Side::Vram(vram)),
        copy(0, 2, Side::Vram(vram), Side::System(data)),
        copy(0, 2, Side::System(back), Side::Vram(vram)),
    ];
    let record = driver.run(&copies).expect("a fence");
    assert_eq!(Status(record.status), Status::STATUS_OK);
    assert_eq!(record.errors, 0);
    let copied = driver.ram().read(back, pattern.len());
    assert!(copied == pattern, "copied wrongly");
    let found = driver.ram().read(empty, pattern.len());
    assert!(found == vec![0; found.len()], "VRAM of before the reset");
}
