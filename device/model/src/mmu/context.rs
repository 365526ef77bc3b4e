//! What there is for each context, whoever works on it.

use super::{AddressSpace, PendingFault};
use crate::queue::Control;

/// One context.
#[derive(Debug)]
pub(crate) struct Context {
    /// The run that is allowed. No thread sleeps on it: the scheduler is told to look.
    pub(crate) control: Control,
    pub(crate) space: AddressSpace,
    pub(crate) fault: PendingFault,
}

impl Context {
    pub(crate) fn new() -> Self {
        Self {
            control: Control::default(),
            space: AddressSpace::new(),
            fault: PendingFault::new(),
        }
    }

    /// A run of it begins. For the one who works on it, before anything else of the run.
    pub(crate) fn begin(&self, root: u64) {
        self.fault.forget();
        self.space.start(root);
    }

    /// Its run is over. For the one who has worked on it; nothing waits for that.
    pub(crate) fn end(&self) {
        self.fault.forget();
        self.space.stop();
    }
}
