//! Telling a person what goes on.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::ImageError;

/// Is told of steps. A step may begin within another one, which then goes on when it ends.
pub trait Progress: Send + Sync {
    /// A step begins.
    fn begin(&self, step: &str);
    /// The innermost step goes on: per cent done where known, and what it is at.
    fn update(&self, percent: Option<u8>, detail: &str);
    /// The innermost step has ended.
    fn end(&self, how: Ended);
    /// A line that stays, between or within steps.
    fn note(&self, line: &str);
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// What it makes is there.
    Done,
    /// It could not be done; the error is told by whoever gets it.
    Failed,
    /// The user did not want to wait for it.
    Interrupted,
}

impl Ended {
    /// How a step with this result has ended.
    pub(crate) fn of<T>(result: &Result<T, ImageError>) -> Self {
        match result {
            Ok(_) => Self::Done,
            Err(ImageError::Interrupted { .. }) => Self::Interrupted,
            Err(_) => Self::Failed,
        }
    }
}

/// Bars on a terminal, lines elsewhere; both on standard error.
pub fn for_stderr() -> Arc<dyn Progress> {
    if std::io::stderr().is_terminal() {
        Arc::new(TerminalProgress::stderr())
    } else {
        Arc::new(PlainProgress::stderr())
    }
}

/// Says nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _step: &str) {}
    fn update(&self, _percent: Option<u8>, _detail: &str) {}
    fn end(&self, _how: Ended) {}
    fn note(&self, _line: &str) {}
}

/// A line when a step begins, one for each quarter of it where that is known, and one with its
/// time when it ends. For logs.
pub struct PlainProgress {
    output: Mutex<Box<dyn Write + Send>>,
    steps: Mutex<Vec<Step>>,
}

struct Step {
    name: String,
    begun: Instant,
    quarters: Quarters,
}

/// Which quarters of a step a log was told of. A step may have several parts, each from its first per
/// cent to its last.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quarters(u8);

impl Quarters {
    /// Whether this share, in per cent, is worth a line: it is in another quarter than the last one,
    /// and not in the first.
    pub fn reached(&mut self, percent: u8) -> bool {
        let quarter = percent / 25;
        let before = std::mem::replace(&mut self.0, quarter);
        quarter > before
    }
}

impl std::fmt::Debug for PlainProgress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PlainProgress").finish_non_exhaustive()
    }
}

impl PlainProgress {
    /// Writes to standard error.
    pub fn stderr() -> Self {
        Self::to(Box::new(std::io::stderr()))
    }

    fn to(output: Box<dyn Write + Send>) -> Self {
        Self {
            output: Mutex::new(output),
            steps: Mutex::default(),
        }
    }

    fn line(&self, line: &str) {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        // A closed standard error is no reason to stop the work.
        let _ = writeln!(output, "{line}");
    }

    fn steps(&self) -> std::sync::MutexGuard<'_, Vec<Step>> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for PlainProgress {
    fn begin(&self, step: &str) {
        self.line(&format!("making: {step}"));
        self.steps().push(Step {
            name: step.to_owned(),
            begun: Instant::now(),
            quarters: Quarters::default(),
        });
    }

    fn update(&self, percent: Option<u8>, detail: &str) {
        let mut steps = self.steps();
        let (Some(step), Some(percent)) = (steps.last_mut(), percent) else {
            return;
        };
        if step.quarters.reached(percent) {
            let line = format!("making: {}: {detail}, {percent} %", step.name);
            drop(steps);
            self.line(&line);
        }
    }

    fn end(&self, how: Ended) {
        let Some(step) = self.steps().pop() else {
            return;
        };
        if how == Ended::Done {
            self.line(&format!(
                "made: {} in {:.1} s",
                step.name,
                step.begun.elapsed().as_secs_f64()
            ));
        }
    }

    fn note(&self, line: &str) {
        self.line(line);
    }
}

