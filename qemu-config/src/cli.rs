//! The command line: what can be asked for, parsed and validated before anything starts.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand};

use crate::accel::Choice;
use crate::bench::plan::Orders;
use crate::commands;
use crate::exit;
use crate::profile::{check_cpus, check_gpus, check_kernel_arg, check_memory, check_vram};
use crate::size::Size;

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
    #[command(after_help = BENCH_HELP)]
    Bench(BenchArgs),
    /// Run upstream's own tests of device-private memory, unmodified, in a guest with two GPUs.
    #[command(after_help = SELFTEST_HELP)]
    Selftest(SelftestArgs),
    /// Run a command in a guest with driver and device.
    #[command(after_help = RUN_HELP)]
    Run(RunArgs),
    /// Open a shell in a guest with driver and device.
    #[command(after_help = SHELL_HELP)]
    Shell(ShellArgs),
    /// Serve the device on a socket, for a QEMU of your own.
    #[command(after_help = SERVE_HELP)]
    Serve(ServeArgs),
    /// Show what is there, what is missing, and what was chosen and why.
    #[command(after_help = DOCTOR_HELP)]
    Doctor(DoctorArgs),
}

const BENCH_HELP: &str = "\
Examples:
  hmmgpu bench
  hmmgpu bench --size 1G --orders 0,9 --repeat 10
  hmmgpu bench --json result.json
  hmmgpu bench --json - | jq '.rows[].migration_bytes_per_s.median'
  hmmgpu bench --kernel-arg init_on_alloc=1

The table goes to standard output; with '--json -' the JSON does, and the table goes to standard
error. Exits with 0 when every byte was verified, else with 1. Other codes: see 'hmmgpu --help'.";

const SELFTEST_HELP: &str = "\
Examples:
  hmmgpu selftest
  hmmgpu selftest --only 'migrate_anon_huge_*' --only userfaultfd_read
  hmmgpu selftest --loops 20 --skip benchmark_thp_migration
  hmmgpu selftest --json result.json --against test_hmm
  hmmgpu selftest --json - | jq '.tests[] | select(.result == \"fail\").name'
  hmmgpu selftest --kernel-source ~/linux

The tests are the kernel's tools/testing/selftests/mm/hmm-tests.c. The first use fetches the source
package of the kernel in use (170 MB). hmm_gup_test is skipped by kernels without CONFIG_GUP_TEST,
such as Debian's.

TAP goes to standard output, one line a test as it ends; with '--json -' the JSON does, and TAP
goes to standard error. Exits with 0 when a test passed, none failed, and the guest's kernel did not
warn, else with 1; tests on another driver (--against) do not count for that. Other codes: see
'hmmgpu --help'.";

const RUN_HELP: &str = "\
Examples:
  hmmgpu run -- uname -a
  hmmgpu run -- sh -c 'dmesg | grep hmmgpu'
  hmmgpu run --file ./my-workload -- my-workload --size 64M
  hmmgpu run --file data.bin:/data/in.bin -- md5sum /data/in.bin
  echo hello | hmmgpu run -- cat
  hmmgpu run --profile two-gpus --telemetry counted.json -- sh -c 'ls /dev/hmmgpu*'
  hmmgpu run --driver-params fault_around_pages=1 -- my-workload

A file without a path of its own in the guest goes to /usr/local/bin, which is in the guest's PATH.
Programs must be linked statically. The command's output and exit status are passed through (128+n
when signal n ended it); hmmgpu's own failures exit with 120 to 125, or 2 for a wrong command line,
and write a line that begins with 'hmmgpu: error:'.";

const SHELL_HELP: &str = "\
Examples:
  hmmgpu shell
  hmmgpu shell --file ./my-workload

Leave it with 'exit' or Ctrl-D; the exit status of the shell is passed through.
Exit codes: see 'hmmgpu --help'.";

