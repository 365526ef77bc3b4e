//! The fault queue as a driver sees it.

use std::sync::atomic::{Ordering, fence};

use hmmgpu_contract::mmu::FaultRecord;
use hmmgpu_contract::pci::BAR_REGISTERS;
use hmmgpu_contract::queue::{QUEUE_ALIGN, QueueHeader};
use hmmgpu_contract::regs::{FAULT_QUEUE, QUEUE_CTRL_ENABLE, QueueReg, queue_reg};

use super::{Function, GuestRam, MockError, await_some};

/// A driver of the fault queue. Header and ring are at the beginning of its guest RAM, which is
/// mapped for the device; the device is ready, and may master the bus.
#[derive(Debug)]
pub struct FaultReader<F> {
    function: F,
    ram: GuestRam,
    ring_log2: u32,
    vector: u32,
    consumer: u32,
}

impl<F: Function> FaultReader<F> {
    /// Maps `ram` for the device, and starts the queue.
    ///
    /// # Errors
    /// The device refuses the map.
    pub fn new(function: F, ram: GuestRam, ring_log2: u32, vector: u32) -> Result<Self, MockError> {
        function.dma_map(ram.mapping(0, ram.size(), true)?)?;
        let mut reader = Self {
            function,
            ram,
            ring_log2,
            vector,
            consumer: 0,
        };
        reader.start();
        Ok(reader)
    }

    /// The guest RAM.
    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// Writes a register of the queue.
    pub fn write(&self, reg: QueueReg, value: u32) {
        let offset = u64::from(queue_reg(FAULT_QUEUE, reg));
        let value = value.to_le_bytes();
        self.function.bar_write(BAR_REGISTERS, offset, &value);
    }

    /// Reads a register of the queue.
    pub fn read(&self, reg: QueueReg) -> u32 {
        let mut word = [0; 4];
        let offset = u64::from(queue_reg(FAULT_QUEUE, reg));
        self.function.bar_read(BAR_REGISTERS, offset, &mut word);
        u32::from_le_bytes(word)
    }

    fn write_address(&self, low: QueueReg, high: QueueReg, address: u64) {
        let [a, b, c, d, e, f, g, h] = address.to_le_bytes();
        self.write(low, u32::from_le_bytes([a, b, c, d]));
        self.write(high, u32::from_le_bytes([e, f, g, h]));
    }

    /// Starts the queue with a clean header, from index zero.
    pub fn start(&mut self) {
        let header = self.ram.base();
        self.ram.write(header, &[0; QueueHeader::SIZE]);
        self.consumer = 0;
        self.write_address(QueueReg::QUEUE_HEADER_LO, QueueReg::QUEUE_HEADER_HI, header);
        self.write_address(
            QueueReg::QUEUE_RING_LO,
            QueueReg::QUEUE_RING_HI,
            header + u64::from(QUEUE_ALIGN),
        );
        self.write(QueueReg::QUEUE_RING_LOG2, self.ring_log2);
        self.write(QueueReg::QUEUE_VECTOR, self.vector);
        self.write(QueueReg::QUEUE_CTRL, QUEUE_CTRL_ENABLE);
    }

    /// Disables the queue.
    pub fn stop(&self) {
        self.write(QueueReg::QUEUE_CTRL, 0);
    }

    fn word(&self, offset: usize) -> u64 {
        self.ram.base() + offset as u64
    }

    /// The producer index.
    pub fn producer(&self) -> u32 {
        let word = self.word(std::mem::offset_of!(QueueHeader, producer));
        u32::from_le(self.ram.load(word, Ordering::Acquire))
    }

    /// Whether the device asks for a doorbell.
    pub fn need_kick(&self) -> bool {
        let word = self.word(std::mem::offset_of!(QueueHeader, need_kick));
        self.ram.load::<u32>(word, Ordering::Acquire) != 0
    }

    /// Sets the consumer index as it is, rightly or wrongly, and rings the doorbell if the device
    /// asks for it.
    pub fn consume(&mut self, consumer: u32) {
        self.consumer = consumer;
        let word = self.word(std::mem::offset_of!(QueueHeader, consumer));
        self.ram.store(word, consumer.to_le(), Ordering::Release);
        fence(Ordering::SeqCst);
        if self.need_kick() {
            self.write(QueueReg::QUEUE_DOORBELL, 1);
        }
    }

    /// The next fault, when there is one, left where it is.
    pub fn peek(&self) -> Option<FaultRecord> {
        if self.producer() == self.consumer {
            return None;
        }
        let slot = self.consumer & ((1 << self.ring_log2) - 1);
        let ring = self.ram.base() + u64::from(QUEUE_ALIGN);
        let address = ring + u64::from(slot) * FaultRecord::SIZE as u64;
        let mut bytes = [0; FaultRecord::SIZE];
        bytes.copy_from_slice(&self.ram.read(address, FaultRecord::SIZE));
        Some(FaultRecord::from_le_bytes(&bytes))
    }

    /// Takes the next fault, when there is one.
    pub fn take(&mut self) -> Option<FaultRecord> {
        let fault = self.peek()?;
        self.consume(self.consumer.wrapping_add(1));
        Some(fault)
    }

    /// Waits for the next fault and takes it.
    ///
    /// # Errors
    /// None comes in time.
    pub fn wait(&mut self) -> Result<FaultRecord, MockError> {
        await_some("fault", || self.take())
    }
}
