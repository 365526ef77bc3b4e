//! A device, its guest RAM, and what is known of both.

use std::mem::offset_of;
use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use hmmgpu_contract::PAGE_SIZE;
use hmmgpu_contract::compute::Job;
use hmmgpu_contract::desc::Desc;
use hmmgpu_contract::pci::{BAR_REGISTERS, MSIX_VECTORS};
use hmmgpu_contract::queue::QueueHeader;
use hmmgpu_contract::regs::{
    ERROR_CONTEXT0, FAULT_QUEUE, MAGIC_VALUE, QUEUE_BASE, QUEUE_CTRL_ENABLE, QUEUE_STATUS_OFF,
    QUEUE_STATUS_RUNNING, QueueReg, RESET_CTRL_RESET, Reg, STATE_READY, STATE_RESETTING,
};
use hmmgpu_model::mock::InterruptCounter;
use hmmgpu_model::{Action as FaultAction, Device, LinkSpec, ResetCause};

use super::action::{Action, Index, Queue, Word};
use super::{READ_ONLY, WINDOWS};
use crate::breakage::{Breakage, Fault, is_at_once};
use crate::device::{
    CONTEXTS, COPY_QUEUES, answers_nothing, copies_well, is_gone, register, small_device,
    wait_until_ready,
};
use crate::memory::Window;
use crate::snapshot;

const COMMAND: u64 = 0x04;
const POWER: u64 = 0x44;
const DEVICE_CONTROL: u64 = 0x68;
const FLR: u16 = 1 << 15;
/// How long an engine is waited for, which may never come.
const WAIT: Duration = Duration::from_micros(200);

/// Where the driver believes that a queue is.
#[derive(Clone, Copy, Debug, Default)]
struct Believed {
    header: u64,
    ring: u64,
    log2: u32,
    producer: u32,
}

/// What an input acts on.
pub(super) struct World {
    device: &'static Arc<Device>,
    windows: MutexGuard<'static, Vec<Window>>,
    queues: Vec<Believed>,
    /// Since a reset nothing was enabled.
    quiet: bool,
    interrupts: InterruptCounter,
    /// How many there were when the device lost the right to raise more.
    raised: Option<u64>,
    breakage: Breakage,
    /// The device is gone, and nothing of it is under way: not only about to be gone.
    surely_gone: bool,
    /// In this action a reset was over.
    surely_reset: bool,
}

