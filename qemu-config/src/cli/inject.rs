//! Arguments of `hmmgpu inject`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use hmmgpu_server::{FaultSpec, LinkSpec};

use crate::server_fault::{SITE, ServerFault};

pub(super) const HELP: &str = "\
Examples:
  hmmgpu inject copy:fail@100
  hmmgpu inject copy.dev_to_sys:corrupt@every:50 'fence:delay=50ms@rate:0.01*20'
  hmmgpu inject engine:hang@5
  hmmgpu inject gpu:gone --gpu 1
  hmmgpu inject server:stop=2s
  hmmgpu inject --link pcie4-x8
  hmmgpu inject --list
  hmmgpu inject --clear

A fault is SITE[.PART]:ACTION[@WHEN][*TIMES]:
  copy[.sys_to_dev|.dev_to_sys|.dev_to_dev|.sys_to_sys]:fail|corrupt|drop|delay=TIME
  fence[.copy|.invalidation]:fail|corrupt|drop|delay=TIME
  translation:fail|corrupt|drop|delay=TIME
  interrupt|fault:corrupt|drop|delay=TIME
  engine:hang[=TIME]   vram:full=SIZE   gpu:reset|gone
  server:kill|stop=TIME (its process, at once: no WHEN; Ctrl-C lets it go on)
WHEN is N (the Nth from now, once), every:N, or rate:P[,seed:S] (each with that probability).
Engine, VRAM and GPU count copies. docs/faults.md says what each does and what comes of it.

Without --gpu or --control there must be one GPU that runs. Exits with 1 when there is none, or the
server refuses. Other codes: see 'hmmgpu --help'.";

/// See [`Command::Inject`](super::Command::Inject).
#[derive(Debug, Args)]
pub struct InjectArgs {
    /// What is to go wrong.
    #[arg(value_name = "FAULT", required_unless_present_any = ["list", "clear", "link"])]
    pub faults: Vec<Fault>,
    /// The GPU of this number, as 'hmmgpu smi' shows them.
    #[arg(long, value_name = "N", conflicts_with = "control")]
    pub gpu: Option<usize>,
    /// The GPU of this control socket.
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
    /// Model this link from now on; off: none. See docs/link.md.
    #[arg(long, value_name = "NAME|RATE|off")]
    pub link: Option<LinkSpec>,
    /// Disarm all faults first; a GPU that was gone is there again, as after power-on.
    #[arg(long)]
    pub clear: bool,
    /// Then show what was armed, and what came of it.
    #[arg(long)]
    pub list: bool,
    /// Show it as JSON.
    #[arg(long, requires = "list")]
    pub json: bool,
}

/// What is to go wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    /// With the device.
    Device(FaultSpec),
    /// With its server's process.
    Server(ServerFault),
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.starts_with(SITE) {
            return text.parse().map(Self::Server);
        }
        let fault = text.parse().map(Self::Device);
        fault.map_err(|error: hmmgpu_server::SpecError| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_the_devices_or_its_servers() {
        assert!(matches!("copy:fail".parse(), Ok(Fault::Device(_))));
        for text in ["server:kill", " server:stop=2s "] {
            assert!(matches!(text.parse(), Ok(Fault::Server(_))), "{text}");
        }
    }

    #[test]
    fn an_unknown_site_is_answered_with_all_there_are() {
        let error = "foo:bar".parse::<Fault>().expect_err("no site");
        for known in ["copy, fence", "server:kill", "server:stop=TIME"] {
            assert!(error.contains(known), "{error}");
        }
    }
}
