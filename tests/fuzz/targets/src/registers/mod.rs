//! Registers, queues and guest memory: a driver that does anything.

mod action;
mod world;

use arbitrary::{Arbitrary, Unstructured};

use action::{Action, Cause};
use world::World;

/// Most actions of an input, which stops inputs from getting long without getting better.
const MOST: usize = 128;

/// Guest RAM: DMA address and size of each window. Two are neighbours, one ends where addresses
/// do, and one is only ever mapped read-only.
const WINDOWS: [(u64, usize); 4] = [
    (0x1_0000_0000, 96 << 10),
    (0x1_0000_0000 + (96 << 10), 32 << 10),
    (u64::MAX - 0x1_0fff, 64 << 10),
    (READ_ONLY, 32 << 10),
];
const READ_ONLY: u64 = 0x2_0000_0000;

/// Actions of a driver, then a reset, then a driver that works. Holds: nothing is written to memory
/// that is not mapped, is mapped read-only, or after a reset or the end of bus mastering, and no
/// interrupt raised then; registers answer; a reset brings back the state after power-on with
/// VRAM empty; the new driver's copies are right, and touch nothing else; and figures agree.
pub fn registers(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let mut world = World::new();
    let end = Cause::arbitrary(&mut input).unwrap_or(Cause::Register);
    for _ in 0..MOST {
        if input.is_empty() {
            break;
        }
        let Ok(action) = Action::arbitrary(&mut input) else {
            break;
        };
        world.act(&action);
    }
    world.end(end.into());
}