const SERVE_HELP: &str = "\
Examples:
  hmmgpu serve --socket /tmp/gpu.sock
  hmmgpu serve --socket /tmp/gpu.sock --vram 8G --telemetry telemetry.json
  hmmgpu serve --socket /tmp/gpu.sock --telemetry - | jq .vram

Prints the QEMU arguments that attach the device: on standard output, or on standard error with
'--telemetry -'. Serves one client after the other until SIGTERM or SIGINT (Ctrl-C); then it
writes the telemetry, removes the socket and exits with 0. Exits with 125 when the socket belongs
to a server that lives, or cannot be made. Other codes: see 'hmmgpu --help'.";

const DOCTOR_HELP: &str = "\
Examples:
  hmmgpu doctor
  hmmgpu doctor --json

Exits with 0 when everything that is needed is there, else with 1.";

/// What the machine is made of.
#[derive(Debug, Args)]
#[command(next_help_heading = "Machine")]
pub struct MachineArgs {
    /// Machine profile: a built-in name (default, bench, two-gpus) or the path of a TOML file.
    #[arg(long, value_name = "NAME|FILE")]
    pub profile: Option<String>,
    /// Accelerator. auto tries KVM and falls back to TCG when no guest reaches user space.
    #[arg(long, value_enum)]
    pub accel: Option<Choice>,
    /// Guest memory.
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    pub memory: Option<Size>,
    /// Virtual CPUs.
    #[arg(long, value_name = "N", value_parser = cpus)]
    pub cpus: Option<u32>,
    /// VRAM of each device.
    #[arg(long, value_name = "SIZE", value_parser = vram)]
    pub vram: Option<Size>,
    /// hmmgpu devices.
    #[arg(long, value_name = "N", value_parser = gpus)]
    pub gpus: Option<u32>,
    /// Add to the guest kernel's command line; replaces an earlier value of the same key.
    #[arg(long = "kernel-arg", value_name = "KEY[=VALUE]", value_parser = kernel_arg)]
    pub kernel_args: Vec<String>,
    /// Parameters of the driver module, for example "fault_around_pages=16".
    #[arg(
        long,
        value_name = "PARAMETERS",
        default_value = "",
        hide_default_value = true
    )]
    pub driver_params: String,
    /// Give up after this time, for example 90, 90s, 10m or 1h.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// Write the guest kernel's console into this file.
    #[arg(long, value_name = "FILE")]
    pub console_log: Option<PathBuf>,
}

/// See [`Command::Bench`].
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Memory to migrate in each round; a multiple of 2M. [default: 256M, and 64M for orders 2 to
    /// 8, whose folios the kernel splits]
    #[arg(long, value_name = "SIZE", value_parser = two_mib)]
    pub size: Option<Size>,
    /// Folio orders of the source memory: 0 and 2 to 9, single or as ranges.
    #[arg(long, value_name = "LIST", default_value = "0,2-9")]
    pub orders: Orders,
    /// Counted rounds for each order.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repeat: u32,
    /// Memory for each migration request; a multiple of 2M.
    #[arg(long, value_name = "SIZE", default_value = "32M", value_parser = two_mib)]
    pub call_size: Size,
    /// Write the result as JSON into this file; - is standard output.
    #[arg(long, value_name = "FILE|-")]
    pub json: Option<PathBuf>,
    /// The machine.
    #[command(flatten)]
    pub machine: MachineArgs,
}

