//! The link between guest RAM and VRAM: how fast it carries what engines copy.
//!
//! Without a model engines copy as fast as the host does. With one, a [`Lane`] for each way keeps a
//! clock of its own: the time at which the link would have carried all that went over it. An engine
//! copies first, and then waits for that time. A fence comes later by the link's latency still.
//!
//! Memory of the device itself (VRAM to VRAM, FILL of VRAM) does not go over the link, nor do rings,
//! fences and page tables, which are small, nor what jobs access in place.

mod lane;
mod spec;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use hmmgpu_telemetry::snapshot::{Direction, LinkModel};

use lane::Lane;
pub use spec::{LinkError, LinkRates, LinkSpec};

/// A way over the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From guest RAM.
    ToDevice,
    /// To guest RAM.
    ToSystem,
}

impl Way {
    /// The way of a transfer. What is copied within guest RAM is read and written: the way back
    /// stands for both.
    pub(crate) fn of(direction: Direction, fill: bool) -> Option<Self> {
        match direction {
            Direction::SysToDev => (!fill).then_some(Self::ToDevice),
            Direction::DevToSys | Direction::SysToSys => Some(Self::ToSystem),
            Direction::DevToDev => None,
        }
    }
}

/// What goes over the link, and when it has arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Due {
    way: Way,
    /// When the link has carried it.
    pub(crate) carried_ns: u64,
    /// When the other side knows of that.
    pub(crate) known_ns: u64,
}

#[derive(Debug)]
struct Model {
    spec: LinkSpec,
    rates: LinkRates,
    to_device: Lane,
    to_system: Lane,
}

impl Model {
    fn lane(&mut self, way: Way) -> (u64, &mut Lane) {
        match way {
            Way::ToDevice => (self.rates.to_device, &mut self.to_device),
            Way::ToSystem => (self.rates.to_system, &mut self.to_system),
        }
    }
}

/// The link of a device. Its lock is a leaf: nothing is locked under it.
#[derive(Debug, Default)]
pub(crate) struct Link {
    modelled: AtomicBool,
    model: Mutex<Option<Model>>,
}

impl Link {
    /// Models that link from now on, or none.
    pub(crate) fn set(&self, spec: LinkSpec) {
        let model = spec.rates().map(|rates| Model {
            rates,
            spec,
            to_device: Lane::default(),
            to_system: Lane::default(),
        });
        self.modelled.store(model.is_some(), Ordering::Relaxed);
        self.with(|current| *current = model);
    }

    fn with<T>(&self, act: impl FnOnce(&mut Option<Model>) -> T) -> T {
        act(&mut self.model.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether there is a model: one load.
    pub(crate) fn modelled(&self) -> bool {
        self.modelled.load(Ordering::Relaxed)
    }

    /// Some bytes that were on their way since `began_ns`: when they arrive.
    pub(crate) fn due(&self, way: Way, began_ns: u64, bytes: u64) -> Option<Due> {
        self.with(|model| {
            let model = model.as_mut()?;
            let latency_ns = u64::try_from(model.rates.latency.as_nanos()).unwrap_or(u64::MAX);
            let (rate, lane) = model.lane(way);
            let carried_ns = lane.due(rate, began_ns, bytes);
            Some(Due {
                way,
                carried_ns,
                known_ns: carried_ns.saturating_add(latency_ns),
            })
        })
    }

    /// Whoever waited for that since `began_ns`, or did not, goes on at `now_ns`; so many bytes began to
    /// be on their way then.
    pub(crate) fn went_on(&self, due: Due, began_ns: u64, now_ns: u64, bytes: u64) {
        self.with(|model| {
            if let Some(model) = model {
                let (_, lane) = model.lane(due.way);
                lane.went_on(due.carried_ns, began_ns, now_ns, bytes);
            }
        });
    }

    /// The other side knows of that now.
    pub(crate) fn knows(&self, due: Due, now_ns: u64) {
        self.with(|model| {
            if let Some(model) = model {
                let (_, lane) = model.lane(due.way);
                lane.knows(due.carried_ns, now_ns);
            }
        });
    }

    /// For a snapshot.
    pub(crate) fn told(&self) -> Option<LinkModel> {
        self.with(|model| {
            let model = model.as_ref()?;
            Some(LinkModel {
                spec: model.spec.to_string(),
                latency_ns: u64::try_from(model.rates.latency.as_nanos()).unwrap_or(u64::MAX),
                to_device: model.to_device.told(model.rates.to_device),
                to_system: model.to_system.told(model.rates.to_system),
            })
        })
    }
}
