//! Metrics as Prometheus gets them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use hmmgpu_images::{Bind, Images, ImagesOptions, ToolRoot};
use hmmgpu_server::prometheus_text;
use hmmgpu_telemetry::snapshot::{Direction, Snapshot};
use hmmgpu_vm_tests::program::Running;

/// Time for an answer: the process asks its devices first.
const ANSWER: Duration = Duration::from_secs(60);

/// Where the metrics of a running program are.
pub(super) struct Endpoint(SocketAddr);

impl Endpoint {
    /// As its messages say.
    pub(super) fn of(running: &mut Running, limit: Duration) -> Result<Self> {
        let line = running.wait_for_message("metrics at http://", limit)?;
        let address = line
            .trim()
            .split_once("http://")
            .and_then(|(_, rest)| rest.strip_suffix("/metrics"))
            .with_context(|| format!("no address: {line}"))?;
        Ok(Self(address.parse()?))
    }

    /// What is there now; nothing once it is closed.
    pub(super) fn scrape(&self) -> Result<Option<String>> {
        let gone = |error: &std::io::Error| {
            matches!(
                error.kind(),
                ErrorKind::ConnectionRefused
                    | ErrorKind::ConnectionReset
                    | ErrorKind::BrokenPipe
                    | ErrorKind::UnexpectedEof
            )
        };
        match self.ask() {
            Ok(answer) if answer.is_empty() => Ok(None),
            Ok(answer) => {
                let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
                ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
                // The process may end while it answers.
                let whole = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: "))
                    .is_some_and(|length| length == body.len().to_string());
                Ok(whole.then(|| body.to_owned()))
            }
            Err(error) if gone(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn ask(&self) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(self.0)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

/// Prometheus' own checker.
pub(super) struct Checker {
    root: ToolRoot,
    program: Bind,
}

impl Checker {
    pub(super) fn new() -> Result<Self> {
        let images = Images::new(ImagesOptions::default())?;
        let mut program = Bind::read_only(images.promtool()?);
        program.inside = "/checker/promtool".into();
        let root = images.tool_root()?;
        Ok(Self { root, program })
    }

    /// Fails with what it finds.
    pub(super) fn check(&self, text: &str) -> Result<()> {
        let program = self.program.inside.display().to_string();
        let binds = std::slice::from_ref(&self.program);
        let mut child = self
            .root
            .command(&program, binds)
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start promtool")?;
        // It reads all before it says anything; if it does not read, its end says why.
        let input = child.stdin.take().context("no standard input")?;
        let _ = { input }.write_all(text.as_bytes());
        let output = child.wait_with_output()?;
        ensure!(
            output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(),
            "promtool: {}\n{}{}\n--- of\n{text}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }
}

/// What a scrape says: values by name and labels.
#[derive(Clone, Debug)]
pub(super) struct Series {
    values: BTreeMap<String, f64>,
    /// Names of those that may only grow.
    growing: BTreeSet<String>,
}

impl Series {
    pub(super) fn of(text: &str) -> Result<Self> {
        let (mut values, mut growing) = (BTreeMap::new(), BTreeSet::new());
        for line in text.lines() {
            if let Some(described) = line.strip_prefix("# TYPE ") {
                match described.split_once(' ') {
                    Some((name, "counter")) => growing.extend([name.to_owned()]),
                    Some((name, "histogram")) => growing
                        .extend(["_bucket", "_sum", "_count"].map(|end| format!("{name}{end}"))),
                    Some((_, "gauge")) => {}
                    _ => bail!("no type: {line}"),
                }
            } else if !line.starts_with('#') {
                let (series, value) = line.rsplit_once(' ').context("no value")?;
                let value = value.parse().with_context(|| line.to_owned())?;
                let before = values.insert(series.to_owned(), value);
                ensure!(before.is_none(), "twice: {series}");
            }
        }
        Ok(Self { values, growing })
    }

    /// What a scrape would say of this snapshot.
    pub(super) fn of_snapshot(snapshot: &Snapshot) -> Result<Self> {
        Self::of(&prometheus_text(&[(0, snapshot.clone())]))
    }

    /// No device was there.
    pub(super) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Names and labels of all.
    pub(super) fn names(&self) -> Vec<String> {
        self.values.keys().cloned().collect()
    }

    /// Whether a later scrape can be of the server of this one.
    pub(super) fn same_server(&self, later: &Self) -> bool {
        let uptime = |series: &Self| {
            series
                .values
                .get("hmmgpu_uptime_seconds{gpu=\"0\"}")
                .copied()
        };
        uptime(later).is_none_or(|later| uptime(self) <= Some(later))
    }

    fn counters(&self) -> impl Iterator<Item = (&str, f64)> {
        self.values.iter().filter_map(|(series, value)| {
            let name = series.split('{').next()?;
            self.growing.contains(name).then_some((&**series, *value))
        })
    }

    /// Fails if a counter has fallen since an earlier scrape, or has gone.
    pub(super) fn grew_from(&self, before: &Self) -> Result<()> {
        for (series, value) in before.counters() {
            match self.values.get(series) {
                Some(now) => ensure!(*now >= value, "{series} fell from {value} to {now}"),
                // Queues come and go with the driver.
                None => ensure!(series.starts_with("hmmgpu_queue_"), "{series} has gone"),
            }
        }
        Ok(())
    }

    /// Fails unless both say the same of what moved.
    pub(super) fn moved_the_same_as(&self, other: &Self) -> Result<()> {
        let moves = |series: &Self| -> Vec<(String, f64)> {
            let of_moves = |name: &str| {
                ["transfer", "span", "fallback", "split"]
                    .iter()
                    .any(|what| name.starts_with(&format!("hmmgpu_{what}")))
            };
            let counters = series.counters().filter(|(name, _)| of_moves(name));
            counters
                .map(|(name, value)| (name.to_owned(), value))
                .collect()
        };
        let (ours, theirs) = (moves(self), moves(other));
        ensure!(ours.len() > 50, "few series: {ours:?}");
        for (one, other) in ours.iter().zip(&theirs) {
            ensure!(one == other, "{one:?} is not {other:?}");
        }
        ensure!(ours.len() == theirs.len(), "{ours:?} are not {theirs:?}");
        Ok(())
    }

    /// Pages that migrations have moved this way.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a count, far below 2^53
    pub(super) fn moved_pages(&self, direction: Direction) -> u64 {
        let direction = match direction {
            Direction::SysToDev => "direction=\"sys_to_dev\"",
            Direction::DevToSys => "direction=\"dev_to_sys\"",
            Direction::DevToDev => "direction=\"dev_to_dev\"",
            Direction::SysToSys => "direction=\"sys_to_sys\"",
        };
        let ours = self.values.iter().filter(|(series, _)| {
            series.starts_with("hmmgpu_span_moved_pages_total{") && series.contains(direction)
        });
        ours.map(|(_, value)| *value).sum::<f64>() as u64
    }
}
