//! A queue's header and ring in guest RAM.

use std::sync::atomic::Ordering;

use hmmgpu_contract::desc::Status;
use hmmgpu_contract::queue::QueueHeader;

use crate::command::Fault;
use crate::dma::DmaView;

/// A word of the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    Producer,
    NeedKick,
    Consumer,
}

impl Word {
    const fn offset(self) -> u64 {
        (match self {
            Self::Producer => std::mem::offset_of!(QueueHeader, producer),
            Self::NeedKick => std::mem::offset_of!(QueueHeader, need_kick),
            Self::Consumer => std::mem::offset_of!(QueueHeader, consumer),
        }) as u64
    }
}

/// Where a queue lies. Whatever cannot be reached is `STATUS_QUEUE_UNREACHABLE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ring {
    /// DMA address of the header.
    pub(crate) header: u64,
    /// DMA address of the entries.
    pub(crate) entries: u64,
    /// log2 of their number.
    pub(crate) log2: u32,
}

fn unreachable(fault: Fault) -> Fault {
    Fault::at(Status::STATUS_QUEUE_UNREACHABLE, fault.address)
}

impl Ring {
    pub(crate) fn load(&self, view: &DmaView<'_>, word: Word) -> Result<u32, Fault> {
        view.load(self.header.wrapping_add(word.offset()), Ordering::Acquire)
            .map(u32::from_le)
            .map_err(unreachable)
    }

    pub(crate) fn store(&self, view: &DmaView<'_>, word: Word, value: u32) -> Result<(), Fault> {
        let address = self.header.wrapping_add(word.offset());
        view.store(address, value.to_le(), Ordering::Release)
            .map_err(unreachable)
    }

    /// Number of entries that are ready behind `consumer`.
    pub(crate) fn pending(&self, view: &DmaView<'_>, consumer: u32) -> Result<u32, Fault> {
        let producer = self.load(view, Word::Producer)?;
        pending(producer, consumer, self.log2)
            .ok_or(Fault::at(Status::STATUS_BAD_PRODUCER, u64::from(producer)))
    }

    /// Number of entries that have room behind `producer`, in a queue to the driver.
    pub(crate) fn room(&self, view: &DmaView<'_>, producer: u32) -> Result<u32, Fault> {
        let consumer = self.load(view, Word::Consumer)?;
        let pending = pending(producer, consumer, self.log2)
            .ok_or(Fault::at(Status::STATUS_BAD_PRODUCER, u64::from(consumer)))?;
        Ok((1 << self.log2) - pending)
    }

    /// Reads the entry of an index.
    pub(crate) fn fetch<const SIZE: usize>(
        &self,
        view: &DmaView<'_>,
        index: u32,
    ) -> Result<[u8; SIZE], Fault> {
        let mut entry = [0; SIZE];
        let address = self.entries.wrapping_add(offset(index, self.log2, SIZE));
        view.read(address, &mut entry).map_err(unreachable)?;
        Ok(entry)
    }

    /// Number of entries from that of an index to the ring's end.
    pub(crate) fn entries_from(&self, index: u32) -> u32 {
        let entries = 1 << self.log2;
        entries - (index & (entries - 1))
    }

    /// Reads entries, from that of an index on and not beyond the ring's end.
    pub(crate) fn fetch_some<const SIZE: usize>(
        &self,
        view: &DmaView<'_>,
        index: u32,
        entries: &mut [[u8; SIZE]],
    ) -> Result<(), Fault> {
        let address = self.entries.wrapping_add(offset(index, self.log2, SIZE));
        view.read(address, entries.as_flattened_mut())
            .map_err(unreachable)
    }

    /// Writes the entry of an index.
    pub(crate) fn put<const SIZE: usize>(
        &self,
        view: &DmaView<'_>,
        index: u32,
        entry: &[u8; SIZE],
    ) -> Result<(), Fault> {
        let address = self.entries.wrapping_add(offset(index, self.log2, SIZE));
        view.write(address, entry).map_err(unreachable)
    }
}

/// Number of entries between `consumer` and `producer`, both modulo 2^32; `None` when the
/// producer is further ahead than the ring is long.
fn pending(producer: u32, consumer: u32, ring_log2: u32) -> Option<u32> {
    let pending = producer.wrapping_sub(consumer);
    (pending <= 1 << ring_log2).then_some(pending)
}

/// Byte offset in the ring of the entry with index `index`.
fn offset(index: u32, ring_log2: u32, entry_size: usize) -> u64 {
    let slot = index & ((1 << ring_log2) - 1);
    u64::from(slot) * entry_size as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use hmmgpu_contract::queue::{MAX_RING_LOG2, MIN_RING_LOG2};
    use proptest::prelude::*;

    #[test]
    fn indices_wrap_at_2_to_the_32() {
        assert_eq!(pending(2, u32::MAX - 1, 2), Some(4));
        assert_eq!(pending(3, u32::MAX - 1, 2), None);
        assert_eq!(offset(u32::MAX, 2, 32), 3 * 32);
        assert_eq!(offset(u32::MAX.wrapping_add(1), 2, 32), 0);
    }

    #[test]
    fn a_producer_that_ran_back_is_too_far_ahead() {
        assert_eq!(pending(9, 10, MAX_RING_LOG2), None);
    }

    proptest! {
        #[test]
        fn successive_indices_have_successive_slots(
            consumer in any::<u32>(),
            ahead in 0_u32..=1 << MAX_RING_LOG2,
            log2 in MIN_RING_LOG2..=MAX_RING_LOG2,
        ) {
            let producer = consumer.wrapping_add(ahead);
            let fits = ahead <= 1 << log2;
            prop_assert_eq!(pending(producer, consumer, log2), fits.then_some(ahead));
            let (here, next) = (offset(consumer, log2, 32), offset(consumer.wrapping_add(1), log2, 32));
            prop_assert!(here < 32 << log2);
            prop_assert!(next == here + 32 || next == 0 && here == (32 << log2) - 32);
        }
    }
}
