//! Checksums of copies: what they are of, and what they catch.

use hmmgpu_contract::compute::{CHECKSUM_BASIS, CHECKSUM_PRIME};
use hmmgpu_contract::desc::{Desc, FLAG_CHECKSUM};
use hmmgpu_model::mock::descriptors::{Side, copy, fill};

use crate::rig::{MIB, Mock, assert_clean, mock, pattern};

/// More than is copied under one permit.
const BYTES: u64 = 4 * MIB;

/// A driver with a pattern in its RAM; behind that there is room for as much, and for checksums.
fn filled() -> (Mock, Vec<u8>) {
    let driver = mock(2 * BYTES + MIB);
    let data = pattern(5, usize::try_from(BYTES).unwrap());
    driver.ram().write(driver.data(), &data);
    (driver, data)
}

fn checked(desc: Desc, address: u64) -> Desc {
    Desc {
        flags: desc.flags | FLAG_CHECKSUM,
        arg: address,
        ..desc
    }
}

fn checksum(data: &[u8]) -> u64 {
    let words = data.as_chunks::<8>().0.iter();
    words.fold(CHECKSUM_BASIS, |sum, word| {
        (sum ^ u64::from_le_bytes(*word)).wrapping_mul(CHECKSUM_PRIME)
    })
}

/// Copies to VRAM and home again. Returns what the device tells of both, and what came home.
fn there_and_back(driver: &mut Mock) -> ([u64; 2], Vec<u8>) {
    let (from, to) = (driver.data(), driver.data() + BYTES);
    let told = to + BYTES;
    let record = driver.run(&[
        checked(copy(9, 2, Side::Vram(0), Side::System(from)), told),
        checked(copy(9, 2, Side::System(to), Side::Vram(0)), told + 8),
    ]);
    assert_clean(&record.unwrap());
    let told = driver.ram().read(told, 16);
    let (words, _) = told.as_chunks::<8>();
    let came = driver.ram().read(to, usize::try_from(BYTES).unwrap());
    ([0, 1].map(|at| u64::from_le_bytes(words[at])), came)
}

#[test]
fn the_device_tells_what_vram_holds() {
    let (mut driver, data) = filled();
    let sum = checksum(&data);
    assert_eq!(there_and_back(&mut driver), ([sum; 2], data));
}

#[test]
fn copies_that_are_wrong_or_not_done_are_caught_in_both_ways() {
    for fault in ["copy.sys_to_dev:corrupt", "copy.sys_to_dev:drop"] {
        let (mut driver, data) = filled();
        driver
            .function()
            .inject(vec![fault.parse().unwrap()])
            .unwrap();
        let ([there, back], came) = there_and_back(&mut driver);
        assert_ne!(there, checksum(&data), "{fault}");
        // What was wrong in VRAM came home well.
        assert_eq!(back, checksum(&came), "{fault}");
    }
    for fault in ["copy.dev_to_sys:corrupt", "copy.dev_to_sys:drop"] {
        let (mut driver, data) = filled();
        driver
            .function()
            .inject(vec![fault.parse().unwrap()])
            .unwrap();
        let (told, came) = there_and_back(&mut driver);
        assert_eq!(told, [checksum(&data); 2], "{fault}");
        assert_ne!(checksum(&came), checksum(&data), "{fault}");
    }
}

#[test]
fn a_fill_of_vram_tells_one_too() {
    let told = |fault: Option<&str>| {
        let mut driver = mock(2 * BYTES + MIB);
        let address = driver.data();
        let faults = fault.map(|fault| fault.parse().unwrap());
        driver
            .function()
            .inject(faults.into_iter().collect())
            .unwrap();
        // VRAM is no longer what it was at first.
        let before = fill(9, 1, Side::Vram(0), 7);
        let zeros = Desc {
            flags: FLAG_CHECKSUM | fill(9, 1, Side::Vram(0), 0).flags,
            src: address,
            ..fill(9, 1, Side::Vram(0), 0)
        };
        assert_clean(&driver.run(&[before, zeros]).unwrap());
        let told = driver.ram().read(address, 8);
        u64::from_le_bytes(told.try_into().unwrap())
    };
    let zeros = checksum(&vec![0; usize::try_from(2 * MIB).unwrap()]);
    assert_eq!(told(None), zeros);
    for fault in ["copy:corrupt@2", "copy:drop@2"] {
        assert_ne!(told(Some(fault)), zeros, "{fault}");
    }
}
