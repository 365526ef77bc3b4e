//! Reset causes.

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
}
