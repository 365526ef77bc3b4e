//! A GPU that works on the memory of this process: what a program needs of it.
//!
//! There are no buffers to allocate and nothing to copy. A program hands over pointers, waits,
//! and reads the result where it has always been:
//!
//! ```text
//! let gpu = Gpu::open("/dev/hmmgpu0")?;
//! let x = vec![1.0; n];
//! let mut y = vec![2.0; n];
//! gpu.saxpy(3.0, &x, &mut y)?;         // y[i] = 3 * x[i] + y[i]
//! assert_eq!(y[0], 5.0);
//! ```
//!
//! The calls with slices wait for the job. [`Gpu::submit`] does not: the process goes on while
//! the GPU works, and [`Gpu::wait`] gets the result. What the GPU writes meanwhile is as if
//! another thread wrote it.

use std::io;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hmmgpu_uapi::{
    Advise, COMPUTE_ATOMIC_ADD, COMPUTE_CHASE, COMPUTE_CHECKSUM, COMPUTE_COMPARE, COMPUTE_COPY,
    COMPUTE_FILL, COMPUTE_GATHER, COMPUTE_REDUCE, COMPUTE_SAXPY, COMPUTE_SCATTER,
    POLICY_ACCESS_IN_PLACE, POLICY_DEFAULT, POLICY_PREFER_DEVICE, POLICY_PREFER_SYSTEM,
    PREFETCH_WRITE, Prefetch, Submit,
};
use rustix::io::Errno;

use crate::device::Device;

/// No job of these programs takes as long; one that does is stuck.
const LIMIT: Duration = Duration::from_secs(300);
/// How long one WAIT takes at most.
const STEP_NS: u64 = 1_000_000_000;

/// An open GPU: one queue of jobs, done in order, on the memory of the process that opened it.
#[derive(Debug)]
pub(crate) struct Gpu {
    device: Device,
}

/// What a job does. Addresses and lengths are those of the process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Command {
    /// Repeats 8 bytes over `bytes` bytes.
    Fill { dst: u64, pattern: u64, bytes: u64 },
    /// Copies bytes.
    Copy { dst: u64, src: u64, bytes: u64 },
    /// Finds the first byte that differs, or `bytes`.
    Compare { left: u64, right: u64, bytes: u64 },
    /// Checksum of words of 64 bits.
    Checksum { src: u64, words: u64 },
    /// Sum, minimum or maximum of words of 64 bits: REDUCE values of the hardware contract.
    Reduce { src: u64, words: u64, how: u64 },
    /// `y[i] = a * x[i] + y[i]`.
    Saxpy { a: f32, x: u64, y: u64, count: u64 },
    /// `dst[i] = src[indices[i]]`, words of 64 bits, indices of 32.
    Gather {
        dst: u64,
        src: u64,
        indices: u64,
        count: u64,
    },
    /// `dst[indices[i]] = src[i]`.
    Scatter {
        dst: u64,
        src: u64,
        indices: u64,
        count: u64,
    },
    /// Follows a list from `head` over at most `most` nodes and adds up their payloads; `next`
    /// and `payload` are where those are in a node.
    Chase {
        head: u64,
        next: u64,
        payload: u64,
        most: u64,
    },
    /// Adds `value` to a word `times` times, each atomically.
    AtomicAdd { word: u64, value: u64, times: u64 },
}

impl Command {
    /// The request of the driver's interface.
    pub(crate) fn request(self) -> Submit {
        let none = Submit::default();
        match self {
            Command::Fill {
                dst,
                pattern,
                bytes,
            } => Submit {
                kernel: COMPUTE_FILL,
                dst,
                arg: pattern,
                count: bytes,
                ..none
            },
            Command::Copy { dst, src, bytes } => Submit {
                kernel: COMPUTE_COPY,
                dst,
                src,
                count: bytes,
                ..none
            },
            Command::Compare { left, right, bytes } => Submit {
                kernel: COMPUTE_COMPARE,
                dst: left,
                src: right,
                count: bytes,
                ..none
            },
            Command::Checksum { src, words } => Submit {
                kernel: COMPUTE_CHECKSUM,
                src,
                count: words,
                ..none
            },
            Command::Reduce { src, words, how } => Submit {
                kernel: COMPUTE_REDUCE,
                src,
                count: words,
                arg: how,
                ..none
            },
            Command::Saxpy { a, x, y, count } => Submit {
                kernel: COMPUTE_SAXPY,
                dst: y,
                src: x,
                count,
                arg: u64::from(a.to_bits()),
                ..none
            },
            Command::Gather {
                dst,
                src,
                indices,
                count,
            } => Submit {
                kernel: COMPUTE_GATHER,
                dst,
                src,
                aux: indices,
                count,
                ..none
            },
            Command::Scatter {
                dst,
                src,
                indices,
                count,
            } => Submit {
                kernel: COMPUTE_SCATTER,
                dst,
                src,
                aux: indices,
                count,
                ..none
            },
            Command::Chase {
                head,
                next,
                payload,
                most,
            } => Submit {
                kernel: COMPUTE_CHASE,
                src: head,
                aux: payload,
                arg: next,
                count: most,
                ..none
            },
            Command::AtomicAdd { word, value, times } => Submit {
                kernel: COMPUTE_ATOMIC_ADD,
                dst: word,
                arg: value,
                count: times,
                ..none
            },
        }
    }
}

