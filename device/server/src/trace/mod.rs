//! The trace: what engines do, as a file that Perfetto's UI opens.
//!
//! Engines hand over their records in batches through a bounded channel, and never wait: what
//! finds it full is dropped and counted. One thread turns records into events and writes them as
//! they come, so that memory is bounded however long a trace gets, and a server that is killed
//! leaves a file that can be opened.

mod event;
mod scribe;
mod tracks;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use hmmgpu_telemetry::snapshot::{FaultAction, FaultSite, Trace};
use hmmgpu_telemetry::{Observer, Record, ResetKind, Source};
use rustix::time::{ClockId, clock_gettime};
use tracing::warn;

use event::Writer;
use scribe::Scribe;

/// Batches that may wait for the writer; of up to some hundred records each.
const CHANNEL_BATCHES: usize = 1024;
/// How long what was written may stay in memory.
const FLUSH: Duration = Duration::from_millis(100);
/// Memory between the writer and the file.
const BUFFER_BYTES: usize = 256 << 10;

/// What the writer is told.
enum Message {
    /// An engine did this.
    Records {
        source: Source,
        generation: u32,
        /// When it said so.
        time_ns: u64,
        records: Vec<Record>,
    },
    /// The device was reset.
    Reset {
        kind: ResetKind,
        generation: u32,
        time_ns: u64,
    },
    /// A fault was injected.
    Injected {
        site: FaultSite,
        action: FaultAction,
        time_ns: u64,
    },
    /// The trace ends.
    End,
}

/// What engines and the writer share.
#[derive(Debug, Default)]
struct Counts {
    events: AtomicU64,
    dropped: AtomicU64,
    /// Nothing is written any more: it has ended, or the disk is full.
    ended: AtomicBool,
}

/// Hands records over.
#[derive(Debug)]
struct Tracer {
    sender: Sender<Message>,
    counts: Arc<Counts>,
}

/// A trace that is being written. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct TraceWriter {
    tracer: Arc<Tracer>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl TraceWriter {
    /// Makes a thread that writes into a file, which is called `path` in messages. `label` is what
    /// the device is called in it; times count from `started_ns`.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(crate) fn start(file: File, path: &Path, label: &str, started_ns: u64) -> io::Result<Self> {
        let (sender, receiver) = bounded(CHANNEL_BATCHES);
        let counts = Arc::new(Counts::default());
        let output = BufWriter::with_capacity(BUFFER_BYTES, file);
        let (path, label, shared) = (path.to_owned(), label.to_owned(), Arc::clone(&counts));
        let thread = std::thread::Builder::new()
            .name("trace".to_owned())
            .spawn(move || write(&receiver, output, &path, &label, started_ns, &shared))?;
        Ok(Self {
            tracer: Arc::new(Tracer { sender, counts }),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Who is to see the records.
    pub(crate) fn observer(&self) -> Arc<dyn Observer> {
        Arc::clone(&self.tracer) as Arc<dyn Observer>
    }

    /// Writes what has come so far, and the end of the file.
    pub(crate) fn finish(&self) {
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(thread) = thread else { return };
        // Where it has ended by itself nobody listens.
        let _ = self.tracer.sender.send(Message::End);
        if thread.join().is_err() {
            tracing::error!("the trace's thread had failed");
        }
    }
}

impl Drop for TraceWriter {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Tracer {
    fn send(&self, message: Message, records: usize) {
        if !self.counts.ended.load(Ordering::Relaxed) {
            match self.sender.try_send(message) {
                Ok(()) => return,
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
            }
        }
        self.counts
            .dropped
            .fetch_add(records as u64, Ordering::Relaxed);
    }
}

impl Observer for Tracer {
    fn records(&self, source: Source, generation: u32, records: &[Record]) {
        if !records.is_empty() {
            let message = Message::Records {
                source,
                generation,
                time_ns: now_ns(),
                records: records.to_vec(),
            };
            self.send(message, records.len());
        }
    }

    fn reset(&self, kind: ResetKind, generation: u32) {
        let message = Message::Reset {
            kind,
            generation,
            time_ns: now_ns(),
        };
        self.send(message, 1);
    }

    fn injected(&self, site: FaultSite, action: FaultAction, time_ns: u64) {
        let message = Message::Injected {
            site,
            action,
            time_ns,
        };
        self.send(message, 1);
    }

    fn written(&self) -> Trace {
        Trace {
            events: self.counts.events.load(Ordering::Relaxed),
            dropped: self.counts.dropped.load(Ordering::Relaxed),
        }
    }
}

/// Nanoseconds of the clock of records: the host's monotonic clock.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Makes the file of a trace.
///
/// # Errors
/// When it cannot be made, or is no regular file.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    // A pipe without a reader would hang, and a slow one would cost events.
    if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a regular file",
        ));
    }
    File::create(path)
}

