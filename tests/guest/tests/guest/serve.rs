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

use crate::{Check, short_folder, trials_of};

const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn trials(program: &Arc<Program>) -> Vec<Trial> {
    let checks: [Check; 3] = [
        ("serve::refuses_a_live_socket", refuses_a_live_socket),
        ("serve::replaces_a_dead_socket", replaces_a_dead_socket),
        (
            "serve::writes_its_telemetry_when_ended",
            writes_its_telemetry,
        ),
    ];
    trials_of(program, &checks)
}

fn start(program: &Program, folder: &Path) -> Result<Running> {
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
    let mut running = program.start(&arguments, b"", folder)?;
    running.wait_for_line("vfio-user-pci", LIMIT)?;
    Ok(running)
}

fn end(running: Running, signal: Signal) -> Result<()> {
    running.signal(signal)?;
    running.finish(LIMIT)?.expect_code(0)
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
    end(first, Signal::TERM)
}

fn replaces_a_dead_socket(program: &Program) -> Result<()> {
    let folder = short_folder()?;
    let socket = folder.path().join("gpu.sock");
    drop(UnixListener::bind(&socket)?);
    ensure!(socket.exists(), "a dead socket's file stays");
    let running = start(program, folder.path())?;
    UnixStream::connect(&socket).context("nobody listens")?;
    end(running, Signal::INT)
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
