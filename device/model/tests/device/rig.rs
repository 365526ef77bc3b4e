//! A device and a driver of it.

use std::sync::Arc;

use hmmgpu_contract::desc::Status;
use hmmgpu_contract::queue::FenceRecord;
use hmmgpu_model::mock::{Driver, GuestRam, QueueConfig};
use hmmgpu_model::{Config, Device};
use hmmgpu_telemetry::CheckMode;

pub(crate) const PAGE: u64 = 4096;
pub(crate) const MIB: u64 = 1 << 20;
/// Rings land above 4 GiB in practice; so do they here.
pub(crate) const RAM_BASE: u64 = 0x1_0000_0000;
pub(crate) const VRAM: u64 = 64 * MIB;

pub(crate) type Mock = Driver<Arc<Device>>;

pub(crate) fn device() -> Arc<Device> {
    device_checking(Config::default().check)
}

pub(crate) fn device_checking(check: CheckMode) -> Arc<Device> {
    let config = Config {
        vram_bytes: VRAM,
        copy_queues: 2,
        check,
        ..Config::default()
    };
    Arc::new(Device::new(config).expect("device"))
}

pub(crate) fn ram(bytes: u64) -> GuestRam {
    GuestRam::new(RAM_BASE, usize::try_from(bytes).expect("size")).expect("guest RAM")
}

/// A device with a running queue 0 of 64 entries, and guest RAM of `bytes`.
pub(crate) fn mock(bytes: u64) -> Mock {
    Driver::new(device(), ram(bytes), QueueConfig::default()).expect("driver")
}

#[track_caller]
pub(crate) fn assert_clean(record: &FenceRecord) {
    assert_eq!(
        (Status(record.status), record.errors),
        (Status::STATUS_OK, 0)
    );
}

#[track_caller]
pub(crate) fn assert_one(record: &FenceRecord, status: Status) {
    assert_eq!((Status(record.status), record.errors), (status, 1));
}

/// Bytes that name their place and seed.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    (0..len.div_ceil(8) as u64)
        .flat_map(|word| {
            (word ^ seed)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .to_le_bytes()
        })
        .take(len)
        .collect()
}
