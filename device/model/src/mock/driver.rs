//! One queue as a driver sees it.

use std::sync::atomic::{Ordering, fence};

use hmmgpu_contract::desc::Desc;
use hmmgpu_contract::pci::BAR_REGISTERS;
use hmmgpu_contract::queue::{FenceRecord, QUEUE_ALIGN, QueueHeader};
use hmmgpu_contract::regs::{
    QUEUE_CTRL_ENABLE, QUEUE_STATUS_RUNNING, QueueReg, Reg, STATE_READY, queue_reg,
};

use super::{Function, GuestRam, descriptors, until};

const COMMAND: u64 = 0x04;
const COMMAND_MEMORY_AND_BUS_MASTER: u16 = 0x6;
const COMMAND_MEMORY: u16 = 0x2;

/// Why the mock driver gave up.
#[derive(Debug, thiserror::Error)]
pub enum MockError {
    /// The host refused memory.
    #[error("the host refused guest RAM")]
    Ram(#[from] std::io::Error),
    /// The device refused a DMA map.
    #[error("DMA map: {0}")]
    DmaMap(String),
    /// The guest RAM has no room for header, ring and fence record.
    #[error("guest RAM of {0} bytes is too small for the queue")]
    TooSmall(u64),
    /// The queue did not start; its status register.
    #[error("queue status {0} after enabling it")]
    NotRunning(u32),
    /// Something did not come in time.
    #[error("no {0} in time")]
    Timeout(&'static str),
}

/// Which queue, and how it is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueConfig {
    /// Queue number.
    pub queue: u32,
    /// log2 of the ring size in entries.
    pub ring_log2: u32,
    /// MSI-X vector.
    pub vector: u32,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self {
            queue: 0,
            ring_log2: 6,
            vector: 1,
        }
    }
}

/// A driver of one queue. Header, ring and fence record are at the beginning of its guest RAM,
/// what lies from [`Driver::data`] on is the caller's.
#[derive(Debug)]
pub struct Driver<F> {
    function: F,
    ram: GuestRam,
    config: QueueConfig,
    header: u64,
    ring: u64,
    record: u64,
    data: u64,
    producer: u32,
    sequence: u64,
}

impl<F: Function> Driver<F> {
    /// Maps all of `ram` for the device, turns bus mastering on and starts the queue.
    ///
    /// # Errors
    /// The device refuses a step, or the RAM is too small.
    pub fn new(function: F, ram: GuestRam, config: QueueConfig) -> Result<Self, MockError> {
        function.dma_map(ram.mapping(0, ram.size(), true)?)?;
        Self::with_mapped(function, ram, config)
    }

    /// As [`Driver::new`] for RAM that the caller has mapped already.
    ///
    /// # Errors
    /// The device refuses a step, or the RAM is too small.
    pub fn with_mapped(function: F, ram: GuestRam, config: QueueConfig) -> Result<Self, MockError> {
        let align = u64::from(QUEUE_ALIGN);
        let ring_bytes = (Desc::SIZE as u64) << config.ring_log2;
        let header = ram.base();
        let ring = header + align;
        let record = ring + ring_bytes.next_multiple_of(align);
        let data = record + align;
        if data - ram.base() > ram.size() {
            return Err(MockError::TooSmall(ram.size()));
        }
        let mut driver = Self {
            function,
            ram,
            config,
            header,
            ring,
            record,
            data,
            producer: 0,
            sequence: 0,
        };
        driver.set_bus_master(true);
        driver.start()?;
        Ok(driver)
    }

    /// The function that is driven.
    pub fn function(&self) -> &F {
        &self.function
    }

    /// The guest RAM.
    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// First DMA address that the queue does not use.
    pub fn data(&self) -> u64 {
        self.data
    }

    /// DMA address of the queue header.
    pub fn header(&self) -> u64 {
        self.header
    }

    /// DMA address of the fence record.
    pub fn record_address(&self) -> u64 {
        self.record
    }

    /// Free-running producer index.
    pub fn producer(&self) -> u32 {
        self.producer
    }

    /// Reads a register.
    pub fn read(&self, offset: u32) -> u32 {
        let mut word = [0; 4];
        self.function
            .bar_read(BAR_REGISTERS, u64::from(offset), &mut word);
        u32::from_le_bytes(word)
    }

    /// Writes a register.
    pub fn write(&self, offset: u32, value: u32) {
        self.function
            .bar_write(BAR_REGISTERS, u64::from(offset), &value.to_le_bytes());
    }

    /// Reads a register of the queue.
    pub fn read_queue(&self, reg: QueueReg) -> u32 {
        self.read(queue_reg(self.config.queue, reg))
    }

    /// Writes a register of the queue.
    pub fn write_queue(&self, reg: QueueReg, value: u32) {
        self.write(queue_reg(self.config.queue, reg), value);
    }

    fn write_address(&self, low: QueueReg, high: QueueReg, address: u64) {
        let [a, b, c, d, e, f, g, h] = address.to_le_bytes();
        self.write_queue(low, u32::from_le_bytes([a, b, c, d]));
        self.write_queue(high, u32::from_le_bytes([e, f, g, h]));
    }

