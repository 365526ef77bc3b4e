//! Contexts as a driver sees them in the registers.

use std::sync::Arc;

use hmmgpu_contract::desc::Status;
use hmmgpu_contract::pci::{BAR_REGISTERS, BAR_REGISTERS_SIZE};
use hmmgpu_contract::regs::{
    CONTEXT_BASE, CONTEXT_STRIDE, ERROR_CONTEXT0, FAULT_QUEUE, FEATURE_CHECKSUM, FEATURE_CONTEXTS,
    INVALIDATION_QUEUE, MAX_CONTEXTS, QUEUE_STATUS_ERROR, QUEUE_STATUS_OFF, QUEUE_STATUS_RUNNING,
    QueueReg, Reg, context_reg, queue_reg,
};
use hmmgpu_model::{Config, ConfigError, Device};

use crate::rig::{VRAM, device};

fn read(device: &Device, offset: u32) -> u32 {
    let mut word = [0; 4];
    device.bar_read(BAR_REGISTERS, u64::from(offset), &mut word);
    u32::from_le_bytes(word)
}

fn write(device: &Device, offset: u32, value: u32) {
    device.bar_write(BAR_REGISTERS, u64::from(offset), &value.to_le_bytes());
}

fn with(contexts: u32, compute_engines: u32) -> Result<Arc<Device>, ConfigError> {
    let config = Config {
        vram_bytes: VRAM,
        contexts,
        compute_engines,
        ..Config::default()
    };
    Device::new(config).map(Arc::new)
}

#[test]
fn capabilities_tell_of_contexts() {
    let some = with(7, 3).unwrap();
    assert_eq!(
        read(&some, Reg::FEATURES_LO.0),
        FEATURE_CHECKSUM | FEATURE_CONTEXTS
    );
    assert_eq!(read(&some, Reg::CONTEXTS.0), 7);
    assert_eq!(read(&some, Reg::COMPUTE_ENGINES.0), 3);
    for queue in [INVALIDATION_QUEUE, FAULT_QUEUE] {
        let status = queue_reg(queue, QueueReg::QUEUE_STATUS);
        assert_eq!(read(&some, status), QUEUE_STATUS_OFF);
    }
    let last = context_reg(6, QueueReg::QUEUE_STATUS);
    assert_eq!(read(&some, last), QUEUE_STATUS_OFF);
    assert_eq!(some.snapshot().events.unknown_register_accesses, 0);
    let beyond = context_reg(7, QueueReg::QUEUE_STATUS);
    assert_eq!(read(&some, beyond), u32::MAX);
    assert_eq!(some.snapshot().events.unknown_register_accesses, 1);

    let none = with(0, 1).unwrap();
    assert_eq!(read(&none, Reg::FEATURES_LO.0), FEATURE_CHECKSUM);
    assert_eq!(read(&none, Reg::CONTEXTS.0), 0);
    assert_eq!(read(&none, Reg::COMPUTE_ENGINES.0), 0);
    for offset in [
        queue_reg(INVALIDATION_QUEUE, QueueReg::QUEUE_STATUS),
        queue_reg(FAULT_QUEUE, QueueReg::QUEUE_STATUS),
        context_reg(0, QueueReg::QUEUE_STATUS),
    ] {
        assert_eq!(read(&none, offset), u32::MAX, "{offset:#x}");
        write(&none, offset - QueueReg::QUEUE_STATUS.0, 1);
    }
    assert_eq!(none.snapshot().events.unknown_register_accesses, 6);
}

#[test]
fn numbers_out_of_bounds_are_refused() {
    assert!(matches!(with(257, 1), Err(ConfigError::Contexts(257))));
    for engines in [0, 17] {
        let refused = with(1, engines);
        assert!(matches!(refused, Err(ConfigError::ComputeEngines(_))));
    }
    let most = with(MAX_CONTEXTS, 16).unwrap();
    assert_eq!(read(&most, Reg::CONTEXTS.0), MAX_CONTEXTS);
    // Their blocks end where the BAR does.
    let end = CONTEXT_BASE + MAX_CONTEXTS * CONTEXT_STRIDE;
    assert_eq!(end, BAR_REGISTERS_SIZE);
    let doorbell = context_reg(MAX_CONTEXTS - 1, QueueReg::QUEUE_DOORBELL);
    write(&most, doorbell, 1);
    assert_eq!(most.snapshot().events.doorbells, 1);
}

