//! The command line: what can be asked for, parsed and validated before anything starts.

mod bench;
mod compare;
mod doctor;
mod inject;
mod kernel;
mod machine;
mod report;
mod run;
mod selftest;
mod serve;
mod shell;
mod smi;
mod stress;
mod telemetry;
mod top;
mod values;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{ArgAction, CommandFactory, Parser, Subcommand};

pub use bench::{AlternateArgs, BenchArgs};
pub use compare::{CompareArgs, CompareFormat, JudgeArgs};
pub use doctor::DoctorArgs;
pub use inject::{Fault, InjectArgs};
pub use kernel::{KernelArgs, KernelBuildArgs, KernelCommand, KernelListArgs};
pub use machine::MachineArgs;
pub use report::ReportArgs;
pub use run::RunArgs;
pub use selftest::{OtherDriver, SelftestArgs};
pub use serve::ServeArgs;
pub use shell::ShellArgs;
pub use smi::SmiArgs;
pub use stress::StressArgs;
pub use telemetry::TelemetryArgs;
pub use top::TopArgs;

use crate::commands;
use crate::exit;

/// What a supervised device server says on standard output when clients can connect.
pub(crate) const READY_LINE: &str = "ready";

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// A virtual GPU with local VRAM, for work on Linux device memory.
#[derive(Debug, Parser)]
#[command(
    name = "hmmgpu",
    version = crate::vm::REVISION,
    styles = STYLES,
    propagate_version = true,
    after_help = exit::HELP,
    max_term_width = 100
)]
pub struct Cli {
    /// Say more on standard error: what is done, then also what is exchanged.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Say nothing on standard error but errors.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measure migration throughput for each folio order, in a guest.
    #[command(after_help = bench::HELP)]
    Bench(Box<BenchArgs>),
    /// Show the result of a bench as one page that needs no network and no script.
    #[command(after_help = report::HELP)]
    Report(ReportArgs),
    /// Compare two results of the bench, row by row.
    #[command(after_help = compare::HELP)]
    Compare(CompareArgs),
    /// Run upstream's own tests of device-private memory, unmodified, in a guest with two GPUs.
    #[command(after_help = selftest::HELP)]
    Selftest(SelftestArgs),
    /// Make trouble in a guest while memory migrates, and verify every byte.
    #[command(after_help = stress::HELP)]
    Stress(StressArgs),
    /// Run a command in a guest with driver and device.
    #[command(after_help = run::HELP)]
    Run(RunArgs),
    /// Open a shell in a guest with driver and device.
    #[command(after_help = shell::HELP)]
    Shell(ShellArgs),
    /// Serve the device on a socket, for a QEMU of your own.
    #[command(after_help = serve::HELP)]
    Serve(ServeArgs),
    /// Show what the GPUs do, on one screen or for a program.
    #[command(after_help = smi::HELP)]
    Smi(SmiArgs),
    /// Watch what the GPUs do, live.
    #[command(after_help = top::HELP)]
    Top(TopArgs),
    /// Make something go wrong in a GPU that runs.
    #[command(after_help = inject::HELP)]
    Inject(InjectArgs),
    /// Build kernels for guests that find the driver's mistakes, and list them.
    #[command(after_help = kernel::HELP)]
    Kernel(KernelArgs),
    /// Show what is there, what is missing, and what was chosen and why.
    #[command(after_help = doctor::HELP)]
    Doctor(DoctorArgs),
}

/// The parser, for man pages and completions.
pub fn parser() -> clap::Command {
    Cli::command()
}

/// The `hmmgpu` command.
pub fn main() -> ExitCode {
    run(std::env::args_os())
}

/// Becomes the device server if the arguments of this program say so, and does not return then.
/// For programs that start guests and are not `hmmgpu` themselves; to be called first in `main`.
pub fn serve_if_asked() {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == "serve")
        && arguments
            .next()
            .is_some_and(|second| second == "--supervised")
    {
        let code = run(std::env::args_os());
        // ExitCode cannot be given to exit(); all that matters is whether it went well.
        std::process::exit(i32::from(code != ExitCode::SUCCESS));
    }
}

fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; a reader that has gone is none either.
            let _ = error.print();
            return exit::code(if error.use_stderr() {
                exit::USAGE
            } else {
                exit::OK
            });
        }
    };
    exit::code(commands::run(&cli))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::size::Size;

    fn parse(arguments: &[&str]) -> Result<Cli, String> {
        Cli::try_parse_from(std::iter::once("hmmgpu").chain(arguments.iter().copied()))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_parser_is_consistent() {
        parser().debug_assert();
    }

    #[test]
    fn defaults_of_the_bench() {
        let Command::Bench(bench) = parse(&["bench"]).expect("parses").command else {
            panic!("bench")
        };
        // These depend on whether one kernel is measured or two.
        assert_eq!((bench.size, bench.orders, bench.repeat), (None, None, None));
        assert_eq!(bench.call_size, Size(32 << 20));
    }

    #[test]
    fn wrong_values_are_refused_before_anything_starts() {
        for (arguments, word) in [
            (&["bench", "--size", "3M"][..], "multiple of 2M"),
            (&["bench", "--size", "0"], "multiple of 2M"),
            (&["bench", "--size", "big"], "not a size"),
            (&["bench", "--orders", "1"], "order 1"),
            (&["bench", "--orders", "10"], "0 and 2 to 9"),
            (&["bench", "--repeat", "0"], "0 is not in 1..=1000"),
            (&["bench", "--vram", "1M"], "VRAM is 64M to 64G"),
            (&["bench", "--accel", "xen"], "auto, kvm, tcg"),
            (&["bench", "--cpus", "0"], "1 to 255"),
            (&["run", "--gpus", "0", "--", "true"], "1 to 8"),
            (&["run", "--gpus", "9", "--", "true"], "1 to 8"),
            (&["bench", "--timeout", "soon"], "not a time"),
            (&["bench", "--timeout", "0"], "not a time"),
            (&["bench", "--kernel-arg", ""], "no kernel argument"),
            (&["selftest", "--loops", "0"], "1..=10000"),
            (&["selftest", "--against", "nouveau"], "test_hmm"),
            (&["run"], "COMMAND"),
            (&["run", "uname"], "unexpected argument"),
            (&["serve"], "--socket"),
            (&["serve", "--socket", "x", "--vram", "63M"], "VRAM is"),
            (&["kernel", "build"], "--debug"),
            (
                &["kernel", "build", "--debug", "--source", "debian:x"],
                "two numbers",
            ),
            (&["inject"], "FAULT"),
            (&["run", "--link", "pcie9-x16", "--", "uname"], "pcie5-x16"),
            (&["inject", "copy:burn"], "fail, corrupt"),
            (
                &["serve", "--socket", "x", "--inject", "copy"],
                "SITE:ACTION",
            ),
            (&["compare"], "A.json"),
            (&["compare", "a", "b", "--threshold", "x"], "0% to 99%"),
            (&["bench", "--kernel-a", "debian:7.2"], "--kernel-b"),
            (&["bench", "--rounds", "3"], "--kernel-a"),
        ] {
            let error = parse(arguments).expect_err("must be refused");
            assert!(error.contains(word), "{arguments:?}: {error}");
        }
    }

    #[test]
    fn arguments_of_the_selftest() {
        let cli = parse(&[
            "selftest",
            "--loops",
            "20",
            "--skip",
            "a",
            "--skip",
            "b*",
            "--against",
            "test_hmm",
        ]);
        let Command::Selftest(args) = cli.expect("parses").command else {
            panic!("selftest")
        };
        assert_eq!((args.loops, args.skip), (20, vec!["a".into(), "b*".into()]));
        assert_eq!(args.against, Some(OtherDriver::TestHmm));
        assert!(args.only.is_empty() && args.json.is_none());
    }

    #[test]
    fn what_follows_two_dashes_is_the_command() {
        let cli = parse(&[
            "run",
            "--file",
            concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml:/b"),
            "--",
            "ls",
            "-l",
            "--",
            "--json",
        ]);
        let Command::Run(run) = cli.expect("parses").command else {
            panic!("run")
        };
        assert_eq!(run.command, ["ls", "-l", "--", "--json"]);
    }

    #[test]
    fn every_command_has_examples_and_exit_codes() {
        let mut parser = parser();
        parser.build();
        for command in parser
            .get_subcommands()
            .filter(|command| command.get_name() != "help")
        {
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(help.contains("Examples:"), "{}", command.get_name());
            assert!(
                help.to_lowercase().contains("exit"),
                "{}",
                command.get_name()
            );
        }
    }
}
