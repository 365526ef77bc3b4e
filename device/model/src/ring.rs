//! Arithmetic of a ring's free-running indices.

/// Number of descriptors between `consumer` and `producer`, both modulo 2^32; `None` when the
/// producer is further ahead than the ring is long.
pub(crate) fn pending(producer: u32, consumer: u32, ring_log2: u32) -> Option<u32> {
    let pending = producer.wrapping_sub(consumer);
    (pending <= 1 << ring_log2).then_some(pending)
}

/// Byte offset in the ring of the descriptor with index `index`.
pub(crate) fn offset(index: u32, ring_log2: u32, descriptor_size: usize) -> u64 {
    let slot = index & ((1 << ring_log2) - 1);
    u64::from(slot) * descriptor_size as u64
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
