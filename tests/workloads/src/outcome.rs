//! A process that does with its memory what it is told, and says what came of it: for faults that are
//! injected from the host in between.

use std::ffi::OsString;
use std::io::{self, BufRead, PipeReader, PipeWriter, Read, Write, pipe};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use hmmgpu_contract::compute::{CHECKSUM_BASIS, CHECKSUM_PRIME};
use rustix::io::Errno;

use crate::device::{self, Outcome};
use crate::gpu::{Command, Gpu};
use crate::sys::fork::{Ended, fork};
use crate::sys::memory::{Advice, Memory, PAGE, UNIT};
use crate::{pattern, size, thp};

/// Where the driver's parameters are.
const PARAMETERS: &str = "/sys/module/hmmgpu/parameters";
/// Longest time that a touch may take.
const TOUCH_LIMIT: Duration = Duration::from_secs(120);

/// Do with memory what standard input says, and say what came of it, one line each.
///
/// fill: write a new pattern. drop: have it be holes, which read as zero. to-device, home: migrate.
/// read: have the kernel read each page, and compare it. touch: read the first page in a child. job:
/// have the GPU sum it up. renew: give the memory up and take other memory. reopen: use the GPU that is
/// there now. parameter NAME VALUE: set one of the driver.
#[derive(Debug, Parser)]
#[command(name = "hmmgpu-outcome")]
struct Args {
    /// Memory, a multiple of 2 MiB.
    #[arg(long, default_value = "8M", value_parser = size::parse)]
    size: usize,
    /// What the answers begin with, where there are several of this kind.
    #[arg(long)]
    name: Option<String>,
    /// Device node.
    #[arg(long, default_value = device::NODE)]
    device: PathBuf,
}

