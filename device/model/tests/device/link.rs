//! A modelled link: what goes over it, and who waits for it. How near to its rate the device comes is
//! measured by `cargo bench -p hmmgpu-model --bench copy -- link`.

use hmmgpu_contract::PAGE_SIZE;
use hmmgpu_contract::desc::Status;
use hmmgpu_contract::regs::{RESET_CTRL_RESET, Reg};
use hmmgpu_model::mock::descriptors::{Side, copy, fill};
use hmmgpu_telemetry::snapshot::{EngineState, LinkModel};

use crate::rig::{MIB, Mock, assert_clean, assert_one, mock, pattern};

/// Pages of each transfer.
const PAGES: u32 = 16;
const BYTES: u64 = PAGES as u64 * PAGE_SIZE;

fn linked(link: &str) -> Mock {
    let driver = mock(MIB);
    driver.function().set_link(link.parse().expect("a link"));
    driver
}

fn model(driver: &Mock) -> LinkModel {
    driver.function().snapshot().link_model.expect("a link")
}

#[test]
fn what_goes_over_the_link_is_carried_and_counted_for_each_way() {
    let mut driver = linked("1G/500M");
    let ram = driver.data();
    let data = pattern(7, usize::try_from(BYTES).unwrap());
    driver.ram().write(ram, &data);
    let away = ram + BYTES;
    let (to, home) = (Side::Vram(0), Side::System(away));
    let within = copy(0, PAGES, Side::Vram(BYTES), Side::Vram(0));
    let record = driver.run(&[
        copy(0, PAGES, to, Side::System(ram)),
        within,
        fill(0, PAGES, Side::Vram(4 * BYTES), 0),
        copy(0, PAGES, home, Side::Vram(BYTES)),
        fill(0, PAGES, Side::System(away + BYTES), 0),
    ]);
    assert_clean(&record.unwrap());
    assert_eq!(driver.ram().read(away, data.len()), data);
    let found = model(&driver);
    assert_eq!((found.spec.as_str(), found.latency_ns), ("1G/500M", 0));
    let (there, back) = (found.to_device, found.to_system);
    assert_eq!((there.bytes, back.bytes), (BYTES, 2 * BYTES));
    assert_eq!(
        (there.bytes_per_second, back.bytes_per_second),
        (1_000_000_000, 500_000_000)
    );
    // They may take longer, and never less.
    assert!(there.busy_ns >= BYTES, "{there:?}");
    assert!(back.busy_ns >= 2 * 2 * BYTES, "{back:?}");
    driver.function().set_link("off".parse().unwrap());
    assert_eq!(driver.function().snapshot().link_model, None);
}

#[test]
fn a_copy_that_fails_does_not_go_over_the_link() {
    let mut driver = linked("1G");
    driver
        .function()
        .inject(vec!["copy:fail@2".parse().unwrap()])
        .unwrap();
    let one = copy(0, PAGES, Side::Vram(0), Side::System(driver.data()));
    assert_one(&driver.run(&[one; 3]).unwrap(), Status::STATUS_HARDWARE);
    assert_eq!(model(&driver).to_device.bytes, 2 * BYTES);
}

#[test]
fn a_fence_comes_later_by_the_latency() {
    const LATENCY_NS: u64 = 30_000_000;
    let mut driver = linked("1000G,30ms");
    let one = copy(0, PAGES, Side::Vram(0), Side::System(driver.data()));
    let before = driver.run(&[]).unwrap();
    let after = driver.run(&[one]).unwrap();
    assert!(after.time_ns >= before.time_ns + LATENCY_NS);
}

#[test]
fn whoever_waits_for_a_slow_link_can_be_reset() {
    // 2.6 s, if all of it were waited for, and a reset waits for none of it.
    let mut driver = linked("1M,1s");
    let far = copy(0, PAGES, Side::Vram(0), Side::System(driver.data()));
    driver.submit(&[far; 40]).unwrap();
    driver
        .until("the engine at work", |driver| {
            let queues = driver.function().snapshot().queues;
            queues.iter().any(|queue| queue.state == EngineState::Busy)
        })
        .unwrap();
    driver.write(Reg::RESET_CTRL.0, RESET_CTRL_RESET);
    driver.function().set_link("off".parse().unwrap());
    driver.start().unwrap();
    assert_clean(&driver.run(&[far]).unwrap());
}
