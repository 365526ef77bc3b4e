//! A context and its compute queue as a driver sees them.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use hmmgpu_contract::compute::{Job, JobRecord};
use hmmgpu_contract::pci::BAR_REGISTERS;
use hmmgpu_contract::queue::{QUEUE_ALIGN, QueueHeader};
use hmmgpu_contract::regs::{QUEUE_CTRL_ENABLE, QUEUE_STATUS_RUNNING, QueueReg, context_reg};

use super::{Function, GuestRam, MockError, await_some, until};

/// Which context, and how it is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContextConfig {
    /// Context number.
    pub context: u32,
    /// log2 of the ring size in entries.
    pub ring_log2: u32,
    /// MSI-X vector.
    pub vector: u32,
    /// DMA address of the root of its page table.
    pub root: u64,
    /// DMA address of its header, ring and job records: [`ContextDriver::bytes`] of them.
    pub area: u64,
}

/// A driver of one context. The device is ready, may master the bus, and has the guest RAM mapped.
#[derive(Clone, Debug)]
pub struct ContextDriver<F> {
    function: F,
    ram: Arc<GuestRam>,
    config: ContextConfig,
    producer: u32,
    sequence: u64,
}

impl<F: Function> ContextDriver<F> {
    /// Bytes that a context needs for its header, ring and job records.
    pub fn bytes(ring_log2: u32) -> u64 {
        let ring = (Job::SIZE as u64) << ring_log2;
        let records = (JobRecord::SIZE as u64) << ring_log2;
        let align = u64::from(QUEUE_ALIGN);
        align + ring.next_multiple_of(align) + records.next_multiple_of(align)
    }

    /// Enables the context.
    ///
    /// # Errors
    /// It does not run then.
    pub fn new(function: F, ram: Arc<GuestRam>, config: ContextConfig) -> Result<Self, MockError> {
        let mut driver = Self {
            function,
            ram,
            config,
            producer: 0,
            sequence: 0,
        };
        driver.start()?;
        Ok(driver)
    }

    /// Context number.
    pub fn context(&self) -> u32 {
        self.config.context
    }

    /// Reads a register of the context.
    pub fn read(&self, reg: QueueReg) -> u32 {
        let mut word = [0; 4];
        let offset = u64::from(context_reg(self.config.context, reg));
        self.function.bar_read(BAR_REGISTERS, offset, &mut word);
        u32::from_le_bytes(word)
    }

    /// Writes a register of the context.
    pub fn write(&self, reg: QueueReg, value: u32) {
        let offset = u64::from(context_reg(self.config.context, reg));
        let value = value.to_le_bytes();
        self.function.bar_write(BAR_REGISTERS, offset, &value);
    }

    fn write_address(&self, low: QueueReg, high: QueueReg, address: u64) {
        let [a, b, c, d, e, f, g, h] = address.to_le_bytes();
        self.write(low, u32::from_le_bytes([a, b, c, d]));
        self.write(high, u32::from_le_bytes([e, f, g, h]));
    }

    fn ring(&self) -> u64 {
        self.config.area + u64::from(QUEUE_ALIGN)
    }

    fn slot(&self, index: u64) -> u64 {
        index & ((1 << self.config.ring_log2) - 1)
    }

    /// DMA address of the record of a job.
    pub fn record_address(&self, sequence: u64) -> u64 {
        let ring = (Job::SIZE as u64) << self.config.ring_log2;
        let records = self.ring() + ring.next_multiple_of(u64::from(QUEUE_ALIGN));
        records + self.slot(sequence) * JobRecord::SIZE as u64
    }

