//! Reset: by register, function-level, by the client, and when the client goes away.

use std::sync::atomic::Ordering;

use hmmgpu_contract::desc::NOTE_ALLOC;
use hmmgpu_contract::regs::{QUEUE_STATUS_OFF, QueueReg, RESET_CTRL_RESET, Reg, STATE_READY};
use hmmgpu_model::ResetCause;
use hmmgpu_model::mock::descriptors::{Side, copy, fill, note, span_begin};
use hmmgpu_model::mock::{Driver, GuestRam, QueueConfig};

use crate::rig::{MIB, Mock, PAGE, RAM_BASE, VRAM, assert_clean, device, mock, ram};

/// DMA addresses of memory apart from the queue's.
const ELSEWHERE: u64 = 0x40_0000_0000;
/// Device control register of the PCI Express capability, and its bit of function-level reset.
const DEVICE_CONTROL: u64 = 0x68;
const FLR: u16 = 1 << 15;

fn trigger(driver: &Mock, cause: ResetCause) {
    match cause {
        ResetCause::Register => driver.write(Reg::RESET_CTRL.0, RESET_CTRL_RESET),
        ResetCause::Flr => driver
            .function()
            .config_write(DEVICE_CONTROL, &FLR.to_le_bytes()),
        cause => driver.function().reset(cause),
    }
}

fn ready(driver: &Mock) {
    driver
        .until("ready state", |driver| {
            driver.read(Reg::STATE.0) == STATE_READY
        })
        .unwrap();
}

/// What a driver does after a reset of any kind.
fn revive(driver: &mut Mock, cause: ResetCause) {
    if cause == ResetCause::Disconnect {
        let ram = driver.ram();
        let mapping = ram.mapping(0, ram.size(), true).unwrap();
        driver.function().dma_map(mapping).unwrap();
    }
    driver.set_bus_master(true);
    driver.start().unwrap();
}

const CAUSES: [ResetCause; 4] = [
    ResetCause::Register,
    ResetCause::Flr,
    ResetCause::VfioUser,
    ResetCause::Disconnect,
];

#[test]
fn registers_vram_and_notes_are_as_after_power_on() {
    let mut driver = mock(8 * MIB);
    let data = driver.data();
    for (generation, cause) in (1..).zip(CAUSES) {
        let before = [
            fill(9, 2, Side::Vram(0), 0x1111),
            fill(0, 1, Side::Vram(VRAM - PAGE), 0x2222),
            note(NOTE_ALLOC, 9, 2, 0, 0),
            span_begin(generation, 1),
            fill(77, 1, Side::Vram(0), 0),
        ];
        assert_eq!(driver.run(&before).unwrap().errors, 1);
        assert_ne!(driver.read(Reg::ERROR_STATUS.0), 0);
        driver.write(Reg::INT_MASK.0, 4);
        trigger(&driver, cause);
        assert_eq!(u64::from(driver.read(Reg::GENERATION.0)), generation);
        ready(&driver);
        for reg in [
            Reg::INT_CAUSE,
            Reg::INT_MASK,
            Reg::ERROR_STATUS,
            Reg::ERROR_COUNT,
        ] {
            assert_eq!(driver.read(reg.0), 0, "{reg:?}");
        }
        assert_eq!(driver.read_queue(QueueReg::QUEUE_STATUS), QUEUE_STATUS_OFF);
        assert_eq!(driver.read_queue(QueueReg::QUEUE_RING_HI), 0);
        let mut command = [0; 2];
        driver.function().config_read(4, &mut command);
        let kept = cause == ResetCause::Register;
        assert_eq!(command[0] & 4 != 0, kept, "bus mastering after {cause:?}");

        revive(&mut driver, cause);
        let mut found = vec![copy(9, 2, Side::System(data + 2 * MIB), Side::Vram(0))];
        found.push(copy(0, 1, Side::System(data), Side::Vram(VRAM - PAGE)));
        assert_clean(&driver.run(&found).unwrap());
        let vram = driver.ram().read(data + 2 * MIB, 4 << 20);
        assert!(vram.iter().all(|byte| *byte == 0), "VRAM after {cause:?}");
        assert!(driver.ram().read(data, 4096).iter().all(|byte| *byte == 0));
        let snapshot = driver.function().snapshot();
        assert_eq!(u64::from(snapshot.generation), generation);
        assert_eq!(snapshot.vram.used_bytes, 0);
        assert_eq!(snapshot.vram.peak_bytes, 4 * MIB);
        assert_eq!(snapshot.events.lost_spans, generation);
    }
    let resets = driver.function().snapshot().events.resets;
    let names = ["register", "flr", "vfio_user", "disconnect"];
    assert_eq!(resets, names.map(|name| (name.to_owned(), 1)));
}