#[test]
fn a_root_is_a_register_of_contexts_only_and_fixed_while_one_is_enabled() {
    let device = device();
    let root = context_reg(5, QueueReg::CONTEXT_ROOT_LO);
    let both = 0x0123_4567_89ab_c000_u64;
    device.bar_write(BAR_REGISTERS, u64::from(root), &both.to_le_bytes());
    let mut found = [0; 8];
    device.bar_read(BAR_REGISTERS, u64::from(root), &mut found);
    assert_eq!(u64::from_le_bytes(found), both);
    write(&device, context_reg(5, QueueReg::QUEUE_RING_LOG2), 4);
    let ctrl = context_reg(5, QueueReg::QUEUE_CTRL);
    let status = context_reg(5, QueueReg::QUEUE_STATUS);
    write(&device, ctrl, 1);
    assert_eq!(read(&device, status), QUEUE_STATUS_RUNNING);
    write(&device, root, 0x1000);
    assert_eq!(read(&device, root), 0x89ab_c000);
    write(&device, ctrl, 0);
    assert_eq!(read(&device, status), QUEUE_STATUS_OFF);
    write(&device, root, 0x1000);
    assert_eq!(read(&device, root), 0x1000);
    assert_eq!(device.snapshot().events.unknown_register_accesses, 0);
    for queue in [0, INVALIDATION_QUEUE, FAULT_QUEUE] {
        let root = queue_reg(queue, QueueReg::CONTEXT_ROOT_LO);
        write(&device, root, 0);
        assert_eq!(read(&device, root), u32::MAX);
    }
    assert_eq!(device.snapshot().events.unknown_register_accesses, 6);
}

#[test]
fn a_context_that_cannot_work_is_refused_by_its_number() {
    let device = device();
    let valid = [
        (QueueReg::QUEUE_RING_LOG2, 4),
        (QueueReg::QUEUE_VECTOR, 1),
        (QueueReg::QUEUE_HEADER_LO, 0),
        (QueueReg::QUEUE_RING_LO, 0),
        (QueueReg::CONTEXT_ROOT_LO, 0),
    ];
    for (reg, value, status) in [
        (QueueReg::QUEUE_RING_LOG2, 1, Status::STATUS_BAD_FIELD),
        (QueueReg::QUEUE_RING_LOG2, 17, Status::STATUS_BAD_FIELD),
        (QueueReg::QUEUE_VECTOR, 16, Status::STATUS_BAD_FIELD),
        (QueueReg::QUEUE_HEADER_LO, 64, Status::STATUS_MISALIGNED),
        (QueueReg::QUEUE_RING_LO, 0x800, Status::STATUS_MISALIGNED),
        (QueueReg::CONTEXT_ROOT_LO, 0x800, Status::STATUS_MISALIGNED),
    ] {
        for (reg, value) in valid {
            write(&device, context_reg(200, reg), value);
        }
        write(&device, context_reg(200, reg), value);
        write(&device, context_reg(200, QueueReg::QUEUE_CTRL), 1);
        let state = read(&device, context_reg(200, QueueReg::QUEUE_STATUS));
        assert_eq!(state, QUEUE_STATUS_ERROR);
        assert_eq!(Status(read(&device, Reg::ERROR_STATUS.0)), status);
        assert_eq!(read(&device, Reg::ERROR_QUEUE.0), ERROR_CONTEXT0 + 200);
        write(&device, context_reg(200, QueueReg::QUEUE_CTRL), 0);
        write(&device, Reg::ERROR_STATUS.0, 1);
    }
}
