//! `hmmgpu serve` as a user runs it, without a guest.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hmmgpu_telemetry::snapshot::{SCHEMA, Snapshot};
use hmmgpu_vm_tests::leftovers;
use hmmgpu_vm_tests::program::{Program, Running};
use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::{Check, confined, listening, short_folder, trials_of};

const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn trials(program: &Arc<Program>) -> Vec<Trial> {
    let checks: [Check; 7] = [
        ("serve::refuses_a_live_socket", refuses_a_live_socket),
        ("serve::replaces_a_dead_socket", replaces_a_dead_socket),
        (
            "serve::writes_its_telemetry_when_ended",
            writes_its_telemetry,
        ),
        ("serve::confines_every_thread", confines_every_thread),
        (
            "serve::says_what_no_sandbox_loses",
            says_what_no_sandbox_loses,
        ),
        ("serve::says_what_a_host_lacks", says_what_a_host_lacks),
        ("serve::is_for_its_owner_alone", is_for_its_owner_alone),
    ];
    trials_of(program, &checks)
}

fn start(program: &Program, folder: &Path) -> Result<Running> {
    start_with(program, folder, &[])
}

fn start_with(program: &Program, folder: &Path, more: &[&str]) -> Result<Running> {
    let socket = folder.join("gpu.sock");
    let telemetry = folder.join("telemetry.json");
    let (socket, telemetry) = (
        socket.to_str().context("path")?,
        telemetry.to_str().context("path")?,
    );
    let arguments = [
        "serve",
        "--socket",
        socket,
        "--vram",
        "64M",
        "--telemetry",
        telemetry,
    ];
    let arguments = [&arguments, more].concat();
    let mut running = program.start(&arguments, b"", folder)?;
    running.wait_for_line("vfio-user-pci", LIMIT)?;
    Ok(running)
}

/// Ends it as its user does. Returns what it said on standard error.
fn end(running: Running, signal: Signal) -> Result<String> {
    running.signal(signal)?;
    let finished = running.finish(LIMIT)?;
    finished.expect_code(0)?;
    Ok(finished.stderr)
}

fn refuses_a_live_socket(program: &Program) -> Result<()> {
    let folder = short_folder()?;
    let first = start(program, folder.path())?;
    let socket = folder.path().join("gpu.sock");
    let arguments = ["serve", "--socket", socket.to_str().context("path")?];
    let second = program.run(&arguments, b"", folder.path(), LIMIT)?;
    second.expect_code(hmmgpu::exit::HOST.into())?;
    ensure!(
        second.stderr.contains("gpu.sock"),
        "the socket is not named: {}",
        second.stderr
    );
    // The first one goes on.
    UnixStream::connect(&socket).context("the first server was disturbed")?;
    end(first, Signal::TERM).map(drop)
}

fn replaces_a_dead_socket(program: &Program) -> Result<()> {
    let folder = short_folder()?;
    let socket = folder.path().join("gpu.sock");
    drop(UnixListener::bind(&socket)?);
    ensure!(socket.exists(), "a dead socket's file stays");
    let running = start(program, folder.path())?;
    UnixStream::connect(&socket).context("nobody listens")?;
    end(running, Signal::INT).map(drop)
}

fn writes_its_telemetry(program: &Program) -> Result<()> {
    for signal in [Signal::TERM, Signal::INT] {
        let folder = short_folder()?;
        end(start(program, folder.path())?, signal)?;
        let file = folder.path().join("telemetry.json");
        let text = std::fs::read_to_string(&file).context("no telemetry")?;
        let snapshot: Snapshot = serde_json::from_str(&text).context("it cannot be read")?;
        ensure!(snapshot.schema == SCHEMA, "schema {}", snapshot.schema);
        ensure!(
            snapshot.vram.bytes == 64 << 20,
            "VRAM {}",
            snapshot.vram.bytes
        );
        std::fs::remove_file(&file)?;
        leftovers::nothing_in(folder.path())?;
    }
    Ok(())
}

fn confines_every_thread(program: &Program) -> Result<()> {
    let folder = short_folder()?;
    // With all that a server can have: control socket, metrics, trace.
    let trace = folder.path().join("trace.json");
    let trace = trace.to_str().context("path")?;
    let running = start_with(
        program,
        folder.path(),
        &["--metrics", "0", "--trace", trace],
    )?;
    confined::expect(running.pid(), true)?;
    // It needs nothing that it gave up.
    let said = end(running, Signal::TERM)?;
    ensure!(!said.contains("refused"), "{said}");
    let names = std::fs::read_dir(folder.path())?.flatten();
    let mut names: Vec<_> = names.map(|entry| entry.file_name()).collect();
    names.sort();
    ensure!(
        names == ["telemetry.json", "trace.json"],
        "it left {names:?}"
    );
    Ok(())
}

fn says_what_no_sandbox_loses(program: &Program) -> Result<()> {
    let folder = short_folder()?;
    let running = start_with(program, folder.path(), &["--no-sandbox"])?;
    confined::expect(running.pid(), false)?;
    let said = end(running, Signal::TERM)?;
    ensure!(
        said.contains("--no-sandbox") && said.contains("all files"),
        "{said}"
    );
    Ok(())
}

fn says_what_a_host_lacks(program: &Program) -> Result<()> {
    if !confined::is_possible() {
        return Ok(());
    }
    let folder = short_folder()?;
    let running = confined::without_either(|| start(program, folder.path()))?;
    let said = end(running, Signal::TERM)?;
    ensure!(
        said.contains("no Landlock") && said.contains("no seccomp"),
        "{said}"
    );
    Ok(())
}

fn is_for_its_owner_alone(program: &Program) -> Result<()> {
    // Nobody but the owner connects, and nobody over a network.
    let folder = short_folder()?;
    let running = start(program, folder.path())?;
    let found = listening::on_the_network(running.pid())?;
    ensure!(found.is_empty(), "it listens on {found:?}");
    ensure!(folder.path().join("gpu.sock").exists(), "no socket");
    let open = listening::open_to_others(folder.path())?;
    ensure!(open.is_empty(), "others can connect to {open:?}");
    end(running, Signal::TERM)?;

    // Asked to, it is found on this host alone: 127.0.0.1.
    let folder = short_folder()?;
    let running = start_with(program, folder.path(), &["--metrics", "0"])?;
    let found = listening::on_the_network(running.pid())?;
    let loopback = format!("tcp {:08X}:", u32::from_ne_bytes([127, 0, 0, 1]));
    ensure!(
        found.len() == 1 && found[0].starts_with(&loopback),
        "it listens on {found:?}"
    );
    end(running, Signal::TERM).map(drop)
}
