//! Every field of every descriptor at its limits.

use hmmgpu_contract::desc::{
    DIR_SYS_TO_SYS, Desc, FALLBACK_INJECTED, FALLBACKS, FLAG_CHECKSUM, FLAG_DIRECTION_SHIFT,
    FLAG_SPAN_END, NOTE_ALLOC, NOTE_FALLBACK, NOTE_FREE, NOTE_SPLIT, Status, TRIGGER_EVICT,
};
use hmmgpu_contract::{MAX_ORDER, MAX_TRANSFER_BYTES};
use hmmgpu_model::mock::descriptors::{
    Side, copy, fallback, fence, fill, mark, note, of_process, phases, process, span_begin,
    span_end, triggered,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::cell::RefCell;

use crate::rig::{MIB, PAGE, RAM_BASE, VRAM, assert_clean, assert_one, mock};

fn with(desc: Desc, change: impl FnOnce(&mut Desc)) -> Desc {
    let mut desc = desc;
    change(&mut desc);
    desc
}

#[test]
fn each_rule_has_its_status_and_the_ring_goes_on() {
    use Status as S;
    let mut driver = mock(4 * MIB);
    let data = driver.data();
    let record = driver.record_address();
    let to_vram = copy(0, 1, Side::Vram(0), Side::System(data));
    let zero = fill(0, 1, Side::Vram(0), 0);
    let end = span_end(1, 9, 512, 0, 0);
    let alloc = note(NOTE_ALLOC, 0, 1, 0, 0);
    let (named, timed) = (process(1, "name"), phases(1, [1; 5]));
    let small = fallback(9, 1, 0, 0, 0);
    let (no_pid, no_reason) = (1_u64 << 32, FALLBACKS.len() as u64);
    let cases = [
        // Opcodes.
        (with(to_vram, |d| d.opcode = 0), S::STATUS_BAD_OPCODE),
        (with(to_vram, |d| d.opcode = 6), S::STATUS_BAD_OPCODE),
        (with(to_vram, |d| d.opcode = 255), S::STATUS_BAD_OPCODE),
        // COPY.
        (with(to_vram, |d| d.flags |= 1 << 3), S::STATUS_BAD_FIELD),
        // The checksum's place.
        (
            with(to_vram, |d| (d.flags, d.arg) = (d.flags | FLAG_CHECKSUM, 4)),
            S::STATUS_MISALIGNED,
        ),
        (
            with(to_vram, |d| (d.flags, d.arg) = (d.flags | FLAG_CHECKSUM, 8)),
            S::STATUS_DMA_UNMAPPED,
        ),
        (
            with(copy(0, 1, Side::Vram(PAGE), Side::Vram(0)), |d| {
                (d.flags, d.arg) = (d.flags | FLAG_CHECKSUM, data)
            }),
            S::STATUS_BAD_FIELD,
        ),
        (
            with(zero, |d| (d.flags, d.src) = (d.flags | FLAG_CHECKSUM, 4)),
            S::STATUS_MISALIGNED,
        ),
        (
            with(zero, |d| (d.flags, d.src) = (d.flags | FLAG_CHECKSUM, 8)),
            S::STATUS_DMA_UNMAPPED,
        ),
        (
            with(fill(0, 1, Side::System(data), 0), |d| {
                (d.flags, d.src) = (d.flags | FLAG_CHECKSUM, data)
            }),
            S::STATUS_BAD_FIELD,
        ),
        (with(to_vram, |d| d.flags |= 1 << 4), S::STATUS_BAD_FIELD),
        (with(to_vram, |d| d.flags |= 1 << 11), S::STATUS_BAD_FIELD),
        (triggered(to_vram, 4), S::STATUS_BAD_FIELD),
        (triggered(to_vram, 7), S::STATUS_BAD_FIELD),
        (with(to_vram, |d| d.arg = 1), S::STATUS_BAD_FIELD),
        (
            with(to_vram, |d| d.order = MAX_ORDER + 1),
            S::STATUS_BAD_ORDER,
        ),
        (with(to_vram, |d| d.order = 255), S::STATUS_BAD_ORDER),
        (with(to_vram, |d| d.count = 0), S::STATUS_BAD_COUNT),
        (with(to_vram, |d| d.count = u32::MAX), S::STATUS_BAD_COUNT),
        (
            with(to_vram, |d| {
                d.order = MAX_ORDER;
                d.count = 2;
            }),
            S::STATUS_BAD_COUNT,
        ),
        (
            with(to_vram, |d| {
                d.order = MAX_ORDER;
                d.count = u32::MAX;
            }),
            S::STATUS_BAD_COUNT,
        ),
        (with(to_vram, |d| d.order = MAX_ORDER), S::STATUS_VRAM_RANGE),
        (
            with(to_vram, |d| {
                d.count = u32::try_from(MAX_TRANSFER_BYTES / PAGE).unwrap()
            }),
            S::STATUS_VRAM_RANGE,
        ),
        (with(to_vram, |d| d.dst = 1), S::STATUS_MISALIGNED),
        (with(to_vram, |d| d.src += 2048), S::STATUS_MISALIGNED),
        (
            copy(1, 1, Side::Vram(PAGE), Side::Vram(0)),
            S::STATUS_OVERLAP,
        ),
        (
            copy(0, 2, Side::System(data), Side::System(data + PAGE)),
            S::STATUS_OVERLAP,
        ),
        (
            copy(0, 1, Side::System(data), Side::System(data)),
            S::STATUS_OVERLAP,
        ),
        // FILL.
        (with(zero, |d| d.src = 4096), S::STATUS_BAD_FIELD),
        (with(zero, |d| d.flags |= 1), S::STATUS_BAD_FIELD),
        (triggered(zero, 5), S::STATUS_BAD_FIELD),
        (with(zero, |d| d.order = 19), S::STATUS_BAD_ORDER),
        (with(zero, |d| d.count = 0), S::STATUS_BAD_COUNT),
        (with(zero, |d| d.dst = 8), S::STATUS_MISALIGNED),
        // FENCE.
        (
            with(fence(record, 1, false), |d| d.flags = 2),
            S::STATUS_BAD_FIELD,
        ),
        (
            with(fence(record, 1, false), |d| d.order = 1),
            S::STATUS_BAD_FIELD,
        ),
        (
            with(fence(record, 1, false), |d| d.count = 1),
            S::STATUS_BAD_FIELD,
        ),
        (
            with(fence(record, 1, false), |d| d.src = 1),
            S::STATUS_BAD_FIELD,
        ),
        (fence(record + 16, 1, false), S::STATUS_MISALIGNED),
        (fence(RAM_BASE + 4 * MIB, 1, false), S::STATUS_DMA_UNMAPPED),
        // SPAN.
        (
            with(span_begin(1, 1), |d| d.dst = no_pid),
            S::STATUS_BAD_FIELD,
        ),
        (with(span_begin(1, 1), |d| d.src = 1), S::STATUS_BAD_FIELD),
        (with(span_begin(1, 1), |d| d.order = 1), S::STATUS_BAD_FIELD),
        (with(span_begin(1, 1), |d| d.flags = 2), S::STATUS_BAD_FIELD),
        (
            with(span_begin(1, 1), |d| d.flags = 1 << 10),
            S::STATUS_BAD_FIELD,
        ),
        (with(end, |d| d.dst = 1), S::STATUS_BAD_FIELD),
        (with(end, |d| d.src = 1), S::STATUS_BAD_FIELD),
        (with(end, |d| d.order = 19), S::STATUS_BAD_ORDER),
        (with(end, |d| d.flags |= 1 << 6), S::STATUS_BAD_FIELD),
        // NOTE.
        (note(0, 0, 1, 0, 0), S::STATUS_BAD_FIELD),
        (note(8, 0, 1, 0, 0), S::STATUS_BAD_FIELD),
        (note(15, 0, 1, 0, 0), S::STATUS_BAD_FIELD),
        (with(alloc, |d| d.flags |= 1 << 4), S::STATUS_BAD_FIELD),
        (with(alloc, |d| d.src = 1), S::STATUS_BAD_FIELD),
        (with(alloc, |d| d.arg = no_pid), S::STATUS_BAD_FIELD),
        (note(NOTE_FREE, 0, 1, 0, 1), S::STATUS_BAD_FIELD),
        (with(alloc, |d| d.order = 19), S::STATUS_BAD_ORDER),
        (with(alloc, |d| d.count = 0), S::STATUS_BAD_COUNT),
        (with(alloc, |d| d.dst = 100), S::STATUS_MISALIGNED),
        (with(alloc, |d| d.dst = VRAM), S::STATUS_VRAM_RANGE),
        (with(alloc, |d| d.count = u32::MAX), S::STATUS_VRAM_RANGE),
        (note(NOTE_SPLIT, 9, 1, 0, 9), S::STATUS_BAD_FIELD),
        (note(NOTE_SPLIT, 9, 1, 0, 256), S::STATUS_BAD_FIELD),
        (note(NOTE_SPLIT, 0, 1, 0, 0), S::STATUS_BAD_FIELD),
        (with(mark(1), |d| d.dst = 1), S::STATUS_BAD_FIELD),
        (with(mark(1), |d| d.count = 1), S::STATUS_BAD_FIELD),
        (with(mark(1), |d| d.order = 1), S::STATUS_BAD_FIELD),
        (with(mark(1), |d| d.src = 1), S::STATUS_BAD_FIELD),
        // NOTE process.
        (with(named, |d| d.count = 0), S::STATUS_BAD_FIELD),
        (with(named, |d| d.order = 1), S::STATUS_BAD_FIELD),
        (with(named, |d| d.arg = 1), S::STATUS_BAD_FIELD),
        (with(named, |d| d.flags |= 1 << 4), S::STATUS_BAD_FIELD),
        (with(named, |d| d.flags |= 1 << 8), S::STATUS_BAD_FIELD),
        (with(named, |d| d.src = 1 << 56), S::STATUS_BAD_FIELD),
        (with(named, |d| d.dst |= 1 << 56), S::STATUS_BAD_FIELD),
        // NOTE phases.
        (with(timed, |d| d.order = 1), S::STATUS_BAD_FIELD),
        (with(timed, |d| d.flags |= 1 << 4), S::STATUS_BAD_FIELD),
        (with(timed, |d| d.flags |= 1 << 15), S::STATUS_BAD_FIELD),
        // NOTE fallback.
        (with(small, |d| d.dst = 1), S::STATUS_BAD_FIELD),
        (with(small, |d| d.src = 1), S::STATUS_BAD_FIELD),
        (with(small, |d| d.arg = no_reason), S::STATUS_BAD_FIELD),
        (with(small, |d| d.arg = 1 << 16), S::STATUS_BAD_FIELD),
        (with(small, |d| d.arg = u64::MAX), S::STATUS_BAD_FIELD),
        (with(small, |d| d.flags |= 1 << 6), S::STATUS_BAD_FIELD),
        (with(small, |d| d.flags |= 1 << 11), S::STATUS_BAD_FIELD),
        (triggered(small, 4), S::STATUS_BAD_FIELD),
        (with(small, |d| d.order = 19), S::STATUS_BAD_ORDER),
        (with(small, |d| d.count = 0), S::STATUS_BAD_COUNT),
    ];
    for (desc, status) in cases {
        let index = driver.producer();
        let found = driver.run(&[desc]).unwrap();
        assert_eq!(
            (Status(found.status), found.errors),
            (status, 1),
            "{desc:?}"
        );
        assert_eq!(found.error_index, index, "{desc:?}");
    }
    let snapshot = driver.function().snapshot();
    let errors: u64 = snapshot
        .events
        .descriptor_errors
        .iter()
        .map(|(_, n)| n)
        .sum();
    assert_eq!(errors, cases.len() as u64);
}

#[test]
fn the_largest_values_that_are_allowed_work() {
    let mut driver = mock(4 * MIB);
    let data = driver.data();
    let descs = [
        triggered(copy(0, 1, Side::Vram(VRAM - PAGE), Side::System(data)), 3),
        // Neighbours do not overlap.
        copy(0, 1, Side::Vram(PAGE), Side::Vram(0)),
        copy(9, 1, Side::Vram(2 * MIB), Side::Vram(0)),
        fill(9, 32, Side::Vram(0), u64::MAX),
        fill(14, 1, Side::Vram(0), 1),
        process(u32::MAX, "0123456789abcdef"),
        process(1, ""),
        of_process(span_begin(u64::MAX, u32::MAX), u32::MAX),
        phases(u64::MAX, [u32::MAX; 5]),
        fallback(
            18,
            u32::MAX,
            DIR_SYS_TO_SYS,
            TRIGGER_EVICT,
            FALLBACK_INJECTED,
        ),
        span_end(u64::MAX, 18, u32::MAX, 3, 3),
        of_process(note(NOTE_ALLOC, 14, 1, 0, 0), u32::MAX),
        note(NOTE_SPLIT, 14, 1, 0, 0),
        note(NOTE_FREE, 0, 1 << 14, 0, 0),
        mark(u64::MAX),
        mark(0),
        fence(driver.record_address() + 32, u64::MAX, true),
    ];
    assert_clean(&driver.run(&descs).unwrap());
    let snapshot = driver.function().snapshot();
    assert_eq!(snapshot.vram.inconsistent_notes, 0);
    assert_eq!(snapshot.vram.used_bytes, 0);
    assert_eq!(snapshot.events.splits, [(14, 1)]);
}

#[test]
fn several_errors_are_counted_and_the_first_is_named() {
    let mut driver = mock(MIB);
    let good = fill(0, 1, Side::Vram(0), 0);
    let bad_order = fill(19, 1, Side::Vram(0), 0);
    let bad_op = with(good, |d| d.opcode = 99);
    let record = driver.run(&[good, bad_order, bad_op, good]).unwrap();
    assert_eq!(record.errors, 2);
    assert_eq!(record.error_index, 1);
    assert_eq!(Status(record.status), Status::STATUS_BAD_ORDER);
    assert_clean(&driver.run(&[good]).unwrap());
    assert_one(&driver.run(&[bad_op]).unwrap(), Status::STATUS_BAD_OPCODE);
}

#[test]
fn noise_never_stops_the_ring() {
    // What a driver with bad memory might write: values at limits, and anything at all.
    let word = prop_oneof![
        Just(0_u64),
        Just(u64::MAX),
        (0_u64..VRAM / PAGE).prop_map(|page| page * PAGE),
        Just(VRAM),
        (256_u64..1024).prop_map(|page| RAM_BASE + page * PAGE),
        Just(RAM_BASE + 4 * MIB),
        any::<u64>().prop_map(|word| word | 1 << 63),
    ];
    let desc = (
        prop_oneof![9 => 1_u8..=5, 1 => any::<u8>()],
        prop_oneof![9 => 0_u8..=10, 1 => any::<u8>()],
        prop_oneof![
            9 => 0_u16..8,
            3 => Just(FLAG_SPAN_END),
            3 => Just(NOTE_FALLBACK | 1 << FLAG_DIRECTION_SHIFT),
            1 => any::<u16>(),
        ],
        prop_oneof![9 => 0_u32..4, 1 => any::<u32>()],
        word.clone(),
        word.clone(),
        prop_oneof![Just(0_u64), 0_u64..20, word],
    )
        .prop_map(|(opcode, order, flags, count, dst, src, arg)| Desc {
            opcode,
            order,
            flags,
            count,
            dst,
            src,
            arg,
        });
    let driver = RefCell::new(mock(4 * MIB));
    let mut runner = TestRunner::new(Config::with_cases(400));
    runner
        .run(&prop::collection::vec(desc, 1..40), |descs| {
            let record = driver.borrow_mut().run(&descs);
            let record = record.map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert!(record.errors as usize <= descs.len());
            prop_assert_eq!(record.errors == 0, record.status == 0);
            Ok(())
        })
        .unwrap();
    let driver = driver.into_inner();
    assert_eq!(
        u64::from(driver.producer()),
        driver.function().snapshot().events.descriptors
    );
}
