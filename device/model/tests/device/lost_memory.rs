//! Memory of a client that goes away under its mapping: its device stops, and nothing else does.

use std::os::fd::BorrowedFd;

use hmmgpu_contract::desc::Desc;
use hmmgpu_contract::regs::{QUEUE_STATUS_RUNNING, QueueReg};
use hmmgpu_model::mock::descriptors::{Side, copy};
use hmmgpu_model::mock::{GuestRam, until};
use hmmgpu_model::{LostMemory, ResetCause};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::rig::{MIB, Mock, PAGE, assert_clean, mock};

/// DMA addresses of memory apart from the queue's.
const ELSEWHERE: u64 = 0x40_0000_0000;
const SIZE: u64 = 8 * MIB;

/// More guest RAM for the device, at [`ELSEWHERE`].
fn more(driver: &Mock) -> GuestRam {
    let ram = GuestRam::new(ELSEWHERE, usize::try_from(SIZE).unwrap()).unwrap();
    let mapping = ram.mapping(0, SIZE, true).unwrap();
    driver.function().dma_map(mapping).unwrap();
    ram
}

fn is_readable(event: BorrowedFd<'_>) -> bool {
    let now = Timespec::default();
    poll(&mut [PollFd::new(&event, PollFlags::IN)], Some(&now)).unwrap() == 1
}

/// Carries out a descriptor that meets memory that has gone, and sees what is left.
fn meets_nothing(desc: Desc, address: u64) {
    let mut driver = mock(8 * MIB);
    let mut bystander = mock(8 * MIB);
    let ram = more(&driver);
    let data = driver.data();
    let well = [copy(9, 1, Side::Vram(0), Side::System(ELSEWHERE))];
    assert_clean(&driver.run(&well).unwrap());
    assert_eq!(driver.function().memory_lost(), None);
    assert!(!is_readable(driver.function().memory_lost_event()));

    ram.shorten(0).unwrap();
    driver.submit(&[desc]).unwrap();
    let sequence = driver.fence(false).unwrap();
    let lost = || driver.function().memory_lost();
    until("the loss", || lost().is_some()).unwrap();
    assert_eq!(
        lost(),
        Some(LostMemory {
            address: Some(address)
        })
    );
    let told = || is_readable(driver.function().memory_lost_event());
    until("the event", told).unwrap();
    // The queue's own memory is there, but nothing is said in it any more.
    let stopped = |driver: &Mock| driver.read_queue(QueueReg::QUEUE_STATUS) != QUEUE_STATUS_RUNNING;
    driver.until("the end of the queue", stopped).unwrap();
    assert_ne!(driver.record().sequence, sequence);

    // Whoever has nothing to do with it goes on.
    let other = [copy(
        9,
        1,
        Side::Vram(0),
        Side::System(bystander.data().next_multiple_of(2 * MIB)),
    )];
    assert_clean(&bystander.run(&other).unwrap());
    assert_eq!(bystander.function().memory_lost(), None);

    // And so does the device, once its client has gone.
    driver.function().reset(ResetCause::Disconnect);
    assert_eq!(lost(), None);
    assert!(!is_readable(driver.function().memory_lost_event()));
    let mapping = driver.ram().mapping(0, driver.ram().size(), true).unwrap();
    driver.function().dma_map(mapping).unwrap();
    driver.set_bus_master(true);
    driver.start().unwrap();
    assert_clean(
        &driver
            .run(&[copy(0, 1, Side::System(data), Side::Vram(0))])
            .unwrap(),
    );
    assert_eq!(driver.ram().read(data, 8), [0; 8], "VRAM was scrubbed");
}

#[test]
fn a_source_that_has_gone_stops_its_device_alone() {
    let at = ELSEWHERE + 2 * MIB;
    meets_nothing(copy(9, 1, Side::Vram(2 * MIB), Side::System(at)), at);
}

#[test]
fn a_destination_that_has_gone_stops_its_device_alone() {
    let at = ELSEWHERE + 4 * MIB;
    meets_nothing(copy(9, 1, Side::System(at), Side::Vram(0)), at);
}

#[test]
fn single_pages_that_have_gone_stop_their_device_alone() {
    let at = ELSEWHERE + 5 * PAGE;
    meets_nothing(copy(0, 1, Side::Vram(2 * MIB), Side::System(at)), at);
}

#[test]
fn a_ring_that_has_gone_stops_its_queue() {
    let mut driver = mock(8 * MIB);
    let data = driver.data();
    assert_clean(
        &driver
            .run(&[copy(0, 1, Side::Vram(0), Side::System(data))])
            .unwrap(),
    );
    driver.ram().shorten(0).unwrap();
    // A driver whose memory has gone can say nothing but this.
    driver.write_queue(QueueReg::QUEUE_DOORBELL, 1);
    until("the loss", || driver.function().memory_lost().is_some()).unwrap();
    driver.function().reset(ResetCause::Disconnect);
}

#[test]
fn a_file_on_a_disk_may_be_shortened_too() {
    // Where the folder for temporary files is not on a disk, this is as the others.
    let file = tempfile::tempfile().unwrap();
    file.set_len(SIZE).unwrap();
    let mut driver = mock(8 * MIB);
    let mapping = hmmgpu_model::DmaMapping {
        address: ELSEWHERE,
        size: SIZE,
        read: true,
        write: true,
        backing: Some((file.try_clone().unwrap(), 0)),
    };
    if driver.function().dma_map(mapping).is_err() {
        eprintln!("skipped: the folder for temporary files is no place for guest memory");
        return;
    }
    let reads = copy(0, 1, Side::Vram(0), Side::System(ELSEWHERE));
    assert_clean(&driver.run(&[reads]).unwrap());
    file.set_len(0).unwrap();
    driver.submit(&[reads]).unwrap();
    until("the loss", || driver.function().memory_lost().is_some()).unwrap();
}
