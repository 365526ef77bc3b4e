//! The rules of the invalidation queue, and what it does not wait for.

use hmmgpu_contract::desc::{Desc, Status};
use hmmgpu_contract::mmu::{OP_CANCEL, OP_INVALIDATE, OP_REPLAY};
use hmmgpu_contract::regs::{
    INVALIDATION_QUEUE, MAX_CONTEXTS, QUEUE_STATUS_RUNNING, QueueReg, Reg,
};
use hmmgpu_model::mock::descriptors::{Side, cancel, copy, fence, fill, invalidate, replay};
use hmmgpu_model::mock::jobs;
use hmmgpu_model::mock::{Driver, QueueConfig};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::cell::RefCell;

use crate::compute::world::{ALL, BASE, assert_done, world};
use crate::rig::{MIB, Mock, PAGE, assert_clean, assert_one, device, mock, ram};

/// The invalidation queue of a device.
fn queue() -> Mock {
    let config = QueueConfig {
        queue: INVALIDATION_QUEUE,
        ..QueueConfig::default()
    };
    Driver::new(device(), ram(MIB), config).expect("queue")
}

fn with(desc: Desc, change: impl FnOnce(&mut Desc)) -> Desc {
    let mut desc = desc;
    change(&mut desc);
    desc
}

#[test]
fn each_rule_has_its_status_and_the_ring_goes_on() {
    use Status as S;
    let mut queue = queue();
    let forget = invalidate(1, 0x1000, 0x1000);
    let (again, end) = (replay(1, 1), cancel(1, 1, 5));
    let page = Side::System(queue.data());
    let cases = [
        (with(forget, |d| d.opcode = 0), S::STATUS_BAD_OPCODE),
        (with(forget, |d| d.opcode = 15), S::STATUS_BAD_OPCODE),
        (with(forget, |d| d.opcode = 19), S::STATUS_BAD_OPCODE),
        (with(forget, |d| d.opcode = 255), S::STATUS_BAD_OPCODE),
        (fill(0, 1, page, 0), S::STATUS_BAD_OPCODE),
        (copy(0, 1, Side::Vram(0), page), S::STATUS_BAD_OPCODE),
        (with(forget, |d| d.order = 1), S::STATUS_BAD_FIELD),
        (with(forget, |d| d.flags = 1), S::STATUS_BAD_FIELD),
        (with(forget, |d| d.arg = 1), S::STATUS_BAD_FIELD),
        (with(forget, |d| d.dst = 0x1800), S::STATUS_MISALIGNED),
        (with(forget, |d| d.src = 0x1800), S::STATUS_MISALIGNED),
        (with(forget, |d| d.src = 0), S::STATUS_BAD_COUNT),
        (
            with(forget, |d| d.count = MAX_CONTEXTS),
            S::STATUS_BAD_CONTEXT,
        ),
        (with(forget, |d| d.count = u32::MAX), S::STATUS_BAD_CONTEXT),
        (with(again, |d| d.order = 1), S::STATUS_BAD_FIELD),
        (with(again, |d| d.flags = 1), S::STATUS_BAD_FIELD),
        (with(again, |d| d.dst = 1), S::STATUS_BAD_FIELD),
        (with(again, |d| d.src = 1), S::STATUS_BAD_FIELD),
        (
            with(again, |d| d.count = MAX_CONTEXTS),
            S::STATUS_BAD_CONTEXT,
        ),
        (with(end, |d| d.order = 1), S::STATUS_BAD_FIELD),
        (with(end, |d| d.flags = 1), S::STATUS_BAD_FIELD),
        (with(end, |d| d.dst = 1), S::STATUS_BAD_FIELD),
        (with(end, |d| d.src = 1 << 32), S::STATUS_BAD_FIELD),
        (with(end, |d| d.count = u32::MAX), S::STATUS_BAD_CONTEXT),
        (
            fence(queue.record_address() + 8, 1, false),
            S::STATUS_MISALIGNED,
        ),
    ];
    for (desc, status) in cases {
        let record = queue.run(&[desc]).unwrap();
        assert_one(&record, status);
        assert_eq!(Status(queue.read(Reg::ERROR_STATUS.0)), status);
        assert_eq!(queue.read(Reg::ERROR_QUEUE.0), INVALIDATION_QUEUE);
        queue.write(Reg::ERROR_STATUS.0, 1);
    }
    let snapshot = queue.function().snapshot();
    assert_eq!(snapshot.mmu.invalidations, 0);
    assert_eq!(
        queue.read_queue(QueueReg::QUEUE_STATUS),
        QUEUE_STATUS_RUNNING
    );
}

