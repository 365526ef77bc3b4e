//! Lines of text from somebody else: bounded, and safe to show.

use std::collections::VecDeque;
use std::io::{BufRead, Read};
use std::sync::{Arc, Mutex, PoisonError};

/// Longest line that is kept; the rest of it is dropped.
pub(crate) const MAX_LINE: usize = 4096;

/// The last lines of an endless text. Clones are the same tail.
#[derive(Clone, Debug)]
pub(crate) struct Tail {
    lines: Arc<Mutex<VecDeque<String>>>,
    capacity: usize,
}

impl Tail {
    /// Keeps this many lines.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            lines: Arc::default(),
            capacity,
        }
    }

    /// Appends a line and drops the first one beyond the capacity.
    pub(crate) fn push(&self, line: String) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == self.capacity {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// The lines that are kept, the oldest first.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .cloned()
            .collect()
    }
}

/// Reads lines until the end and hands each one over, without control characters and cut at
/// [`MAX_LINE`]. A read error is an end.
pub(crate) fn for_each_line(input: impl Read, mut each: impl FnMut(String)) {
    let mut input = std::io::BufReader::new(input);
    let mut line = Vec::new();
    loop {
        let (used, complete) = match input.fill_buf() {
            Ok([]) => break,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => break,
            Ok(bytes) => {
                let end = bytes.iter().position(|byte| *byte == b'\n');
                let part = &bytes[..end.unwrap_or(bytes.len())];
                let room = MAX_LINE.saturating_sub(line.len());
                line.extend_from_slice(&part[..part.len().min(room)]);
                (end.map_or(bytes.len(), |end| end + 1), end.is_some())
            }
        };
        input.consume(used);
        if complete {
            each(printable(&line));
            line.clear();
        }
    }
    if !line.is_empty() {
        each(printable(&line));
    }
}

/// Without control characters and the escape sequences of terminals: text from a guest must not
/// steer the terminal of the host.
pub(crate) fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut shown = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\u{1b}' => {
                // CSI: parameters, then one final character. Anything else: one character.
                if characters.next() == Some('[') {
                    for skipped in characters.by_ref() {
                        if ('\u{40}'..='\u{7e}').contains(&skipped) {
                            break;
                        }
                    }
                }
            }
            '\t' => shown.push_str("    "),
            character if character.is_control() => {}
            character => shown.push(character),
        }
    }
    shown.truncate(shown.trim_end().len());
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[u8]) -> Vec<String> {
        let mut found = Vec::new();
        for_each_line(text, |line| found.push(line));
        found
    }

    #[test]
    fn lines_are_cut_and_cleaned() {
        assert_eq!(lines(b"one\r\ntwo\n\nlast"), ["one", "two", "", "last"]);
        assert_eq!(
            lines(b"\x1b[1;31mred\x1b[0m \x07bell\tx\n"),
            ["red bell    x"]
        );
        assert_eq!(lines(b"\xff\n"), ["\u{fffd}"]);
        assert_eq!(lines(b""), Vec::<String>::new());
    }

    #[test]
    fn a_line_without_end_does_not_grow() {
        let found = lines(&vec![b'x'; 100_000]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].len(), MAX_LINE);
    }

    #[test]
    fn a_tail_keeps_the_last_lines() {
        let tail = Tail::new(2);
        for line in ["a", "b", "c"] {
            tail.push(line.into());
        }
        assert_eq!(tail.lines(), ["b", "c"]);
    }
}
