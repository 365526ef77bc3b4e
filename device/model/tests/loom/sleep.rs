//! An engine that goes to sleep against a driver that submits.

use std::convert::Infallible;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU32};
use loom::thread;

use crate::kick::ask_then_look;
use crate::sync::{Ordering, fence};

#[derive(Default)]
struct Header {
    producer: AtomicU32,
    need_kick: AtomicU32,
    doorbell: AtomicBool,
}

#[test]
fn what_is_submitted_is_seen_or_the_doorbell_is_rung() {
    loom::model(|| {
        let header = Arc::new(Header::default());
        let driver = {
            let header = header.clone();
            thread::spawn(move || {
                header.producer.store(1, Ordering::Release);
                fence(Ordering::SeqCst);
                if header.need_kick.load(Ordering::Acquire) != 0 {
                    header.doorbell.store(true, Ordering::Relaxed);
                }
            })
        };
        let Ok(seen) = ask_then_look(
            || {
                header.need_kick.store(1, Ordering::Release);
                Ok::<_, Infallible>(())
            },
            || Ok(header.producer.load(Ordering::Acquire)),
        );
        driver.join().expect("driver");
        assert!(seen == 1 || header.doorbell.load(Ordering::Relaxed));
    });
}
