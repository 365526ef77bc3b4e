//! Registers as a driver sees them.

use hmmgpu_contract::desc::Status;
use hmmgpu_contract::pci::{BAR_MSIX, BAR_REGISTERS};
use hmmgpu_contract::queue::MAX_RING_LOG2;
use hmmgpu_contract::regs::{
    INT_ERROR, MAGIC_VALUE, QUEUE_BASE, QUEUE_STATUS_ERROR, QUEUE_STATUS_OFF, QUEUE_STRIDE,
    QueueReg, Reg, queue_reg,
};
use hmmgpu_contract::{CONTRACT_VERSION, MAX_ORDER};
use hmmgpu_model::{Config, ConfigError, Device};

use crate::rig::{MIB, VRAM, device, mock};

fn read(device: &Device, offset: u32) -> u32 {
    let mut word = [0; 4];
    device.bar_read(BAR_REGISTERS, u64::from(offset), &mut word);
    u32::from_le_bytes(word)
}

#[test]
fn identity_and_capabilities() {
    let device = device();
    assert_eq!(read(&device, Reg::MAGIC.0), MAGIC_VALUE);
    assert_eq!(read(&device, Reg::VERSION.0), CONTRACT_VERSION);
    assert_eq!(u64::from(read(&device, Reg::VRAM_SIZE_LO.0)), VRAM);
    assert_eq!(read(&device, Reg::VRAM_SIZE_HI.0), 0);
    assert_eq!(read(&device, Reg::FOLIO_ORDERS.0), (2 << MAX_ORDER) - 1);
    assert_eq!(read(&device, Reg::COPY_QUEUES.0), 2);
    assert_eq!(read(&device, Reg::MAX_RING_LOG2.0), MAX_RING_LOG2);
    assert_eq!(read(&device, Reg::GENERATION.0), 0);
    assert_eq!(device.snapshot().events.unknown_register_accesses, 0);
    let sizes: Vec<u64> = (0..8).map(|bar| device.bar_size(bar)).collect();
    assert_eq!(sizes, [0x1_0000, 0, 0, 0, 0x2000, 0, 0, 0]);
    assert_eq!(device.config_size(), 4096);
}

#[test]
fn time_runs_and_its_high_word_is_latched() {
    let device = device();
    let time = || {
        let low = read(&device, Reg::TIME_LO.0);
        u64::from(read(&device, Reg::TIME_HI.0)) << 32 | u64::from(low)
    };
    let (first, second) = (time(), time());
    assert!(second >= first);
    assert!(device.snapshot().time_ns >= second);
    let mut both = [0; 8];
    device.bar_read(BAR_REGISTERS, u64::from(Reg::TIME_LO.0), &mut both);
    assert!(u64::from_le_bytes(both) >= second);
}

#[test]
fn undefined_accesses_read_ones_and_are_counted() {
    let device = device();
    let wrong: &[(u32, u64, usize)] = &[
        (BAR_REGISTERS, 0x02c, 4),        // no register
        (BAR_REGISTERS, 0xfff, 4),        // unaligned, no register
        (BAR_REGISTERS, 0x002, 4),        // unaligned
        (BAR_REGISTERS, 0x000, 2),        // narrow
        (BAR_REGISTERS, 0x000, 1),        // narrow
        (BAR_REGISTERS, 0x000, 16),       // wide
        (BAR_REGISTERS, 0x000, 0),        // nothing
        (BAR_REGISTERS, 0x040, 4),        // write-only
        (BAR_REGISTERS, 0x090, 8 + 4),    // three words
        (BAR_REGISTERS, 0x028, 8),        // the second word is none
        (BAR_REGISTERS, 0x1200, 4),       // no such queue
        (BAR_REGISTERS, 0xffff_fffc, 4),  // outside
        (BAR_REGISTERS, u64::MAX - 3, 8), // wraps
        (BAR_MSIX, 0x800, 4),             // neither table nor pending bits
        (1, 0, 4),                        // no such BAR
        (u32::MAX, u64::MAX, 4),          // nothing at all
    ];
    for (bar, offset, len) in wrong {
        let mut data = vec![0; *len];
        device.bar_read(*bar, *offset, &mut data);
        assert_eq!(data, vec![0xff; *len], "{bar} {offset:#x} {len}");
        device.bar_write(*bar, *offset, &vec![0; *len]);
    }
    let events = device.snapshot().events;
    // A write of RESET_CTRL is defined, and so are both words at 0x028 not: one each.
    let reads = wrong.len() as u64;
    assert!(events.unknown_register_accesses >= 2 * reads - 1);
    assert!(
        events.unknown_registers.contains(&(0x02c, 3)),
        "{:?}",
        events.unknown_registers
    );
    assert_eq!(read(&device, Reg::MAGIC.0), MAGIC_VALUE);
    assert_eq!(
        read(&device, Reg::GENERATION.0),
        0,
        "writing 0 to RESET_CTRL is no reset"
    );
}

