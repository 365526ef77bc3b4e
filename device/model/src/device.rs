//! The device: one object that a transport drives from any thread.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;

use hmmgpu_contract::pci::{BAR_MSIX, BAR_MSIX_SIZE, BAR_REGISTERS, BAR_REGISTERS_SIZE};
use hmmgpu_contract::regs::{INVALIDATION_QUEUE, MAX_CONTEXTS, MAX_COPY_QUEUES};
use hmmgpu_contract::{MAX_VRAM_BYTES, MIN_VRAM_BYTES, VRAM_BLOCK_BYTES};
use hmmgpu_telemetry::snapshot::Snapshot;
use hmmgpu_telemetry::{CheckMode, Event, Known, Observer, Telemetry};
use vm_memory::VolatileSlice;

use crate::background::{Background, HasRoom};
use crate::clock::now_ns;
use crate::compute::{self, Compute};
use crate::config_space::{CONFIG_SIZE, ConfigSpace};
use crate::dma::{DmaError, DmaMap, DmaMapping, LostMemory};
use crate::engine::CopyEngine;
use crate::host_memory::HostMemory;
use crate::inject::{FaultSpec, Injector, Late, TooManyFaults};
use crate::interrupt::{Interrupt, Vectors};
use crate::link::{Link, LinkSpec};
use crate::mmu::{Context, FaultQueue, InvalidationEngine};
use crate::msix::MsixTable;
use crate::occasional::Occasional;
use crate::queue::{self, Control, Engine};
use crate::registers::Registers;
use crate::reset::ResetCause;
use crate::shared::{Shared, lock};
use crate::status::Client;
use crate::usage::Usage;
use crate::vram::Vram;

/// What a device is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// VRAM size in bytes: 64 MiB to 64 GiB, a multiple of 2 MiB.
    pub vram_bytes: u64,
    /// Number of copy queues: 1 to 16.
    pub copy_queues: u32,
    /// Number of contexts: at most 256. With none the device only copies.
    pub contexts: u32,
    /// Number of compute engines, which are threads: 1 to 16. Not used without contexts.
    pub compute_engines: u32,
    /// What engines of queues tell telemetry.
    pub counting: Counting,
    /// How closely the driver's use of VRAM is checked. Needs counting.
    pub check: CheckMode,
}

/// What engines of queues tell telemetry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Counting {
    /// What becomes of each descriptor, and how long it took.
    #[default]
    Full,
    /// Nothing, and they do not look at the clock for it. Snapshots then lack transfers, spans, and
    /// what notes tell. This is what the cost of counting is measured against.
    Off,
}

/// Most compute engines. Stops a configuration from asking the host for threads without end.
const MAX_COMPUTE_ENGINES: u32 = 16;

impl Default for Config {
    fn default() -> Self {
        Self {
            vram_bytes: 1 << 30,
            copy_queues: 1,
            contexts: MAX_CONTEXTS,
            compute_engines: 2,
            counting: Counting::Full,
            check: CheckMode::Folio,
        }
    }
}

/// Why a device cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The VRAM size is out of bounds.
    #[error("VRAM of {0} bytes is not possible: give 64 MiB to 64 GiB, a multiple of 2 MiB")]
    VramSize(u64),
    /// The number of queues is out of bounds.
    #[error("{0} copy queues are not possible: give 1 to 16")]
    CopyQueues(u32),
    /// The number of contexts is out of bounds.
    #[error("{0} contexts are not possible: give 0 to 256")]
    Contexts(u32),
    /// The number of compute engines is out of bounds.
    #[error("{0} compute engines are not possible: give 1 to 16")]
    ComputeEngines(u32),
    /// The host refused memory or a thread.
    #[error("the host refused {what}")]
    Host {
        /// What was asked for.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
}

/// The device. All methods may be called from any thread; none of them waits for more than a
/// chunk of a copy in flight, or a step of a job. Dropping it stops its threads.
#[derive(Debug)]
pub struct Device {
    pub(crate) shared: Arc<Shared>,
    engines: Mutex<Vec<JoinHandle<()>>>,
    /// How the device was when it was halted.
    halted: OnceLock<Known>,
}

