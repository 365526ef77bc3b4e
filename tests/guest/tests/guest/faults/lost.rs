//! Faults after which only a reset helps, or nothing: who loses what, and that all works again.

use anyhow::Result;
use hmmgpu_telemetry::snapshot::FaultOutcome;
use hmmgpu_vm_tests::program::Program;

use super::guest::{Guest, LIMIT};
use super::{ALL_RIGHT, EIO, MOVED};
use crate::short_folder;

const ALL_LOST: &str = "right 0 wrong 0 refused 2048";
const SIGBUS: &str = "Signal(7)";
const ENODEV: &str = "error 19";
const ETIMEDOUT: &str = "error 110";

/// Two processes, and the shell of the guest. A line says who does what.
const GUEST: &str = "mkfifo /tmp/owner /tmp/other
hmmgpu-outcome --name owner </tmp/owner & owner=$!
hmmgpu-outcome --name other </tmp/other &
exec 5>/tmp/owner 6>/tmp/other
while read -r who what; do
    case $who in
        owner) echo \"$what\" >&5 ;;
        other) echo \"$what\" >&6 ;;
        shell) eval \"$what\"; echo \"shell $what: $?\" ;;
    esac
done
exec 5>&- 6>&-
wait";

const UNBIND: &str = "shell echo 0000:00:02.0 >/sys/bus/pci/drivers/hmmgpu/unbind";
const BIND: &str = "shell echo 0000:00:02.0 >/sys/bus/pci/drivers/hmmgpu/bind";

pub(super) fn each_has_its_outcome(program: &Program) -> Result<()> {
    let folder = short_folder()?;
    let ready = ["ready", "ready"];
    let mut guest = Guest::boot(program, folder.path(), GUEST, &ready)?;
    guest.step("owner parameter fence_timeout_ms 1000", "done")?;
    an_engine_that_hangs(&mut guest)?;
    a_device_that_resets(&mut guest)?;
    fences_that_are_all_lost(&mut guest)?;
    invalidations_that_all_fail(&mut guest)?;
    a_device_that_goes(&mut guest)?;
    memory_that_cannot_be_brought_home(&mut guest)?;
    guest.running.finish(LIMIT)?.expect_code(0)
}

/// It works for both, whatever was before, and all they have is at home afterwards.
const ALL_WORKS: [(&str, &str); 8] = [
    ("owner to-device", "skipped 0 error none"),
    ("other to-device", "skipped 0 error none"),
    ("owner job", "right"),
    ("other job", "right"),
    ("owner home", MOVED),
    ("other home", MOVED),
    ("owner read", ALL_RIGHT),
    ("other read", ALL_RIGHT),
];

fn an_engine_that_hangs(guest: &mut Guest<'_>) -> Result<()> {
    guest.step("other to-device", MOVED)?;
    let steps = [
        ("owner to-device", "moved 0"),
        // What did not get there stayed, and the next request works.
        ("owner read", ALL_RIGHT),
        ("owner job", "right"),
        // What was there is lost.
        ("other home", EIO),
        ("other job", EIO),
        ("other read", ALL_LOST),
        ("other touch", SIGBUS),
        ("other renew", "done"),
    ];
    guest.with("engine:hang", FaultOutcome::ResetByDriver, &steps)?;
    guest.steps(&ALL_WORKS)?;
    // In the middle of a request, of which some is there already.
    let steps = [("owner to-device", ETIMEDOUT), ("owner read", "wrong 0")];
    guest.with("engine:hang@2", FaultOutcome::ResetByDriver, &steps)?;
    guest.steps(&[("owner renew", "done")])?;
    guest.steps(&ALL_WORKS)
}

fn a_device_that_resets(guest: &mut Guest<'_>) -> Result<()> {
    // At once, while nothing is under way.
    guest.step("owner to-device", MOVED)?;
    let steps = [
        ("owner job", EIO),
        ("owner read", ALL_LOST),
        ("owner touch", SIGBUS),
        ("other read", ALL_RIGHT),
        ("other job", "right"),
        ("owner renew", "done"),
    ];
    guest.with("gpu:reset", FaultOutcome::Reset, &steps)?;
    guest.steps(&[("other home", "error none")])?;
    guest.steps(&ALL_WORKS)?;
    // In the middle of a request.
    let steps = [
        ("owner to-device", EIO),
        ("owner read", "wrong 0"),
        ("other read", ALL_RIGHT),
        ("owner renew", "done"),
    ];
    guest.with("gpu:reset@3", FaultOutcome::Reset, &steps)?;
    guest.steps(&ALL_WORKS)
}

fn fences_that_are_all_lost(guest: &mut Guest<'_>) -> Result<()> {
    let steps = [("owner to-device", EIO), ("owner read", ALL_RIGHT)];
    guest.with("fence:drop@every:1", FaultOutcome::Lost, &steps)?;
    guest.steps(&ALL_WORKS)
}

/// An invalidation must not fail, for the memory is given away after it: the device is reset.
fn invalidations_that_all_fail(guest: &mut Guest<'_>) -> Result<()> {
    guest.steps(&[
        ("other to-device", MOVED),
        ("owner to-device", MOVED),
        // From now on the GPU has translations of it.
        ("owner job", "right"),
    ])?;
    let steps = [
        ("owner home", EIO),
        ("owner read", ALL_LOST),
        ("owner touch", SIGBUS),
        ("other read", ALL_LOST),
        ("owner renew", "done"),
        ("other renew", "done"),
    ];
    let fault = "fence.invalidation:fail@every:1";
    guest.with(fault, FaultOutcome::ResetByDriver, &steps)?;
    guest.steps(&ALL_WORKS)
}

fn a_device_that_goes(guest: &mut Guest<'_>) -> Result<()> {
    guest.step("owner to-device", MOVED)?;
    let steps = [
        ("owner touch", SIGBUS),
        ("owner read", ALL_LOST),
        ("owner to-device", ENODEV),
        ("owner job", ENODEV),
        ("other read", ALL_RIGHT),
        ("other to-device", ENODEV),
        ("other job", ENODEV),
        ("other read", ALL_RIGHT),
    ];
    guest.with("gpu:gone", FaultOutcome::Gone, &steps)?;
    // It is there again, which takes the driver some help to find out.
    guest.steps(&[
        ("owner job", ENODEV),
        ("owner renew", "done"),
        (UNBIND, ": 0"),
        (BIND, ": 0"),
        ("owner reopen", "done"),
        ("other reopen", "done"),
    ])?;
    guest.steps(&ALL_WORKS)
}

/// The driver goes while no copy home works: what is in VRAM is lost with it, and so are those who
/// own it, for the kernel has nowhere to put it.
fn memory_that_cannot_be_brought_home(guest: &mut Guest<'_>) -> Result<()> {
    guest.step("owner to-device", MOVED)?;
    let steps = [
        (UNBIND, ": 0"),
        ("shell wait $owner", ": 137"),
        ("other read", ALL_RIGHT),
        (BIND, ": 0"),
        ("other reopen", "done"),
    ];
    let fault = "copy.dev_to_sys:fail@every:1";
    guest.with(fault, FaultOutcome::Told, &steps)?;
    guest.steps(&[
        ("other to-device", MOVED),
        ("other job", "right"),
        ("other home", MOVED),
        ("other read", ALL_RIGHT),
    ])
}
