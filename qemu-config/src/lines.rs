//! Output of a guest's program, taken line by line as it comes.

use std::io::{self, Write};

use crate::text::{MAX_LINE, Tail, printable};

/// Calls a function for each complete line; an error of it is an error of the write.
pub(crate) struct Lines<F> {
    line: Vec<u8>,
    longest: usize,
    each: F,
}

impl<F: FnMut(&[u8]) -> io::Result<()>> Lines<F> {
    /// Lines are cut at `longest` bytes.
    pub(crate) fn new(longest: usize, each: F) -> Self {
        Self {
            line: Vec::new(),
            longest,
            each,
        }
    }
}

impl<F: FnMut(&[u8]) -> io::Result<()>> Write for Lines<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = self.longest.saturating_sub(self.line.len());
            self.line.extend_from_slice(&part[..part.len().min(room)]);
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                (self.each)(line.trim_ascii_end())?;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Keeps the last lines that are written to it.
pub(crate) struct LineTail {
    line: Vec<u8>,
    tail: Tail,
}

impl LineTail {
    pub(crate) fn new() -> Self {
        Self {
            line: Vec::new(),
            tail: Tail::new(20),
        }
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = self.tail.lines();
        if !self.line.is_empty() {
            lines.push(printable(&self.line));
        }
        lines
    }
}

impl Write for LineTail {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            if *byte == b'\n' {
                self.tail.push(printable(&std::mem::take(&mut self.line)));
            } else if self.line.len() < MAX_LINE {
                self.line.push(*byte);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_however_they_are_written() {
        for cut in [1, 3, 100] {
            let mut found = Vec::new();
            let mut lines = Lines::new(8, |line: &[u8]| {
                found.push(String::from_utf8_lossy(line).into_owned());
                Ok(())
            });
            for part in b"one\r\ntwo\n\na very long line\nrest".chunks(cut) {
                lines.write_all(part).expect("takes it");
            }
            assert_eq!(found, ["one", "two", "", "a very l"]);
        }
    }

    #[test]
    fn a_line_without_end_does_not_grow() {
        let mut lines = Lines::new(100, |_: &[u8]| Ok(()));
        for _ in 0..64 {
            lines.write_all(&[b'x'; 1 << 16]).expect("takes it");
        }
        assert_eq!(lines.line.len(), 100);
    }

    #[test]
    fn who_cannot_take_a_line_stops_the_writer() {
        let mut lines = Lines::new(100, |_: &[u8]| Err(io::ErrorKind::BrokenPipe.into()));
        let error = lines.write_all(b"x\n").expect_err("must fail");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
