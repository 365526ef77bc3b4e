//! Interrupts masked and unmasked in a storm, and doorbells from all sides.

use std::time::Duration;

use hmmgpu_contract::regs::{
    FAULT_QUEUE, INT_QUEUE0, INVALIDATION_QUEUE, MAX_CONTEXTS, QueueReg, Reg, context_reg,
    queue_reg,
};
use hmmgpu_model::mock::descriptors::{Side, copy};
use hmmgpu_model::mock::{InterruptCounter, until};
use hmmgpu_telemetry::UNKNOWN_REGISTER_OFFSETS;

use crate::rig::{MIB, PAGE, assert_clean, mock, pattern};
use hmmgpu_model::mock::beside;

/// Vector of queue 0 in the mock driver's default set-up.
const VECTOR: u32 = 1;
const FENCES: u64 = 2000;
const ROUNDS: u64 = 100;
const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn no_interrupt_is_lost_or_made_up_while_masks_change() {
    let mut driver = mock(MIB);
    let device = driver.function().clone();
    let taken = InterruptCounter::new();
    device.set_interrupt(VECTOR, taken.sink());
    let cause_mask = || {
        for mask in [u32::MAX, INT_QUEUE0, 0] {
            device.bar_write(0, Reg::INT_MASK.0.into(), &mask.to_le_bytes());
        }
    };
    let vector_mask = || {
        device.set_interrupt(VECTOR, None);
        device.set_interrupt(VECTOR, taken.sink());
    };
    let clear = || {
        let offset = u64::from(Reg::INT_CAUSE.0);
        device.bar_write(0, offset, &u32::MAX.to_le_bytes());
    };
    beside(&[&cause_mask, &vector_mask, &clear], || {
        for _ in 0..FENCES {
            let sequence = driver.fence(true).expect("room in the ring");
            assert_clean(&driver.wait(sequence).expect("a fence"));
        }
    });
    // What was taken is what was raised; the last fence's may still be on its way.
    until("as many as were raised", || {
        taken.count() == device.snapshot().events.interrupts
    })
    .expect("no interrupt that nobody counted");
    // All is unmasked: the next one comes.
    let before = taken.count();
    driver.fence(true).expect("room in the ring");
    assert!(taken.wait(before + 1, LIMIT));
}

#[test]
fn doorbells_of_all_queues_from_many_cpus_hold_no_copy_up() {
    let mut driver = mock(4 * MIB);
    let device = driver.function().clone();
    let ring = |offset: u32| device.bar_write(0, offset.into(), &1_u32.to_le_bytes());
    let queues = || {
        for queue in [0, 1, INVALIDATION_QUEUE, FAULT_QUEUE, 5] {
            ring(queue_reg(queue, QueueReg::QUEUE_DOORBELL));
        }
    };
    let contexts = || {
        for context in 0..MAX_CONTEXTS {
            ring(context_reg(context, QueueReg::QUEUE_DOORBELL));
        }
    };
    let undefined = || {
        for offset in (0xc0..0x400).step_by(4) {
            ring(offset);
            device.bar_read(0, offset.into(), &mut [0; 4]);
        }
    };
    let data = driver.data();
    beside(&[&queues, &queues, &contexts, &undefined], || {
        for round in 0..ROUNDS {
            let content = pattern(round, 16 << 12);
            driver.ram().write(data, &content);
            let there = copy(0, 16, Side::Vram(0), Side::System(data));
            let back = data + 16 * PAGE;
            let home = copy(4, 1, Side::System(back), Side::Vram(0));
            assert_clean(&driver.run(&[there, home]).expect("a fence"));
            assert!(
                driver.ram().read(back, 16 << 12) == content,
                "copied wrongly"
            );
        }
    });
    let unknown = device.snapshot().events.unknown_registers.len();
    assert!((1..=UNKNOWN_REGISTER_OFFSETS).contains(&unknown));
}
