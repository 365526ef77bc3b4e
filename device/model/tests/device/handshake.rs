//! The need_kick handshake, and bus mastering.

use hmmgpu_model::mock::descriptors::{Side, fill};

use crate::rig::{MIB, assert_clean, mock};

#[test]
fn no_wake_up_is_lost_under_many_small_submits() {
    let mut driver = mock(MIB);
    let page = Side::System(driver.data());
    let mut pauses = 0_u32;
    for round in 0..4000_u64 {
        // Submit at any moment of the engine's way from work over polling to sleep: at once,
        // right after it has announced its sleep, or after some pauses of the CPU.
        match round % 4 {
            0 => {}
            1 => driver.until("sleep", |driver| driver.need_kick()).unwrap(),
            _ => {
                pauses = pauses.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                for _ in 0..pauses >> 19 {
                    std::hint::spin_loop();
                }
            }
        }
        assert_clean(&driver.run(&[fill(0, 1, page, round)]).unwrap());
        assert_eq!(driver.ram().read(driver.data(), 8), round.to_le_bytes());
    }
    let events = driver.function().snapshot().events;
    // A doorbell that comes while the engine is awake already makes its next sleep a short one:
    // nearly every second round sleeps, but not each of them.
    assert!(events.engine_sleeps >= 100, "{}", events.engine_sleeps);
    assert!(events.doorbells >= 100, "{}", events.doorbells);
    assert!(events.doorbells < 8000, "a busy engine needs no doorbell");
    assert_eq!(events.descriptors, 8000);
}

#[test]
fn two_threads_feed_two_queues() {
    use hmmgpu_model::mock::{Driver, GuestRam, QueueConfig};
    let device = crate::rig::device();
    let workers: Vec<_> = (0..2_u32)
        .map(|queue| {
            let device = device.clone();
            std::thread::spawn(move || {
                let ram = GuestRam::new(u64::from(queue) << 32, 1 << 20).unwrap();
                let config = QueueConfig {
                    queue,
                    ring_log2: 3,
                    vector: queue,
                };
                let mut driver = Driver::new(device, ram, config).unwrap();
                let page = Side::System(driver.data());
                for round in 0..1000 {
                    assert_clean(&driver.run(&[fill(0, 1, page, round)]).unwrap());
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().unwrap();
    }
    assert_eq!(device.snapshot().events.descriptors, 4000);
}

#[test]
fn without_bus_mastering_nothing_is_read_or_written() {
    let mut driver = mock(MIB);
    assert_clean(&driver.run(&[]).unwrap());
    driver.set_bus_master(false);
    let before = driver.ram().read(driver.header(), 192);
    let page = Side::System(driver.data());
    driver.submit(&[fill(0, 1, page, 0x55)]).unwrap();
    let sequence = driver.fence(true).unwrap();
    let producer_bytes = 4;
    for _ in 0..2000 {
        driver.write_queue(hmmgpu_contract::regs::QueueReg::QUEUE_DOORBELL, 1);
        std::thread::yield_now();
        let now = driver.ram().read(driver.header(), 192);
        assert_eq!(now[producer_bytes..], before[producer_bytes..]);
        assert_ne!(driver.record().sequence, sequence);
        assert_eq!(driver.ram().read(driver.data(), 8), [0; 8]);
    }
    driver.set_bus_master(true);
    assert_clean(&driver.wait(sequence).unwrap());
    assert_eq!(driver.ram().read(driver.data(), 1), [0x55]);
}

#[test]
fn power_state_d3hot_stops_dma_too() {
    const POWER_CONTROL: u64 = 0x44;
    let mut driver = mock(MIB);
    driver.function().config_write(POWER_CONTROL, &[3, 0]);
    let sequence = driver.fence(false).unwrap();
    for _ in 0..500 {
        std::thread::yield_now();
        assert_ne!(driver.record().sequence, sequence);
    }
    driver.function().config_write(POWER_CONTROL, &[0, 0]);
    assert_clean(&driver.wait(sequence).unwrap());
}
