//! What confining a server costs: each of its system calls goes through filters.
//!
//! Two devices that differ in nothing else take turns: one was made, and is served, on threads that
//! are confined as `hmmgpu serve` confines them. A register read is two system calls of the server. A
//! copy is timed from the doorbell to the return from a read of the interrupt's event: besides the
//! copy itself, the engine is woken if it sleeps, and raises the interrupt.

mod wire;

use std::fs::File;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{anyhow, ensure};
use hmmgpu_bench_support::{Options, Pair, Row, Table, Target, take_turns};
use hmmgpu_contract::regs::{MAGIC_VALUE, Reg};
use hmmgpu_model::mock::descriptors::{Side, copy};
use hmmgpu_model::mock::{Driver, GuestRam, QueueConfig};
use hmmgpu_model::{Config, Device, HostMemory};
use hmmgpu_sandbox::{Role, confine_calls, confine_files};
use hmmgpu_server::{ClientLog, ModelBackend, serve_client};
use rustix::event::{EventfdFlags, eventfd};
use rustix::time::{ClockId, clock_gettime};
use vfio_bindings::bindings::vfio::{
    VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_DATA_EVENTFD, VFIO_PCI_MSIX_IRQ_INDEX,
};
use vfio_user::ServerBackend;
use wire::{Client, thousands};

const MIB: u64 = 1 << 20;
const ROUNDS: usize = 8;
const TURNS: usize = 8;
const WARM_UP: usize = 2;
/// Reads of a turn.
const READS: u32 = 4000;
/// Copies of a turn.
const SMALL: u32 = 2000;
const LARGE: u32 = 100;

/// Takes from this thread what a server's gives up.
fn confine(role: Role) -> anyhow::Result<()> {
    hmmgpu_sandbox::prepare();
    // The first look at the clock is at a file.
    let _ = clock_gettime(ClockId::Monotonic);
    confine_files(&[])?;
    Ok(confine_calls(role)?)
}

/// A device, made on a thread that is confined, or not.
fn device(confined: bool) -> anyhow::Result<Arc<Device>> {
    let memory = HostMemory::open();
    let make = move || {
        if confined {
            confine(Role::Engine)?;
        }
        let config = Config {
            vram_bytes: 64 * MIB,
            ..Config::default()
        };
        Ok(Arc::new(Device::with_host_memory(config, memory)?))
    };
    let made = std::thread::spawn(make).join();
    made.map_err(|_| anyhow!("no device could be made"))?
}

/// One side: a client of the device's registers, and a driver of its copy engine.
struct Rig {
    client: Client,
    driver: Driver<Arc<Device>>,
    interrupt: File,
}

impl Rig {
    /// Negotiates, and sets a queue up whose interrupts are an event.
    fn new(stream: UnixStream, device: Arc<Device>) -> anyhow::Result<Self> {
        let queue = QueueConfig::default();
        let interrupt = eventfd(0, EventfdFlags::CLOEXEC)?;
        ModelBackend::new(&device, &ClientLog::default()).set_irqs(
            VFIO_PCI_MSIX_IRQ_INDEX,
            VFIO_IRQ_SET_ACTION_TRIGGER | VFIO_IRQ_SET_DATA_EVENTFD,
            queue.vector,
            1,
            vec![interrupt.try_clone()?.into()],
        )?;
        let ram = GuestRam::new(1 << 32, usize::try_from(8 * MIB)?)?;
        Ok(Self {
            client: Client::negotiated(stream, Reg::MAGIC.0)?,
            driver: Driver::new(device, ram, queue)?,
            interrupt: interrupt.into(),
        })
    }

    /// Copies a folio of this order so often, each time with an interrupt. Returns thousands a second.
    fn copies(&mut self, order: u8, times: u32) -> anyhow::Result<f64> {
        // On a bound of 2 MiB, as large folios are.
        let from = self.driver.data().next_multiple_of(2 * MIB);
        let desc = copy(order, 1, Side::Vram(0), Side::System(from));
        let since = Instant::now();
        for _ in 0..times {
            self.driver.submit(&[desc])?;
            self.driver.fence(true)?;
            // The device has taken care that it does not block.
            let mut count = [0; 8];
            while let Err(error) = self.interrupt.read_exact(&mut count) {
                ensure!(error.kind() == std::io::ErrorKind::WouldBlock, error);
            }
        }
        let rate = thousands(times, since);
        let record = self.driver.record();
        ensure!(record.errors == 0, "a copy failed: {record:?}");
        Ok(rate)
    }
}

/// What is timed: name, and a turn of it.
type Timed = (&'static str, fn(&mut Rig) -> anyhow::Result<f64>);
const TIMED: [Timed; 3] = [
    ("register read, confined", |rig| {
        rig.client.reads(READS, MAGIC_VALUE)
    }),
    ("copy of 4 KiB, confined", |rig| rig.copies(0, SMALL)),
    ("copy of 2 MiB, confined", |rig| rig.copies(9, LARGE)),
];

/// Pairs of all that is timed, from two devices that are made anew.
fn round(number: usize) -> anyhow::Result<Vec<Vec<Pair>>> {
    let mut made = [None, None];
    for side in [number % 2, 1 - number % 2] {
        made[side] = Some(device(side == 0)?);
    }
    let [Some(ours), Some(theirs)] = made else {
        anyhow::bail!("no device");
    };
    let devices = [ours, theirs];
    std::thread::scope(|scope| {
        let mut rigs = Vec::new();
        for (side, device) in devices.iter().enumerate() {
            let (stream, served) = UnixStream::pair()?;
            // It ends with its client.
            scope.spawn(move || {
                if side == 0 {
                    confine(Role::Server)?;
                }
                let description = ModelBackend::describe(device);
                let log = ClientLog::default();
                let mut backend = ModelBackend::new(device, &log);
                let (_, result) =
                    serve_client(&served, &description, &mut backend, &log, &mut || {});
                Ok::<(), anyhow::Error>(result?)
            });
            rigs.push(Rig::new(stream, Arc::clone(device))?);
        }
        let timed = TIMED.iter();
        timed
            .map(|(_, turn)| take_turns(TURNS, WARM_UP, |side| turn(&mut rigs[side])))
            .collect()
    })
}

fn main() -> anyhow::Result<ExitCode> {
    let options = Options::from_arguments();
    for missing in hmmgpu_sandbox::missing() {
        eprintln!("{missing}");
    }
    let title = "Confined and not: quotients of pairs of turns in one run; medians and quartiles";
    let mut table = Table::new(title, &options)?;
    let mut pairs = vec![Vec::new(); TIMED.len()];
    for number in 0..options.rounds(ROUNDS) {
        for (all, of_round) in pairs.iter_mut().zip(round(number)?) {
            all.extend(of_round);
        }
    }
    for ((name, _), pairs) in TIMED.iter().zip(&pairs) {
        if options.wants(name) {
            let target = Target::AtLeast(0.95);
            table.add(Row::of_pairs(name, "not confined", "k/s", target, pairs))?;
        }
    }
    Ok(table.finish())
}