impl Device {
    /// Makes a device in the state after power-on.
    ///
    /// # Errors
    /// A size or number is out of bounds, or the host refuses memory or threads.
    pub fn new(config: Config) -> Result<Device, ConfigError> {
        Self::with_host_memory(config, HostMemory::open())
    }

    /// As [`Device::new`], where files can no more be opened.
    ///
    /// # Errors
    /// As [`Device::new`].
    pub fn with_host_memory(config: Config, memory: HostMemory) -> Result<Device, ConfigError> {
        Self::build(config, Box::new(move || memory.has_room()))
    }

    /// As [`Self::new`]; memory is populated ahead of its use while `has_room` says so.
    pub(crate) fn build(config: Config, has_room: HasRoom) -> Result<Device, ConfigError> {
        let Config {
            vram_bytes,
            copy_queues,
            contexts,
            compute_engines,
            counting,
            check,
        } = config;
        let check = match counting {
            Counting::Full => check,
            Counting::Off => CheckMode::Off,
        };
        let sizes = MIN_VRAM_BYTES..=MAX_VRAM_BYTES;
        if !sizes.contains(&vram_bytes) || vram_bytes % VRAM_BLOCK_BYTES != 0 {
            return Err(ConfigError::VramSize(vram_bytes));
        }
        if !(1..=MAX_COPY_QUEUES).contains(&copy_queues) {
            return Err(ConfigError::CopyQueues(copy_queues));
        }
        if contexts > MAX_CONTEXTS {
            return Err(ConfigError::Contexts(contexts));
        }
        if !(1..=MAX_COMPUTE_ENGINES).contains(&compute_engines) {
            return Err(ConfigError::ComputeEngines(compute_engines));
        }
        let host = |what| move |source| ConfigError::Host { what, source };
        let vram = Arc::new(Vram::new(vram_bytes).map_err(host(
            "address space for VRAM: choose a smaller one, or see vm.overcommit_memory",
        ))?);
        let registers = Arc::new(Mutex::new(Registers::new(config)));
        let scrubbed = {
            let registers = registers.clone();
            let failures = Occasional::default();
            move |generation, result: io::Result<()>| {
                if let Err(error) = &result
                    && let Some(times) = failures.count()
                {
                    tracing::error!(
                        times,
                        "VRAM cannot be scrubbed, the device is lost: {error}"
                    );
                }
                lock(&registers).scrubbed(generation, result.is_ok());
            }
        };
        let background = Background::start(vram.clone(), Box::new(scrubbed), has_room)
            .map_err(host("a thread for memory"))?;
        let dma = DmaMap::new().map_err(host("an event for lost memory"))?;
        // Where there are no contexts there are no jobs.
        let usage = (check != CheckMode::Off && contexts > 0).then(|| Usage::new(vram_bytes));
        let shared = Arc::new(Shared {
            vram,
            usage,
            telemetry: Telemetry::checking(vram_bytes, now_ns(), check),
            counting: counting == Counting::Full,
            check,
            background,
            engines: (0..copy_queues).map(|_| Control::default()).collect(),
            invalidation: Control::default(),
            faults: FaultQueue::default(),
            contexts: (0..contexts).map(|_| Context::new()).collect(),
            compute: Compute::new(contexts),
            shutdown: AtomicBool::new(false),
            dma,
            vectors: Vectors::new(),
            config: Mutex::new(ConfigSpace::new()),
            msix: Mutex::new(MsixTable::new()),
            registers,
            may_master: AtomicBool::new(false),
            client: Client::default(),
            link_model: Link::default(),
            inject: Injector::default(),
            late: Late::default(),
            happening: Mutex::default(),
            gone: AtomicBool::new(false),
            resetting: Mutex::new(()),
            queue_stops: Occasional::default(),
            resets: Occasional::default(),
        });
        let mut device = Self {
            shared,
            engines: Mutex::default(),
            halted: OnceLock::new(),
        };
        for queue in 0..copy_queues {
            device
                .serve(format!("hmmgpu-copy{queue}"), queue, CopyEngine::new())
                .map_err(host("a thread for a copy engine"))?;
        }
        let late = device.shared.clone();
        let thread = std::thread::Builder::new()
            .name("hmmgpu-late".to_owned())
            .spawn(move || late.late.serve(|event| late.happens(event)))
            .map_err(host("a thread for what happens late"))?;
        lock(&device.engines).push(thread);
        if contexts > 0 {
            let name = "hmmgpu-invalidation".to_owned();
            device
                .serve(name, INVALIDATION_QUEUE, InvalidationEngine)
                .map_err(host("a thread for the invalidation engine"))?;
            for engine in 0..compute_engines {
                let shared = device.shared.clone();
                let thread = std::thread::Builder::new()
                    .name(format!("hmmgpu-compute{engine}"))
                    .spawn(move || compute::serve(&shared))
                    .map_err(host("a thread for a compute engine"))?;
                lock(&device.engines).push(thread);
            }
        }
        Ok(device)
    }

