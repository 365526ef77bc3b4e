//! What a program with enough rights can do to a GPU that others use.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

/// Bound of every wait.
const LIMIT: Duration = Duration::from_secs(60);

/// What happens to the GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Cause {
    /// It is reset through the bus: what is in VRAM is lost.
    Reset,
    /// The driver is unbound from it, and bound again.
    Unbind,
    /// It is taken out, as far as the kernel goes, and found again.
    Replug,
}

impl Cause {
    /// Whether what is in VRAM is lost.
    pub(super) fn takes_vram(self) -> bool {
        self == Cause::Reset
    }
}

/// The PCI function behind a node.
#[derive(Debug)]
pub(super) struct Function {
    name: String,
}

impl Function {
    pub(super) fn of(node: &Path) -> Result<Function> {
        let name = node.file_name().context("the device node has no name")?;
        let link = Path::new("/sys/class/misc").join(name).join("device");
        let function =
            std::fs::read_link(&link).with_context(|| format!("cannot read {}", link.display()))?;
        let name = function.file_name().and_then(|name| name.to_str());
        Ok(Function {
            name: name.context("the PCI function has no name")?.to_owned(),
        })
    }

    /// Lets it happen once, from beginning to end.
    pub(super) fn suffer(&self, cause: Cause) -> Result<()> {
        let own = Path::new("/sys/bus/pci/devices").join(&self.name);
        let driver = Path::new("/sys/bus/pci/drivers/hmmgpu");
        match cause {
            Cause::Reset => write(&own.join("reset"), "1"),
            Cause::Unbind => {
                write(&driver.join("unbind"), &self.name)?;
                write(&driver.join("bind"), &self.name)
            }
            Cause::Replug => {
                write(&own.join("remove"), "1")?;
                write(Path::new("/sys/bus/pci/rescan"), "1")?;
                self.wait_for_driver(&own)
            }
        }
    }

    fn wait_for_driver(&self, own: &Path) -> Result<()> {
        let begin = Instant::now();
        while !own.join("driver").exists() {
            ensure!(begin.elapsed() < LIMIT, "{} has no driver", self.name);
            std::thread::yield_now();
        }
        Ok(())
    }
}

fn write(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).with_context(|| format!("cannot write {text} to {}", file.display()))
}
