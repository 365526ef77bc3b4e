//! The lines of the log that clients cause.
//!
//! A client can connect as often as it likes, and do wrong each time. So what bounds these lines
//! belongs to the server and outlives its clients.

use std::fmt::Display;
use std::time::Duration;

use hmmgpu_model::{DmaError, LostMemory, Occasional};
use rustix::io::Errno;
use tracing::{info, warn};

use crate::connection::ConnectionError;

/// What clients have caused so far. Of the lines of one kind it logs the first, the second, the
/// fourth and so on, each with how many there were.
#[derive(Debug, Default)]
pub struct ClientLog {
    connected: Occasional,
    gone: Occasional,
    /// Those that have gone without negotiating, so that they do not hide the others.
    strangers_gone: Occasional,
    silent: Occasional,
    dropped: Occasional,
    lost_memory: Occasional,
    unanswered: Occasional,
    failed_reads: Occasional,
    refused_maps: Occasional,
}

impl ClientLog {
    pub(crate) fn connected(&self) {
        if let Some(times) = self.connected.count() {
            info!(times, "client connected");
        }
    }

    pub(crate) fn gone(&self, negotiated: bool) {
        let kind = match negotiated {
            true => &self.gone,
            false => &self.strangers_gone,
        };
        if let Some(times) = kind.count() {
            info!(negotiated, times, "client has gone");
        }
    }

    pub(crate) fn silent(&self, patience: Duration) {
        if let Some(times) = self.silent.count() {
            warn!(
                times,
                "client dropped: it did not negotiate within {patience:?}"
            );
        }
    }

    pub(crate) fn dropped(&self, error: &ConnectionError) {
        log_drop(&self.dropped, error);
    }

    pub(crate) fn lost_memory(&self, lost: &LostMemory) {
        log_drop(&self.lost_memory, lost);
    }

    pub(crate) fn unanswered(&self, command: u16, errno: Errno) {
        if let Some(times) = self.unanswered.count() {
            warn!(
                command,
                times, "failed, and the client takes no answer: {errno}"
            );
        }
    }

    pub(crate) fn failed_read(&self, index: u32, offset: u64, count: u32, errno: Errno) {
        if let Some(times) = self.failed_reads.count() {
            warn!(
                index,
                offset, count, times, "read answered with all-ones: {errno}"
            );
        }
    }

    /// QEMU only prints that a map failed, and not why.
    pub(crate) fn refused_map(&self, error: &DmaError) {
        if let Some(times) = self.refused_maps.count() {
            warn!(times, "DMA map refused: {error}");
        }
    }
}

fn log_drop(kind: &Occasional, why: &dyn Display) {
    if let Some(times) = kind.count() {
        warn!(times, "client dropped: {why}");
    }
}
