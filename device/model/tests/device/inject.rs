//! Faults on purpose: what the driver sees of each.

use std::sync::Arc;
use std::time::Duration;

use hmmgpu_contract::desc::Status;
use hmmgpu_contract::mmu::{FaultReason, FaultRecord};
use hmmgpu_contract::regs::{MAGIC_VALUE, RESET_CTRL_RESET, Reg, STATE_READY};
use hmmgpu_model::Device;
use hmmgpu_model::mock::descriptors::{Side, cancel, copy, fill, replay};
use hmmgpu_model::mock::{InterruptCounter, jobs, until};
use hmmgpu_telemetry::snapshot::{FaultOutcome, InjectedFault};

use crate::compute::world::{ALL, BASE, Process, Queues, assert_done, world};
use crate::rig::{MIB, Mock, PAGE, assert_clean, assert_one, mock, pattern};

const VECTOR: u32 = 1;
const PAGE_BYTES: usize = 4096;
const LIMIT: Duration = Duration::from_secs(30);

fn arm(device: &Arc<Device>, fault: &str) {
    let fault = fault.parse().expect("a fault");
    device.inject(vec![fault]).expect("room");
}

/// Hits of the fault that was armed last.
fn hits(device: &Arc<Device>) -> u64 {
    let faults = device.snapshot().injected;
    faults.last().map_or(0, |fault| fault.hits)
}

fn told(device: &Arc<Device>) -> InjectedFault {
    device.snapshot().injected.remove(0)
}

/// A driver with `pages` pages of a pattern in its RAM.
fn filled(pages: u64) -> (Mock, Vec<u8>) {
    let driver = mock(MIB);
    let data = pattern(3, usize::try_from(pages * PAGE).unwrap());
    driver.ram().write(driver.data(), &data);
    (driver, data)
}

fn to_vram(driver: &Mock, page: u64) -> hmmgpu_contract::desc::Desc {
    let place = page * PAGE;
    copy(0, 1, Side::Vram(place), Side::System(driver.data() + place))
}

/// Pages of VRAM, by way of the driver's RAM.
fn vram(driver: &mut Mock, pages: u64) -> Vec<u8> {
    let to = driver.data() + MIB / 2;
    let count = u32::try_from(pages).unwrap();
    assert_clean(
        &driver
            .run(&[copy(0, count, Side::System(to), Side::Vram(0))])
            .unwrap(),
    );
    driver
        .ram()
        .read(to, usize::try_from(pages * PAGE).unwrap())
}

#[test]
fn a_copy_that_fails_says_so_and_the_next_one_does_not() {
    let (mut driver, data) = filled(4);
    arm(driver.function(), "copy.sys_to_dev:fail@2");
    let copies: Vec<_> = (0..4).map(|page| to_vram(&driver, page)).collect();
    let record = driver.run(&copies).unwrap();
    assert_one(&record, Status::STATUS_HARDWARE);
    assert_eq!(record.error_index, 1);
    assert_clean(&driver.run(&copies[1..2]).unwrap());
    assert_eq!(vram(&mut driver, 4), data);
    let fault = told(driver.function());
    assert_eq!((fault.seen, fault.hits, fault.armed), (2, 1, false));
    assert_eq!(fault.outcomes, [(FaultOutcome::Told, 1)]);
    let events = driver.function().snapshot().events;
    let errors = [("STATUS_HARDWARE".to_owned(), 1)];
    assert_eq!(events.descriptor_errors, errors);
    assert_eq!(events.injected, [("copy:fail".to_owned(), 1)]);
    let told = driver.function().last_events(64);
    let told = told.iter().find(|event| event.event == "injected");
    let text = told.map(|event| event.text.as_str());
    assert_eq!(text, Some("copy:fail, hit 1 of its kind: told"));
}

