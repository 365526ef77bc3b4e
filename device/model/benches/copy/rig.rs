//! A device, its driver, and the same memory as a plain loop sees it.

use std::fs::File;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, ensure};
use hmmgpu_contract::PAGE_SIZE;
use hmmgpu_contract::desc::{Desc, Status};
use hmmgpu_contract::queue::FenceRecord;
use hmmgpu_model::mock::descriptors::{Side, copy, fence};
use hmmgpu_model::mock::{Driver, GuestRam, QueueConfig};
use hmmgpu_model::{Config, Device, LinkSpec};
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory, VolatileSlice};

use crate::floor::{copy_all, ways};

/// Where the mock's guest RAM begins.
const RAM_BASE: u64 = 1 << 32;
/// Room for the ring and what belongs to it, beside the data.
const RING: u64 = 4 << 20;
#[allow(clippy::cast_possible_truncation)] // 4 KiB.
const PAGE: usize = PAGE_SIZE as usize;

/// A way to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    ToVram,
    Home,
}

/// What is copied in one turn.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) way: Way,
    pub(crate) order: u8,
    /// Offsets, to and from, of folios of that order.
    pub(crate) pieces: Vec<(usize, usize)>,
}

impl Plan {
    /// Bytes of a piece.
    pub(crate) fn piece(&self) -> usize {
        PAGE << self.order
    }

    #[allow(clippy::cast_precision_loss)] // Some MiB.
    fn bytes(&self) -> f64 {
        (self.piece() * self.pieces.len()) as f64
    }
}

pub(crate) struct Rig {
    driver: Driver<Arc<Device>>,
    ram: MmapRegion,
    /// The same as the driver's, which keeps it.
    device: Arc<Device>,
    /// Offset of the data in guest RAM.
    data: usize,
    turns: u64,
}

/// What is written at a place of the source in a turn.
fn stamp_of(turn: u64, place: usize) -> u64 {
    (turn << 32) | (place / 8) as u64
}

/// Numbers that no prefetcher guesses, always the same (xorshift64).
pub(crate) fn noise() -> impl Iterator<Item = u64> {
    std::iter::successors(Some(88_172_645_463_325_252_u64), |last| {
        let mut next = last ^ (last << 13);
        next ^= next >> 7;
        Some(next ^ (next << 17))
    })
}

fn map(file: File, bytes: usize) -> anyhow::Result<MmapRegion> {
    Ok(MmapRegion::from_file(FileOffset::new(file, 0), bytes)?)
}

impl Rig {
    /// A device with so much VRAM, and as much guest RAM.
    pub(crate) fn new(bytes: u64) -> anyhow::Result<Self> {
        let config = Config {
            vram_bytes: bytes,
            ..Config::default()
        };
        let device = Arc::new(Device::new(config)?);
        let ram = GuestRam::new(RAM_BASE, usize::try_from(bytes + RING)?)?;
        let (file, _) = ram
            .mapping(0, ram.size(), true)?
            .backing
            .context("RAM without a file")?;
        let queue = QueueConfig {
            ring_log2: 14,
            ..QueueConfig::default()
        };
        let ram_map = map(file, usize::try_from(ram.size())?)?;
        let driver = Driver::new(device.clone(), ram, queue)?;
        Ok(Self {
            data: usize::try_from(driver.data() - RAM_BASE)?,
            ram: ram_map,
            device,
            driver,
            turns: 0,
        })
    }

    pub(crate) fn set_link(&self, link: &LinkSpec) {
        self.device.set_link(link.clone());
    }

    pub(crate) fn driver(&mut self) -> &mut Driver<Arc<Device>> {
        &mut self.driver
    }

