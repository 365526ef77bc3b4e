//! Random sequences of copies and fills, byte for byte against a model of a few lines, through a
//! ring of four entries, and through one in which copies of pages are carried out together.

use std::cell::RefCell;

use hmmgpu_contract::desc::Desc;
use hmmgpu_model::mock::descriptors::{Side, copy, fill};
use hmmgpu_model::mock::{Driver, QueueConfig};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::rig::{MIB, Mock, PAGE, device, pattern, ram};

/// Pages of each aperture that the sequences use.
const PAGES: usize = 40;
const SIZE: usize = 4096;

/// A place: system memory or VRAM, and the page.
type At = (bool, usize);

#[derive(Clone, Debug)]
struct Op {
    order: u8,
    count: usize,
    dst: At,
    /// A place, or a pattern.
    src: Result<At, u64>,
}

struct Model {
    system: Vec<u8>,
    vram: Vec<u8>,
}

impl Model {
    fn side(&mut self, vram: bool) -> &mut Vec<u8> {
        if vram {
            &mut self.vram
        } else {
            &mut self.system
        }
    }

    /// Carries out `op`; returns whether it is one that the device has to refuse.
    fn apply(&mut self, op: &Op) -> bool {
        let pages = op.count << op.order;
        let len = pages * SIZE;
        // VRAM goes on beyond the pages in use, system memory ends there.
        let fits = |at: At| at.1 + pages <= PAGES;
        let data = match op.src {
            Ok(src) => {
                let overlap = src.0 == op.dst.0 && src.1.abs_diff(op.dst.1) < pages;
                if overlap || !fits(src) || !fits(op.dst) {
                    return true;
                }
                let from = src.1 * SIZE;
                self.side(src.0)[from..from + len].to_vec()
            }
            Err(_) if !fits(op.dst) => return true,
            Err(word) => word.to_le_bytes().repeat(len / 8),
        };
        let to = op.dst.1 * SIZE;
        self.side(op.dst.0)[to..to + len].copy_from_slice(&data);
        false
    }
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let at = (any::<bool>(), 0..PAGES);
    let page = (at.clone(), at.clone()).prop_map(|(dst, src)| Op {
        order: 0,
        count: 1,
        dst,
        src: Ok(src),
    });
    let src = prop_oneof![4 => at.clone().prop_map(Ok), 1 => any::<u64>().prop_map(Err)];
    let op = (0_u8..=4, 1_usize..=3, at, src).prop_map(|(order, count, dst, src)| Op {
        order,
        count,
        dst,
        src,
    });
    prop::collection::vec(prop_oneof![1 => op, 2 => page], 1..80)
}

/// System memory ends with the pages in use, and so does VRAM: the sequences use its last pages.
fn side(driver: &Mock, at: At) -> Side {
    let offset = at.1 as u64 * PAGE;
    if at.0 {
        Side::Vram(crate::rig::VRAM - PAGES as u64 * PAGE + offset)
    } else {
        Side::System(driver.ram().base() + driver.ram().size() - PAGES as u64 * PAGE + offset)
    }
}

fn desc(driver: &Mock, op: &Op) -> Desc {
    let count = u32::try_from(op.count).unwrap();
    let dst = side(driver, op.dst);
    match op.src {
        Ok(src) => copy(op.order, count, dst, side(driver, src)),
        Err(word) => fill(op.order, count, dst, word),
    }
}

#[test]
fn sequences_equal_the_model() {
    equal_the_model(2);
}

#[test]
fn sequences_in_a_large_ring_equal_the_model() {
    equal_the_model(7);
}

fn equal_the_model(ring_log2: u32) {
    let config = QueueConfig {
        ring_log2,
        ..QueueConfig::default()
    };
    let driver = RefCell::new(Driver::new(device(), ram(2 * MIB), config).unwrap());
    let mut runner = TestRunner::new(Config::with_cases(300));
    let result = runner.run(&ops(), |ops| {
        let driver = &mut *driver.borrow_mut();
        let give_up = |error: hmmgpu_model::mock::MockError| TestCaseError::fail(error.to_string());
        let mut model = Model {
            system: pattern(5, PAGES * SIZE),
            vram: pattern(6, PAGES * SIZE),
        };
        let Side::System(system) = side(driver, (false, 0)) else {
            unreachable!("asked for system memory")
        };
        let whole = u32::try_from(PAGES).unwrap();
        let vram = side(driver, (true, 0));
        // A known beginning on both sides.
        driver.ram().write(system, &model.vram);
        let load = copy(0, whole, vram, Side::System(system));
        prop_assert_eq!(driver.run(&[load]).map_err(give_up)?.errors, 0);
        driver.ram().write(system, &model.system);

        let descs: Vec<Desc> = ops.iter().map(|op| desc(driver, op)).collect();
        let refused = ops.iter().filter(|op| model.apply(op)).count();
        let record = driver.run(&descs).map_err(give_up)?;
        prop_assert_eq!(record.errors as usize, refused);
        let found = driver.ram().read(system, PAGES * SIZE);
        prop_assert!(found == model.system, "system memory differs");
        let read = copy(0, whole, Side::System(system), vram);
        prop_assert_eq!(driver.run(&[read]).map_err(give_up)?.errors, 0);
        let found = driver.ram().read(system, PAGES * SIZE);
        prop_assert!(found == model.vram, "VRAM differs");
        Ok(())
    });
    result.unwrap();
}