#[test]
fn a_copy_that_is_wrong_or_not_done_ends_well() {
    for (fault, wrong) in [("copy:corrupt@2", 1), ("copy:drop@2", PAGE_BYTES)] {
        let (mut driver, data) = filled(4);
        arm(driver.function(), fault);
        let copies: Vec<_> = (0..4).map(|page| to_vram(&driver, page)).collect();
        assert_clean(&driver.run(&copies).unwrap());
        let found = vram(&mut driver, 4);
        let differ = found
            .iter()
            .zip(&data)
            .filter(|(found, data)| found != data);
        // Some bytes of a page that was not written happen to be as they were to be.
        let count = differ.count();
        assert!(count <= wrong && count > wrong / 2, "{fault}: {count}");
        assert_eq!(found[..PAGE_BYTES], data[..PAGE_BYTES]);
        assert_eq!(found[2 * PAGE_BYTES..], data[2 * PAGE_BYTES..]);
        let outcomes = told(driver.function()).outcomes;
        assert_eq!(outcomes, [(FaultOutcome::Untold, 1)]);
    }
}

#[test]
fn vram_that_is_not_there_is_not_written_to_and_the_rest_is() {
    let (mut driver, data) = filled(4);
    arm(driver.function(), "vram:full=8K");
    let copies: Vec<_> = (0..4).map(|page| to_vram(&driver, page)).collect();
    let record = driver.run(&copies).unwrap();
    assert_eq!(Status(record.status), Status::STATUS_NO_VRAM);
    assert_eq!((record.errors, record.error_index), (2, 2));
    let record = driver.run(&[fill(0, 1, Side::Vram(2 * PAGE), 7)]).unwrap();
    assert_one(&record, Status::STATUS_NO_VRAM);
    driver.function().clear_injected();
    assert_clean(&driver.run(&copies[2..]).unwrap());
    assert_eq!(vram(&mut driver, 4), data);
}

#[test]
fn a_fence_that_is_lost_never_comes_and_a_reset_helps() {
    for fault in ["fence:drop@2", "fence.copy:corrupt@2"] {
        let (mut driver, _) = filled(1);
        arm(driver.function(), fault);
        assert_clean(&driver.run(&[]).unwrap());
        let lost = driver.fence(false).unwrap();
        // The one after it comes: the engine goes on.
        let end = driver.producer();
        driver
            .until("the engine behind it", |driver| driver.consumer() == end)
            .unwrap();
        assert_ne!(driver.record().sequence, lost);
        driver.write(Reg::RESET_CTRL.0, RESET_CTRL_RESET);
        driver.start().unwrap();
        assert_clean(&driver.run(&[]).unwrap());
        let outcomes = told(driver.function()).outcomes;
        let expected = [(FaultOutcome::Lost, 1), (FaultOutcome::ResetByDriver, 1)];
        assert_eq!(outcomes, expected, "{fault}");
    }
}

#[test]
fn a_fence_may_tell_of_an_error_or_come_late() {
    let (mut driver, _) = filled(1);
    arm(driver.function(), "fence:fail");
    assert_one(&driver.run(&[]).unwrap(), Status::STATUS_HARDWARE);
    arm(driver.function(), "fence:delay=1ms");
    assert_clean(&driver.run(&[]).unwrap());
    let late = driver.function().snapshot().injected.remove(1);
    assert_eq!(late.outcomes, [(FaultOutcome::Late, 1)]);
}

#[test]
fn interrupts_are_lost_late_or_somewhere_else() {
    let mut driver = mock(MIB);
    let (right, wrong) = (InterruptCounter::new(), InterruptCounter::new());
    driver.function().set_interrupt(VECTOR, right.sink());
    driver.function().set_interrupt(VECTOR + 1, wrong.sink());
    let fence = |driver: &mut Mock, fault| {
        arm(driver.function(), fault);
        let sequence = driver.fence(true).unwrap();
        driver.wait(sequence).unwrap();
        // The interrupt is raised once a register was accessed.
        driver.read(Reg::INT_CAUSE.0);
    };
    fence(&mut driver, "interrupt:drop");
    assert_eq!((right.count(), wrong.count()), (0, 0));
    fence(&mut driver, "interrupt:corrupt");
    assert_eq!((right.count(), wrong.count()), (0, 1));
    fence(&mut driver, "interrupt:delay=1ms");
    assert!(right.wait(1, LIMIT));
    // Of a generation that is over.
    fence(&mut driver, "interrupt:delay=1s");
    driver.write(Reg::RESET_CTRL.0, RESET_CTRL_RESET);
    driver.start().unwrap();
    fence(&mut driver, "interrupt:drop@9");
    assert_eq!((right.count(), wrong.count()), (2, 1));
}