    /// Enables the context with a clean header and clean records, from index zero.
    ///
    /// # Errors
    /// It does not run then.
    pub fn start(&mut self) -> Result<(), MockError> {
        self.ram.write(self.config.area, &[0; QueueHeader::SIZE]);
        for slot in 0..1 << self.config.ring_log2 {
            let record = self.record_address(slot);
            self.ram.write(record, &[0; JobRecord::SIZE]);
        }
        self.producer = 0;
        self.write_address(
            QueueReg::QUEUE_HEADER_LO,
            QueueReg::QUEUE_HEADER_HI,
            self.config.area,
        );
        self.write_address(
            QueueReg::QUEUE_RING_LO,
            QueueReg::QUEUE_RING_HI,
            self.ring(),
        );
        self.write(QueueReg::QUEUE_RING_LOG2, self.config.ring_log2);
        self.write(QueueReg::QUEUE_VECTOR, self.config.vector);
        self.write_address(
            QueueReg::CONTEXT_ROOT_LO,
            QueueReg::CONTEXT_ROOT_HI,
            self.config.root,
        );
        self.write(QueueReg::QUEUE_CTRL, QUEUE_CTRL_ENABLE);
        match self.read(QueueReg::QUEUE_STATUS) {
            QUEUE_STATUS_RUNNING => Ok(()),
            status => Err(MockError::NotRunning(status)),
        }
    }

    /// Disables the context.
    pub fn stop(&self) {
        self.write(QueueReg::QUEUE_CTRL, 0);
    }

    fn word(&self, offset: usize) -> u64 {
        self.config.area + offset as u64
    }

    /// The consumer index.
    pub fn consumer(&self) -> u32 {
        let word = self.word(std::mem::offset_of!(QueueHeader, consumer));
        u32::from_le(self.ram.load(word, Ordering::Acquire))
    }

    /// Whether the device asks for a doorbell.
    pub fn need_kick(&self) -> bool {
        let word = self.word(std::mem::offset_of!(QueueHeader, need_kick));
        self.ram.load::<u32>(word, Ordering::Acquire) != 0
    }

    /// Free-running producer index.
    pub fn producer(&self) -> u32 {
        self.producer
    }

    /// Sets the producer index as it is, rightly or wrongly, and rings the doorbell if the device
    /// asks for it.
    pub fn publish(&mut self, producer: u32) {
        self.producer = producer;
        let word = self.word(std::mem::offset_of!(QueueHeader, producer));
        self.ram.store(word, producer.to_le(), Ordering::Release);
        fence(Ordering::SeqCst);
        if self.need_kick() {
            self.write(QueueReg::QUEUE_DOORBELL, 1);
        }
    }

    /// Writes a job into the ring exactly as it is, and publishes it.
    ///
    /// # Errors
    /// The ring does not drain in time.
    pub fn submit_as_is(&mut self, job: &Job) -> Result<(), MockError> {
        let entries = 1_u32 << self.config.ring_log2;
        self.until("room in the ring", |driver| {
            driver.producer.wrapping_sub(driver.consumer()) < entries
        })?;
        let slot = self.slot(u64::from(self.producer));
        let address = self.ring() + slot * Job::SIZE as u64;
        self.ram.write(address, &job.to_le_bytes());
        self.publish(self.producer.wrapping_add(1));
        Ok(())
    }

    /// Submits a job with a record of its own. Returns its sequence number.
    ///
    /// # Errors
    /// The ring does not drain in time.
    pub fn submit(&mut self, job: &Job) -> Result<u64, MockError> {
        self.sequence += 1;
        self.submit_as_is(&Job {
            record: self.record_address(self.sequence),
            sequence: self.sequence,
            ..*job
        })?;
        Ok(self.sequence)
    }

    /// The record of a job, once it is written.
    pub fn record(&self, sequence: u64) -> Option<JobRecord> {
        let address = self.record_address(sequence);
        if u64::from_le(self.ram.load(address, Ordering::Acquire)) != sequence {
            return None;
        }
        let mut bytes = [0; JobRecord::SIZE];
        bytes.copy_from_slice(&self.ram.read(address, JobRecord::SIZE));
        Some(JobRecord::from_le_bytes(&bytes))
    }

    /// Waits for the end of a job.
    ///
    /// # Errors
    /// It does not come in time.
    pub fn wait(&self, sequence: u64) -> Result<JobRecord, MockError> {
        await_some("end of a job", || self.record(sequence))
    }

    /// Submits a job and waits for its end.
    ///
    /// # Errors
    /// The device does not answer in time.
    pub fn run(&mut self, job: &Job) -> Result<JobRecord, MockError> {
        let sequence = self.submit(job)?;
        self.wait(sequence)
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
}
