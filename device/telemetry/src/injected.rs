//! What was made to go wrong on purpose.

use serde::{Deserialize, Serialize};

/// Where a fault is injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum FaultSite {
    /// A COPY or FILL.
    Copy,
    /// A FENCE of a copy queue or of the invalidation queue.
    Fence,
    /// An interrupt.
    Interrupt,
    /// A record for the fault queue.
    Fault,
    /// The translation of an address for a job.
    Translation,
    /// A copy engine, when it begins a COPY or FILL.
    Engine,
    /// A COPY or FILL into VRAM.
    Vram,
    /// The device as a whole, when it begins a COPY or FILL.
    Gpu,
}

impl FaultSite {
    /// The name in a snapshot.
    pub fn name(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Fence => "fence",
            Self::Interrupt => "interrupt",
            Self::Fault => "fault",
            Self::Translation => "translation",
            Self::Engine => "engine",
            Self::Vram => "vram",
            Self::Gpu => "gpu",
        }
    }
}

/// What is made to go wrong there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum FaultAction {
    /// It ends with an error.
    Fail,
    /// It is done wrong.
    Corrupt,
    /// It is done late.
    Delay,
    /// It is not done, and nobody is told.
    Drop,
    /// The engine stands still.
    Hang,
    /// There is no VRAM from an offset on.
    Full,
    /// The device resets itself.
    Reset,
    /// The device is not there any more.
    Gone,
}

impl FaultAction {
    /// The name in a snapshot.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::Corrupt => "corrupt",
            Self::Delay => "delay",
            Self::Drop => "drop",
            Self::Hang => "hang",
            Self::Full => "full",
            Self::Reset => "reset",
            Self::Gone => "gone",
        }
    }
}

/// What came of an injected fault, as far as the device can see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum FaultOutcome {
    /// The driver was told of an error.
    Told,
    /// The driver was told that all is well, which is not so.
    Untold,
    /// It was done late.
    Late,
    /// It was never done.
    Lost,
    /// The device reset itself.
    Reset,
    /// The device was gone.
    Gone,
    /// Afterwards the driver reset the device by its register.
    ResetByDriver,
    /// Afterwards the function was reset, by the guest or by the client, or because all faults were
    /// cleared while it was gone.
    ResetByBus,
    /// Afterwards the client went away.
    ClientLeft,
}

impl FaultOutcome {
    /// The name in a snapshot.
    pub fn name(self) -> &'static str {
        match self {
            Self::Told => "told",
            Self::Untold => "untold",
            Self::Late => "late",
            Self::Lost => "lost",
            Self::Reset => "reset",
            Self::Gone => "gone",
            Self::ResetByDriver => "reset_by_driver",
            Self::ResetByBus => "reset_by_bus",
            Self::ClientLeft => "client_left",
        }
    }
}

/// A fault that was armed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
pub struct InjectedFault {
    /// What was asked for.
    pub spec: String,
    /// Where.
    pub site: FaultSite,
    /// What.
    pub action: FaultAction,
    /// It may hit again.
    pub armed: bool,
    /// Times that it could have hit since it was armed.
    pub seen: u64,
    /// Times that it hit.
    pub hits: u64,
    /// When it hit last, on the host's monotonic clock in nanoseconds; 0: not yet.
    pub last_ns: u64,
    /// What came of it: `[outcome, times]`.
    pub outcomes: Vec<(FaultOutcome, u64)>,
}
