//! Telling a person what goes on, on standard error.
//!
//! On a terminal: a line for the step, a bar where the share is known, and the last lines of the
//! guest's console. Elsewhere: one plain line for each step.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hmmgpu_images::{Ended, Quarters};
use indicatif::{ProgressBar, ProgressStyle};

/// Lines of the guest's console that are shown.
const CONSOLE_LINES: usize = 3;
/// Longest part of a console line that is shown.
const CONSOLE_COLUMNS: usize = 100;

/// Clones tell the same person.
#[derive(Clone, Debug)]
pub struct Ui(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Quiet,
    Plain,
    Terminal,
}

#[derive(Debug, Default)]
struct State {
    bar: Option<ProgressBar>,
    step: String,
    detail: String,
    console: VecDeque<String>,
    show_console: bool,
    /// The last tenth that was told, elsewhere than on a terminal.
    told_tenth: u32,
    /// Likewise for what is told in per cent.
    quarters: Quarters,
}

impl Ui {
    /// `plain` even on a terminal: log lines would tear the bars apart.
    pub fn new(quiet: bool, plain: bool) -> Self {
        let kind = if quiet {
            Kind::Quiet
        } else if plain || !io::stderr().is_terminal() {
            Kind::Plain
        } else {
            Kind::Terminal
        };
        Self(Arc::new(Inner {
            kind,
            state: Mutex::default(),
        }))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A line that stays.
    pub fn note(&self, line: &str) {
        if self.0.kind != Kind::Quiet {
            self.line(line);
        }
    }

    /// A line that stays, also when only errors are wanted.
    pub fn warn(&self, line: &str) {
        self.line(line);
    }

    fn line(&self, line: &str) {
        let bar = self.state().bar.clone();
        let write = || {
            // A closed standard error is no reason to stop the work.
            let _ = writeln!(io::stderr(), "{line}");
        };
        match bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// A line of the result, on standard output.
    pub fn print(&self, line: &str) -> io::Result<()> {
        let bar = self.state().bar.clone();
        let write = || {
            let mut stdout = io::stdout().lock();
            writeln!(stdout, "{line}")?;
            stdout.flush()
        };
        match bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// As [`steps`](Self::steps), but only where lines that come and go can be shown.
    pub fn live_steps(&self, done: u32, total: u32, what: &str) {
        if self.0.kind == Kind::Terminal {
            self.steps(done, total, what);
        }
    }

    /// A step begins; the one before is over.
    pub fn step(&self, step: &str) {
        let mut state = self.state();
        state.step = step.to_owned();
        state.detail.clear();
        state.told_tenth = 0;
        state.quarters = Quarters::default();
        match self.0.kind {
            Kind::Quiet => {}
            Kind::Plain => {
                drop(state);
                self.line(&format!("{step} ..."));
            }
            Kind::Terminal => {
                if let Some(bar) = state.bar.take() {
                    bar.finish_and_clear();
                }
                let bar = ProgressBar::new_spinner();
                if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
                    bar.set_style(style);
                }
                bar.enable_steady_tick(Duration::from_millis(120));
                state.bar = Some(bar);
                show(&state);
            }
        }
    }

    /// `done` of `total` parts of the step, and what it is at.
    pub fn steps(&self, done: u32, total: u32, what: &str) {
        let mut state = self.state();
        state.detail = what.to_owned();
        match self.0.kind {
            Kind::Quiet => {}
            Kind::Plain => {
                let tenth = if total == 0 {
                    0
                } else {
                    u64::from(done) * 10 / u64::from(total)
                };
                let tenth = u32::try_from(tenth).unwrap_or(10);
                if tenth > state.told_tenth {
                    state.told_tenth = tenth;
                    let step = state.step.clone();
                    drop(state);
                    self.line(&format!("{step}: {done} of {total}, {what}"));
                }
            }
            Kind::Terminal => {
                if let Some(bar) = &state.bar {
                    let template = "{spinner} {bar:24} {pos}/{len} {msg}";
                    if bar.length() != Some(total.into()) {
                        if let Ok(style) = ProgressStyle::with_template(template) {
                            bar.set_style(style);
                        }
                        bar.set_length(total.into());
                    }
                    bar.set_position(done.into());
                    show(&state);
                }
            }
        }
    }

    /// What the step is at.
    fn detail(&self, percent: Option<u8>, detail: &str) {
        match percent {
            Some(percent) if self.0.kind == Kind::Terminal => {
                self.steps(percent.into(), 100, detail);
            }
            Some(percent) if self.0.kind == Kind::Plain => {
                let mut state = self.state();
                if state.quarters.reached(percent) {
                    let step = state.step.clone();
                    drop(state);
                    self.line(&format!("{step}: {detail}, {percent} %"));
                }
            }
            _ => {
                let mut state = self.state();
                state.detail = detail.to_owned();
                show(&state);
            }
        }
    }

    /// Whether the guest's console is shown below the step.
    pub fn show_console(&self, on: bool) {
        let mut state = self.state();
        state.show_console = on;
        state.console.clear();
        show(&state);
    }

    /// A line of the guest's console.
    pub fn console_line(&self, line: &str) {
        let mut state = self.state();
        if !state.show_console || line.is_empty() {
            return;
        }
        if state.console.len() == CONSOLE_LINES {
            state.console.pop_front();
        }
        state
            .console
            .push_back(line.chars().take(CONSOLE_COLUMNS).collect());
        show(&state);
    }

    /// Takes away everything that does not stay.
    pub fn clear(&self) {
        let mut state = self.state();
        if let Some(bar) = state.bar.take() {
            bar.finish_and_clear();
        }
        state.console.clear();
    }
}

fn show(state: &State) {
    let Some(bar) = &state.bar else { return };
    let mut message = state.step.clone();
    if !state.detail.is_empty() {
        message.push_str(": ");
        message.push_str(&state.detail);
    }
    if state.show_console {
        for line in &state.console {
            message.push_str("\n    ");
            message.push_str(line);
        }
    }
    bar.set_message(message);
}

impl hmmgpu_images::Progress for Ui {
    fn begin(&self, step: &str) {
        self.step(step);
    }

    fn update(&self, percent: Option<u8>, detail: &str) {
        self.detail(percent, detail);
    }

    fn end(&self, how: Ended) {
        let step = self.state().step.clone();
        self.clear();
        match how {
            Ended::Failed => self.note(&format!("{step}: failed")),
            Ended::Interrupted => self.note(&format!("{step}: interrupted")),
            Ended::Done if self.0.kind == Kind::Terminal => self.note(&format!("{step}: done")),
            Ended::Done => {}
        }
    }

    fn note(&self, line: &str) {
        Ui::note(self, line);
    }
}
