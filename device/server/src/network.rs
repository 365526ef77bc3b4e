//! The thread for whoever looks at the device: control socket and metrics.
//!
//! One thread with a single-threaded runtime serves all of them, so that they are never in the
//! way of engines and of the vfio-user client, and cannot use more than one processor.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::{Mutex, MutexGuard, oneshot};
use tokio::time::{Instant, sleep_until};

/// Least time from one snapshot to the next: whatever clients ask for, engines are held up no more
/// often.
const PACE: Duration = Duration::from_millis(5);
/// Threads for snapshots of other processes.
const BLOCKING_THREADS: usize = 2;

/// Something that listens, as a task that runs until it is dropped.
pub(crate) type Service = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The thread. Dropping it closes all connections and waits for its end.
#[derive(Debug)]
pub(crate) struct Network {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Network {
    /// Starts the thread with these services.
    ///
    /// # Errors
    /// When the host refuses a thread or an event queue.
    pub(crate) fn start(services: Vec<Service>) -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS)
            .build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("network".to_owned())
            .spawn(move || {
                for service in services {
                    runtime.spawn(service);
                }
                // The sender says so by going away.
                let _ = runtime.block_on(stopped);
                // Not waiting for what asks other processes.
                runtime.shutdown_background();
            })?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of control socket and metrics had failed");
        }
    }
}

/// Whose turn it is to take a snapshot: one at a time, and not too often.
#[derive(Debug, Default)]
pub(crate) struct Pace(Mutex<Option<Instant>>);

/// Taking a snapshot is for whoever holds it.
pub(crate) struct Turn<'a>(MutexGuard<'a, Option<Instant>>);

impl Pace {
    /// Waits for the turn, in the order of those who wait.
    pub(crate) async fn turn(&self) -> Turn<'_> {
        let last = self.0.lock().await;
        if let Some(last) = *last {
            sleep_until(last + PACE).await;
        }
        Turn(last)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0 = Some(Instant::now());
    }
}