/// See [`Command::Selftest`].
#[derive(Debug, Args)]
pub struct SelftestArgs {
    /// Run only this test; a name, or a pattern with *. May be given several times.
    #[arg(long, value_name = "NAME")]
    pub only: Vec<String>,
    /// Leave this test out; a name, or a pattern with *. May be given several times.
    #[arg(long, value_name = "NAME")]
    pub skip: Vec<String>,
    /// Run all of it so often, in one guest.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub loops: u32,
    /// Take the tests from this Linux source tree, not from the source package of the kernel.
    #[arg(long, value_name = "TREE")]
    pub kernel_source: Option<PathBuf>,
    /// Run the same tests on another driver too, and show both side by side.
    #[arg(long, value_enum, value_name = "DRIVER")]
    pub against: Option<OtherDriver>,
    /// Write the result as JSON into this file; - is standard output.
    #[arg(long, value_name = "FILE|-")]
    pub json: Option<PathBuf>,
    /// The machine.
    #[command(flatten)]
    pub machine: MachineArgs,
}

/// A driver that upstream's tests can run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OtherDriver {
    /// The kernel's own lib/test_hmm.c, whose device memory is plain memory of the guest.
    #[value(name = "test_hmm")]
    TestHmm,
}

/// See [`Command::Run`].
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Copy a file into the guest first.
    #[arg(long = "file", value_name = "HOST[:GUEST]")]
    pub files: Vec<commands::GuestFile>,
    /// Write what the devices have counted into this file: a JSON list, one entry for each
    /// GPU, null where its server could not say.
    #[arg(long, value_name = "FILE")]
    pub telemetry: Option<PathBuf>,
    /// The machine.
    #[command(flatten)]
    pub machine: MachineArgs,
    /// The command in the guest and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// See [`Command::Shell`].
#[derive(Debug, Args)]
pub struct ShellArgs {
    /// Copy a file into the guest first.
    #[arg(long = "file", value_name = "HOST[:GUEST]")]
    pub files: Vec<commands::GuestFile>,
    /// The machine.
    #[command(flatten)]
    pub machine: MachineArgs,
}

/// See [`Command::Serve`].
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Where clients connect.
    #[arg(long, value_name = "PATH")]
    pub socket: PathBuf,
    /// VRAM of the device.
    #[arg(long, value_name = "SIZE", default_value = "4G", value_parser = vram)]
    pub vram: Size,
    /// Write the telemetry into this file at the end; - is standard output.
    #[arg(long, value_name = "FILE|-")]
    pub telemetry: Option<PathBuf>,
    /// Say "ready" instead of the arguments, and die with the parent: for launchers.
    #[arg(long, hide = true)]
    pub supervised: bool,
}

/// See [`Command::Doctor`].
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

fn size_with(text: &str, check: fn(Size) -> Result<(), String>) -> Result<Size, String> {
    let size: Size = text
        .parse()
        .map_err(|error: crate::size::SizeError| error.to_string())?;
    check(size).map(|()| size)
}

fn memory(text: &str) -> Result<Size, String> {
    size_with(text, check_memory)
}

fn vram(text: &str) -> Result<Size, String> {
    size_with(text, check_vram)
}

fn two_mib(text: &str) -> Result<Size, String> {
    size_with(text, crate::bench::plan::check_two_mib)
}

fn cpus(text: &str) -> Result<u32, String> {
    let cpus = text
        .parse()
        .map_err(|_| format!("'{text}' is not a number"))?;
    check_cpus(cpus).map(|()| cpus)
}

fn gpus(text: &str) -> Result<u32, String> {
    let gpus = text
        .parse()
        .map_err(|_| format!("'{text}' is not a number"))?;
    check_gpus(gpus).map(|()| gpus)
}

fn kernel_arg(text: &str) -> Result<String, String> {
    check_kernel_arg(text).map(|()| text.to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "" | "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        _ => 0,
    };
    match number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
    {
        Some(seconds @ 1..=31_536_000) => Ok(Duration::from_secs(seconds)),
        _ => Err(format!(
            "'{text}' is not a time; write for example 90s, 10m or 1h"
        )),
    }
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
        assert_eq!(bench.size, None);
        assert_eq!(bench.orders.0, [0, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!((bench.repeat, bench.call_size), (5, Size(32 << 20)));
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
    fn times_have_units() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        assert!(duration("99999999999999999999h").is_err());
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
