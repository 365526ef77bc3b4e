//! MSI-X, causes and masks.

use std::time::Duration;

use hmmgpu_contract::pci::{BAR_MSIX, MSIX_PBA_OFFSET, VECTOR_ERROR};
use hmmgpu_contract::regs::{INT_ERROR, INT_QUEUE0, Reg};
use hmmgpu_model::ResetCause;
use hmmgpu_model::mock::InterruptCounter;
use hmmgpu_model::mock::descriptors::{Side, fill};

use crate::rig::{MIB, Mock, assert_clean, mock};

const LIMIT: Duration = Duration::from_secs(30);
/// Vector of queue 0 in the mock driver's default set-up.
const VECTOR: u32 = 1;

fn pending(driver: &Mock) -> u64 {
    let mut bits = [0; 8];
    let offset = u64::from(MSIX_PBA_OFFSET);
    driver.function().bar_read(BAR_MSIX, offset, &mut bits);
    u64::from_le_bytes(bits)
}

fn fence(driver: &mut Mock) {
    let sequence = driver.fence(true).unwrap();
    assert_clean(&driver.wait(sequence).unwrap());
    assert_ne!(driver.read(Reg::INT_CAUSE.0) & INT_QUEUE0, 0);
}

#[test]
fn a_fence_raises_its_queue_s_vector_each_time_it_asks() {
    let mut driver = mock(MIB);
    let (queue, error) = (InterruptCounter::new(), InterruptCounter::new());
    driver.function().set_interrupt(VECTOR, queue.sink());
    driver.function().set_interrupt(VECTOR_ERROR, error.sink());
    assert_clean(&driver.run(&[]).unwrap());
    assert_eq!(queue.count(), 0, "not asked for");
    // The cause stays pending: a driver with a vector for each queue need not read it.
    for count in 1..=3 {
        fence(&mut driver);
        assert!(queue.wait(count, LIMIT));
    }
    assert_eq!(driver.read(Reg::INT_CAUSE.0), INT_QUEUE0);
    driver.write(Reg::INT_CAUSE.0, INT_QUEUE0);
    assert_eq!(driver.read(Reg::INT_CAUSE.0), 0);
    assert_eq!((queue.count(), error.count()), (3, 0));
    assert_eq!(driver.function().snapshot().events.interrupts, 3);
}

#[test]
fn masked_causes_raise_when_they_are_unmasked() {
    let mut driver = mock(MIB);
    let queue = InterruptCounter::new();
    driver.function().set_interrupt(VECTOR, queue.sink());
    driver.write(Reg::INT_MASK.0, INT_QUEUE0);
    fence(&mut driver);
    fence(&mut driver);
    assert_eq!(queue.count(), 0);
    driver.write(Reg::INT_MASK.0, 0);
    assert_eq!(queue.count(), 1);
    // Nothing is pending any more once the cause is cleared.
    driver.write(Reg::INT_CAUSE.0, u32::MAX);
    driver.write(Reg::INT_MASK.0, u32::MAX);
    driver.write(Reg::INT_MASK.0, 0);
    assert_eq!(queue.count(), 1);
}

#[test]
fn a_vector_without_a_sink_stays_pending() {
    let mut driver = mock(MIB);
    fence(&mut driver);
    driver
        .until("pending bit", |driver| pending(driver) == 1 << VECTOR)
        .unwrap();
    let queue = InterruptCounter::new();
    driver.function().set_interrupt(VECTOR, queue.sink());
    assert_eq!((queue.count(), pending(&driver)), (1, 0));
    // Masked and unmasked by the client.
    driver.function().set_interrupt(VECTOR, None);
    fence(&mut driver);
    driver
        .until("pending bit", |driver| pending(driver) != 0)
        .unwrap();
    assert_eq!(queue.count(), 1);
    driver.function().set_interrupt(VECTOR, queue.sink());
    assert_eq!(queue.count(), 2);
    // Vectors that do not exist are no matter.
    driver.function().set_interrupt(16, queue.sink());
    driver.function().set_interrupt(u32::MAX, None);
}

#[test]
fn errors_raise_once_until_the_cause_is_cleared() {
    let mut driver = mock(MIB);
    let error = InterruptCounter::new();
    driver.function().set_interrupt(VECTOR_ERROR, error.sink());
    let bad = fill(99, 1, Side::Vram(0), 0);
    driver.run(&[bad, bad, bad]).unwrap();
    assert_eq!(error.count(), 1);
    assert_eq!(driver.read(Reg::INT_CAUSE.0), INT_ERROR);
    driver.write(Reg::INT_CAUSE.0, INT_ERROR);
    driver.run(&[bad]).unwrap();
    assert_eq!(error.count(), 2);
    assert_eq!(driver.read(Reg::ERROR_COUNT.0), 4);
}

#[test]
fn a_disconnect_drops_the_sinks_and_what_is_pending() {
    let mut driver = mock(MIB);
    let queue = InterruptCounter::new();
    fence(&mut driver);
    driver
        .until("pending bit", |driver| pending(driver) != 0)
        .unwrap();
    driver.function().set_interrupt(3, queue.sink());
    driver.function().reset(ResetCause::Disconnect);
    assert_eq!(pending(&driver), 0);
    driver.function().set_interrupt(VECTOR, queue.sink());
    assert_eq!(queue.count(), 0);
    assert_eq!(driver.function().snapshot().events.dma_maps, 0);
}
