//! Reset: everything of before ends, then VRAM is scrubbed.

use hmmgpu_telemetry::ResetKind;

use crate::clock::now_ns;
use crate::msix::MsixTable;
use crate::shared::{Shared, lock};

/// Why the device is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetCause {
    /// The driver wrote `RESET_CTRL`.
    Register,
    /// Function-level reset by the PCI Express capability.
    Flr,
    /// The client asked for it by the vfio-user protocol.
    VfioUser,
    /// The client went away.
    Disconnect,
    /// A fault that was injected.
    Injected,
}

impl ResetCause {
    fn kind(self) -> ResetKind {
        match self {
            Self::Register => ResetKind::Register,
            Self::Flr => ResetKind::Flr,
            Self::VfioUser => ResetKind::VfioUser,
            Self::Disconnect => ResetKind::Disconnect,
            Self::Injected => ResetKind::Injected,
        }
    }
}

impl Shared {
    /// See [`Device::reset`](crate::Device::reset).
    pub(crate) fn reset(&self, cause: ResetCause) {
        // All of the device's state, so that new state does not compile until it is decided here
        // what a reset does to it.
        let Self {
            vram: _, // scrubbed in the background
            usage,
            telemetry,
            counting: _, // as configured
            check: _,    // as configured
            background,
            engines: _, // by stop_all
            invalidation: _,
            faults,
            contexts: _,
            compute: _, // by wake_contexts
            shutdown: _,
            dma,
            vectors,
            config,
            msix,
            registers,
            may_master: _, // by set_may_master
            client: _,     // whoever it is of
            link_model: _, // is not of the function
            inject,
            late,
            happening: _, // not of the function
            gone: _,      // which nothing but clearing the fault undoes
            resetting,
            queue_stops: _, // of all generations
            resets,
        } = self;
        let _one_at_a_time = lock(resetting);
        let generation = {
            let mut registers = lock(registers);
            registers.reset();
            self.stop_all();
            self.count_contexts();
            registers.generation()
        };
        // The function as the bus sees it; a reset by register is the driver's own affair, and one of
        // the device's own leaves the bus alone.
        if !matches!(cause, ResetCause::Register | ResetCause::Injected) {
            let mut config = lock(config);
            config.reset();
            self.set_may_master(config.may_master());
            *lock(msix) = MsixTable::new();
        }
        // From here on, engines get no permit for what they did before, and have none.
        dma.barrier();
        late.forget();
        lock(registers).drained();
        faults.reset();
        self.wake_contexts();
        let disconnected = cause == ResetCause::Disconnect;
        if disconnected {
            background.unmap(dma.unmap_all());
            dma.lost().forget();
        }
        vectors.reset(disconnected);
        if let Some(usage) = usage {
            usage.forget();
        }
        telemetry.reset(cause.kind(), generation, now_ns());
        inject.reset(cause);
        background.scrub(generation);
        if let Some(times) = resets.count() {
            tracing::info!(?cause, generation, times, "reset");
        }
    }
}
