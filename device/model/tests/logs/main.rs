//! What a guest does without end does not fill the logs. A process of its own: it takes the
//! messages of all threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hmmgpu_contract::regs::{QUEUE_STATUS_ERROR, QueueReg};
use hmmgpu_model::mock::{Driver, GuestRam, QueueConfig};
use hmmgpu_model::{Config, Device, ResetCause};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// Counts messages.
#[derive(Clone, Default)]
struct Messages(Arc<AtomicUsize>);

impl<S: Subscriber> Layer<S> for Messages {
    fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn storms_of_stopped_queues_and_resets_are_logged_occasionally() {
    const STORM: usize = 200;
    // The 1st, 2nd, 4th and so on up to the 128th.
    const LOGGED: usize = 8;
    let messages = Messages::default();
    let shown = messages.clone().with_filter(LevelFilter::INFO);
    let subscriber = tracing_subscriber::registry().with(shown);
    tracing::subscriber::set_global_default(subscriber).unwrap();
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