    /// Starts the thread of a queue.
    fn serve(
        &mut self,
        name: String,
        queue: u32,
        engine: impl Engine + Send + 'static,
    ) -> io::Result<()> {
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || queue::serve(&shared, queue, shared.control(queue), engine))?;
        self.shared
            .control(queue)
            .set_thread(thread.thread().clone());
        lock(&self.engines).push(thread);
        Ok(())
    }

    /// Size of configuration space in bytes.
    pub fn config_size(&self) -> usize {
        CONFIG_SIZE
    }

    /// Reads configuration space; what lies outside reads all-ones.
    pub fn config_read(&self, offset: u64, data: &mut [u8]) {
        if self.shared.is_gone() {
            return data.fill(0xff);
        }
        lock(&self.shared.config).read(offset, data);
    }

    /// Writes configuration space. Carries out a function-level reset, and waits for a copy in
    /// flight when bus mastering is taken away.
    pub fn config_write(&self, offset: u64, data: &[u8]) {
        if self.shared.is_gone() {
            return;
        }
        let effect = {
            let mut config = lock(&self.shared.config);
            let effect = config.write(offset, data);
            self.shared.set_may_master(effect.may_master);
            effect
        };
        if effect.function_reset {
            self.reset(ResetCause::Flr);
        }
    }

    /// All of VRAM, for whoever looks at it beside the engines. Of what is written to it there
    /// telemetry and background populating know nothing.
    pub fn vram(&self) -> VolatileSlice<'_, ()> {
        self.shared.vram.all()
    }

    /// Size of a BAR in bytes; 0: there is none of that number.
    pub fn bar_size(&self, bar: u32) -> u64 {
        match bar {
            BAR_REGISTERS => u64::from(BAR_REGISTERS_SIZE),
            BAR_MSIX => u64::from(BAR_MSIX_SIZE),
            _ => 0,
        }
    }

    /// Reads a BAR. What is not defined reads all-ones and is counted.
    pub fn bar_read(&self, bar: u32, offset: u64, data: &mut [u8]) {
        if self.shared.is_gone() {
            return data.fill(0xff);
        }
        let well = match bar {
            BAR_REGISTERS => self.read_registers(offset, data),
            BAR_MSIX => {
                let pending = self.shared.vectors.pending_bits();
                lock(&self.shared.msix).read(offset, data, pending)
            }
            _ => false,
        };
        if !well {
            data.fill(0xff);
            self.shared.unknown(bar, offset);
        }
    }

    /// Reads one or two registers; `false` when the access is not a defined one.
    fn read_registers(&self, offset: u64, data: &mut [u8]) -> bool {
        if !matches!(data.len(), 4 | 8) || !offset.is_multiple_of(4) {
            return false;
        }
        let mut registers = self.shared.registers();
        data.chunks_exact_mut(4).zip(0..).all(|(word, i)| {
            let offset = offset
                .checked_add(4 * i)
                .and_then(|offset| u32::try_from(offset).ok());
            match offset.and_then(|offset| registers.read(offset, now_ns())) {
                Some(value) => {
                    word.copy_from_slice(&value.to_le_bytes());
                    true
                }
                None => false,
            }
        })
    }

    /// Writes a BAR. What is not defined is ignored and counted.
    pub fn bar_write(&self, bar: u32, offset: u64, data: &[u8]) {
        if self.shared.is_gone() {
            return;
        }
        let words = match bar {
            BAR_REGISTERS if offset.is_multiple_of(4) && matches!(data.len(), 4 | 8) => data,
            BAR_MSIX if lock(&self.shared.msix).write(offset, data) => return,
            _ => {
                self.shared.unknown(bar, offset);
                return;
            }
        };
        for (word, i) in words.chunks_exact(4).zip(0..) {
            let value = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
            self.shared
                .write_register(offset.saturating_add(4 * i), value);
        }
    }

    /// Adds a range to the DMA map.
    ///
    /// # Errors
    /// See [`DmaError`]; each is counted.
    pub fn dma_map(&self, map: DmaMapping) -> Result<(), DmaError> {
        match self.shared.dma.map(map) {
            Ok(Some((region, write))) => {
                self.shared.background.ram_mapped(&region, write);
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(error) => {
                self.shared.telemetry.counters.dma_map_error();
                Err(error)
            }
        }
    }

    /// Takes a range out of the DMA map: exactly one that was mapped. Waits for a chunk of a copy
    /// in flight; afterwards nothing reads or writes there.
    ///
    /// # Errors
    /// The range is malformed, is not mapped, or is not exactly one that was mapped.
    pub fn dma_unmap(&self, address: u64, size: u64) -> Result<(), DmaError> {
        let region = self.shared.dma.unmap(address, size)?;
        self.shared.background.unmap(region.into_iter());
        Ok(())
    }

    /// Empties the DMA map; as [`Self::dma_unmap`] for all of it.
    pub fn dma_unmap_all(&self) {
        let regions = self.shared.dma.unmap_all();
        self.shared.background.unmap(regions);
    }

    /// What memory of the client has gone, if any. Then every DMA access fails, until a reset by
    /// [`ResetCause::Disconnect`].
    pub fn memory_lost(&self) -> Option<LostMemory> {
        self.shared.dma.lost_memory()
    }

    /// Readable, for `poll`, when an access finds memory of the client gone; to read 8 bytes from it
    /// takes that back.
    pub fn memory_lost_event(&self) -> BorrowedFd<'_> {
        self.shared.dma.lost().as_fd()
    }

    /// Sets where a vector goes; `None` masks it. What was raised while it was masked goes out
    /// when a sink is set. Vectors that do not exist are ignored.
    pub fn set_interrupt(&self, vector: u32, sink: Option<Box<dyn Interrupt>>) {
        if self.shared.vectors.set(vector, sink) {
            self.shared.telemetry.counters.interrupt();
        }
    }

    /// Resets the device. When it returns, nothing that was under way before can write to guest
    /// memory or raise an interrupt any more; it waits for at most a chunk of a copy for that.
    /// VRAM is scrubbed in the background meanwhile, and `STATE` reads `STATE_RESETTING` until it
    /// is done. [`ResetCause::Disconnect`] also empties the DMA map and drops all sinks.
    pub fn reset(&self, cause: ResetCause) {
        self.shared.reset(cause);
    }

    /// Lets `observer` see all that engines do, from now on. There is one at most.
    ///
    /// # Errors
    /// The observer, if there is one already.
    pub fn observe(&self, observer: Arc<dyn Observer>) -> Result<(), Arc<dyn Observer>> {
        self.shared.telemetry.observe(observer)
    }

    /// Arms faults. What is to happen at once has happened when this returns.
    ///
    /// # Errors
    /// There is no room for all of them: none is armed.
    pub fn inject(&self, faults: Vec<FaultSpec>) -> Result<(), TooManyFaults> {
        self.shared.arm(faults)
    }

    /// Disarms all faults: when it returns, none happens any more. An engine that stands still for
    /// one goes on, and what is late has come; a device that was gone is there again, as after
    /// power-on.
    pub fn clear_injected(&self) {
        self.shared.disarm();
    }

    /// Models a link between guest RAM and VRAM from now on, or none. With [`Counting::Off`] there is
    /// no clock to model it by.
    pub fn set_link(&self, link: LinkSpec) {
        self.shared.link_model.set(link);
    }

    /// A client of the transport is there, or has gone.
    pub fn client_connected(&self, connected: bool) {
        self.shared.client.connected(connected);
    }

    /// All that was counted.
    pub fn snapshot(&self) -> Snapshot {
        self.shared.telemetry.snapshot(self.known(), true)
    }

    /// As [`Self::snapshot`] without the windows, of which there may be many.
    pub fn snapshot_without_windows(&self) -> Snapshot {
        self.shared.telemetry.snapshot(self.known(), false)
    }

    /// The last `count` events, the oldest first.
    pub fn last_events(&self, count: usize) -> Vec<Event> {
        self.shared.telemetry.last_events(count)
    }

    /// Stops the threads for good, each within a chunk of a copy or a step of a job, and waits for
    /// them: whatever they did has been told to telemetry then. Snapshots show queues and link as
    /// they were before.
    pub fn halt(&self) {
        self.halted.get_or_init(|| self.observed());
        self.shared.shutdown.store(true, Ordering::SeqCst);
        self.shared.stop_all();
        self.shared.compute.shut_down();
        self.shared.late.shut_down();
        for engine in lock(&self.engines).drain(..) {
            // A panic of the thread has been reported by the panic hook already.
            let _ = engine.join();
        }
    }

    /// What telemetry is told of the device.
    fn known(&self) -> Known {
        self.halted
            .get()
            .map_or_else(|| self.observed(), Known::clone)
    }

    /// The device as it is.
    fn observed(&self) -> Known {
        let link = self.shared.link();
        let view = self.shared.dma.view();
        Known {
            time_ns: now_ns(),
            dma_maps: view.len() as u64,
            populating_bytes: self.shared.background.populating(),
            queues: self.shared.queues(&view),
            link,
            injected: self.shared.inject.told(),
            link_model: self.shared.link_model.told(),
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.halt();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mock::descriptors::{Side, fill, note};
    use crate::mock::{Driver, GuestRam, QueueConfig, until};
    use crate::registers::ErrorRecord;
    use hmmgpu_contract::PAGE_SIZE;
    use hmmgpu_contract::desc::{NOTE_ALLOC, NOTE_FREE, Status};
    use hmmgpu_contract::regs::Reg;
    use hmmgpu_telemetry::snapshot::{EngineState, FaultSite};
    use std::os::unix::fs::MetadataExt;

    const MIB: u64 = 1 << 20;
    const RAM_BASE: u64 = 1 << 32;

    fn device() -> Arc<Device> {
        let config = Config {
            vram_bytes: 512 * MIB,
            ..Config::default()
        };
        Arc::new(Device::build(config, Box::new(|| true)).unwrap())
    }

    #[test]
    fn errors_do_not_repeat_their_source() {
        let source = io::Error::other("no more");
        let host = ConfigError::Host {
            what: "a thread",
            source,
        };
        assert_eq!(host.to_string(), "the host refused a thread");
        let source = std::error::Error::source(&host).map(ToString::to_string);
        assert_eq!(source.as_deref(), Some("no more"));
    }

    #[test]
    fn a_device_that_was_told_not_to_does_not_break_any_more() {
        let device = device();
        let gone = "gpu:gone@1".parse().unwrap();
        device.inject(vec![gone]).unwrap();
        let hit = device.shared.inject.ask(FaultSite::Gpu, "", now_ns());
        device.clear_injected();
        device.shared.happen_to_gpu(hit.expect("a hit"));
        assert!(!device.shared.is_gone());
    }

    /// Bytes of VRAM that the host has populated.
    fn populated(device: &Device) -> u64 {
        device.shared.vram.populated()
    }

    #[test]
    fn what_an_engine_uses_of_vram_is_populated_further_on() {
        const BLOCK: u64 = VRAM_BLOCK_BYTES;
        let last = |block: u64| Side::Vram((block + 1) * BLOCK - PAGE_SIZE);
        let alloc = note(NOTE_ALLOC, 0, 1, BLOCK, 0);
        for desc in [fill(0, 1, last(0), 1), alloc] {
            let device = device();
            // Too little for a guest, for whom VRAM would be populated before its use.
            let ram = GuestRam::new(RAM_BASE, 512 << 10).unwrap();
            let mut driver = Driver::new(device.clone(), ram, QueueConfig::default()).unwrap();
            let free = note(NOTE_FREE, 0, 1, 256 * MIB, 0);
            assert_eq!(driver.run(&[free]).unwrap().errors, 0);
            assert_eq!(populated(&device), 0);
            assert_eq!(driver.run(&[desc]).unwrap().errors, 0);
            until("VRAM ahead", || populated(&device) > BLOCK).unwrap();
        }
    }

    #[test]
    fn guest_ram_is_populated() {
        let device = device();
        let ram = GuestRam::new(RAM_BASE, 4 << 20).unwrap();
        let mapping = ram.mapping(0, ram.size(), true).unwrap();
        let file = mapping.backing.as_ref().unwrap().0.try_clone().unwrap();
        device.dma_map(mapping).unwrap();
        until("guest RAM", || {
            file.metadata().unwrap().blocks() * 512 == ram.size()
        })
        .unwrap();
    }

    #[test]
    fn stopping_a_queue_and_bus_mastering_waits_for_accesses_that_have_begun() {
        let device = device();
        let ram = GuestRam::new(RAM_BASE, 1 << 20).unwrap();
        let driver = Driver::new(device.clone(), ram, QueueConfig::default()).unwrap();
        let stop = || driver.stop();
        let take_bus = || driver.set_bus_master(false);
        let both: [&(dyn Fn() + Sync); 2] = [&stop, &take_bus];
        for end in both {
            let access = device.shared.dma.view();
            std::thread::scope(|scope| {
                scope.spawn(end);
                // Whoever waits for the map keeps others from beginning an access.
                until("whoever waits", || device.shared.dma.try_view().is_none()).unwrap();
                drop(access);
            });
            assert!(device.shared.dma.try_view().is_some());
        }
    }

    #[test]
    fn what_an_engine_still_tells_while_a_reset_waits_for_it_is_forgotten() {
        let device = device();
        let shared = &device.shared;
        let access = shared.dma.view();
        std::thread::scope(|scope| {
            scope.spawn(|| device.reset(ResetCause::Register));
            until("whoever waits", || shared.dma.try_view().is_none()).unwrap();
            // Whoever holds a permit of before goes on until it is over.
            let mut registers = shared.registers();
            registers.queue_interrupt(0);
            registers.job_interrupt(0);
            registers.record_error(ErrorRecord {
                status: Status::STATUS_OVERLAP,
                queue: 0,
                index: 0,
                address: 0,
            });
            drop(registers);
            drop(access);
        });
        for reg in [Reg::INT_CAUSE, Reg::ERROR_STATUS, Reg::ERROR_COUNT] {
            assert_eq!(shared.registers().read(reg.0, 0), Some(0), "{reg:?}");
        }
    }

    #[test]
    fn a_halted_device_has_told_all_and_shows_what_it_was() {
        for _ in 0..20 {
            let device = device();
            let ram = GuestRam::new(RAM_BASE, 1 << 20).unwrap();
            let mut driver = Driver::new(device.clone(), ram, QueueConfig::default()).unwrap();
            let desc = fill(0, 1, Side::Vram(0), 7);
            assert_eq!(driver.run(&[desc; 3]).unwrap().errors, 0);
            device.halt();
            let snapshot = device.snapshot();
            // The fills and the fence.
            assert_eq!(snapshot.events.descriptors, 4);
            assert_eq!(snapshot.queues.len(), 1);
            assert_ne!(snapshot.queues[0].state, EngineState::Stopped);
            // It does nothing any more.
            driver.submit(&[desc]).unwrap();
            device.halt();
            let after = device.snapshot();
            assert_eq!(after.transfers, snapshot.transfers);
            assert_eq!(after.queues, snapshot.queues);
        }
    }

    #[test]
    fn unmapping_does_not_wait_for_the_address_space() {
        let ram = GuestRam::new(RAM_BASE, 4 << 20).unwrap();
        for one in [true, false] {
            let device = device();
            let mapping = ram.mapping(0, ram.size(), true).unwrap();
            let mapped = device.shared.dma.map(mapping).unwrap().unwrap().0;
            let region = Arc::downgrade(&mapped);
            drop(mapped);
            // At the end of a scrub the background thread needs the registers.
            let registers = device.shared.registers();
            device.shared.background.scrub(0);
            if one {
                device.dma_unmap(RAM_BASE, ram.size()).unwrap();
            } else {
                device.dma_unmap_all();
            }
            assert_eq!(region.strong_count(), 1);
            drop(registers);
            until("the last use", || region.strong_count() == 0).unwrap();
        }
    }
}