#[test]
fn read_only_registers_ignore_writes_and_count_them() {
    let device = device();
    device.bar_write(BAR_REGISTERS, u64::from(Reg::MAGIC.0), &[0; 4]);
    assert_eq!(read(&device, Reg::MAGIC.0), MAGIC_VALUE);
    assert_eq!(device.snapshot().events.unknown_register_accesses, 1);
}

#[test]
fn queue_registers_are_fixed_while_it_runs() {
    let driver = mock(MIB);
    let before = driver.read_queue(QueueReg::QUEUE_RING_HI);
    for reg in 0..6 {
        driver.write(QUEUE_BASE + 4 * reg, 0);
    }
    assert_eq!(driver.read_queue(QueueReg::QUEUE_RING_HI), before);
    assert_eq!(driver.read_queue(QueueReg::QUEUE_RING_LOG2), 6);
    driver.stop();
    driver.write_queue(QueueReg::QUEUE_RING_LOG2, 9);
    assert_eq!(driver.read_queue(QueueReg::QUEUE_RING_LOG2), 9);
    // 64-bit writes are two words.
    let ring = u64::from(queue_reg(1, QueueReg::QUEUE_RING_LO));
    let address = 0x0123_4567_89ab_c000_u64;
    driver
        .function()
        .bar_write(BAR_REGISTERS, ring, &address.to_le_bytes());
    let mut found = [0; 8];
    driver.function().bar_read(BAR_REGISTERS, ring, &mut found);
    assert_eq!(u64::from_le_bytes(found), address);
    assert_eq!(
        u64::from(QUEUE_STRIDE),
        ring - u64::from(queue_reg(0, QueueReg::QUEUE_RING_LO))
    );
}

#[test]
fn a_queue_that_cannot_work_is_refused() {
    let driver = mock(MIB);
    let wrong = [
        (QueueReg::QUEUE_RING_LOG2, 1, Status::STATUS_BAD_FIELD),
        (QueueReg::QUEUE_RING_LOG2, 17, Status::STATUS_BAD_FIELD),
        (
            QueueReg::QUEUE_RING_LOG2,
            u32::MAX,
            Status::STATUS_BAD_FIELD,
        ),
        (QueueReg::QUEUE_VECTOR, 16, Status::STATUS_BAD_FIELD),
        (QueueReg::QUEUE_HEADER_LO, 0x800, Status::STATUS_MISALIGNED),
        (QueueReg::QUEUE_RING_LO, 32, Status::STATUS_MISALIGNED),
    ];
    for (reg, value, status) in wrong {
        driver.stop();
        driver.configure();
        driver.write_queue(reg, value);
        driver.write_queue(QueueReg::QUEUE_CTRL, 1);
        assert_eq!(
            driver.read_queue(QueueReg::QUEUE_STATUS),
            QUEUE_STATUS_ERROR
        );
        assert_eq!(Status(driver.read(Reg::ERROR_STATUS.0)), status);
        assert_eq!(driver.read(Reg::INT_CAUSE.0), INT_ERROR);
        driver.write(Reg::INT_CAUSE.0, INT_ERROR);
        driver.write(Reg::ERROR_STATUS.0, 1);
        assert_eq!(driver.read(Reg::ERROR_STATUS.0), 0);
        assert_eq!(driver.read(Reg::ERROR_COUNT.0), 0);
        driver.stop();
        assert_eq!(driver.read_queue(QueueReg::QUEUE_STATUS), QUEUE_STATUS_OFF);
    }
}

#[test]
fn configurations_out_of_bounds_are_refused() {
    for vram_bytes in [
        0,
        VRAM - 1,
        VRAM - (2 << 20),
        VRAM + (1 << 20),
        (64 << 30) + (2 << 20),
    ] {
        let config = Config {
            vram_bytes,
            ..Config::default()
        };
        assert!(matches!(Device::new(config), Err(ConfigError::VramSize(_))));
    }
    for copy_queues in [0, 17] {
        let config = Config {
            copy_queues,
            ..Config::default()
        };
        assert!(matches!(
            Device::new(config),
            Err(ConfigError::CopyQueues(_))
        ));
    }
    let largest = Config {
        vram_bytes: 64 << 30,
        copy_queues: 16,
        ..Config::default()
    };
    let device = Device::new(largest).unwrap();
    assert_eq!(read(&device, Reg::VRAM_SIZE_HI.0), 16);
}
