//! Events as the trace event format wants them: a JSON array, one event a line.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// Which row of the trace an event is in: a process and a thread of the format, which knows no
/// other kinds of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Track {
    pub(super) pid: u32,
    pub(super) tid: u32,
}

/// An event, in the format's own names.
#[derive(Serialize)]
struct Event<'a, A> {
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    cat: &'a str,
    ph: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ts: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<f64>,
    pid: u32,
    tid: u32,
    /// How wide an instant is drawn.
    #[serde(skip_serializing_if = "str::is_empty")]
    s: &'a str,
    args: A,
}

/// Writes events.
pub(super) struct Writer<'a, W> {
    output: W,
    started_ns: u64,
    events: &'a AtomicU64,
}

impl<'a, W: Write> Writer<'a, W> {
    /// Begins the array. Times count from `started_ns`; `events` are counted.
    pub(super) fn new(mut output: W, started_ns: u64, events: &'a AtomicU64) -> io::Result<Self> {
        output.write_all(b"[")?;
        Ok(Self {
            output,
            started_ns,
            events,
        })
    }

    /// The format's microseconds, with the nanoseconds behind the point.
    fn time(&self, ns: u64) -> f64 {
        ns.saturating_sub(self.started_ns) as f64 / 1e3
    }

    fn put(&mut self, event: &Event<'_, impl Serialize>) -> io::Result<()> {
        let first = self.events.load(Ordering::Relaxed) == 0;
        self.output.write_all(if first { b"\n" } else { b",\n" })?;
        serde_json::to_writer(&mut self.output, event)?;
        self.events.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Something that took time.
    pub(super) fn slice(
        &mut self,
        track: Track,
        name: &str,
        cat: &str,
        (begin_ns, end_ns): (u64, u64),
        args: impl Serialize,
    ) -> io::Result<()> {
        let (begin, end) = (self.time(begin_ns), self.time(end_ns));
        self.put(&Event {
            name,
            cat,
            ph: "X",
            ts: Some(begin),
            dur: Some(end - begin),
            pid: track.pid,
            tid: track.tid,
            s: "",
            args,
        })
    }

    /// Something that happened, on a track or to all.
    pub(super) fn instant(
        &mut self,
        track: Option<Track>,
        name: &str,
        cat: &str,
        time_ns: u64,
        args: impl Serialize,
    ) -> io::Result<()> {
        let Track { pid, tid } = track.unwrap_or(Track { pid: 1, tid: 0 });
        self.put(&Event {
            name,
            cat,
            ph: "i",
            ts: Some(self.time(time_ns)),
            dur: None,
            pid,
            tid,
            s: if track.is_some() { "t" } else { "g" },
            args,
        })
    }

    /// Values of a counter from now on, by series.
    pub(super) fn counter(
        &mut self,
        pid: u32,
        name: &str,
        time_ns: u64,
        series: impl Serialize,
    ) -> io::Result<()> {
        self.put(&Event {
            name,
            cat: "",
            ph: "C",
            ts: Some(self.time(time_ns)),
            dur: None,
            pid,
            tid: 0,
            s: "",
            args: series,
        })
    }

    /// What a process or thread of the format is called, or where it stands.
    pub(super) fn metadata(
        &mut self,
        track: Track,
        what: &str,
        args: impl Serialize,
    ) -> io::Result<()> {
        self.put(&Event {
            name: what,
            cat: "",
            ph: "M",
            ts: None,
            dur: None,
            pid: track.pid,
            tid: track.tid,
            s: "",
            args,
        })
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }

    /// How many were written.
    pub(super) fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    /// Ends the array.
    pub(super) fn end(mut self) -> io::Result<()> {
        self.output.write_all(b"\n]\n")?;
        self.output.flush()
    }
}
