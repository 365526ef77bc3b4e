//! Programs that run in the guest, all in one static binary.
//!
//! The binary acts as the program whose name it is called by; called by its own name, the first
//! argument says which. `--list` prints the names, one a line, so that whoever builds a guest
//! can make the links.
//!
//! It is a library as well, so that the tests on the host know what there is.

mod bench;
mod counters;
mod device;
mod exec_code;
mod gpu;
mod hold_pages;
mod mutations;
mod outcome;
mod pagemap;
mod pattern;
mod races;
mod random_mix;
mod recovery;
mod reference;
mod region;
mod reload;
mod rng;
mod scenarios;
mod size;
mod stats;
mod stress;
mod svm;
mod sys;
mod thp;
mod unnamed_file;
mod upstream;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

/// One program: its name, what it does, and its main function, which gets all arguments
/// (the first is the name) and returns the exit status.
struct Program {
    name: &'static str,
    about: &'static str,
    main: fn(Vec<OsString>) -> anyhow::Result<ExitCode>,
}

const PROGRAMS: &[Program] = &[
    Program {
        name: "svm-vector-add",
        about: "Compute a * x + y with the GPU, on plain memory",
        main: svm::vector_add::main,
    },
    Program {
        name: "svm-atomic-counter",
        about: "Increment one counter with CPU threads and the GPU at the same time",
        main: svm::atomic_counter::main,
    },
    Program {
        name: "svm-list",
        about: "Follow a linked list that is larger than VRAM with the GPU",
        main: svm::list::main,
    },
    Program {
        name: "svm-fork",
        about: "Fork in the middle of a job",
        main: svm::fork::main,
    },
    Program {
        name: "svm-checksum",
        about: "Have the GPU read memory of every kind in one job",
        main: svm::checksum::main,
    },
    Program {
        name: "svm-two-gpus",
        about: "Pass memory between two GPUs and the CPU",
        main: svm::two_gpus::main,
    },
    Program {
        name: "svm-mix",
        about: "Jobs, touches, fork, mprotect, munmap and migration at random; verify every result",
        main: random_mix::svm_main,
    },
    Program {
        name: "hmmgpu-bench-guest",
        about: "Measure migration as a plan says; the guest half of `hmmgpu bench`",
        main: bench::main,
    },
    Program {
        name: "hmmgpu-random-mix",
        about: "Migrate, touch, unmap, protect, fork, move and advise at random; verify every byte",
        main: random_mix::main,
    },
    Program {
        name: "hmmgpu-races",
        about: "Drop and write memory in threads while another one migrates it",
        main: races::main,
    },
    Program {
        name: "hmmgpu-exec-code",
        about: "Run generated code from pages that were on the device",
        main: exec_code::main,
    },
    Program {
        name: "hmmgpu-hold-pages",
        about: "Hold memory on the device until told to verify it",
        main: hold_pages::main,
    },
    Program {
        name: "hmmgpu-outcome",
        about: "Do with memory what standard input says, and say what came of it",
        main: outcome::main,
    },
    Program {
        name: "hmmgpu-reload",
        about: "Unload and load the driver while another process holds pages on the device",
        main: reload::main,
    },
    Program {
        name: "hmmgpu-mutations",
        about: "Let a driver that is made for it make mistakes, one by one",
        main: mutations::main,
    },
    Program {
        name: "hmmgpu-recovery",
        about: "Use the GPU with several threads while it breaks; verify all that is not lost",
        main: recovery::main,
    },
    Program {
        name: "hmmgpu-stats",
        about: "Print what the driver says of the device and has counted, as JSON",
        main: stats::main,
    },
    Program {
        name: "upstream-collect-twice",
        about: "Show a mistake of the kernel's: a range is collected as more pages than it has",
        main: upstream::collect_twice::main,
    },
    Program {
        name: "upstream-ksm-collect",
        about: "Show a mistake of the kernel's: merged pages stay unmapped after a migration",
        main: upstream::ksm_collect::main,
    },
    Program {
        name: "upstream-remove-migration-pmd",
        about: "Show a mistake of the kernel's: it warns of a shared huge page on its way to the device",
        main: upstream::remove_migration_pmd::main,
    },
    Program {
        name: "upstream-soft-dirty",
        about: "Show a mistake of the kernel's: writes to pages that were on the device go unnoticed",
        main: upstream::soft_dirty::main,
    },
    Program {
        name: "upstream-zap-huge-pmd-folio",
        about: "Show a mistake of the kernel's: memory dropped on its way home loses a reference",
        main: upstream::zap_huge_pmd_folio::main,
    },
    Program {
        name: hmmgpu_guest_protocol::stress::PROGRAM,
        about: "Make one kind of trouble while migrations are in flight; verify every byte",
        main: stress::main,
    },
    Program {
        name: "hmmgpu-scenarios",
        about: "Targeted checks of the driver, one by one, as TAP",
        main: scenarios::main,
    },
];

/// Names of the scenarios of `hmmgpu-scenarios`.
pub fn scenario_names() -> impl Iterator<Item = &'static str> {
    scenarios::names()
}

/// What the binary does.
pub fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().collect();
    let mut program = args.first().and_then(|name| find(name));
    if program.is_none() && args.len() > 1 {
        program = find(&args[1]);
        if program.is_some() {
            args.remove(0);
        }
    }
    let Some(program) = program else {
        return own_name(args.get(1));
    };
    match (program.main)(args) {
        Ok(code) => code,
        Err(error) => match error.downcast::<clap::Error>() {
            // clap knows whether it is help or a mistake, and where to print it.
            Ok(usage) => {
                let _ = usage.print();
                ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(2))
            }
            Err(error) => {
                eprintln!("{}: {error:#}", program.name);
                ExitCode::FAILURE
            }
        },
    }
}

fn find(name: &std::ffi::OsStr) -> Option<&'static Program> {
    let name = Path::new(name).file_name()?;
    PROGRAMS.iter().find(|program| name == program.name)
}

/// Called by the name of the binary itself, without naming a program.
fn own_name(argument: Option<&OsString>) -> ExitCode {
    let mut text = String::new();
    let code = match argument.and_then(|argument| argument.to_str()) {
        Some("--list") => {
            for program in PROGRAMS {
                text += program.name;
                text.push('\n');
            }
            ExitCode::SUCCESS
        }
        Some("--help" | "-h") => {
            text += "Usage: hmmgpu-guest-workloads PROGRAM [ARGUMENT]...\n       \
                     hmmgpu-guest-workloads --list\n\nPrograms, each with --help:\n";
            for program in PROGRAMS {
                text += &format!("  {:<20} {}\n", program.name, program.about);
            }
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("hmmgpu-guest-workloads: name a program; --help lists them");
            return ExitCode::from(2);
        }
    };
    // A reader that has gone away is no error of this program.
    let _ = std::io::stdout().write_all(text.as_bytes());
    code
}
