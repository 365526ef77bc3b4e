//! Two devices in one program: what the driver of one does, the other and the host must not feel.
//!
//! It is a program of its own, because it looks at the memory and the threads of the process.

mod hostile;

use std::fs;
use std::sync::Arc;

use hmmgpu_contract::desc::Status;
use hmmgpu_model::mock::descriptors::{Side, copy};
use hmmgpu_model::mock::{Driver, GuestRam, QueueConfig};
use hmmgpu_model::{Config, Device};

const MIB: u64 = 1 << 20;
const PAGE: u64 = 4096;
const RAM_BASE: u64 = 0x1_0000_0000;
const VRAM: u64 = 64 * MIB;
/// Verified copies of 2 MiB to VRAM and back.
const ROUNDS: u64 = 150;
/// What a hostile driver can make the host spend beyond its VRAM and its own guest RAM.
const MOST_KIB: u64 = 64 << 10;

fn device() -> Arc<Device> {
    let config = Config {
        vram_bytes: VRAM,
        copy_queues: 2,
        contexts: 8,
        ..Config::default()
    };
    Arc::new(Device::new(config).expect("device"))
}

/// A figure of this process that `/proc` knows.
fn status(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("/proc");
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let word = line.and_then(|line| line.trim_start_matches(':').split_whitespace().next());
    word.and_then(|word| word.parse().ok()).expect("a figure")
}

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").expect("/proc").count()
}

/// A driver that does its work, and looks at every byte.
struct Neighbour {
    driver: Driver<Arc<Device>>,
    data: u64,
}

impl Neighbour {
    fn new() -> Self {
        let ram = GuestRam::new(RAM_BASE, 8 << 20).expect("guest RAM");
        let driver = Driver::new(device(), ram, QueueConfig::default()).expect("queue");
        let data = driver.data().next_multiple_of(2 * MIB);
        Self { driver, data }
    }

    fn work(&mut self, round: u64) {
        let (data, back) = (self.data, self.data + 2 * MIB);
        let content: Vec<u8> = (0..2 * MIB / 8)
            .flat_map(|word| {
                (word ^ round << 32)
                    .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                    .to_le_bytes()
            })
            .collect();
        self.driver.ram().write(data, &content);
        let vram = Side::Vram(round % 16 * 2 * MIB);
        let there = copy(9, 1, vram, Side::System(data));
        let home = copy(0, 512, Side::System(back), vram);
        let record = self.driver.run(&[there, home]).expect("a fence");
        assert_eq!(Status(record.status), Status::STATUS_OK);
        let found = self.driver.ram().read(back, content.len());
        assert!(found == content, "copied wrongly in round {round}");
    }
}

#[test]
fn a_hostile_driver_harms_neither_the_host_nor_its_neighbour() {
    let mut neighbour = Neighbour::new();
    // What it needs itself is there before anything is measured.
    for round in 0..16 {
        neighbour.work(round);
    }
    let hostile = hostile::Hostile::new(device());
    let (memory, threads, files) = (status("VmRSS"), status("Threads"), open_files());

    hostile.run_beside(|| {
        for round in 0..ROUNDS {
            neighbour.work(round);
        }
    });

    hostile.is_bounded();
    let allowed = memory + (VRAM >> 10) + hostile::RAM_KIB + MOST_KIB;
    let now = status("VmRSS");
    assert!(now <= allowed, "{now} KiB of memory, after {memory}");
    assert_eq!((status("Threads"), open_files()), (threads, files));

    // A better driver of the same device finds it working.
    hostile.is_cured();
    neighbour.work(1);
    let counted = neighbour.driver.function().snapshot();
    assert!(counted.events.descriptor_errors.is_empty());
    assert_eq!(counted.vram.inconsistent_notes, 0);
}
