//! What goes wrong with a COPY or FILL, and with the engine and the device that do it.

use std::time::{Duration, Instant};

use hmmgpu_telemetry::snapshot::{Direction, FaultOutcome, FaultSite};
use vm_memory::Bytes;

use super::armed::Hit;
use super::spec::Action;
use crate::clock::now_ns;
use crate::command::{Place, Transfer};
use crate::dma::Access;
use crate::queue::{Ended, Run};

/// How an engine goes on with a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// As ever.
    Go,
    /// It is not done, and ends with `STATUS_HARDWARE`.
    Fail,
    /// It is not done, as VRAM ends in front of it.
    NoVram,
    /// It is not done, and ends well.
    Skip,
    /// It is done, and then not what it should be.
    Corrupt(Hit),
}

fn part(direction: Direction) -> &'static str {
    match direction {
        Direction::SysToDev => "sys_to_dev",
        Direction::DevToSys => "dev_to_sys",
        Direction::DevToDev => "dev_to_dev",
        Direction::SysToSys => "sys_to_sys",
    }
}

/// The byte in VRAM behind a transfer, if it goes there.
fn end_in_vram(transfer: &Transfer) -> Option<u64> {
    match transfer.dst {
        Place::Vram(offset) => Some(offset.saturating_add(transfer.bytes)),
        Place::System(_) => None,
    }
}

impl Run<'_> {
    /// A transfer is about to begin, and something is armed that may concern it. Engine and device
    /// go first, then VRAM, then the transfer itself.
    ///
    /// # Errors
    /// The run has ended, maybe for that.
    pub(crate) fn begin_injected(&mut self, transfer: &Transfer) -> Result<Verdict, Ended> {
        let shared = self.shared;
        let ask = |site, part| shared.inject.ask(site, part, now_ns());
        if let Some(hit) = ask(FaultSite::Gpu, "") {
            self.keep_none();
            if shared.happen_to_gpu(hit) {
                return Err(Ended);
            }
        }
        if let Some(hit) = ask(FaultSite::Engine, "") {
            let time = match hit.action {
                Action::Hang(time) => time,
                _ => None,
            };
            shared.injected(&hit, FaultOutcome::Late);
            self.stand_still(time, &hit)?;
        }
        if let Some(end) = end_in_vram(transfer) {
            let beyond = |action| matches!(action, Action::Full(bytes) if end > bytes);
            let inject = &shared.inject;
            if let Some(hit) = inject.ask_if(FaultSite::Vram, "", now_ns(), beyond) {
                shared.injected(&hit, FaultOutcome::Told);
                return Ok(Verdict::NoVram);
            }
        }
        let Some(hit) = ask(FaultSite::Copy, part(transfer.direction())) else {
            return Ok(Verdict::Go);
        };
        let (outcome, verdict) = match hit.action {
            Action::Fail => (FaultOutcome::Told, Verdict::Fail),
            Action::Drop => (FaultOutcome::Untold, Verdict::Skip),
            Action::Corrupt => (FaultOutcome::Untold, Verdict::Corrupt(hit)),
            Action::Delay(time) => {
                self.stand_still(Some(time), &hit)?;
                (FaultOutcome::Late, Verdict::Go)
            }
            _ => return Ok(Verdict::Go),
        };
        shared.injected(&hit, outcome);
        Ok(verdict)
    }

    /// Does nothing for a time, or for ever, until all is disarmed. Whoever disarms, or ends the
    /// run, wakes the engine.
    ///
    /// # Errors
    /// The run has ended.
    pub(crate) fn stand_still(&mut self, time: Option<Duration>, hit: &Hit) -> Result<(), Ended> {
        self.keep_none();
        let end = time.map(|time| Instant::now() + time);
        while self.shared.inject.stands(hit) {
            if !self.lasts() {
                return Err(Ended);
            }
            match end.map(|end| end.saturating_duration_since(Instant::now())) {
                None => std::thread::park(),
                Some(Duration::ZERO) => break,
                Some(left) => std::thread::park_timeout(left),
            }
        }
        Ok(())
    }

    /// Spoils what a transfer has written: one bit of one byte, another one with each hit.
    pub(crate) fn spoil(&mut self, transfer: &Transfer, hit: Hit) -> Result<(), Ended> {
        let permit = self.permit()?;
        // A prime, so that bytes in all pages have their turn.
        let at = hit.number.wrapping_mul(1_000_003) % transfer.bytes;
        let memory = self.shared.memory(&permit);
        // It has just been written to.
        if let Ok(byte) = memory.slice(transfer.dst.at(at), 1, Access::Write) {
            let mut value = [0];
            let bit = 1 << (hit.number % 8);
            let _ = byte.read_slice(&mut value, 0);
            let _ = byte.write_slice(&[value[0] ^ bit], 0);
        }
        self.keep(permit, 0);
        Ok(())
    }
}
