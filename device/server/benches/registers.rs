//! Register accesses over the socket, beside the socket alone and beside the `vfio_user` crate's
//! server with the same device behind it.
//!
//! One client for all: it writes bytes prepared before, and reads replies into a buffer. The bare
//! socket is the floor: a thread that answers so many bytes with so many others. Turns alternate in one
//! run, rounds make everything anew, and what was read is checked.

mod wire;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use hmmgpu_bench_support::{Options, Pair, Row, Table, Target, take_turns};
use hmmgpu_contract::regs::{QueueReg, queue_reg};
use hmmgpu_model::{Config, Device};
use hmmgpu_server::{ClientLog, ModelBackend, serve_client};
use vfio_bindings::bindings::vfio::vfio_region_info;
use vfio_user::ServerRegion;
use wire::{Client, READ, REPLY, access, thousands};

const ROUNDS: usize = 8;
const TURNS: usize = 8;
const WARM_UP: usize = 2;
/// Reads of a turn.
const READS: u32 = 4000;
/// Posted writes of a turn, in groups that a read ends.
const WRITES: u32 = 16_000;
const GROUP: u32 = 400;

const REGION_WRITE: u16 = 10;
const NO_REPLY: u32 = 1 << 4;

/// Sides of each turn.
const OURS: usize = 0;
const SOCKET: usize = 1;
const CRATE: usize = 2;
const SIDES: usize = 3;

/// A word of the queue's registers.
fn register() -> u32 {
    queue_reg(0, QueueReg::QUEUE_RING_LO)
}

/// Posts so many writes. Returns thousands a second, up to the end of the last.
fn writes(client: &mut Client) -> anyhow::Result<f64> {
    let mut value: u32 = 0;
    // All but the word itself is prepared.
    let mut write = access(REGION_WRITE, NO_REPLY, register(), &value.to_le_bytes());
    let word = write.len() - size_of::<u32>();
    let since = Instant::now();
    for _ in 0..WRITES / GROUP {
        for _ in 0..GROUP {
            // Rings lie on pages.
            value += 4096;
            write[word..].copy_from_slice(&value.to_le_bytes());
            client.stream.write_all(&write)?;
        }
        client.read(value)?;
    }
    Ok(thousands(WRITES, since))
}

/// Answers a read's bytes with as many as a server does, until the other side goes.
fn ping_pong(mut stream: &UnixStream) -> std::io::Result<()> {
    let (mut request, reply) = ([0; READ], [0; REPLY]);
    loop {
        if stream.read(&mut request)? == 0 {
            return Ok(());
        }
        stream.write_all(&reply)?;
    }
}

fn device() -> anyhow::Result<Device> {
    Ok(Device::new(Config {
        vram_bytes: 64 << 20,
        ..Config::default()
    })?)
}

/// The crate's server for one client.
fn crate_server(path: &Path, device: &Device) -> anyhow::Result<vfio_user::Server> {
    let regions = ModelBackend::describe(device).regions;
    let regions = (0..).zip(regions).map(|(index, region)| ServerRegion {
        region_info: vfio_region_info {
            argsz: 32,
            flags: region.flags,
            index,
            cap_offset: 0,
            size: region.size,
            offset: region.offset,
        },
        sparse_areas: Vec::new(),
        mmap_fd: None,
    });
    let irqs = ModelBackend::describe(device).irqs;
    vfio_user::Server::new(path, true, irqs, regions.collect())
        .map_err(|error| anyhow::anyhow!("the crate's server: {error}"))
}

/// Reads and posted writes of one round, thousands a second; the socket alone has no writes.
type Round = (Vec<[f64; SIDES]>, Vec<[f64; 2]>);

fn round(number: usize) -> anyhow::Result<Round> {
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name);
    let mut devices = [None, None];
    for side in [number % 2, 1 - number % 2] {
        devices[side] = Some(device()?);
    }
    let [Some(ours), Some(theirs)] = devices else {
        anyhow::bail!("no device");
    };
    let crates = crate_server(&path("crate"), &theirs)?;
    let listener = UnixListener::bind(path("ours"))?;
    let (bare, answering) = UnixStream::pair()?;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (stream, _) = listener.accept()?;
            let description = ModelBackend::describe(&ours);
            let log = ClientLog::default();
            let mut backend = ModelBackend::new(&ours, &log);
            let (_, result) = serve_client(&stream, &description, &mut backend, &log, &mut || {});
            result.map_err(std::io::Error::other)
        });
        // It says so when its client has gone.
        scope.spawn(|| crates.run(&mut ModelBackend::new(&theirs, &ClientLog::default())));
        scope.spawn(|| {
            let answering = answering;
            ping_pong(&answering)
        });
        let mut clients = [
            Client::negotiated(UnixStream::connect(path("ours"))?, register())?,
            Client::new(bare, register()),
            Client::negotiated(UnixStream::connect(path("crate"))?, register())?,
        ];
        let reads = take_turns(TURNS, WARM_UP, |side| clients[side].reads(READS, 0))?;
        let writes = take_turns(TURNS, WARM_UP, |side| {
            writes(&mut clients[[OURS, CRATE][side]])
        })?;
        Ok((reads, writes))
    })
}

fn main() -> anyhow::Result<ExitCode> {
    let options = Options::from_arguments();
    let title =
        "Registers over the socket: quotients of pairs of turns in one run; medians and quartiles";
    let mut table = Table::new(title, &options)?;
    let (mut reads, mut writes) = (Vec::new(), Vec::new());
    for number in 0..options.rounds(ROUNDS) {
        let (of_reads, of_writes) = round(number)?;
        reads.extend(of_reads);
        writes.extend(of_writes);
    }
    let of =
        |side: usize| -> Vec<Pair> { reads.iter().map(|turn| [turn[OURS], turn[side]]).collect() };
    let (socket, theirs) = (of(SOCKET), of(CRATE));
    let rows = [
        ("register read", "bare socket", 0.9, &socket),
        (
            "register read, other server",
            "vfio_user's server",
            1.4,
            &theirs,
        ),
        (
            "posted write, other server",
            "vfio_user's server",
            1.7,
            &writes,
        ),
    ];
    for (name, beside, target, pairs) in rows {
        if options.wants(name) {
            let target = Target::AtLeast(target);
            table.add(Row::of_pairs(name, beside, "k/s", target, pairs))?;
        }
    }
    Ok(table.finish())
}
