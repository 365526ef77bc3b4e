//! `hmmgpu top`: what the GPUs do, live.

mod batch;
mod draw;
mod feed;
mod map;
mod panels;
mod screen;
mod state;
mod style;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossterm::event::{self, Event, KeyEventKind};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGTSTP};

use crate::exit;
use crate::interrupt::Interrupt;
use feed::Feed;
use state::{Top, Wish};

pub use batch::batch;
pub use screen::{Screen, can_draw};

/// How soon news and signals show.
const TICK: Duration = Duration::from_millis(50);

/// What is watched, and how often.
#[derive(Clone, Debug)]
pub struct Options {
    /// Control sockets; none: those in the runtime directory.
    pub control: Vec<PathBuf>,
    /// Time between updates.
    pub interval: Duration,
}

/// Whether colours are wanted: `NO_COLOR` is not set, or empty.
pub fn colours_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Shows what goes on until the user quits; gives the signal that ended it, if one did.
///
/// # Errors
/// When the terminal cannot be set, read or written.
pub fn run(options: Options, interrupt: &Interrupt) -> io::Result<Option<i32>> {
    let mut top = Top::new(options.interval, colours_wanted());
    let feed = Feed::start(options.control, options.interval)?;
    // As long as somebody watches, signals end nothing by themselves. But where the terminal is gone
    // `event::poll` reads its end for ever, and nobody would look at the signal.
    let _watch = interrupt.watch(|signal| {
        if signal == SIGHUP {
            screen::give_back();
            std::process::exit(exit::of_signal(signal).into());
        }
    });
    let stop = flag(SIGTSTP)?;
    let continued = flag(SIGCONT)?;
    let mut screen = Screen::enter()?;
    let mut changed = true;
    loop {
        if let Some(signal) = interrupt.signal() {
            return Ok(Some(signal));
        }
        if stop.swap(false, Ordering::Relaxed) {
            suspend(&mut screen, Stop::Process)?;
            continued.store(false, Ordering::Relaxed);
            changed = true;
        } else if continued.swap(false, Ordering::Relaxed) {
            // Stopped by what cannot be noticed; a shell has used the terminal since.
            screen.resume()?;
            changed = true;
        }
        changed |= take_news(&mut top, &feed);
        if changed {
            let frame = |frame: &mut ratatui::Frame<'_>| {
                draw::draw(&top, frame.area(), frame.buffer_mut());
            };
            match screen.terminal().draw(frame) {
                Ok(_) => changed = false,
                // The signal comes, too; who is first does not matter.
                Err(_) if has_hung_up() => return Ok(Some(SIGHUP)),
                Err(error) => return Err(error),
            }
        }
        if !event::poll(TICK)? {
            continue;
        }
        changed = true;
        match event::read()? {
            Event::Key(key) if key.kind != KeyEventKind::Release => match top.press(key) {
                Wish::Nothing => {}
                Wish::Quit => return Ok(None),
                Wish::Interval(interval) => feed.set_interval(interval),
                Wish::Suspend => {
                    suspend(&mut screen, Stop::Group)?;
                    continued.store(false, Ordering::Relaxed);
                }
            },
            _ => {}
        }
    }
}

/// Whether the terminal is gone.
fn has_hung_up() -> bool {
    let stdin = rustix::stdio::stdin();
    let mut keys = [PollFd::new(&stdin, PollFlags::IN)];
    poll(&mut keys, Some(&Timespec::default())).is_ok()
        && keys[0].revents().intersects(PollFlags::HUP)
}

/// Whether there was any.
fn take_news(top: &mut Top, feed: &Feed) -> bool {
    let mut any = false;
    // Not more than wait: news that come faster than they are taken must not keep keys waiting.
    for _ in 0..feed.news.len() {
        let Ok(news) = feed.news.try_recv() else {
            break;
        };
        top.apply(news);
        any = true;
    }
    any
}

fn flag(signal: i32) -> io::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal, Arc::clone(&flag))?;
    Ok(flag)
}

/// Who stops.
enum Stop {
    /// This process, as the signal asked it to.
    Process,
    /// All that runs in front with it, as the terminal does on Ctrl-Z.
    Group,
}

/// Stops, with the terminal given back, until somebody continues it.
fn suspend(screen: &mut Screen, who: Stop) -> io::Result<()> {
    screen.suspend();
    match who {
        Stop::Process => signal_hook::low_level::emulate_default_handler(SIGTSTP)?,
        Stop::Group => {
            rustix::process::kill_current_process_group(rustix::process::Signal::STOP)?;
        }
    }
    screen.resume()
}
