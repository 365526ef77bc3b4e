//! Telling a person what goes on.

use std::io::Write;

/// Is told of steps, one after the other; implemented for terminals and for logs.
pub trait Progress: Send + Sync {
    /// A step begins (and the one before has ended).
    fn begin(&self, step: &str);
    /// The step goes on: per cent done where known, and what it is at.
    fn update(&self, percent: Option<u8>, detail: &str);
    /// The step has ended, well or not.
    fn end(&self, ok: bool);
    /// A line that stays, between or within steps.
    fn note(&self, line: &str);
}

/// Says nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _step: &str) {}
    fn update(&self, _percent: Option<u8>, _detail: &str) {}
    fn end(&self, _ok: bool) {}
    fn note(&self, _line: &str) {}
}

/// One line for each step, for logs.
#[derive(Debug)]
pub struct PlainProgress(());

impl PlainProgress {
    /// Writes to standard error.
    pub fn stderr() -> Self {
        Self(())
    }

    fn line(&self, line: &str) {
        // A closed standard error is no reason to stop the work.
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}

impl Progress for PlainProgress {
    fn begin(&self, step: &str) {
        self.line(&format!("{step} ..."));
    }
    fn update(&self, _percent: Option<u8>, _detail: &str) {}
    fn end(&self, _ok: bool) {}
    fn note(&self, line: &str) {
        self.line(line);
    }
}
