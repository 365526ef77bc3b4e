//! What the engines of a confined server can reach: tried on their own threads, which are those that
//! raise interrupts.

use std::fs::File;
use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use hmmgpu_contract::compute::JOB_INTERRUPT;
use hmmgpu_contract::regs::INVALIDATION_QUEUE;
use hmmgpu_model::Interrupt;
use hmmgpu_model::mock::{ContextConfig, ContextDriver, Driver, GuestRam, QueueConfig, jobs};

use super::*;

/// MSI-X vectors.
const COPY: u32 = 1;
const INVALIDATION: u32 = 2;
const JOB: u32 = 3;

/// Which thread tried to open a file, and to make a socket, and what each came to.
type Tried = (String, [Result<(), Option<i32>>; 2]);

/// Tries where it is raised.
struct Attempt(Sender<Tried>);

impl Interrupt for Attempt {
    fn raise(&self) {
        let thread = std::thread::current().name().unwrap_or("").to_owned();
        let thread = thread.trim_end_matches(char::is_numeric).to_owned();
        let file = outcome(File::open("/proc/self/status"));
        let socket = outcome(UdpSocket::bind("127.0.0.1:0"));
        // It fails when the test has failed.
        let _ = self.0.send((thread, [file, socket]));
    }
}

fn outcome<T>(result: io::Result<T>) -> Result<(), Option<i32>> {
    result.map(drop).map_err(|error| error.raw_os_error())
}

/// A server that is confined, as one in use, and what its engines tried. It is bound on a thread that
/// ends: the test is not confined.
fn server() -> (Server, Receiver<Tried>) {
    let folder = tempfile::tempdir().expect("tempdir");
    let options = ServeOptions {
        socket: folder.path().join("gpu.sock"),
        vram_bytes: 64 << 20,
        check: CheckMode::Off,
        telemetry: None,
        control: None,
        trace: None,
        inject: Vec::new(),
        link: LinkSpec::off(),
        sandbox: true,
    };
    let bound = std::thread::spawn(move || Server::bind(&options)).join();
    let server = bound.expect("no panic").expect("a server");
    let (sender, tried) = channel();
    for vector in [COPY, INVALIDATION, JOB] {
        let attempt = Attempt(sender.clone());
        server.device.set_interrupt(vector, Some(Box::new(attempt)));
    }
    (server, tried)
}

/// A driver of a queue, with RAM at an address of its own.
fn queue(device: &Arc<Device>, queue: u32, vector: u32) -> Driver<Arc<Device>> {
    let ram = GuestRam::new(u64::from(vector) << 32, 1 << 20).expect("guest RAM");
    let config = QueueConfig {
        queue,
        vector,
        ..QueueConfig::default()
    };
    Driver::new(Arc::clone(device), ram, config).expect("a queue")
}

#[test]
fn engines_open_no_file_and_make_no_socket() {
    if !hmmgpu_sandbox::has_seccomp() {
        return eprintln!("skipped: no seccomp");
    }
    let (server, tried) = server();
    let device = &server.device;
    let expect_refusal = |engine: &str| {
        let (thread, outcomes) = tried.recv_timeout(Duration::from_secs(30)).expect(engine);
        assert_eq!(thread, engine);
        // Of the call: Landlock alone would say that access is denied.
        assert_eq!(outcomes, [Err(Some(Errno::PERM.raw_os_error())); 2]);
    };

    let mut copies = queue(device, 0, COPY);
    copies.fence(true).expect("a fence");
    expect_refusal("hmmgpu-copy");

    let mut invalidations = queue(device, INVALIDATION_QUEUE, INVALIDATION);
    invalidations.fence(true).expect("a fence");
    expect_refusal("hmmgpu-invalidation");

    let ram = Arc::new(GuestRam::new(u64::from(JOB) << 32, 1 << 20).expect("guest RAM"));
    let mapping = ram.mapping(0, ram.size(), true).expect("a mapping");
    device.dma_map(mapping).expect("a DMA map");
    let context = ContextConfig {
        context: 0,
        ring_log2: 4,
        vector: JOB,
        // A page of zeroes: nothing is mapped.
        root: ram.base(),
        area: ram.base() + 4096,
    };
    let context = ContextDriver::new(Arc::clone(device), ram, context);
    let job = jobs::flagged(jobs::fill(0, 0, 0), JOB_INTERRUPT);
    context.expect("a context").submit(&job).expect("a job");
    expect_refusal("hmmgpu-compute");

    let late = "interrupt:delay=1ms".parse().expect("a fault");
    device.inject(vec![late]).expect("few faults");
    copies.fence(true).expect("a fence");
    expect_refusal("hmmgpu-late");
}