#[test]
fn what_has_nothing_to_do_is_no_error() {
    let mut queue = queue();
    let descs = [
        invalidate(0, 0, 0x1000),
        invalidate(MAX_CONTEXTS - 1, 0, 1 << 48),
        // More than there are addresses, and addresses that are none.
        invalidate(7, 0, !0xfff),
        invalidate(7, !0xfff, 0x1000),
        invalidate(7, !0xfff, !0xfff),
        replay(7, 0),
        replay(7, 1),
        replay(7, u64::MAX),
        cancel(7, 0, 0),
        cancel(7, u64::MAX, u32::MAX),
    ];
    assert_clean(&queue.run(&descs).unwrap());
    assert_eq!(queue.function().snapshot().mmu.invalidations, 5);
}

#[test]
fn a_copy_queue_knows_none_of_it() {
    let mut queue = mock(MIB);
    for desc in [invalidate(0, 0, PAGE), replay(0, 1), cancel(0, 1, 0)] {
        assert_one(&queue.run(&[desc]).unwrap(), Status::STATUS_BAD_OPCODE);
    }
}

#[test]
fn noise_never_stops_the_ring() {
    let queue = RefCell::new(queue());
    let opcodes = prop_oneof![
        4 => prop_oneof![Just(OP_INVALIDATE), Just(OP_REPLAY), Just(OP_CANCEL)],
        1 => any::<u8>().prop_filter("a fence writes", |opcode| *opcode != 3),
    ];
    let word = || prop_oneof![Just(0_u64), Just(0x1000), any::<u64>()];
    let desc = (
        opcodes,
        prop_oneof![4 => Just(0_u8), 1 => any::<u8>()],
        prop_oneof![4 => Just(0_u16), 1 => any::<u16>()],
        prop_oneof![4 => 0_u32..300, 1 => any::<u32>()],
        (word(), word(), word()),
    );
    let desc = desc.prop_map(|(opcode, order, flags, count, (dst, src, arg))| Desc {
        opcode,
        order,
        flags,
        count,
        dst,
        src,
        arg,
    });
    let descs = prop::collection::vec(desc, 1..40);
    let mut runner = TestRunner::new(Config {
        failure_persistence: None,
        ..Config::default()
    });
    runner
        .run(&descs, |descs| {
            let mut queue = queue.borrow_mut();
            let record = queue.run(&descs).unwrap();
            prop_assert!(record.errors as usize <= descs.len());
            prop_assert_eq!(
                queue.read_queue(QueueReg::QUEUE_STATUS),
                QUEUE_STATUS_RUNNING
            );
            Ok(())
        })
        .unwrap();
    assert_clean(&queue.borrow_mut().run(&[]).unwrap());
}

#[test]
fn it_waits_for_no_fault_to_be_resolved_and_holds_no_other_queue_up() {
    let (world, mut queues) = world(16 * MIB, 2);
    let page = world.take(PAGE);
    // More contexts wait for faults than there are engines, and than the fault queue has room for.
    let mut waiting: Vec<_> = (0..8)
        .map(|context| {
            let mut process = world.process(context);
            let sequence = process.driver.submit(&jobs::fill(BASE, 8, 1)).unwrap();
            (process, sequence)
        })
        .collect();
    let snapshot = || world.device.snapshot();
    let full = |driver: &Mock| {
        let _ = driver;
        snapshot().mmu.fault_queue_full >= 4
    };
    queues.copy.until("a full fault queue", full).unwrap();
    for context in 0..8 {
        queues.invalidate(context, 0, 1 << 47);
    }
    queues.copy(Side::Vram(0), Side::System(page), PAGE);
    let mut other = world.process(9);
    other.map(BASE, Side::System(page), ALL);
    let record = other.driver.run(&jobs::fill(BASE, 8, 7)).unwrap();
    assert_done(&record, 8, 0);
    for _ in 0..8 {
        let fault = queues.fault();
        let (process, sequence) = &mut waiting[fault.context as usize];
        process.map(BASE, Side::System(page), ALL);
        queues.replay(&fault);
        assert_done(&process.driver.wait(*sequence).unwrap(), 8, 0);
    }
}