/// A job that was submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Job(pub(crate) u64);

/// What came of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// Why it ended early.
    pub(crate) error: Option<Errno>,
    /// Its result.
    pub(crate) value: u64,
    /// Elements that are done.
    pub(crate) done: u64,
    /// Faults that were resolved for it.
    pub(crate) faults: u32,
    /// What it could not access, or zero.
    pub(crate) fault_address: u64,
    /// Time that it took the device.
    pub(crate) time: Duration,
}

impl Report {
    /// Fails unless the job was done to its end.
    pub(crate) fn complete(self) -> Result<Report> {
        let Some(errno) = self.error else {
            return Ok(self);
        };
        Err(anyhow::Error::new(io::Error::from(errno)).context(format!(
            "the job ended after {} elements, at address {:#x}",
            self.done, self.fault_address
        )))
    }
}

/// Where memory should be when the GPU works on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// In VRAM, as far as there is room.
    Default,
    /// In VRAM, and there last to make room.
    PreferDevice,
    /// In system memory.
    PreferSystem,
    /// Where it is.
    AccessInPlace,
}

impl Policy {
    /// All of them.
    pub(crate) const ALL: [Policy; 4] = [
        Policy::Default,
        Policy::PreferDevice,
        Policy::PreferSystem,
        Policy::AccessInPlace,
    ];

    fn value(self) -> u32 {
        match self {
            Policy::Default => POLICY_DEFAULT,
            Policy::PreferDevice => POLICY_PREFER_DEVICE,
            Policy::PreferSystem => POLICY_PREFER_SYSTEM,
            Policy::AccessInPlace => POLICY_ACCESS_IN_PLACE,
        }
    }
}

impl Gpu {
    /// Opens a GPU. Fails when the driver or the device has no contexts.
    pub(crate) fn open(node: &Path) -> Result<Gpu> {
        let gpu = Gpu {
            device: Device::open(node)?,
        };
        // A job that does nothing tells.
        let nothing = Command::Checksum { src: 0, words: 0 };
        match gpu.try_submit(nothing) {
            Ok(job) => gpu.wait(job)?.complete()?,
            Err(Errno::OPNOTSUPP) => bail!(
                "{} cannot work on the memory of processes: the device has no contexts",
                node.display()
            ),
            Err(error) => return Err(failed("SUBMIT", error)),
        };
        Ok(gpu)
    }

    /// The device, for migrations and statistics.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// `y[i] = a * x[i] + y[i]`.
    pub(crate) fn saxpy(&self, a: f32, x: &[f32], y: &mut [f32]) -> Result<Report> {
        ensure!(x.len() == y.len(), "vectors of different lengths");
        self.run(Command::Saxpy {
            a,
            x: x.as_ptr() as u64,
            y: y.as_mut_ptr() as u64,
            count: y.len() as u64,
        })
    }

    /// Adds 1 to a word so many times. The process may use the word meanwhile, atomically.
    pub(crate) fn increment(&self, word: &AtomicU64, times: u64) -> Result<Report> {
        self.run(Command::AtomicAdd {
            word: word.as_ptr() as u64,
            value: 1,
            times,
        })
    }

    /// Does a job, which has to succeed.
    pub(crate) fn run(&self, command: Command) -> Result<Report> {
        self.attempt(command)?.complete()
    }

