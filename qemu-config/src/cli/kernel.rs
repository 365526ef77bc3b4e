//! Arguments of `hmmgpu kernel`.

use clap::{Args, Subcommand};
use hmmgpu_images::KernelSpec;

pub(super) const HELP: &str = "\
Examples:
  hmmgpu kernel build --debug
  hmmgpu kernel list
  hmmgpu run --kernel debug -- svm-mix

Exits with 0 when the kernel is there; with 2 when what it is to be built from cannot be used, with
120 when it could not be built. Other codes: see 'hmmgpu --help'.";

const BUILD_HELP: &str = "\
Examples:
  hmmgpu kernel build --debug                        # of the tool root's version
  hmmgpu kernel build --debug --source debian:7.2
  hmmgpu kernel build --debug --source ~/linux       # a clean checkout; again after every change
  hmmgpu selftest --kernel debug

The kernel is small (tinyconfig and what a guest needs) and has the kernel's own checkers on: KASAN,
lockdep, DEBUG_VM, page table checks, sleeping in atomic context, lists, objects, DMA; and fault
injection. Which ones is in images/kernels/debug.config; an option that a kernel does not take is
told.

It is built in a sandbox, by a compiler and tools that are fetched for it (110 MB, and 170 MB for
Debian's source), and takes 5 GB of room meanwhile and its time (41 minutes on two busy CPUs). Ctrl-C
keeps what was compiled, and the same command goes on from there. Of a tree only what has changed is
compiled again. The tree itself is only read.

Exits with 0 when the kernel is there; with 2 when the source cannot be used, with 120 when it could
not be built. Other codes: see 'hmmgpu --help'.";

const LIST_HELP: &str = "\
Examples:
  hmmgpu kernel list
  hmmgpu kernel list --json | jq -r '.kernels[].name'

Exits with 0, also when there is none. Other codes: see 'hmmgpu --help'.";

/// See [`Command::Kernel`](super::Command::Kernel).
#[derive(Debug, Args)]
pub struct KernelArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: KernelCommand,
}

/// What can be done with kernels that are built here.
#[derive(Debug, Subcommand)]
pub enum KernelCommand {
    /// Build a kernel for guests, by a recipe of this program's.
    #[command(after_help = BUILD_HELP)]
    Build(KernelBuildArgs),
    /// List the kernels that were built, the newest first.
    #[command(after_help = LIST_HELP)]
    List(KernelListArgs),
}

/// See [`KernelCommand::Build`].
#[derive(Debug, Args)]
pub struct KernelBuildArgs {
    /// The kernel's own checkers on. The one recipe that there is.
    #[arg(long, required = true)]
    pub debug: bool,
    /// What it is built from: one of Debian's kernels, or a clean source tree. [default: the
    /// source of the tool root's kernel]
    #[arg(long, value_name = "debian:SERIES|TREE")]
    pub source: Option<KernelSpec>,
}

/// See [`KernelCommand::List`].
#[derive(Debug, Args)]
pub struct KernelListArgs {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}
