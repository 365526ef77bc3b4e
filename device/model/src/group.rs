//! Transfers that are timed together: to read the clock after each page of 4 KiB would take a
//! tenth of the time that the page itself does.

use hmmgpu_contract::desc::Status;
use hmmgpu_telemetry::snapshot::{Direction, Trigger};
use hmmgpu_telemetry::{Record, TransferKind};

use crate::command::{Source, Transfer};
use crate::link::Way;

/// Bytes at which a group is full: some 10 us of copying. What is as long is timed alone.
pub(crate) const BYTES: u64 = 64 << 10;

/// What transfers of a group have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    kind: TransferKind,
    order: u8,
    direction: Direction,
    trigger: Trigger,
}

impl From<&Transfer> for Kind {
    fn from(transfer: &Transfer) -> Self {
        Self {
            kind: match transfer.src {
                Source::Place(_) => TransferKind::Copy,
                Source::Pattern(_) => TransferKind::Fill,
            },
            order: transfer.order,
            direction: transfer.direction(),
            trigger: transfer.trigger,
        }
    }
}

/// Transfers of one kind that followed each other in the ring.
#[derive(Debug)]
pub(crate) struct Group {
    kind: Kind,
    descriptors: u32,
    folios: u32,
    bytes: u64,
    waited_ns: u64,
    status: Status,
}

impl Group {
    /// A group of what begins now, after `waited_ns` in the ring.
    pub(crate) fn new(kind: Kind, waited_ns: u64) -> Self {
        Self {
            kind,
            descriptors: 0,
            folios: 0,
            bytes: 0,
            waited_ns,
            status: Status::STATUS_OK,
        }
    }

    /// Whether a transfer of this kind may come next.
    pub(crate) fn takes(&self, kind: Kind) -> bool {
        self.kind == kind && self.bytes < BYTES
    }

    /// Bytes of short transfers that fit into it.
    pub(crate) fn room(&self) -> u64 {
        BYTES.saturating_sub(self.bytes)
    }

    /// The transfer that came next has ended. One that failed has a group of its own.
    pub(crate) fn add(&mut self, transfer: &Transfer, status: Status) {
        self.status = status;
        self.descriptors += 1;
        self.folios = self.folios.saturating_add(transfer.count);
        self.bytes = self.bytes.saturating_add(transfer.bytes);
    }

    /// Nothing was added yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.descriptors == 0
    }

    /// What of it went over the link, and which way; what failed did not.
    pub(crate) fn on_link(&self) -> Option<(Way, u64)> {
        let fill = self.kind.kind == TransferKind::Fill;
        let way = Way::of(self.kind.direction, fill)?;
        (self.status == Status::STATUS_OK).then_some((way, self.bytes))
    }

    /// What telemetry is told: all took the same time, one after the other.
    pub(crate) fn record(self, engine_ns: u64, end_ns: u64) -> Record {
        let Kind {
            kind,
            order,
            direction,
            trigger,
        } = self.kind;
        let others = u64::from(self.descriptors.saturating_sub(1));
        let one_ns = engine_ns / (others + 1);
        Record::Transfer {
            kind,
            order,
            direction,
            trigger,
            descriptors: self.descriptors,
            folios: self.folios,
            engine_ns,
            waited_ns: self.waited_ns.saturating_add(one_ns * others / 2),
            end_ns,
            status: self.status,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Place;

    fn transfer(count: u32) -> Transfer {
        Transfer {
            order: 0,
            count,
            bytes: u64::from(count) * 4096,
            dst: Place::Vram(0),
            src: Source::Place(Place::System(0)),
            trigger: Trigger::Prefetch,
            checksum: None,
        }
    }

    #[test]
    fn a_group_is_full_at_64_kib_and_of_one_kind() {
        let page = transfer(1);
        let mut group = Group::new((&page).into(), 100);
        let evicted = Transfer {
            trigger: Trigger::Evict,
            ..page
        };
        assert!(group.is_empty() && !group.takes((&evicted).into()));
        for done in 0..16 {
            assert!(group.takes((&page).into()));
            assert_eq!(group.room(), (16 - done) * 4096);
            group.add(&page, Status::STATUS_OK);
        }
        assert!(!group.takes((&page).into()));
        let Record::Transfer {
            descriptors,
            folios,
            engine_ns,
            waited_ns,
            ..
        } = group.record(1600, 5000)
        else {
            panic!("a transfer");
        };
        assert_eq!((descriptors, folios, engine_ns), (16, 16, 1600));
        // The first began at once, and the last when fifteen of 100 ns were done.
        assert_eq!(waited_ns, 100 + 1500 / 2);
    }

    #[test]
    fn what_is_as_long_is_alone() {
        let long = transfer(16);
        let mut group = Group::new((&long).into(), 100);
        group.add(&long, Status::STATUS_OK);
        assert!(!group.takes((&long).into()));
    }
}
