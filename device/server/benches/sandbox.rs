//! What confining a server costs: each of its system calls goes through filters.
//!
//! Two devices that differ in nothing else take turns: one was made, and is served, on threads that
//! are confined as `hmmgpu serve` confines them. A register read is two system calls of the server. A
//! copy is timed from the doorbell to the return from a read of the interrupt's event: besides the
//! copy itself, the engine is woken if it sleeps, and raises the interrupt.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, anyhow, ensure};
use hmmgpu_bench_support::{Options, Pair, Row, Table, Target, take_turns};
use hmmgpu_contract::pci::BAR_REGISTERS;
use hmmgpu_contract::regs::{MAGIC_VALUE, Reg};
use hmmgpu_model::mock::descriptors::{Side, copy};
use hmmgpu_model::mock::{Driver, GuestRam, QueueConfig};
use hmmgpu_model::{Config, Device, HostMemory};
use hmmgpu_sandbox::{Role, confine_calls, confine_files};
use hmmgpu_server::{ModelBackend, serve_client};
use rustix::event::{EventfdFlags, eventfd};
use rustix::time::{ClockId, clock_gettime};
use vfio_bindings::bindings::vfio::{
    VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_DATA_EVENTFD, VFIO_PCI_MSIX_IRQ_INDEX,
};
use vfio_user::ServerBackend;

const MIB: u64 = 1 << 20;
const ROUNDS: usize = 8;
const TURNS: usize = 8;
const WARM_UP: usize = 2;
/// Reads of a turn.
const READS: u32 = 4000;
/// Copies of a turn.
const SMALL: u32 = 2000;
const LARGE: u32 = 100;

const HEADER: usize = 16;
/// Of a region access, header included, without data.
const ACCESS: usize = HEADER + 16;
const WORD: u32 = 4;
const VERSION: u16 = 1;
const REGION_READ: u16 = 9;

/// A command as it goes over the socket.
fn message(command: u16, payload: &[u8]) -> anyhow::Result<Vec<u8>> {
    let size = u32::try_from(HEADER + payload.len())?;
    let mut bytes = [1_u16, command].map(u16::to_ne_bytes).concat();
    bytes.extend([size, 0, 0].map(u32::to_ne_bytes).concat());
    bytes.extend_from_slice(payload);
    Ok(bytes)
}

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
    stream: UnixStream,
    read: Vec<u8>,
    driver: Driver<Arc<Device>>,
    interrupt: File,
}

impl Rig {
    /// Negotiates, and sets a queue up whose interrupts are an event.
    fn new(mut stream: UnixStream, device: Arc<Device>) -> anyhow::Result<Self> {
        let mut payload = vec![0, 0, 1, 0];
        payload.extend_from_slice(b"{\"capabilities\":{\"max_msg_fds\":8}}\0");
        stream.write_all(&message(VERSION, &payload)?)?;
        let mut header = [0; HEADER];
        stream.read_exact(&mut header)?;
        let size = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
        let rest = usize::try_from(size)?.checked_sub(HEADER);
        stream.read_exact(&mut vec![0; rest.context("no reply")?])?;

        let register = u64::from(Reg::MAGIC.0).to_ne_bytes();
        let words = [BAR_REGISTERS, WORD].map(u32::to_ne_bytes).concat();
        let read = message(REGION_READ, &[&register[..], &words].concat())?;

        let queue = QueueConfig::default();
        let interrupt = eventfd(0, EventfdFlags::CLOEXEC)?;
        ModelBackend::new(&device).set_irqs(
            VFIO_PCI_MSIX_IRQ_INDEX,
            VFIO_IRQ_SET_ACTION_TRIGGER | VFIO_IRQ_SET_DATA_EVENTFD,
            queue.vector,
            1,
            vec![interrupt.try_clone()?.into()],
        )?;
        let ram = GuestRam::new(1 << 32, usize::try_from(8 * MIB)?)?;
        Ok(Self {
            stream,
            read,
            driver: Driver::new(device, ram, queue)?,
            interrupt: interrupt.into(),
        })
    }

    /// Reads a register so often. Returns thousands a second.
    fn reads(&mut self) -> anyhow::Result<f64> {
        let since = Instant::now();
        for _ in 0..READS {
            self.stream.write_all(&self.read)?;
            let mut reply = [0; ACCESS + WORD as usize];
            self.stream.read_exact(&mut reply)?;
            let [.., a, b, c, d] = reply;
            let word = u32::from_le_bytes([a, b, c, d]);
            ensure!(word == MAGIC_VALUE, "a wrong word was read: {word:#x}");
        }
        Ok(thousands(READS, since))
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

/// So many since then, in thousands a second.
fn thousands(count: u32, since: Instant) -> f64 {
    f64::from(count) / since.elapsed().as_secs_f64() / 1e3
}

/// What is timed: name, and a turn of it.
type Timed = (&'static str, fn(&mut Rig) -> anyhow::Result<f64>);
const TIMED: [Timed; 3] = [
    ("register read, confined", Rig::reads),
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
                let mut backend = ModelBackend::new(device);
                let (_, result) = serve_client(&served, &description, &mut backend, &mut || {});
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
