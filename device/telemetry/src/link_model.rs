//! The link that is modelled, and how the host keeps up with it.

use serde::{Deserialize, Serialize};

/// A modelled link between guest RAM and VRAM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
pub struct LinkModel {
    /// What was asked for.
    pub spec: String,
    /// From when the last byte was carried until a fence tells of it, in nanoseconds.
    pub latency_ns: u64,
    /// From guest RAM to VRAM.
    pub to_device: LinkLane,
    /// From VRAM to guest RAM.
    pub to_system: LinkLane,
}

/// One way over a modelled link, since the link was set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "emit", derive(schemars::JsonSchema))]
pub struct LinkLane {
    /// Rate that was asked for.
    pub bytes_per_second: u64,
    /// Bytes that went over it.
    pub bytes: u64,
    /// Time in which something was on its way. Bytes over this time is the rate that was reached;
    /// where it is below the one that was asked for, the host copies no faster.
    pub busy_ns: u64,
}

/// Share of a rate that counts as reached.
const REACHED: f64 = 0.95;
/// Bytes that are too few to tell.
const FEW_BYTES: u64 = 16 << 20;

impl LinkLane {
    /// Bytes a second that were reached; `None` where nothing was on its way.
    #[allow(clippy::cast_precision_loss)] // Good for a rate.
    pub fn reached(&self) -> Option<f64> {
        (self.busy_ns > 0).then(|| self.bytes as f64 * 1e9 / self.busy_ns as f64)
    }

    /// The rate that was reached where it is clearly not the one that was asked for: the host is
    /// slower than the link.
    #[allow(clippy::cast_precision_loss)] // Good for a rate.
    pub fn short(&self) -> Option<f64> {
        let wanted = self.bytes_per_second as f64;
        self.reached()
            .filter(|reached| self.bytes >= FEW_BYTES && *reached < wanted * REACHED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_is_slower_than_the_link_is_told_from_one_that_is_not() {
        let lane = |bytes, busy_ns| LinkLane {
            bytes_per_second: 10_000_000_000,
            bytes,
            busy_ns,
        };
        assert_eq!(lane(100_000_000, 10_000_000).short(), None);
        assert_eq!(lane(100_000_000, 10_400_000).short(), None);
        assert_eq!(lane(100_000_000, 20_000_000).short(), Some(5e9));
        // Too few to tell, and none at all.
        assert_eq!(lane(1_000_000, 20_000_000).short(), None);
        assert_eq!(lane(0, 0).reached(), None);
    }
}