#[test]
fn nothing_is_written_after_a_reset_in_the_middle_of_a_copy() {
    const BYTES: u64 = 128 * MIB;
    for cause in CAUSES {
        let mut driver = Driver::new(device(), ram(MIB), QueueConfig::default()).unwrap();
        let mut cut = false;
        // A copy may be over before the reset comes; then the next attempt counts.
        for attempt in 1..=50 {
            let target = GuestRam::new(ELSEWHERE, usize::try_from(BYTES).unwrap()).unwrap();
            driver
                .function()
                .dma_map(target.mapping(0, BYTES, true).unwrap())
                .unwrap();
            driver
                .submit(&[fill(15, 1, Side::System(ELSEWHERE), attempt)])
                .unwrap();
            let sequence = driver.fence(true).unwrap();
            driver
                .until("first bytes", |_| {
                    target.load::<u64>(ELSEWHERE, Ordering::Acquire) == attempt
                })
                .unwrap();
            trigger(&driver, cause);
            let written =
                |page: &u64| target.load::<u64>(ELSEWHERE + page * PAGE, Ordering::Acquire) != 0;
            let pages = (0..BYTES / PAGE).filter(written).count();
            let queue_page = driver.ram().read(RAM_BASE, usize::try_from(MIB).unwrap());
            cut = driver.record().sequence < sequence;

            ready(&driver);
            assert!(queue_page == driver.ram().read(RAM_BASE, usize::try_from(MIB).unwrap()));
            // The same engine in its next life: whatever it had to do before is over now.
            revive(&mut driver, cause);
            driver.submit(&[fill(0, 1, Side::Vram(0), 0)]).unwrap();
            driver
                .until("consumer", |driver| driver.consumer() == 1)
                .unwrap();
            assert_eq!((0..BYTES / PAGE).filter(written).count(), pages);
            if cut {
                assert!((pages as u64) < BYTES / PAGE);
                assert!(
                    driver.record().sequence < sequence,
                    "a fence of before the reset"
                );
                break;
            }
            if cause != ResetCause::Disconnect {
                driver.function().dma_unmap(ELSEWHERE, BYTES).unwrap();
            }
        }
        assert!(cut, "no reset came in the middle of a copy: {cause:?}");
        let errors = driver.function().snapshot().events.descriptor_errors;
        assert!(
            errors.contains(&("STATUS_ABORTED".to_owned(), 1)),
            "{errors:?}"
        );
    }
}

#[test]
fn resets_on_top_of_each_other_end_ready() {
    let mut driver = mock(MIB);
    for _ in 0..20 {
        trigger(&driver, ResetCause::Register);
    }
    assert_eq!(driver.read(Reg::GENERATION.0), 20);
    driver.start().unwrap();
    assert_clean(&driver.run(&[]).unwrap());
}

#[test]
fn a_device_can_be_dropped_at_any_time() {
    for busy in [false, true] {
        let mut driver = mock(32 * MIB);
        if busy {
            let data = driver.data().next_multiple_of(2 * MIB);
            driver
                .submit(&[fill(9, 8, Side::System(data), 1); 32])
                .unwrap();
        }
        trigger(&driver, ResetCause::Register);
    }
}