#[test]
fn an_engine_that_hangs_goes_on_after_a_reset_or_when_it_is_told_to() {
    let (mut driver, data) = filled(2);
    let copies: Vec<_> = (0..2).map(|page| to_vram(&driver, page)).collect();
    arm(driver.function(), "engine:hang@2");
    driver.submit(&copies).unwrap();
    driver
        .until("a hit", |driver| hits(driver.function()) == 1)
        .unwrap();
    assert!(driver.consumer() < driver.producer());
    driver.write(Reg::RESET_CTRL.0, RESET_CTRL_RESET);
    driver.start().unwrap();
    assert_clean(&driver.run(&copies).unwrap());
    arm(driver.function(), "engine:hang");
    driver.submit(&copies).unwrap();
    driver
        .until("a hit", |driver| hits(driver.function()) == 1)
        .unwrap();
    driver.function().clear_injected();
    assert_clean(&driver.run(&[]).unwrap());
    assert_eq!(vram(&mut driver, 2), data);
}

#[test]
fn a_device_that_resets_itself_is_at_another_generation() {
    let (mut driver, data) = filled(2);
    let copies: Vec<_> = (0..2).map(|page| to_vram(&driver, page)).collect();
    arm(driver.function(), "gpu:reset@2");
    let before = driver.read(Reg::GENERATION.0);
    driver.submit(&copies).unwrap();
    driver
        .until("another generation", |driver| {
            driver.read(Reg::GENERATION.0) == before + 1
        })
        .unwrap();
    driver.start().unwrap();
    assert_eq!(
        vram(&mut driver, 2),
        vec![0; data.len()],
        "VRAM is scrubbed"
    );
    let resets = driver.function().snapshot().events.resets;
    assert_eq!(resets, [("injected".to_owned(), 1)]);
}

#[test]
fn a_device_that_is_gone_reads_all_ones_and_touches_nothing() {
    let (mut driver, data) = filled(2);
    let copies: Vec<_> = (0..2).map(|page| to_vram(&driver, page)).collect();
    let interrupt = InterruptCounter::new();
    driver.function().set_interrupt(VECTOR, interrupt.sink());
    arm(driver.function(), "gpu:gone@2");
    driver.submit(&copies).unwrap();
    driver
        .until("the end of it", |driver| {
            driver.read(Reg::MAGIC.0) == u32::MAX
        })
        .unwrap();
    driver.fence(true).unwrap();
    driver.write(Reg::RESET_CTRL.0, RESET_CTRL_RESET);
    let mut vendor = [0; 2];
    driver.function().config_read(0, &mut vendor);
    assert_eq!(vendor, [0xff; 2]);
    assert_eq!(driver.read(Reg::STATE.0), u32::MAX);
    assert_eq!((driver.record().sequence, interrupt.count()), (0, 0));
    // It is plugged in again: as new.
    driver.function().clear_injected();
    assert_eq!(driver.read(Reg::MAGIC.0), MAGIC_VALUE);
    driver
        .until("a device that is ready", |driver| {
            driver.read(Reg::STATE.0) == STATE_READY
        })
        .unwrap();
    driver.set_bus_master(true);
    driver.start().unwrap();
    assert_clean(&driver.run(&copies).unwrap());
    assert_eq!(vram(&mut driver, 2), data);
}

#[test]
fn what_is_to_happen_at_once_happens_without_any_work() {
    let driver = mock(MIB);
    arm(driver.function(), "gpu:gone");
    assert_eq!(driver.read(Reg::MAGIC.0), u32::MAX);
    let outcomes = told(driver.function()).outcomes;
    assert_eq!(outcomes, [(FaultOutcome::Gone, 1)]);
}

