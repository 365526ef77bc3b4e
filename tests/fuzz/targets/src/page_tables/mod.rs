//! Page tables that a guest made, of any words, and what the device makes of them.

mod action;
mod reference;
mod world;

use arbitrary::{Arbitrary, Unstructured};

use action::Action;
use world::World;

/// Most actions of an input, which stops inputs from getting long without getting better.
const MOST: usize = 96;

/// Pages that may be tables, or data, or both.
const TABLES: u64 = 0x1_0000_0000;
const TABLE_PAGES: u64 = 24;
/// Pages that are mapped read-only.
const READ_ONLY: u64 = 0x2_0000_0000;
const READ_ONLY_PAGES: u64 = 4;

/// Tables, jobs, invalidations and faults of a driver that does anything, then a reset. Holds:
/// with nothing else going on, an access goes where the contract says, or ends with the fault that
/// it says, also through what was in the TLB before an invalidation; memory that is not mapped,
/// is mapped read-only, or was used before a reset is not written to; and the device works
/// afterwards.
pub fn page_tables(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let mut world = World::new();
    for _ in 0..MOST {
        if input.is_empty() {
            break;
        }
        let Ok(action) = Action::arbitrary(&mut input) else {
            break;
        };
        world.act(&action);
    }
    world.end();
}
