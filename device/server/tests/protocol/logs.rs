//! Clients that do wrong without end do not fill the log: neither in one session, nor by a session
//! for each line.

use std::net::Shutdown;
use std::sync::{Arc, Mutex};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::bytes;
use crate::common::*;
use crate::serve::Running;

/// How often each thing is done.
const STORM: usize = 200;
/// Of so many lines of a kind the 1st, 2nd, 4th and so on up to the 128th.
const LOGGED: usize = 8;

/// The level of each line, in order.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<Level>>>);

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.0
            .lock()
            .expect("lines")
            .push(*event.metadata().level());
    }
}

impl Lines {
    /// How many warnings there were since the last time, and how many other lines.
    fn take(&self) -> (usize, usize) {
        let lines = std::mem::take(&mut *self.0.lock().expect("lines"));
        let warnings = lines.iter().filter(|level| **level <= Level::WARN).count();
        (warnings, lines.len() - warnings)
    }
}

/// A command that is refused, and wants no answer; a read of a region that is not there; a map that
/// is no whole page.
fn does_wrong(client: &mut Raw) {
    client.post(DEVICE_GET_INFO, &[]);
    client.read(99, 0, 4);
    let map = bytes![32u32, 3u32, 0u64, 1u64, 1u64];
    client.call_with(DMA_MAP, &map, &[]).fails(EINVAL);
}

#[test]
fn storms_of_clients_that_do_wrong_are_logged_occasionally() {
    // The lines of all threads are counted.
    if !alone("logs::storms_of_clients_that_do_wrong_are_logged_occasionally") {
        return;
    }
    let lines = Lines::default();
    let shown = lines.clone().with_filter(LevelFilter::INFO);
    let subscriber = tracing_subscriber::registry().with(shown);
    tracing::subscriber::set_global_default(subscriber).expect("the only one");
    let server = Running::start();
    let storm = |act: &dyn Fn(&mut Raw)| {
        for _ in 0..STORM {
            let mut client = Raw::connect(&server.socket);
            act(&mut client);
            // The end comes when the server has said what it will.
            client.expect_end();
        }
        lines.take()
    };
    let leave = |client: &mut Raw| {
        client.stream.shutdown(Shutdown::Write).expect("shutdown");
    };

    // No message.
    let noise = storm(&|client| client.send(&[0xff; 64], &[]));
    let connected = LOGGED;
    assert_eq!(noise, (LOGGED, connected));

    // Nothing at all.
    let silence = storm(&leave);
    // The one behind the first 200 that connect is the 256th.
    let (connected, gone) = (1, LOGGED);
    assert_eq!(silence, (0, connected + gone));

    // A session each, in which three things go wrong. The device is reset after each, and says so.
    let sessions = storm(&|client| {
        client.call(VERSION, &version(0, 0, QEMU_JSON)).ok();
        does_wrong(client);
        leave(client);
    });
    let reset = LOGGED;
    assert_eq!(sessions, (3 * LOGGED, connected + gone + reset));

    // As many again in one session: the 256th of each.
    let mut client = Raw::negotiated(&server.socket);
    (0..STORM).for_each(|_| does_wrong(&mut client));
    assert_eq!(lines.take(), (3, 0));
    drop(client);
    server.stop();
}