/// Runs the program.
pub(crate) fn main(args: Vec<OsString>) -> Result<ExitCode> {
    let args = Args::try_parse_from(args)?;
    ensure!(
        args.size >= UNIT && args.size % UNIT == 0,
        "--size: a multiple of 2M is needed"
    );
    let controls = thp::Controls::take()?;
    controls.only(9)?;
    let mut owner = Owner {
        gpu: Gpu::open(&args.device)?,
        memory: Memory::anonymous(args.size).context("cannot map memory")?,
        seed: 0,
        dropped: false,
        pipe: pipe().context("cannot make a pipe")?,
    };
    owner.fill();
    let name = args.name.map_or_else(String::new, |name| name + " ");
    say(&format!("{name}ready"))?;
    for line in std::io::stdin().lock().lines() {
        let line = line.context("cannot read standard input")?;
        let answer = owner.obey(&line)?;
        say(&format!("{name}{line}: {answer}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn say(line: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")
        .and_then(|()| stdout.flush())
        .context("cannot write to standard output")
}

struct Owner {
    gpu: Gpu,
    memory: Memory,
    /// Of the pattern that was written last.
    seed: u64,
    /// Whether it was dropped since.
    dropped: bool,
    pipe: (PipeReader, PipeWriter),
}

impl Owner {
    fn obey(&mut self, line: &str) -> Result<String> {
        let pages = 0..self.memory.pages();
        let device = self.gpu.device();
        Ok(match line {
            "fill" => {
                self.fill();
                "done".to_owned()
            }
            "drop" => {
                let dropped = self.memory.advise(pages, Advice::DontNeed);
                dropped.context("cannot drop memory")?;
                self.dropped = true;
                "done".to_owned()
            }
            "to-device" => moved(device.to_device(&self.memory, pages)),
            "home" => moved(device.to_system(&self.memory, pages)),
            "read" => self.read()?,
            "touch" => self.touch()?,
            "job" => self.job()?,
            "renew" => {
                let memory = Memory::anonymous(self.memory.len());
                self.memory = memory.context("cannot map memory")?;
                self.fill();
                "done".to_owned()
            }
            "reopen" => {
                let node = device::any_node()?.context("there is no GPU")?;
                self.gpu = Gpu::open(&node)?;
                "done".to_owned()
            }
            _ => match line.split(' ').collect::<Vec<_>>()[..] {
                ["parameter", name, value] => {
                    std::fs::write(Path::new(PARAMETERS).join(name), value)
                        .with_context(|| format!("cannot set {name}"))?;
                    "done".to_owned()
                }
                _ => bail!("'{line}' is nothing that can be done"),
            },
        })
    }

    fn fill(&mut self) {
        self.seed += 1;
        self.dropped = false;
        for page in 0..self.memory.pages() {
            let base = pattern::page_base(self.seed, page);
            pattern::fill(self.memory.words_mut(page), base);
        }
    }

    /// Has the kernel read all pages. Where this process would get SIGBUS, it is told of EFAULT.
    fn read(&mut self) -> Result<String> {
        let (mut right, mut wrong, mut refused) = (0, 0, 0);
        let mut words = vec![0; PAGE / size_of::<u64>()];
        for page in 0..self.memory.pages() {
            let mut bytes = [0; PAGE];
            match self.pipe.1.write(self.memory.bytes(page)) {
                Ok(PAGE) => self.pipe.0.read_exact(&mut bytes)?,
                Ok(some) => bail!("{some} bytes of a page were read"),
                Err(error) if Errno::from_io_error(&error) == Some(Errno::FAULT) => {
                    refused += 1;
                    continue;
                }
                Err(error) => return Err(error).context("cannot write to a pipe"),
            }
            for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
                *word = u64::from_ne_bytes(*bytes);
            }
            let base = pattern::page_base(self.seed, page);
            let is_right = match self.dropped {
                true => words.iter().all(|word| *word == 0),
                false => pattern::differing_bytes(&words, base) == 0,
            };
            if is_right {
                right += 1;
            } else {
                wrong += 1;
            }
        }
        Ok(format!("right {right} wrong {wrong} refused {refused}"))
    }

    /// Reads a page in a child, which may not survive that.
    fn touch(&self) -> Result<String> {
        let child = fork(|| {
            self.memory.touch(0);
            0
        })?;
        Ok(match child.wait_for(TOUCH_LIMIT)? {
            Some(Ended::Code(0)) => "survived".to_owned(),
            Some(ended) => format!("{ended:?}"),
            None => "did not end".to_owned(),
        })
    }

    /// Has the GPU read all of it.
    fn job(&self) -> Result<String> {
        let words = (self.memory.len() / size_of::<u64>()) as u64;
        let src = self.memory.address() as u64;
        let errno = match self.gpu.attempt(Command::Checksum { src, words }) {
            Ok(report) => match report.error {
                Some(errno) => errno.raw_os_error(),
                None if report.value == self.checksum() => return Ok("right".to_owned()),
                None => return Ok("wrong".to_owned()),
            },
            // The GPU was not there, or did not stay.
            Err(error) => match error.downcast_ref().and_then(io::Error::raw_os_error) {
                Some(errno) => errno,
                None => return Err(error),
            },
        };
        Ok(format!("error {errno}"))
    }

    /// What the GPU should find.
    fn checksum(&self) -> u64 {
        let words = PAGE / size_of::<u64>();
        (0..self.memory.pages()).fold(CHECKSUM_BASIS, |sum, page| {
            let base = pattern::page_base(self.seed, page);
            (0..words).fold(sum, |sum, word| {
                let word = match self.dropped {
                    true => 0,
                    false => pattern::word(base, word),
                };
                (sum ^ word).wrapping_mul(CHECKSUM_PRIME)
            })
        })
    }
}

fn moved(outcome: Outcome) -> String {
    let Outcome {
        moved,
        present,
        skipped,
        error,
    } = outcome;
    let error = error.map_or_else(
        || "none".to_owned(),
        |errno| errno.raw_os_error().to_string(),
    );
    format!("moved {moved} present {present} skipped {skipped} error {error}")
}
