//! Job descriptors become jobs: raw bytes from the guest stop here.

use hmmgpu_contract::compute::{
    JOB_ATOMIC_ADD, JOB_CHASE, JOB_CHECKSUM, JOB_COMPARE, JOB_COPY, JOB_DST_DMA, JOB_FILL,
    JOB_GATHER, JOB_INTERRUPT, JOB_NO_REPLAY, JOB_RECORD_ALIGN, JOB_REDUCE, JOB_SAXPY, JOB_SCATTER,
    JOB_SRC_DMA, Job as Descriptor, REDUCE_MAX, REDUCE_MIN, REDUCE_SUM,
};
use hmmgpu_contract::desc::Status;
use hmmgpu_telemetry::snapshot::Kernel as Name;

use super::kernels::{
    AtomicAdd, Chase, Checksum, Compare, Copy, Fill, Gather, Kernel, Reduce, Reduction, Saxpy,
    Scatter, Side,
};
use crate::command::Fault;

const FLOAT: u64 = size_of::<f32>() as u64;
const INDEX: u64 = size_of::<u32>() as u64;
const WORD: u64 = size_of::<u64>() as u64;

/// Where and how the end of a job is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Envelope {
    /// DMA address of the job record; aligned.
    pub(crate) record: u64,
    /// Sequence number.
    pub(crate) sequence: u64,
    /// Raise the context's vector.
    pub(crate) interrupt: bool,
    /// Faults end the job.
    pub(crate) no_replay: bool,
}

impl Envelope {
    /// The envelope; without an aligned record there is nowhere to tell anything.
    pub(crate) fn of(job: &Descriptor) -> Result<Self, Fault> {
        aligned(job.record, JOB_RECORD_ALIGN)?;
        Ok(Self {
            record: job.record,
            sequence: job.sequence,
            interrupt: job.flags & JOB_INTERRUPT != 0,
            no_replay: job.flags & JOB_NO_REPLAY != 0,
        })
    }
}

/// What a job does, for telemetry.
pub(crate) fn name(opcode: u8) -> Name {
    match opcode {
        JOB_FILL => Name::Fill,
        JOB_COPY => Name::Copy,
        JOB_COMPARE => Name::Compare,
        JOB_CHECKSUM => Name::Checksum,
        JOB_REDUCE => Name::Reduce,
        JOB_SAXPY => Name::Saxpy,
        JOB_GATHER => Name::Gather,
        JOB_SCATTER => Name::Scatter,
        JOB_CHASE => Name::Chase,
        JOB_ATOMIC_ADD => Name::AtomicAdd,
        _ => Name::Unknown,
    }
}

fn require(condition: bool, status: Status) -> Result<(), Fault> {
    if condition {
        Ok(())
    } else {
        Err(status.into())
    }
}

fn aligned(address: u64, align: u64) -> Result<(), Fault> {
    require(address.is_multiple_of(align), Status::STATUS_MISALIGNED)
        .map_err(|fault| Fault { address, ..fault })
}

/// Whether `count` elements of `size` bytes from `address` on are aligned and have addresses.
fn range(address: u64, count: u64, size: u64) -> Result<(), Fault> {
    aligned(address, size)?;
    let end = count
        .checked_mul(size)
        .and_then(|bytes| address.checked_add(bytes));
    require(end.is_some(), Status::STATUS_BAD_COUNT)
}

fn zero(fields: &[u64]) -> Result<(), Fault> {
    let all_zero = fields.iter().all(|field| *field == 0);
    require(all_zero, Status::STATUS_BAD_FIELD)
}

fn copy(job: &Descriptor) -> Result<Kernel, Fault> {
    zero(&[job.aux, job.arg])?;
    range(job.dst, job.count, 1)?;
    range(job.src, job.count, 1)?;
    let side = |address, dma| {
        if job.flags & dma == 0 {
            Side::Virtual(address)
        } else {
            Side::Dma(address)
        }
    };
    let dst = side(job.dst, JOB_DST_DMA);
    let src = side(job.src, JOB_SRC_DMA);
    let overlap = job.dst.abs_diff(job.src) < job.count;
    match (dst, src) {
        (Side::Virtual(_), Side::Virtual(_)) | (Side::Dma(_), Side::Dma(_)) if overlap => {
            Err(Fault::at(Status::STATUS_OVERLAP, job.dst))
        }
        _ => Ok(Kernel::Copy(Copy {
            dst,
            src,
            count: job.count,
        })),
    }
}

fn reduction(job: &Descriptor) -> Result<Reduction, Fault> {
    match job.arg {
        REDUCE_SUM => Ok(Reduction::Sum),
        REDUCE_MIN => Ok(Reduction::Minimum),
        REDUCE_MAX => Ok(Reduction::Maximum),
        _ => Err(Status::STATUS_BAD_FIELD.into()),
    }
}