/// A bar or a spinner for the step that goes on, and a line for each that has ended.
#[derive(Debug)]
pub struct TerminalProgress {
    steps: Mutex<Vec<(String, Instant, ProgressBar)>>,
}

impl TerminalProgress {
    /// Draws on standard error.
    pub fn stderr() -> Self {
        Self {
            steps: Mutex::default(),
        }
    }

    fn steps(&self) -> std::sync::MutexGuard<'_, Vec<(String, Instant, ProgressBar)>> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bar(step: &str) -> ProgressBar {
    let bar = ProgressBar::new(100);
    bar.set_style(style("{spinner} {prefix}  {wide_msg} {elapsed}"));
    bar.set_prefix(step.to_owned());
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants; the default style is plain but right.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Progress for TerminalProgress {
    fn begin(&self, step: &str) {
        let bar = bar(step);
        let mut steps = self.steps();
        if let Some((_, _, outer)) = steps.last() {
            outer.finish_and_clear();
        }
        steps.push((step.to_owned(), Instant::now(), bar));
    }

    fn update(&self, percent: Option<u8>, detail: &str) {
        let steps = self.steps();
        let Some((_, _, bar)) = steps.last() else {
            return;
        };
        if let Some(percent) = percent {
            bar.set_style(style(
                "{spinner} {prefix}  [{bar:30}] {pos} %  {wide_msg} {elapsed}",
            ));
            bar.set_position(percent.into());
        } else {
            bar.set_style(style("{spinner} {prefix}  {wide_msg} {elapsed}"));
        }
        bar.set_message(detail.to_owned());
    }

    fn end(&self, how: Ended) {
        let mut steps = self.steps();
        let Some((name, begun, bar)) = steps.pop() else {
            return;
        };
        bar.finish_and_clear();
        // The step around it goes on.
        if let Some((outer, _, cleared)) = steps.last_mut() {
            *cleared = self::bar(outer);
        }
        if how == Ended::Done {
            let _ = writeln!(
                std::io::stderr(),
                "made: {name} in {:.1} s",
                begun.elapsed().as_secs_f64()
            );
        }
    }

    fn note(&self, line: &str) {
        match self.steps().last() {
            Some((_, _, bar)) => bar.println(line),
            None => {
                let _ = writeln!(std::io::stderr(), "{line}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    struct Lines(mpsc::Sender<u8>);

    impl Write for Lines {
        fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
            for byte in data {
                self.0.send(*byte).unwrap();
            }
            Ok(data.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_interruption_is_no_failure() {
        let interrupted = ImageError::Interrupted {
            what: "x".to_owned(),
        };
        assert_eq!(Ended::of::<()>(&Err(interrupted)), Ended::Interrupted);
        let missing = ImageError::MissingTools {
            missing: Vec::new(),
            command: String::new(),
        };
        assert_eq!(Ended::of::<()>(&Err(missing)), Ended::Failed);
        assert_eq!(Ended::of(&Ok(())), Ended::Done);
    }

    #[test]
    fn a_log_gets_few_lines() {
        let (sender, receiver) = mpsc::channel();
        let progress = PlainProgress::to(Box::new(Lines(sender)));
        progress.begin("outer");
        for percent in 0..=100 {
            progress.update(Some(percent), "downloading");
        }
        // The next part of the step.
        for percent in [1, 10, 30, 60] {
            progress.update(Some(percent), "compiling");
        }
        progress.begin("inner");
        progress.update(None, "a detail");
        progress.end(Ended::Done);
        progress.end(Ended::Failed);
        progress.end(Ended::Done); // one too many does no harm
        drop(progress);
        let text = String::from_utf8(receiver.iter().collect()).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "making: outer");
        assert_eq!(lines[4], "making: outer: downloading, 100 %");
        assert_eq!(lines[5], "making: outer: compiling, 30 %");
        assert_eq!(lines[6], "making: outer: compiling, 60 %");
        assert_eq!(lines[7], "making: inner");
        assert!(lines[8].starts_with("made: inner in "));
        assert_eq!(lines.len(), 9);
    }
}
