//! The function's own state changes in the middle of copies.

use std::sync::atomic::{AtomicU32, Ordering};

use hmmgpu_contract::pci::{BAR_MSIX, MSIX_TABLE_OFFSET};
use hmmgpu_model::mock::GuestRam;
use hmmgpu_model::mock::descriptors::{Side, copy};

use crate::rig::{MIB, PAGE, assert_clean, mock, pattern};
use hmmgpu_model::mock::beside;

const COMMAND: u64 = 0x04;
const BAR0: u64 = 0x10;
const BAR4: u64 = 0x20;
const POWER: u64 = 0x44;
const MSIX_CONTROL: u64 = 0x52;
const ELSEWHERE: u64 = 0x40_0000_0000;
/// Copies of 4 MiB to VRAM and back, in each of the states.
const ROUNDS: u64 = 12;
const BYTES: u64 = 4 * MIB;

#[test]
fn whatever_changes_a_copy_ends_whole() {
    let mut driver = mock(16 * MIB);
    let device = driver.function().clone();
    let data = driver.data().next_multiple_of(2 * MIB);
    let back = data + BYTES;
    let len = usize::try_from(BYTES).expect("size");
    let other = GuestRam::new(ELSEWHERE, 1 << 20).expect("guest RAM");
    let changes = AtomicU32::new(0);

    let bus_master = || {
        device.config_write(COMMAND, &2_u16.to_le_bytes());
        device.config_write(COMMAND, &6_u16.to_le_bytes());
    };
    let power = || {
        device.config_write(POWER, &3_u16.to_le_bytes());
        device.config_write(POWER, &0_u16.to_le_bytes());
    };
    // Where BARs are, and whether they answer, is the machine's affair, not the function's.
    let bars = || {
        device.config_write(COMMAND, &4_u16.to_le_bytes());
        for bar in [BAR0, BAR4] {
            device.config_write(bar, &[0xff; 8]);
            device.config_write(bar, &0x8000_0000_u64.to_le_bytes());
        }
        device.config_write(COMMAND, &6_u16.to_le_bytes());
    };
    let msix = || {
        for control in [0xc000_u16, 0x8000, 0] {
            device.config_write(MSIX_CONTROL, &control.to_le_bytes());
        }
        for vector in 0..16 {
            let entry = u64::from(MSIX_TABLE_OFFSET) + vector * 16;
            device.bar_write(BAR_MSIX, entry, &[0xff; 16]);
            device.bar_write(BAR_MSIX, entry, &[0; 16]);
        }
    };
    let maps = || {
        let mapping = other.mapping(0, MIB, true).expect("mapping");
        device.dma_map(mapping).expect("DMA map");
        device.dma_unmap(ELSEWHERE, MIB).expect("what is mapped");
    };
    let all: [&(dyn Fn() + Sync); 5] = [&bus_master, &power, &bars, &msix, &maps];
    for (round, change) in (0..).zip(all) {
        changes.store(0, Ordering::SeqCst);
        let counted = || {
            change();
            changes.fetch_add(1, Ordering::SeqCst);
        };
        beside(&[&counted], || {
            for copy_round in 0..ROUNDS {
                let content = pattern(round << 32 | copy_round, len);
                driver.ram().write(data, &content);
                let pages = u32::try_from(BYTES / PAGE).expect("count");
                let there = copy(9, 2, Side::Vram(0), Side::System(data));
                let home = copy(0, pages, Side::System(back), Side::Vram(0));
                assert_clean(&driver.run(&[there, home]).expect("a fence"));
                assert!(driver.ram().read(back, len) == content, "copied wrongly");
            }
            driver
                .until("a change", |_| changes.load(Ordering::SeqCst) > 0)
                .expect("whoever changes it goes on");
        });
    }
}
