//! Jobs as a driver writes them. Record and sequence number are the queue's to fill in.

use hmmgpu_contract::compute::{
    JOB_ATOMIC_ADD, JOB_CHASE, JOB_CHECKSUM, JOB_COMPARE, JOB_COPY, JOB_FILL, JOB_GATHER,
    JOB_REDUCE, JOB_SAXPY, JOB_SCATTER, Job,
};

fn job(opcode: u8, count: u64) -> Job {
    Job {
        opcode,
        reserved0: 0,
        flags: 0,
        reserved1: 0,
        dst: 0,
        src: 0,
        aux: 0,
        count,
        arg: 0,
        record: 0,
        sequence: 0,
    }
}

/// FILL of `count` bytes.
pub fn fill(dst: u64, count: u64, pattern: u64) -> Job {
    Job {
        dst,
        arg: pattern,
        ..job(JOB_FILL, count)
    }
}

/// COPY of `count` bytes.
pub fn copy(dst: u64, src: u64, count: u64) -> Job {
    Job {
        dst,
        src,
        ..job(JOB_COPY, count)
    }
}

/// COMPARE of `count` bytes.
pub fn compare(dst: u64, src: u64, count: u64) -> Job {
    Job {
        dst,
        src,
        ..job(JOB_COMPARE, count)
    }
}

/// CHECKSUM of `count` words.
pub fn checksum(src: u64, count: u64) -> Job {
    Job {
        src,
        ..job(JOB_CHECKSUM, count)
    }
}

/// REDUCE of `count` words.
pub fn reduce(src: u64, count: u64, reduction: u64) -> Job {
    Job {
        src,
        arg: reduction,
        ..job(JOB_REDUCE, count)
    }
}

/// SAXPY of `count` floats.
pub fn saxpy(dst: u64, src: u64, count: u64, a: f32) -> Job {
    Job {
        dst,
        src,
        arg: u64::from(a.to_bits()),
        ..job(JOB_SAXPY, count)
    }
}

/// GATHER of `count` words.
pub fn gather(dst: u64, src: u64, indices: u64, count: u64) -> Job {
    Job {
        dst,
        src,
        aux: indices,
        ..job(JOB_GATHER, count)
    }
}

/// SCATTER of `count` words.
pub fn scatter(dst: u64, src: u64, indices: u64, count: u64) -> Job {
    Job {
        dst,
        src,
        aux: indices,
        ..job(JOB_SCATTER, count)
    }
}

/// CHASE of at most `count` nodes, with the offsets of the payload and of the next pointer.
pub fn chase(first: u64, payload: u64, next: u64, count: u64) -> Job {
    Job {
        src: first,
        aux: payload,
        arg: next,
        ..job(JOB_CHASE, count)
    }
}

/// ATOMIC_ADD, `count` times.
pub fn atomic_add(dst: u64, count: u64, addend: u64) -> Job {
    Job {
        dst,
        arg: addend,
        ..job(JOB_ATOMIC_ADD, count)
    }
}

/// The same job with more flags.
pub fn flagged(job: Job, flags: u16) -> Job {
    Job {
        flags: job.flags | flags,
        ..job
    }
}