    /// Turns bus mastering on or off.
    pub fn set_bus_master(&self, on: bool) {
        let command = if on {
            COMMAND_MEMORY_AND_BUS_MASTER
        } else {
            COMMAND_MEMORY
        };
        self.function.config_write(COMMAND, &command.to_le_bytes());
    }

    /// Writes the queue's registers without enabling it.
    pub fn configure(&self) {
        self.write_address(
            QueueReg::QUEUE_HEADER_LO,
            QueueReg::QUEUE_HEADER_HI,
            self.header,
        );
        self.write_address(QueueReg::QUEUE_RING_LO, QueueReg::QUEUE_RING_HI, self.ring);
        self.write_queue(QueueReg::QUEUE_RING_LOG2, self.config.ring_log2);
        self.write_queue(QueueReg::QUEUE_VECTOR, self.config.vector);
    }

    /// Starts the queue with a clean header, from index zero. The device is waited for to be
    /// ready, and the queue must be disabled.
    ///
    /// # Errors
    /// The device does not get ready in time, or the queue does not run.
    pub fn start(&mut self) -> Result<(), MockError> {
        self.until("ready state", |driver| {
            driver.read(Reg::STATE.0) == STATE_READY
        })?;
        self.ram.write(self.header, &[0; QueueHeader::SIZE]);
        self.producer = 0;
        self.configure();
        self.write_queue(QueueReg::QUEUE_CTRL, QUEUE_CTRL_ENABLE);
        match self.read_queue(QueueReg::QUEUE_STATUS) {
            QUEUE_STATUS_RUNNING => Ok(()),
            status => Err(MockError::NotRunning(status)),
        }
    }

    /// Disables the queue.
    pub fn stop(&self) {
        self.write_queue(QueueReg::QUEUE_CTRL, 0);
    }

    /// Waits, without sleeping, until `done`.
    ///
    /// # Errors
    /// It does not come in time.
    pub fn until(
        &self,
        what: &'static str,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Result<(), MockError> {
        until(what, || done(self))
    }

    fn word(&self, offset: usize) -> u32 {
        u32::from_le(
            self.ram
                .load(self.header + offset as u64, Ordering::Acquire),
        )
    }

    /// The consumer index.
    pub fn consumer(&self) -> u32 {
        self.word(std::mem::offset_of!(QueueHeader, consumer))
    }

    /// Whether the engine asks for a doorbell.
    pub fn need_kick(&self) -> bool {
        self.word(std::mem::offset_of!(QueueHeader, need_kick)) != 0
    }

    /// Sets the producer index as it is, rightly or wrongly, and rings the doorbell if the engine
    /// asks for it.
    pub fn publish(&mut self, producer: u32) {
        self.producer = producer;
        let word = self.header + std::mem::offset_of!(QueueHeader, producer) as u64;
        self.ram.store(word, producer.to_le(), Ordering::Release);
        fence(Ordering::SeqCst);
        if self.need_kick() {
            self.write_queue(QueueReg::QUEUE_DOORBELL, 1);
        }
    }

    /// Submits descriptors, as many at once as there is room for.
    ///
    /// # Errors
    /// The ring does not drain in time.
    pub fn submit(&mut self, descriptors: &[Desc]) -> Result<(), MockError> {
        let entries = 1_u32 << self.config.ring_log2;
        let mut rest = descriptors;
        while !rest.is_empty() {
            let producer = self.producer;
            let room = |driver: &Self| entries - producer.wrapping_sub(driver.consumer());
            self.until("room in the ring", |driver| room(driver) > 0)?;
            let count = rest.len().min(room(self) as usize);
            let (now, later) = rest.split_at(count);
            let mut index = producer;
            for desc in now {
                let slot = u64::from(index & (entries - 1));
                let address = self.ring + slot * Desc::SIZE as u64;
                self.ram.write(address, &desc.to_le_bytes());
                index = index.wrapping_add(1);
            }
            self.publish(index);
            rest = later;
        }
        Ok(())
    }

    /// Submits a fence and returns its sequence number.
    ///
    /// # Errors
    /// The ring does not drain in time.
    pub fn fence(&mut self, interrupt: bool) -> Result<u64, MockError> {
        self.sequence += 1;
        let desc = descriptors::fence(self.record, self.sequence, interrupt);
        self.submit(&[desc])?;
        Ok(self.sequence)
    }

    /// The fence record as it is.
    pub fn record(&self) -> FenceRecord {
        let mut bytes = [0; FenceRecord::SIZE];
        bytes.copy_from_slice(&self.ram.read(self.record, FenceRecord::SIZE));
        FenceRecord::from_le_bytes(&bytes)
    }

    /// Waits for a fence.
    ///
    /// # Errors
    /// It does not come in time.
    pub fn wait(&self, sequence: u64) -> Result<FenceRecord, MockError> {
        self.until("fence", |driver| {
            let found: u64 = driver.ram.load(driver.record, Ordering::Acquire);
            u64::from_le(found) >= sequence
        })?;
        Ok(self.record())
    }

    /// Submits descriptors and a fence, and waits for it.
    ///
    /// # Errors
    /// The device does not answer in time.
    pub fn run(&mut self, descriptors: &[Desc]) -> Result<FenceRecord, MockError> {
        self.submit(descriptors)?;
        let sequence = self.fence(false)?;
        self.wait(sequence)
    }
}
