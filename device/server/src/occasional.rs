//! Bounds what a client can write into the log.

/// Counts what a client can cause at will, and says when it is worth a line in the log: at
/// every power of two.
#[derive(Debug, Default)]
pub(crate) struct Occasional(u64);

impl Occasional {
    /// How often it has happened, this time included, if that is worth a line.
    pub(crate) fn count(&mut self) -> Option<u64> {
        self.0 += 1;
        self.0.is_power_of_two().then_some(self.0)
    }
}
