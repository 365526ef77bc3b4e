//! Frames as text, for files and pipes.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, select};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::Options;
use super::draw::draw;
use super::feed::{Feed, News};
use super::state::Top;
use crate::control::PATIENCE;
use crate::interrupt::Interrupt;

/// Lines of a frame.
const HEIGHT: u16 = 40;
/// How much longer than an interval a frame waits for figures.
const SLACK: Duration = Duration::from_millis(500);

/// Prints a frame for each GPU after every interval, so many times or until a signal, which is
/// given back.
///
/// # Errors
/// When the output cannot be written. When sockets were named and at first no server answers at any
/// of them, the kind is [`NotFound`](io::ErrorKind::NotFound), which no output gives, and the text
/// says for each socket why.
pub fn batch(
    options: Options,
    frames: Option<u64>,
    width: u16,
    interrupt: &Interrupt,
    output: &mut dyn Write,
) -> io::Result<Option<i32>> {
    let mut top = Top::new(options.interval, false);
    let (sender, signals) = crossbeam_channel::bounded(1);
    let _watch = interrupt.watch(move |signal| {
        let _ = sender.try_send(signal);
    });
    let named: BTreeSet<PathBuf> = options.control.iter().cloned().collect();
    let feed = Feed::start(options.control, options.interval)?;
    let mut printed = 0;
    while frames.is_none_or(|frames| printed < frames) {
        // One that ends later may come again.
        let needed = if printed == 0 { named.len() } else { 0 };
        if let Some(signal) = next_figures(&mut top, &feed, &signals, needed) {
            return Ok(Some(signal));
        }
        if none_answers(&top, needed) {
            let reasons: Vec<String> = top.unanswered.into_values().collect();
            return Err(io::Error::new(io::ErrorKind::NotFound, reasons.join("; ")));
        }
        print(&mut top, width, output)?;
        printed += 1;
    }
    Ok(None)
}

/// Whether it is known of each of so many sockets, if any, that no server answers there.
fn none_answers(top: &Top, named: usize) -> bool {
    named > 0 && top.gpus.is_empty() && top.unanswered.len() >= named
}

/// Waits until the GPU that is shown has rates to tell, or should have had them, or no server
/// answers at so many sockets; gives the signal that came first, if one did.
fn next_figures(top: &mut Top, feed: &Feed, signals: &Receiver<i32>, named: usize) -> Option<i32> {
    let answers = if named > 0 { PATIENCE } else { Duration::ZERO };
    let deadline = Instant::now() + answers + top.interval * 2 + SLACK;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let news: Result<News, RecvTimeoutError> = select! {
            recv(signals) -> signal => return signal.ok(),
            recv(feed.news) -> news => news.map_err(|_| RecvTimeoutError::Disconnected),
            default(left) => Err(RecvTimeoutError::Timeout),
        };
        let Ok(news) = news else { return None };
        let is_snapshot = matches!(news, News::Snapshot(..));
        top.apply(news);
        let rates = top
            .gpu()
            .is_some_and(|gpu| !gpu.directions[0].history.is_empty());
        if (is_snapshot && rates) || none_answers(top, named) {
            return None;
        }
    }
}

/// The frames, without blanks at the ends of lines and without empty lines at the end.
fn print(top: &mut Top, width: u16, output: &mut dyn Write) -> io::Result<()> {
    let area = Rect::new(0, 0, width, HEIGHT);
    for index in 0..top.gpus.len().max(1) {
        top.selected = index;
        let mut buffer = Buffer::empty(area);
        draw(top, area, &mut buffer);
        writeln!(output, "{}\n", text_of(&buffer))?;
    }
    top.selected = 0;
    output.flush()
}

/// What a person would read.
pub(super) fn text_of(buffer: &Buffer) -> String {
    let mut lines: Vec<String> = buffer
        .content()
        .chunks(usize::from(buffer.area.width.max(1)))
        .map(|cells| {
            let line: String = cells.iter().map(|cell| cell.symbol()).collect();
            line.trim_end().to_owned()
        })
        .collect();
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_sockets_where_no_server_answers_are_told_of() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing.control");
        let plain = folder.path().join("plain.control");
        std::fs::write(&plain, "").unwrap();
        let options = Options {
            // One of them twice; that the interval is long does not matter.
            control: vec![missing.clone(), plain.clone(), missing.clone()],
            interval: Duration::from_secs(3600),
        };
        let mut output = Vec::new();
        let error = batch(options, None, 80, &Interrupt::new(), &mut output).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        for path in [missing, plain] {
            let reason = format!("no server listens on {}", path.display());
            assert!(error.to_string().contains(&reason), "{error}");
        }
        assert!(output.is_empty());
    }
}