/// Guest RAM is made once.
fn windows() -> MutexGuard<'static, Vec<Window>> {
    static ALL: OnceLock<Mutex<Vec<Window>>> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        let window = |(base, size)| Window::new(base, size);
        Mutex::new(WINDOWS.into_iter().map(window).collect())
    });
    all.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    /// The device as after power-on, with all of guest RAM mapped, zeroed, and the right to master
    /// the bus.
    pub(super) fn new() -> Self {
        let device = small_device();
        device.reset(ResetCause::Disconnect);
        let mut windows = windows();
        for window in windows.iter_mut() {
            window.clear();
            window.map(device, window.base() != READ_ONLY);
        }
        let interrupts = InterruptCounter::new();
        for vector in 0..MSIX_VECTORS {
            device.set_interrupt(vector, interrupts.sink());
        }
        device.config_write(COMMAND, &6_u16.to_le_bytes());
        wait_until_ready(device);
        let queues = ERROR_CONTEXT0 + CONTEXTS;
        let mut world = Self {
            device,
            windows,
            queues: vec![Believed::default(); queues as usize],
            quiet: true,
            interrupts,
            raised: None,
            breakage: Breakage::default(),
            surely_gone: false,
            surely_reset: false,
        };
        world.settle();
        world
    }

    /// Does something, and looks at what must hold after anything.
    pub(super) fn act(&mut self, action: &Action) {
        let generation = register(self.device, Reg::GENERATION.0);
        let may_have_broken = self.breakage.device || is_gone(self.device);
        self.surely_reset = false;
        self.carry_out(action);
        let now = register(self.device, Reg::GENERATION.0);
        if may_have_broken || self.breakage.device || self.surely_gone {
            // Its own resets come at any time, and those that are seen may not be over.
            self.quiet |= self.surely_reset;
        } else if now != generation {
            assert_eq!(now, generation.wrapping_add(1), "one generation a reset");
            self.quiet = true;
        }
        self.settle();
        // In this order: it may be gone from one moment to the next.
        let state = register(self.device, Reg::STATE.0);
        match register(self.device, Reg::MAGIC.0) {
            MAGIC_VALUE => {
                assert!(matches!(state, STATE_READY | STATE_RESETTING), "{state}");
                assert!(!self.surely_gone, "there again for nothing");
            }
            magic => {
                assert_eq!(magic, u32::MAX);
                assert!(self.surely_gone || self.breakage.device, "gone for nothing");
                answers_nothing(self.device);
            }
        }
    }

    /// Knows from now on what the device must not write to, and that it raises no interrupts.
    fn settle(&mut self) {
        let silent = self.silent();
        for window in self.windows.iter_mut() {
            window.set_frozen(silent || window.mapped != Some(true));
        }
        let count = self.interrupts.count();
        match self.raised {
            Some(raised) if silent => assert_eq!(raised, count, "an interrupt out of silence"),
            _ => self.raised = silent.then_some(count),
        }
    }

    /// From here on the device may do what it may not before: until now it has not.
    fn unsettle(&mut self) {
        self.windows.iter_mut().for_each(Window::thaw);
        if let Some(raised) = self.raised.take() {
            let count = self.interrupts.count();
            assert_eq!(raised, count, "an interrupt out of silence");
        }
    }

    /// The device must write nowhere, and raise no interrupts.
    fn silent(&self) -> bool {
        let may_master = self.may_master();
        let gone = is_gone(self.device);
        self.quiet || self.surely_gone || !may_master && !gone
    }

    fn may_master(&self) -> bool {
        let read = |offset| {
            let mut half = [0; 2];
            self.device.config_read(offset, &mut half);
            u16::from_le_bytes(half)
        };
        read(COMMAND) & 4 != 0 && read(POWER) & 3 == 0
    }

    fn carry_out(&mut self, action: &Action) {
        match action {
            Action::SetUp {
                queue,
                header,
                ring,
                root,
                log2,
                vector,
            } => {
                let believed = Believed {
                    header: header.address(),
                    ring: ring.address(),
                    log2: u32::from(log2 % 20),
                    producer: 0,
                };
                self.set_up(*queue, believed, root.address(), u32::from(vector % 20));
            }
            Action::QueueRegister { queue, reg, value } => {
                let reg = QueueReg(u32::from(reg % 12) * 4);
                self.write(queue.offset(reg), value.get());
            }
            Action::Enable { queue, on } => {
                let on = if *on { QUEUE_CTRL_ENABLE } else { 0 };
                self.write(queue.offset(QueueReg::QUEUE_CTRL), on);
            }
            Action::Doorbell { queue, times } => {
                for _ in 0..*times {
                    self.write(queue.offset(QueueReg::QUEUE_DOORBELL), 1);
                }
            }
            Action::Index { queue, word, value } => self.index(*queue, *word, *value),
            Action::Submit { queue, desc } => {
                self.submit(*queue, &desc.desc().to_le_bytes());
            }
            Action::SubmitJob { context, job } => {
                self.submit(Queue::Context(*context), &job.job().to_le_bytes());
            }
            Action::Rewrite {
                queue,
                slot,
                descs,
                times,
            } => {
                let believed = self.believed(*queue);
                let at = believed
                    .ring
                    .wrapping_add(u64::from(*slot) * Desc::SIZE as u64);
                for i in 0..*times {
                    let desc = descs[usize::from(i % 2)].desc();
                    self.store(at, &desc.to_le_bytes());
                }
            }
            Action::Scribble { place, words } => {
                let bytes = words.map(u64::to_le_bytes);
                self.store(place.address(), bytes.as_flattened());
            }
            Action::Entry {
                table,
                index,
                to,
                bits,
            } => {
                let table = table.address() & !(PAGE_SIZE - 1);
                let entry = to.address() & !(PAGE_SIZE - 1) | u64::from(bits % 64);
                self.store(table + u64::from(*index) * 8, &entry.to_le_bytes());
            }
            Action::Register { offset, value } => self.write(u32::from(*offset) * 4, value.get()),
            Action::Bar {
                bar,
                offset,
                data,
                len,
                write,
            } => self.bar(
                u32::from(bar % 7),
                *offset,
                &data[..usize::from(len % 9)],
                *write,
            ),
            Action::Config { offset, value } => {
                self.unsettle();
                self.device.config_write(offset.get(), &value.to_le_bytes());
            }
            Action::Map { window, write } => {
                let number = usize::from(*window) % WINDOWS.len();
                let window = &mut self.windows[number];
                let write = *write && window.base() != READ_ONLY;
                window.map(self.device, write);
            }
            Action::Unmap { window } => {
                let number = usize::from(*window) % WINDOWS.len();
                self.windows[number].unmap(self.device);
            }
            Action::UnmapAll => {
                self.device.dma_unmap_all();
                self.windows
                    .iter_mut()
                    .for_each(|window| window.mapped = None);
            }
            Action::Reset(cause) => self.reset((*cause).into()),
            Action::Interrupt { vector, on } => {
                let sink = if *on { self.interrupts.sink() } else { None };
                // What was pending goes out now, and is nobody's fault.
                self.raised = None;
                self.device.set_interrupt(u32::from(vector % 20), sink);
            }
            Action::Mask { times } => {
                for i in 0..*times {
                    self.write(Reg::INT_MASK.0, if i % 2 == 0 { u32::MAX } else { 0 });
                }
            }
            Action::Wait { queue } => self.wait(*queue),
            Action::Fault(fault) => self.arm(*fault),
            Action::ClearFaults => self.clear_faults(),
            Action::Link(link) => self.device.set_link(link.spec()),
        }
    }

    fn arm(&mut self, fault: Fault) {
        let fault = fault.spec();
        let (at_once, what) = (is_at_once(&fault), fault.action);
        self.breakage.add(&fault);
        // There may be too many.
        if self.device.inject(vec![fault]).is_ok() && at_once {
            match what {
                FaultAction::Gone => self.surely_gone = true,
                _ => self.surely_reset = true,
            }
        }
    }

    /// From here on all holds again.
    fn clear_faults(&mut self) {
        let gone = is_gone(self.device);
        self.device.clear_injected();
        self.breakage = Breakage::default();
        self.surely_gone = false;
        self.surely_reset = gone;
    }

    fn set_up(&mut self, queue: Queue, believed: Believed, root: u64, vector: u32) {
        if let Some(slot) = self.queues.get_mut(queue.number() as usize) {
            *slot = believed;
        }
        self.store(believed.header, &[0; QueueHeader::SIZE]);
        self.write(queue.offset(QueueReg::QUEUE_CTRL), 0);
        let halves = |address: u64| [address & 0xffff_ffff, address >> 32];
        let pairs = [
            (QueueReg::QUEUE_HEADER_LO, believed.header),
            (QueueReg::QUEUE_RING_LO, believed.ring),
            (QueueReg::CONTEXT_ROOT_LO, root),
        ];
        for (low, address) in pairs {
            for (half, i) in halves(address).into_iter().zip(0..) {
                let value = u32::try_from(half).expect("half of it");
                self.write(queue.offset(QueueReg(low.0 + 4 * i)), value);
            }
        }
        self.write(queue.offset(QueueReg::QUEUE_RING_LOG2), believed.log2);
        self.write(queue.offset(QueueReg::QUEUE_VECTOR), vector);
        self.write(queue.offset(QueueReg::QUEUE_CTRL), QUEUE_CTRL_ENABLE);
    }

    fn believed(&self, queue: Queue) -> Believed {
        let known = self.queues.get(queue.number() as usize);
        known.copied().unwrap_or_default()
    }

    /// Writes to guest RAM, if there is some.
    fn store(&mut self, address: u64, bytes: &[u8]) {
        let mut windows = self.windows.iter_mut();
        if let Some(window) = windows.find(|window| window.holds(address, bytes.len())) {
            window.write(address, bytes);
        }
    }

    fn load(&self, address: u64) -> Option<u32> {
        let mut windows = self.windows.iter();
        let window = windows.find(|window| window.holds(address, 4))?;
        let bytes = window.ram.read(address, 4);
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    }

    /// Writes a register.
    fn write(&mut self, offset: u32, value: u32) {
        self.bar(BAR_REGISTERS, offset, &value.to_le_bytes(), true);
    }

    fn bar(&mut self, bar: u32, offset: u32, data: &[u8], write: bool) {
        if !write {
            let mut data = data.to_vec();
            self.device.bar_read(bar, offset.into(), &mut data);
            return;
        }
        if bar == BAR_REGISTERS && u64::from(offset) + 8 > QUEUE_BASE.into() {
            // It may enable a queue.
            self.unsettle();
            self.quiet = false;
        }
        self.device.bar_write(bar, offset.into(), data);
    }

    fn index(&mut self, queue: Queue, word: Word, value: Index) {
        let offset = match word {
            Word::Producer => offset_of!(QueueHeader, producer),
            Word::NeedKick => offset_of!(QueueHeader, need_kick),
            Word::Consumer => offset_of!(QueueHeader, consumer),
        };
        let at = self.believed(queue).header.wrapping_add(offset as u64);
        let value = match value {
            Index::Add(by) => self.load(at).unwrap_or(0).wrapping_add(by.into()),
            Index::Jump(to) => to,
        };
        self.store(at, &value.to_le_bytes());
        if let (Word::Producer, Some(known)) = (word, self.queues.get_mut(queue.number() as usize))
        {
            known.producer = value;
        }
    }

    /// Puts an entry into a ring, and publishes it.
    fn submit(&mut self, queue: Queue, entry: &[u8]) {
        let number = queue.number() as usize;
        let Some(known) = self.queues.get_mut(number) else {
            return;
        };
        let entries = 1_u64 << known.log2;
        let size = match queue {
            Queue::Context(_) => Job::SIZE,
            _ => Desc::SIZE,
        };
        let slot = u64::from(known.producer) & (entries - 1);
        let at = known.ring.wrapping_add(slot * size as u64);
        known.producer = known.producer.wrapping_add(1);
        let (header, producer) = (known.header, known.producer);
        self.store(at, entry);
        self.store(header, &producer.to_le_bytes());
        fence(Ordering::SeqCst);
        self.write(queue.offset(QueueReg::QUEUE_DOORBELL), 1);
    }

    fn reset(&mut self, cause: ResetCause) {
        if cause == ResetCause::Disconnect {
            self.windows
                .iter_mut()
                .for_each(|window| window.mapped = None);
        }
        match cause {
            ResetCause::Register => {
                let value = RESET_CTRL_RESET.to_le_bytes();
                self.device
                    .bar_write(BAR_REGISTERS, Reg::RESET_CTRL.0.into(), &value);
            }
            ResetCause::Flr => {
                self.device.config_write(DEVICE_CONTROL, &FLR.to_le_bytes());
            }
            cause => self.device.reset(cause),
        }
        // What is gone hears nothing of its driver.
        let of_bus = matches!(cause, ResetCause::VfioUser | ResetCause::Disconnect);
        self.surely_reset = of_bus || !is_gone(self.device);
    }

    /// Waits for a reset to be over and a queue to have nothing to do, for a while: so that what was asked for is mostly
    /// done before the next action, and an input does the same each time.
    fn wait(&self, queue: Queue) {
        if queue.number() == FAULT_QUEUE {
            return;
        }
        let header = self.believed(queue).header;
        let word = |offset: usize| self.load(header.wrapping_add(offset as u64));
        let deadline = Instant::now() + WAIT;
        while register(self.device, Reg::STATE.0) == STATE_RESETTING && Instant::now() < deadline {
            std::thread::yield_now();
        }
        while register(self.device, queue.offset(QueueReg::QUEUE_STATUS)) == QUEUE_STATUS_RUNNING
            && word(offset_of!(QueueHeader, producer)) != word(offset_of!(QueueHeader, consumer))
            && Instant::now() < deadline
        {
            std::thread::yield_now();
        }
    }

    /// Resets the device, and drives it well.
    pub(super) fn end(mut self, cause: ResetCause) {
        self.clear_faults();
        let generation = register(self.device, Reg::GENERATION.0);
        self.reset(cause);
        self.quiet = true;
        self.settle();
        let now = register(self.device, Reg::GENERATION.0);
        assert_eq!(
            now,
            generation.wrapping_add(1),
            "generation after {cause:?}"
        );
        wait_until_ready(self.device);
        self.is_as_after_power_on();
        copies_well(self.device);
        self.device.set_link(LinkSpec::off());
        // Of all other memory that has touched none.
        self.windows.iter().for_each(Window::check);
        snapshot::check(&self.device.snapshot());
        self.device.reset(ResetCause::Disconnect);
        self.unsettle();
    }

    fn is_as_after_power_on(&self) {
        let zero = [
            Reg::INT_CAUSE,
            Reg::INT_MASK,
            Reg::ERROR_STATUS,
            Reg::ERROR_COUNT,
        ];
        for reg in zero {
            assert_eq!(register(self.device, reg.0), 0, "{reg:?}");
        }
        let contexts = (0..CONTEXTS).filter_map(|number| u8::try_from(number).ok());
        let copy = (0..COPY_QUEUES).filter_map(|number| u8::try_from(number).ok());
        let all = contexts
            .map(Queue::Context)
            .chain(copy.map(Queue::Copy))
            .chain([Queue::Invalidation, Queue::Fault]);
        for queue in all {
            let read = |reg| register(self.device, queue.offset(reg));
            assert_eq!(read(QueueReg::QUEUE_STATUS), QUEUE_STATUS_OFF, "{queue:?}");
            assert_eq!(read(QueueReg::QUEUE_RING_LO), 0, "{queue:?}");
        }
    }
}
