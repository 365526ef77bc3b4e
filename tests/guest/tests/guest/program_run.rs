//! `hmmgpu run`: what it passes through, and what it leaves behind when things go wrong.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hmmgpu_vm_tests::leftovers::{self, Process};
use hmmgpu_vm_tests::program::{Program, Running};
use libtest_mimic::Trial;
use rustix::process::{Signal, kill_process};
use tempfile::TempDir;

use crate::{Check, confined, listening, short_folder, trials_of};

/// Time for a guest to boot, on a slow and busy host.
const BOOT: Duration = Duration::from_secs(300);
/// Time for everything to end after something was killed.
const END: Duration = Duration::from_secs(90);
/// In the command line of a device server.
const SERVER: &str = " serve ";
const NO_SANDBOX: &str = "--no-sandbox";

pub(crate) fn trials(program: &Arc<Program>) -> Vec<Trial> {
    let checks: [Check; 8] = [
        ("run::passes_output_status_input_and_files", passes_through),
        ("run::a_signal_in_the_guest_is_told", a_signal_in_the_guest),
        ("run::an_unknown_command_is_told", an_unknown_command),
        ("run::the_time_limit_ends_it", the_time_limit),
        ("run::a_panic_of_the_guest_is_a_lost_vm", a_panic),
        ("run::killed_qemu_leaves_nothing", killed_qemu),
        ("run::killed_server_leaves_nothing", killed_server),
        ("run::ctrl_c_leaves_nothing", ctrl_c),
    ];
    trials_of(program, &checks)
}

const MACHINE: [&str; 5] = ["run", "--memory", "1G", "--vram", "64M"];

fn arguments<'a>(options: &[&'a str], command: &[&'a str]) -> Vec<&'a str> {
    [&MACHINE[..], options, &["--"], command].concat()
}

fn passes_through(program: &Program) -> Result<()> {
    let runtime = short_folder()?;
    let folder = tempfile::tempdir()?;
    let script = folder.path().join("greet");
    std::fs::write(
        &script,
        "#!/bin/sh\necho \"hello $1\"\necho a complaint >&2\ncat\nexit 7\n",
    )?;
    let data = folder.path().join("data");
    let bytes: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(&data, &bytes)?;
    // Scripts are as good as programs only if they may be run.
    set_executable(&script)?;
    let script = script.to_str().context("the path is no text")?.to_owned();
    let data = format!(
        "{}:/data/in.bin",
        data.to_str().context("the path is no text")?
    );
    let line = "greet guest; status=$?; md5sum </data/in.bin; exit $status";
    let arguments = arguments(&["--file", &script, "--file", &data], &["sh", "-c", line]);
    let finished = program.run(&arguments, b"from the host\n", runtime.path(), BOOT)?;
    finished.expect_code(7)?;
    let expected = std::process::Command::new("md5sum")
        .stdin(std::fs::File::open(folder.path().join("data"))?)
        .output()
        .context("cannot run md5sum")?;
    let checksum = String::from_utf8_lossy(&expected.stdout).into_owned();
    let checksum: Vec<&str> = checksum.split_whitespace().collect();
    let lines: Vec<&str> = finished.stdout.lines().collect();
    ensure!(
        lines.len() == 3 && lines[..2] == ["hello guest", "from the host"],
        "standard output: {lines:?}"
    );
    let found: Vec<&str> = lines[2].split_whitespace().collect();
    ensure!(
        found == checksum,
        "checksum of the file: {found:?} instead of {checksum:?}"
    );
    ensure!(
        finished.stderr.lines().any(|line| line == "a complaint"),
        "standard error: {}",
        finished.stderr
    );
    leftovers::nothing_in(runtime.path())
}

fn set_executable(path: &std::path::Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(std::fs::set_permissions(
        path,
        std::fs::Permissions::from_mode(0o755),
    )?)
}

fn a_signal_in_the_guest(program: &Program) -> Result<()> {
    let runtime = short_folder()?;
    let arguments = arguments(&[], &["sh", "-c", "kill -TERM $$"]);
    let finished = program.run(&arguments, b"", runtime.path(), BOOT)?;
    finished.expect_code(128 + 15)?;
    leftovers::nothing_in(runtime.path())
}

fn an_unknown_command(program: &Program) -> Result<()> {
    let runtime = short_folder()?;
    let arguments = arguments(&[], &["no-such-command"]);
    let finished = program.run(&arguments, b"", runtime.path(), BOOT)?;
    // As a shell has it.
    finished.expect_code(127)?;
    ensure!(
        finished.stderr.contains("no-such-command"),
        "{}",
        finished.stderr
    );
    leftovers::nothing_in(runtime.path())
}

fn the_time_limit(program: &Program) -> Result<()> {
    let runtime = short_folder()?;
    // Under any accelerator a guest takes longer than this.
    let arguments = arguments(&["--timeout", "1"], &["sleep", "1000"]);
    let finished = program.run(&arguments, b"", runtime.path(), BOOT)?;
    finished.expect_code(hmmgpu::exit::TIMED_OUT.into())?;
    leftovers::nothing_in(runtime.path())
}

fn a_panic(program: &Program) -> Result<()> {
    let runtime = short_folder()?;
    let arguments = arguments(
        &[],
        &["sh", "-c", "echo c >/proc/sysrq-trigger; sleep 1000"],
    );
    let finished = program.run(&arguments, b"", runtime.path(), BOOT)?;
    finished.expect_code(hmmgpu::exit::LOST.into())?;
    ensure!(
        finished.stderr.contains("sysrq triggered crash"),
        "{}",
        finished.stderr
    );
    leftovers::nothing_in(runtime.path())
}

/// A guest whose command waits, with memory on the device.
fn waiting_guest(
    program: &Program,
    runtime: &TempDir,
    options: &[&str],
) -> Result<(Running, Vec<Process>)> {
    let line = "mkfifo /tmp/never; hmmgpu-hold-pages </tmp/never & exec 3>/tmp/never; wait";
    let arguments = arguments(options, &["sh", "-c", line]);
    let mut running = program.start(&arguments, b"", runtime.path())?;
    running.wait_for_line("holding ", BOOT)?;
    let processes = leftovers::descendants(running.pid())?;
    Ok((running, processes))
}

fn find<'a>(processes: &'a [Process], what: &str) -> Result<&'a Process> {
    processes
        .iter()
        .find(|process| process.command.contains(what) && !process.name.contains("bwrap"))
        .with_context(|| format!("no {what} among {processes:?}"))
}

