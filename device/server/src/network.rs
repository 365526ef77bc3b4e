//! The thread for whoever looks at the device: control socket and metrics.
//!
//! One thread with a single-threaded runtime serves all of them, so that they are never in the
//! way of engines and of the vfio-user client, and cannot use more than one processor.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::thread::JoinHandle;

use tokio::runtime::Builder;
use tokio::sync::oneshot;

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
        let runtime = Builder::new_current_thread().enable_all().build()?;
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