    /// The destination with its offset of the data, then the source.
    fn sides(&self, way: Way) -> [(VolatileSlice<'_>, usize); 2] {
        let ram = (self.ram.as_volatile_slice(), self.data);
        let vram = (self.device.vram(), 0);
        match way {
            Way::ToVram => [vram, ram],
            Way::Home => [ram, vram],
        }
    }

    /// Writes what no turn before has copied to the ends of each page of the source.
    fn stamp(&mut self, plan: &Plan) -> anyhow::Result<()> {
        self.turns += 1;
        let [_, (src, base)] = self.sides(plan.way);
        for (_, from) in &plan.pieces {
            for page in (0..plan.piece()).step_by(PAGE) {
                for at in [0, PAGE - 8] {
                    let place = base + from + page + at;
                    src.write_obj(stamp_of(self.turns, place), place)?;
                }
            }
        }
        Ok(())
    }

    /// Whether it has come to the destination.
    fn verify(&self, plan: &Plan) -> anyhow::Result<()> {
        let [(dst, base), (_, src_base)] = self.sides(plan.way);
        for (to, from) in &plan.pieces {
            for page in (0..plan.piece()).step_by(PAGE) {
                for at in [0, PAGE - 8] {
                    let found: u64 = dst.read_obj(base + to + page + at)?;
                    let place = src_base + from + page + at;
                    ensure!(
                        found == stamp_of(self.turns, place),
                        "wrong bytes have come to {:#x}",
                        to + page + at
                    );
                }
            }
        }
        Ok(())
    }

    /// Whether all bytes of the last turn are right.
    pub(crate) fn verify_all(&self, plan: &Plan) -> anyhow::Result<()> {
        let [(dst, base), (src, src_base)] = self.sides(plan.way);
        let mut bytes = [vec![0; plan.piece()], vec![0; plan.piece()]];
        for (to, from) in &plan.pieces {
            dst.read_slice(&mut bytes[0], base + to)?;
            src.read_slice(&mut bytes[1], src_base + from)?;
            ensure!(bytes[0] == bytes[1], "wrong bytes at {to:#x}");
        }
        Ok(())
    }

    /// Random bytes in the source.
    pub(crate) fn fill(&mut self, way: Way, bytes: usize) -> anyhow::Result<()> {
        let noise: Vec<u8> = noise().flat_map(u64::to_ne_bytes).take(bytes).collect();
        let [_, (src, base)] = self.sides(way);
        Ok(src.write_slice(&noise, base)?)
    }

    /// Lets the engine copy, after `before`. Returns its GB/s, from a fence before it to one after
    /// it, by the device's clock.
    pub(crate) fn engine(&mut self, plan: &Plan, before: &[Desc]) -> anyhow::Result<f64> {
        self.stamp(plan)?;
        let base = self.driver.data();
        let records = base + self.device.vram().len() as u64;
        let at = |record: u64| records + record * FenceRecord::SIZE as u64;
        let mut descs = vec![fence(at(0), self.turns, false)];
        descs.extend_from_slice(before);
        descs.extend(plan.pieces.iter().map(|(to, from)| {
            let (to, from) = (*to as u64, *from as u64);
            let (dst, src) = match plan.way {
                Way::ToVram => (Side::Vram(to), Side::System(base + from)),
                Way::Home => (Side::System(base + to), Side::Vram(from)),
            };
            copy(plan.order, 1, dst, src)
        }));
        descs.push(fence(at(1), self.turns, false));
        self.driver.run(&descs)?;
        let record = |number| {
            let bytes = self.driver.ram().read(at(number), FenceRecord::SIZE);
            let bytes = bytes.try_into().unwrap_or([0; FenceRecord::SIZE]);
            FenceRecord::from_le_bytes(&bytes)
        };
        let (begin, end) = (record(0), record(1));
        ensure!(
            end.sequence == self.turns && end.status == Status::STATUS_OK.0,
            "the device reports an error: {end:?}"
        );
        self.verify(plan)?;
        #[allow(clippy::cast_precision_loss)] // Milliseconds.
        Ok(plan.bytes() / (end.time_ns - begin.time_ns) as f64)
    }

    /// Copies the same by a loop, in the way of that number. Returns its GB/s.
    ///
    /// Like the engine it has a thread of its own, whose core has not seen the source before, while
    /// this one waits without sleeping.
    #[allow(clippy::cast_precision_loss)] // Milliseconds.
    pub(crate) fn floor(&mut self, plan: &Plan, number: usize) -> anyhow::Result<f64> {
        self.stamp(plan)?;
        let (_, copy) = ways()[number];
        let rig = &*self;
        let ns = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let [(dst, base), (src, src_base)] = rig.sides(plan.way);
                let place = |(to, from): &(usize, usize)| (base + to, src_base + from);
                let pieces: Vec<_> = plan.pieces.iter().map(place).collect();
                let since = Instant::now();
                copy_all(copy, &dst, &src, &pieces, plan.piece());
                since.elapsed().as_nanos() as f64
            });
            while !thread.is_finished() {
                std::thread::yield_now();
            }
            thread.join()
        });
        let ns = ns.map_err(|_| anyhow::anyhow!("a loop has panicked"))?;
        self.verify(plan)?;
        Ok(plan.bytes() / ns)
    }
}