/// The writer's thread.
fn write(
    receiver: &Receiver<Message>,
    output: impl Write,
    path: &Path,
    label: &str,
    started_ns: u64,
    counts: &Counts,
) {
    if let Err(error) = write_all(receiver, output, label, started_ns, counts) {
        warn!("the trace {} ends here: {error}", path.display());
    }
    counts.ended.store(true, Ordering::Relaxed);
    // What has come since.
    for message in receiver.try_iter() {
        let records = match message {
            Message::Records { records, .. } => records.len() as u64,
            Message::Reset { .. } | Message::Injected { .. } => 1,
            Message::End => 0,
        };
        counts.dropped.fetch_add(records, Ordering::Relaxed);
    }
}

fn write_all(
    receiver: &Receiver<Message>,
    output: impl Write,
    label: &str,
    started_ns: u64,
    counts: &Counts,
) -> io::Result<()> {
    let mut scribe = Scribe::new(Writer::new(output, started_ns, &counts.events)?, label)?;
    loop {
        match receiver.recv_timeout(FLUSH) {
            Ok(Message::Records {
                source,
                generation,
                time_ns,
                records,
            }) => scribe.records(source, generation, time_ns, &records)?,
            Ok(Message::Reset {
                kind,
                generation,
                time_ns,
            }) => scribe.reset(kind, generation, time_ns)?,
            Ok(Message::Injected {
                site,
                action,
                time_ns,
            }) => scribe.injected(site, action, time_ns)?,
            Err(RecvTimeoutError::Timeout) => scribe.idle(now_ns())?,
            Ok(Message::End) | Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    scribe.finish(now_ns(), counts.dropped.load(Ordering::Relaxed))
}

/// Where the trace of a GPU goes if that of the first goes to `path`: `trace.gpu1.json` beside
/// `trace.json`.
pub fn trace_path(path: &Path, gpu: u32) -> PathBuf {
    if gpu == 0 {
        return path.to_owned();
    }
    let extension = path
        .extension()
        .map(|extension| extension.to_string_lossy());
    let end = match extension {
        Some(extension) => format!("gpu{gpu}.{extension}"),
        None => format!("gpu{gpu}"),
    };
    path.with_extension(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_gpu_has_a_file_of_its_own() {
        let path = |path: &str, gpu| trace_path(Path::new(path), gpu).display().to_string();
        assert_eq!(path("/a.b/trace.json", 0), "/a.b/trace.json");
        assert_eq!(path("/a.b/trace.json", 1), "/a.b/trace.gpu1.json");
        assert_eq!(path("trace", 2), "trace.gpu2");
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let error = create(Path::new("/dev/full")).expect_err("refused");
        assert!(error.to_string().contains("not a regular file"), "{error}");
        create(Path::new("/nonexistent/trace.json")).expect_err("refused");
    }

    /// Takes so many bytes and no more.
    struct Disk(usize);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self
                .0
                .checked_sub(bytes.len())
                .ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_ends_the_trace_and_nothing_else() {
        let (sender, receiver) = bounded(64);
        let counts = Arc::new(Counts::default());
        let tracer = Tracer {
            sender,
            counts: Arc::clone(&counts),
        };
        for generation in 1..50 {
            tracer.reset(ResetKind::Flr, generation);
        }
        let path = Path::new("trace.json");
        // Room for the head and some events, not for all; without a bound this would wait.
        write(&receiver, Disk(2000), path, "test", 0, &counts);
        assert!(counts.ended.load(Ordering::Relaxed));
        let before = tracer.written();
        assert!(before.events > 4 && before.dropped > 0, "{before:?}");
        tracer.reset(ResetKind::Flr, 4);
        let after = tracer.written();
        assert_eq!(after.events, before.events);
        assert_eq!(after.dropped, before.dropped + 1);
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let (sender, receiver) = bounded(1);
        let counts = Arc::new(Counts::default());
        let tracer = Tracer { sender, counts };
        let source = Source {
            kind: hmmgpu_telemetry::snapshot::QueueKind::Copy,
            index: 0,
        };
        let record = Record::Mark {
            cookie: 1,
            time_ns: 1,
        };
        for _ in 0..3 {
            tracer.records(source, 1, &[record; 5]);
        }
        assert_eq!(tracer.written().dropped, 10);
        assert_eq!(receiver.len(), 1);
    }
}
