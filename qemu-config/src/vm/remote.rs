//! Reaching into a run from another thread.

use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::Sender;

/// What a running machine can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// End it: it is lost, for this reason.
    Stop(String),
    /// Ask the guest to let go of a GPU, and take it away then. The GPU has to be pluggable.
    Unplug(u32),
    /// Attach a GPU that was taken away.
    Replug(u32),
    /// Press the power button: it wakes a guest that is suspended to idle.
    PressPower,
}

/// Clones reach into the same run; before it begins and after it has ended nobody listens.
#[derive(Clone, Debug, Default)]
pub struct Remote(Arc<Mutex<Option<Sender<Order>>>>);

impl Remote {
    /// Gives an order. It is carried out soon; one that QEMU refuses is a warning in the log.
    pub fn order(&self, order: Order) {
        if let Some(sender) = self.slot().as_ref() {
            let _ = sender.send(order);
        }
    }

    pub(super) fn listen(&self, sender: Option<Sender<Order>>) {
        *self.slot() = sender;
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Sender<Order>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_reach_whoever_listens() {
        let remote = Remote::default();
        remote.order(Order::Unplug(0));
        let (sender, orders) = crossbeam_channel::unbounded();
        remote.listen(Some(sender));
        remote.clone().order(Order::Replug(1));
        assert_eq!(orders.try_recv(), Ok(Order::Replug(1)));
        remote.listen(None);
        remote.order(Order::Unplug(0));
        assert!(orders.try_recv().is_err());
    }
}