#[test]
fn all_that_is_to_happen_at_once_happens() {
    let driver = mock(MIB);
    let device = driver.function();
    arm(device, "gpu:reset*2");
    let faults = ["gpu:reset", "copy:fail@9", "gpu:gone", "gpu:reset"];
    let faults = faults.map(|fault| fault.parse().expect("a fault"));
    device.inject(faults.to_vec()).expect("room");
    assert_eq!(driver.read(Reg::MAGIC.0), u32::MAX);
    let injected = device.snapshot().injected;
    // The first still has one for the next copy.
    let hits: Vec<_> = injected.iter().map(|fault| fault.hits).collect();
    assert_eq!(hits, [1, 1, 0, 1, 1]);
    let armed: Vec<_> = injected.iter().map(|fault| fault.armed).collect();
    assert_eq!(armed, [true, false, true, false, false]);
    let resets = device.snapshot().events.resets;
    assert_eq!(resets, [("injected".to_owned(), 3)]);
}

/// Of what is late nothing comes after its fault was cleared: it comes by then.
#[test]
fn what_is_late_comes_when_that_is_cleared() {
    let (mut driver, data) = filled(2);
    let device = driver.function().clone();
    let interrupt = InterruptCounter::new();
    device.set_interrupt(VECTOR, interrupt.sink());
    let copies: Vec<_> = (0..2).map(|page| to_vram(&driver, page)).collect();
    for fault in [
        "copy:delay=1000s@2",
        "fence:delay=1000s",
        "engine:hang=1000s",
    ] {
        arm(&device, fault);
        driver.submit(&copies).unwrap();
        let sequence = driver.fence(false).unwrap();
        driver.until(fault, |_| hits(&device) == 1).unwrap();
        assert_ne!(driver.record().sequence, sequence, "{fault}");
        device.clear_injected();
        assert_clean(&driver.wait(sequence).unwrap());
    }
    assert_eq!(vram(&mut driver, 2), data);
    arm(&device, "interrupt:delay=1000s*2");
    for _ in 0..2 {
        let sequence = driver.fence(true).unwrap();
        driver.wait(sequence).unwrap();
        // The interrupt is raised, or late, once a register was accessed.
        driver.read(Reg::INT_CAUSE.0);
    }
    assert_eq!(interrupt.count(), 0);
    device.clear_injected();
    assert_eq!(interrupt.count(), 2);
}

#[test]
fn a_translation_or_fault_record_that_is_late_comes_when_that_is_cleared() {
    let (world, mut queues) = world(16 * MIB, 4);
    let mut process = world.process(2);
    let fill = jobs::fill(BASE, 8, 7);
    arm(&world.device, "fault:delay=1000s");
    let sequence = process.driver.submit(&fill).unwrap();
    until("a hit", || hits(&world.device) == 1).unwrap();
    assert!(queues.faults.take().is_none());
    world.device.clear_injected();
    let told = queues.faults.take().expect("a fault");
    process.map(BASE, Side::System(world.take(PAGE)), ALL);
    queues.replay(&told);
    assert_done(&process.driver.wait(sequence).unwrap(), 8, 0);
    arm(&world.device, "translation:delay=1000s");
    let sequence = process.driver.submit(&fill).unwrap();
    until("a hit", || hits(&world.device) == 1).unwrap();
    assert!(process.driver.record(sequence).is_none());
    world.device.clear_injected();
    assert_done(&process.driver.wait(sequence).unwrap(), 8, 0);
}

/// What is late of before a reset is forgotten, not only ignored when its time comes.
#[test]
fn what_is_late_takes_no_room_after_a_reset() {
    let mut driver = mock(MIB);
    let interrupt = InterruptCounter::new();
    driver.function().set_interrupt(VECTOR, interrupt.sink());
    arm(driver.function(), "interrupt:delay=1000s@every:1");
    let raise = |driver: &mut Mock| {
        let sequence = driver.fence(true).unwrap();
        driver.wait(sequence).unwrap();
        driver.read(Reg::INT_CAUSE.0);
        interrupt.count()
    };
    // One for which there is no room any more is not late.
    let most = (0..100_000).find(|_| raise(&mut driver) == 1);
    assert!(most.is_some());
    driver.write(Reg::RESET_CTRL.0, RESET_CTRL_RESET);
    driver.start().unwrap();
    assert_eq!(raise(&mut driver), 1);
}

