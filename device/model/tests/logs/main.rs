//! What a guest does without end does not fill the logs. A process of its own: it takes the
//! messages of all threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hmmgpu_contract::regs::{QUEUE_STATUS_ERROR, QueueReg};
use hmmgpu_model::mock::{Driver, GuestRam, QueueConfig};
use hmmgpu_model::{Config, Device, ResetCause};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Counts messages that are shown by default.
#[derive(Clone, Default)]
struct Messages(Arc<AtomicUsize>);

impl Subscriber for Messages {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[test]
fn storms_of_stopped_queues_and_resets_are_logged_occasionally() {
    const STORM: usize = 200;
    // The 1st, 2nd, 4th and so on up to the 128th.
    const LOGGED: usize = 8;
    let messages = Messages::default();
    tracing::subscriber::set_global_default(messages.clone()).unwrap();
    let device = Arc::new(Device::new(Config::default()).unwrap());
    let ram = GuestRam::new(1 << 32, 1 << 19).unwrap();
    let mut driver = Driver::new(device, ram, QueueConfig::default()).unwrap();
    for _ in 0..STORM {
        driver.publish(u32::MAX);
        driver
            .until("queue that stopped", |driver| {
                driver.read_queue(QueueReg::QUEUE_STATUS) == QUEUE_STATUS_ERROR
            })
            .unwrap();
        driver.stop();
        driver.start().unwrap();
    }
    assert_eq!(messages.0.load(Ordering::SeqCst), LOGGED);
    for _ in 0..STORM {
        driver.function().reset(ResetCause::Register);
    }
    assert_eq!(messages.0.load(Ordering::SeqCst), 2 * LOGGED);
}