/// Kills one process of a waiting guest; all the others, sockets and files have to go.
/// Gives what it said.
fn kill_and_look(program: &Program, options: &[&str], what: &str) -> Result<String> {
    let runtime = short_folder()?;
    let (running, processes) = waiting_guest(program, &runtime, options)?;
    let server = find(&processes, SERVER)?;
    confined::expect(server.pid, !options.contains(&NO_SANDBOX))?;
    let victim = find(&processes, what)?;
    kill_process(victim.pid, Signal::KILL).context("cannot kill it")?;
    let finished = running.finish(END)?;
    finished.expect_code(hmmgpu::exit::LOST.into())?;
    ensure!(
        finished.stderr.contains("hmmgpu: error:"),
        "no reason: {}",
        finished.stderr
    );
    leftovers::all_end(&processes, END)?;
    leftovers::nothing_in(runtime.path())?;
    Ok(finished.stderr)
}

fn killed_qemu(program: &Program) -> Result<()> {
    let said = kill_and_look(program, &[NO_SANDBOX], "qemu-system")?;
    ensure!(
        said.contains(NO_SANDBOX) && said.contains("all files"),
        "it does not say what is lost: {said}"
    );
    Ok(())
}

fn killed_server(program: &Program) -> Result<()> {
    let said = kill_and_look(program, &[], SERVER)?;
    ensure!(
        !said.contains("sandbox refused"),
        "it needs what it gave up: {said}"
    );
    Ok(())
}

fn ctrl_c(program: &Program) -> Result<()> {
    let runtime = short_folder()?;
    let (running, processes) = waiting_guest(program, &runtime, &[])?;
    // Nobody else can reach it meanwhile.
    for process in &processes {
        // Those of the sandbox around QEMU may be gone.
        let found = listening::on_the_network(process.pid).unwrap_or_default();
        ensure!(found.is_empty(), "{process:?} listens on {found:?}");
    }
    let open = listening::open_to_others(runtime.path())?;
    ensure!(open.is_empty(), "others can connect to {open:?}");
    // A terminal sends it to the whole process group.
    running.signal_group(Signal::INT)?;
    let finished = running.finish(END)?;
    finished.expect_code(130)?;
    leftovers::all_end(&processes, END)?;
    leftovers::nothing_in(runtime.path())
}