#[test]
fn translations_that_go_wrong_are_faults_or_late() {
    let (world, mut queues) = world(16 * MIB, 4);
    let mut process = world.process(2);
    process.map(BASE, Side::System(world.take(PAGE)), ALL);
    let fill = jobs::fill(BASE, 8, 7);
    let reasons = [
        ("translation:fail", FaultReason::FAULT_NOT_PRESENT),
        ("translation:corrupt", FaultReason::FAULT_MALFORMED),
    ];
    for (fault, reason) in reasons {
        arm(&world.device, fault);
        let sequence = process.driver.submit(&fill).unwrap();
        let told = queues.faults.wait().unwrap();
        assert_eq!((told.address, told.reason), (BASE, reason.0), "{fault}");
        queues.replay(&told);
        assert_done(&process.driver.wait(sequence).unwrap(), 8, 0);
    }
    arm(&world.device, "translation:delay=1ms");
    let sequence = process.driver.submit(&fill).unwrap();
    assert_done(&process.driver.wait(sequence).unwrap(), 8, 0);
    // It never comes; when that is cleared, it does.
    arm(&world.device, "translation:drop");
    let sequence = process.driver.submit(&fill).unwrap();
    until("a hit", || hits(&world.device) == 1).unwrap();
    assert!(process.driver.record(sequence).is_none());
    world.device.clear_injected();
    assert_done(&process.driver.wait(sequence).unwrap(), 8, 0);
}

/// Whoever tells a job to go on is not too early, however quick: jobs do not wait for ever.
#[test]
fn a_job_goes_on_whenever_a_translation_comes_or_the_fault_is_cleared() {
    let (world, _queues) = world(16 * MIB, 4);
    let mut process = world.process(2);
    process.map(BASE, Side::System(world.take(PAGE)), ALL);
    let fill = jobs::fill(BASE, 8, 7);
    for _ in 0..100 {
        arm(&world.device, "translation:delay=1us");
        assert_done(&process.driver.run(&fill).unwrap(), 8, 0);
        arm(&world.device, "translation:drop");
        let sequence = process.driver.submit(&fill).unwrap();
        until("a hit", || hits(&world.device) > 0).unwrap();
        world.device.clear_injected();
        assert_done(&process.driver.wait(sequence).unwrap(), 8, 0);
    }
}

#[test]
fn fault_records_are_lost_late_or_wrong() {
    let (world, mut queues) = world(16 * MIB, 4);
    let mut process = world.process(2);
    let fill = jobs::fill(BASE, 8, 7);
    // Maps what the fault was told of, and unmaps it when the job is done.
    let serve = |process: &mut Process, queues: &mut Queues, told: &FaultRecord, sequence| {
        process.map(BASE, Side::System(world.take(PAGE)), ALL);
        queues.replay(told);
        assert_done(&process.driver.wait(sequence).unwrap(), 8, 0);
        process.unmap(BASE);
        queues.invalidate(2, BASE, PAGE);
    };
    for (fault, address) in [("fault:delay=1ms", BASE), ("fault:corrupt", BASE ^ 1 << 46)] {
        arm(&world.device, fault);
        let sequence = process.driver.submit(&fill).unwrap();
        let told = queues.faults.wait().unwrap();
        assert_eq!(told.address, address, "{fault}");
        serve(&mut process, &mut queues, &told, sequence);
    }
    arm(&world.device, "fault:drop");
    let sequence = process.driver.submit(&fill).unwrap();
    until("a hit", || hits(&world.device) == 1).unwrap();
    assert!(queues.faults.take().is_none());
    // Asked to replay whatever there is, the device tells anew.
    queues.invalidation(&[replay(2, 0)]);
    let told = queues.faults.wait().unwrap();
    assert_eq!(told.address, BASE);
    serve(&mut process, &mut queues, &told, sequence);
    // To cancel takes the right number.
    arm(&world.device, "fault:drop");
    let sequence = process.driver.submit(&fill).unwrap();
    until("a hit", || hits(&world.device) == 1).unwrap();
    queues.invalidation(&[cancel(2, 0, 5)]);
    assert!(process.driver.record(sequence).is_none());
    // Who disables the context is rid of the job.
    process.driver.stop();
    assert!(process.driver.record(sequence).is_none());
}
