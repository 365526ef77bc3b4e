//! Queues: a header and a ring, both in guest RAM.
//!
//! What follows is for all queues but the fault queue, which goes the other way.
//!
//! The driver writes descriptors, then (release) `producer`; the engine reads `producer`
//! (acquire), works, and writes `consumer`. Both indices run freely modulo 2^32; the slot of
//! index `i` is `i & (entries - 1)`. An engine that has nothing to do polls for a short time,
//! then sets `need_kick`, executes a full barrier, reads `producer` once more, and sleeps.
//! A driver that has moved `producer` executes a full barrier and reads `need_kick`: only when
//! it is not zero does it write the queue's doorbell register. A `producer` that is more than
//! the ring's size ahead of `consumer` stops the queue with an error. Both indices start from
//! zero when the queue is enabled: the driver zeroes the header before that.

wire_struct! {
    /// Queue header. Each word that one side writes and the other polls has a cache line of its own.
    pub struct QueueHeader ("queue_header", 192) {
        /// Written by the driver: index after the last descriptor that is ready.
        pub producer: u32,
        /// Zero.
        pub reserved0: [u32; 15],
        /// Written by the device: not zero while the engine sleeps and wants a doorbell write.
        pub need_kick: u32,
        /// Zero.
        pub reserved1: [u32; 15],
        /// Written by the device: index after the last descriptor that is done with.
        pub consumer: u32,
        /// Zero.
        pub reserved2: [u32; 15],
    }
}

wire_struct! {
    /// Fence record, written by a FENCE descriptor. It covers the descriptors of its queue after
    /// the fence before it. The device writes `sequence` last (release); a driver that has read
    /// the awaited value there (acquire) may read the rest.
    pub struct FenceRecord ("fence_record", 32) {
        /// Sequence number from the FENCE descriptor.
        pub sequence: u64,
        /// STATUS of the first descriptor that failed, or STATUS_OK.
        pub status: u32,
        /// Number of descriptors that failed.
        pub errors: u32,
        /// Ring index of the first descriptor that failed; zero if none did.
        pub error_index: u32,
        /// Zero.
        pub reserved: u32,
        /// Host's monotonic clock in nanoseconds when the fence was reached.
        pub time_ns: u64,
    }
}

constants! {
    /// Limits of queues, for the emitters.
    QUEUE_LIMITS: u32 {
        /// log2 of the smallest ring size in entries.
        MIN_RING_LOG2 = 2,
        /// log2 of the largest ring size in entries.
        MAX_RING_LOG2 = 16,
        /// Alignment in bytes of queue headers and rings.
        QUEUE_ALIGN = 4096,
        /// Alignment in bytes of fence records.
        FENCE_ALIGN = 32,
    }
}