/// The job's work, if it breaks no rule by itself. Whether its addresses can be accessed is seen
/// when they are.
pub(crate) fn kernel(job: &Descriptor) -> Result<Kernel, Fault> {
    let Descriptor {
        opcode,
        reserved0,
        flags,
        reserved1,
        dst,
        src,
        aux,
        count,
        arg,
        record: _,
        sequence,
    } = *job;
    require(name(opcode) != Name::Unknown, Status::STATUS_BAD_OPCODE)?;
    let defined = match opcode {
        JOB_COPY => JOB_INTERRUPT | JOB_NO_REPLAY | JOB_SRC_DMA | JOB_DST_DMA,
        _ => JOB_INTERRUPT | JOB_NO_REPLAY,
    };
    let fields = flags & !defined == 0 && reserved0 == 0 && reserved1 == 0 && sequence != 0;
    require(fields, Status::STATUS_BAD_FIELD)?;
    Ok(match opcode {
        JOB_FILL => {
            zero(&[src, aux])?;
            range(dst, count, 1)?;
            Kernel::Fill(Fill {
                dst,
                count,
                pattern: arg,
            })
        }
        JOB_COPY => copy(job)?,
        JOB_COMPARE => {
            zero(&[aux, arg])?;
            range(dst, count, 1)?;
            range(src, count, 1)?;
            Kernel::Compare(Compare { dst, src, count })
        }
        JOB_CHECKSUM => {
            zero(&[dst, aux, arg])?;
            range(src, count, WORD)?;
            Kernel::Checksum(Checksum { src, count })
        }
        JOB_REDUCE => {
            zero(&[dst, aux])?;
            let reduction = reduction(job)?;
            range(src, count, WORD)?;
            Kernel::Reduce(Reduce {
                src,
                count,
                reduction,
            })
        }
        JOB_SAXPY => {
            zero(&[aux])?;
            let a = u32::try_from(arg).map_err(|_| Fault::from(Status::STATUS_BAD_FIELD))?;
            range(dst, count, FLOAT)?;
            range(src, count, FLOAT)?;
            Kernel::Saxpy(Saxpy {
                dst,
                src,
                count,
                a: f32::from_bits(a),
            })
        }
        JOB_GATHER => {
            zero(&[arg])?;
            range(dst, count, WORD)?;
            aligned(src, WORD)?;
            range(aux, count, INDEX)?;
            Kernel::Gather(Gather {
                dst,
                src,
                indices: aux,
                count,
            })
        }
        JOB_SCATTER => {
            zero(&[arg])?;
            aligned(dst, WORD)?;
            range(src, count, WORD)?;
            range(aux, count, INDEX)?;
            Kernel::Scatter(Scatter {
                dst,
                src,
                indices: aux,
                count,
            })
        }
        JOB_CHASE => {
            zero(&[dst])?;
            aligned(src, WORD)?;
            Kernel::Chase(Chase {
                pointer: src,
                payload: aux,
                next: arg,
                count,
            })
        }
        _ => {
            zero(&[src, aux])?;
            aligned(dst, WORD)?;
            Kernel::AtomicAdd(AtomicAdd {
                dst,
                count,
                addend: arg,
            })
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hmmgpu_contract::compute::JOB_OPCODES;
    use std::collections::BTreeSet;

    /// A job of `opcode` that breaks no rule.
    fn good(opcode: u8) -> Descriptor {
        let (dst, src, aux) = (0x10_0000, 0x20_0000, 0x30_0000);
        let (dst, src, aux, arg) = match opcode {
            JOB_FILL => (dst, 0, 0, u64::MAX),
            JOB_COPY | JOB_COMPARE => (dst, src, 0, 0),
            JOB_CHECKSUM => (0, src, 0, 0),
            JOB_REDUCE => (0, src, 0, REDUCE_MAX),
            JOB_SAXPY => (dst, src, 0, u64::from(u32::MAX)),
            JOB_GATHER | JOB_SCATTER => (dst, src, aux, 0),
            JOB_CHASE => (0, src, u64::MAX - 7, 8),
            _ => (dst, 0, 0, u64::MAX),
        };
        Descriptor {
            opcode,
            reserved0: 0,
            flags: JOB_INTERRUPT | JOB_NO_REPLAY,
            reserved1: 0,
            dst,
            src,
            aux,
            count: 8,
            arg,
            record: 0x40,
            sequence: 1,
        }
    }

    fn status(job: &Descriptor) -> Status {
        kernel(job).map_or_else(|fault| fault.status, |_| Status::STATUS_OK)
    }

    fn opcodes() -> impl Iterator<Item = u8> {
        JOB_FILL..=JOB_ATOMIC_ADD
    }

    #[test]
    fn opcodes_are_those_of_the_contract() {
        assert_eq!(opcodes().count(), JOB_OPCODES.len());
        let names: BTreeSet<_> = opcodes().map(name).collect();
        assert_eq!(names.len(), JOB_OPCODES.len());
        for opcode in [0, JOB_ATOMIC_ADD + 1, u8::MAX] {
            assert_eq!(status(&good(opcode)), Status::STATUS_BAD_OPCODE);
        }
    }

    #[test]
    fn fields_that_must_be_zero_are_checked_for_every_opcode() {
        for opcode in opcodes() {
            let good = good(opcode);
            assert_eq!(status(&good), Status::STATUS_OK, "{good:?}");
            let mut bad = [good; 5];
            bad[0].reserved0 = 1;
            bad[1].reserved1 = 1 << 31;
            bad[2].flags |= 1 << 4;
            bad[3].flags |= 1 << 15;
            bad[4].sequence = 0;
            let mut bad = bad.to_vec();
            let unused = |value: u64| value == 0;
            if unused(good.dst) {
                bad.push(Descriptor { dst: 8, ..good });
            }
            if unused(good.src) {
                bad.push(Descriptor { src: 8, ..good });
            }
            if unused(good.aux) {
                bad.push(Descriptor { aux: 8, ..good });
            }
            if unused(good.arg) {
                bad.push(Descriptor { arg: 8, ..good });
            }
            if opcode != JOB_COPY {
                for flag in [JOB_SRC_DMA, JOB_DST_DMA] {
                    let flags = good.flags | flag;
                    bad.push(Descriptor { flags, ..good });
                }
            }
            for bad in bad {
                assert_eq!(status(&bad), Status::STATUS_BAD_FIELD, "{bad:?}");
            }
        }
        let reduce = Descriptor {
            arg: REDUCE_MAX + 1,
            ..good(JOB_REDUCE)
        };
        let saxpy = Descriptor {
            arg: 1 << 32,
            ..good(JOB_SAXPY)
        };
        for bad in [reduce, saxpy] {
            assert_eq!(status(&bad), Status::STATUS_BAD_FIELD, "{bad:?}");
        }
    }

    #[test]
    fn addresses_are_aligned_to_their_elements_and_have_an_end() {
        type Field = fn(&mut Descriptor) -> &mut u64;
        let (dst, src, aux): (Field, Field, Field) =
            (|job| &mut job.dst, |job| &mut job.src, |job| &mut job.aux);
        // Opcode, field, size of its elements, whether its elements follow each other.
        let fields = [
            (JOB_FILL, dst, 1, true),
            (JOB_COPY, dst, 1, true),
            (JOB_COPY, src, 1, true),
            (JOB_COMPARE, dst, 1, true),
            (JOB_COMPARE, src, 1, true),
            (JOB_CHECKSUM, src, 8, true),
            (JOB_REDUCE, src, 8, true),
            (JOB_SAXPY, dst, 4, true),
            (JOB_SAXPY, src, 4, true),
            (JOB_GATHER, dst, 8, true),
            (JOB_GATHER, src, 8, false),
            (JOB_GATHER, aux, 4, true),
            (JOB_SCATTER, dst, 8, false),
            (JOB_SCATTER, src, 8, true),
            (JOB_SCATTER, aux, 4, true),
            (JOB_CHASE, src, 8, false),
            (JOB_ATOMIC_ADD, dst, 8, false),
        ];
        for (opcode, field, size, sequential) in fields {
            let mut job = good(opcode);
            *field(&mut job) += size;
            assert_eq!(status(&job), Status::STATUS_OK, "{job:?}");
            for off in 1..size {
                let mut job = good(opcode);
                *field(&mut job) += off;
                assert_eq!(status(&job), Status::STATUS_MISALIGNED, "{job:?}");
            }
            let mut job = good(opcode);
            *field(&mut job) = u64::MAX - 8 * size + 1;
            let at_the_end = if sequential {
                Status::STATUS_BAD_COUNT
            } else {
                Status::STATUS_OK
            };
            assert_eq!(status(&job), at_the_end, "{job:?}");
            job.count = 7;
            assert_eq!(status(&job), Status::STATUS_OK, "{job:?}");
            let mut job = good(opcode);
            job.count = u64::MAX / 2;
            let endless = [JOB_CHASE, JOB_ATOMIC_ADD, JOB_FILL, JOB_COMPARE];
            if sequential && size > 1 {
                assert_eq!(status(&job), Status::STATUS_BAD_COUNT, "{job:?}");
            } else if endless.contains(&opcode) {
                assert_eq!(status(&job), Status::STATUS_OK, "{job:?}");
            }
        }
        let misaligned = Descriptor {
            record: 0x60,
            ..good(JOB_FILL)
        };
        let fault = Envelope::of(&misaligned).unwrap_err();
        assert_eq!(fault, Fault::at(Status::STATUS_MISALIGNED, 0x60));
    }

    #[test]
    fn ranges_of_copy_do_not_overlap() {
        let job = |dst, src, flags| Descriptor {
            dst,
            src,
            flags,
            ..good(JOB_COPY)
        };
        for (dst, src) in [(100, 100), (100, 107), (107, 100)] {
            for flags in [0, JOB_SRC_DMA | JOB_DST_DMA] {
                assert_eq!(status(&job(dst, src, flags)), Status::STATUS_OVERLAP);
            }
            for flags in [JOB_SRC_DMA, JOB_DST_DMA] {
                assert_eq!(status(&job(dst, src, flags)), Status::STATUS_OK);
            }
        }
        assert_eq!(status(&job(100, 108, 0)), Status::STATUS_OK);
        let nothing = Descriptor {
            count: 0,
            ..job(100, 100, 0)
        };
        assert_eq!(status(&nothing), Status::STATUS_OK);
    }
}