    /// Does a job, however it ends.
    pub(crate) fn attempt(&self, command: Command) -> Result<Report> {
        let job = self.submit(command)?;
        self.wait(job)
    }

    /// Submits a job and goes on.
    pub(crate) fn submit(&self, command: Command) -> Result<Job> {
        self.try_submit(command)
            .map_err(|errno| failed("SUBMIT", errno))
            .with_context(|| format!("{command:x?}"))
    }

    /// The same, for callers who want to know why it was refused.
    pub(crate) fn try_submit(&self, command: Command) -> rustix::io::Result<Job> {
        self.device.submit(command.request()).map(Job)
    }

    /// Waits for a job and gets its result.
    pub(crate) fn wait(&self, job: Job) -> Result<Report> {
        let deadline = Instant::now() + LIMIT;
        loop {
            match self.wait_for(job, STEP_NS) {
                Ok(report) => return Ok(report),
                Err(Errno::TIME | Errno::INTR) => ensure!(
                    Instant::now() < deadline,
                    "job {} has not ended within {} s",
                    job.0,
                    LIMIT.as_secs()
                ),
                Err(errno) => return Err(failed("WAIT", errno)),
            }
        }
    }

    /// One WAIT of at most so many nanoseconds: ETIME when the job has not ended.
    pub(crate) fn wait_for(&self, job: Job, timeout_ns: u64) -> rustix::io::Result<Report> {
        let wait = self.device.wait(job.0, timeout_ns)?;
        Ok(Report {
            error: errno(wait.error),
            value: wait.value,
            done: wait.done,
            faults: wait.faults,
            fault_address: wait.fault_address,
            time: Duration::from_nanos(wait.device_ns),
        })
    }

    /// Whether a job is still to be done.
    pub(crate) fn pending(&self, job: Job) -> Result<bool> {
        match self.wait_for(job, 0) {
            Ok(_) => Ok(false),
            Err(Errno::TIME) => Ok(true),
            Err(errno) => Err(failed("WAIT", errno)),
        }
    }

    /// Says where pages should be when the GPU works on them.
    pub(crate) fn advise(&self, address: usize, bytes: usize, policy: Policy) -> Result<()> {
        let request = Advise {
            addr: address as u64,
            size: bytes as u64,
            policy: policy.value(),
            flags: 0,
        };
        self.device
            .advise(request)
            .map_err(|errno| failed("ADVISE", errno))
    }

    /// Makes pages accessible to the GPU ahead of time; the outputs say how many bytes it can
    /// access now and how many moved.
    pub(crate) fn prefetch(&self, address: usize, bytes: usize, write: bool) -> Result<Prefetch> {
        let (outputs, result) = self.device.prefetch(Prefetch {
            addr: address as u64,
            size: bytes as u64,
            flags: if write { PREFETCH_WRITE } else { 0 },
            ..Prefetch::default()
        });
        result
            .map(|()| outputs)
            .map_err(|errno| failed("PREFETCH", errno))
    }
}

fn errno(number: u32) -> Option<Errno> {
    match i32::try_from(number) {
        Ok(0) => None,
        Ok(number) => Some(Errno::from_raw_os_error(number)),
        Err(_) => Some(Errno::IO),
    }
}

fn failed(call: &str, errno: Errno) -> anyhow::Error {
    anyhow::Error::new(io::Error::from(errno)).context(format!("{call} failed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_their_operands() {
        let saxpy = Command::Saxpy {
            a: 1.5,
            x: 16,
            y: 32,
            count: 7,
        };
        let expected = Submit {
            kernel: COMPUTE_SAXPY,
            dst: 32,
            src: 16,
            count: 7,
            arg: 0x3fc0_0000,
            ..Submit::default()
        };
        assert_eq!(saxpy.request(), expected);
        let chase = Command::Chase {
            head: 64,
            next: 8,
            payload: 24,
            most: 9,
        };
        let request = chase.request();
        assert_eq!((request.src, request.arg, request.aux), (64, 8, 24));
    }

    #[test]
    fn a_job_that_ended_early_says_where() {
        let report = Report {
            error: errno(14),
            value: 0,
            done: 512,
            faults: 1,
            fault_address: 0x7000,
            time: Duration::ZERO,
        };
        let text = format!("{:#}", report.complete().unwrap_err());
        assert!(text.contains("512 elements"), "{text}");
        assert!(text.contains("0x7000"), "{text}");
        assert_eq!(errno(0), None);
    }
}
