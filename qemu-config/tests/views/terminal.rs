//! A program on a terminal that is emulated.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::num::NonZero;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::retry_on_intr;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::program::{LIMIT, wait};

const ROWS: NonZero<u16> = NonZero::new(24).unwrap();
const COLUMNS: NonZero<u16> = NonZero::new(80).unwrap();

/// Until the terminal has something, or is at its end; false if it is not to be read any more.
fn is_readable(terminal: &File, closed: &PipeReader) -> bool {
    let mut fds = [
        PollFd::new(terminal, PollFlags::IN),
        PollFd::new(closed, PollFlags::IN),
    ];
    retry_on_intr(|| poll(&mut fds, None)).expect("polls");
    fds[1].revents().is_empty()
}

/// The program is ended when this is dropped.
pub(crate) struct Screen {
    child: Child,
    /// The terminal's other side: keys go in here, and it knows the terminal's settings.
    keys: File,
    /// What the program writes; closed when nobody has the terminal open any more.
    output: Receiver<Vec<u8>>,
    parser: vt100::Parser,
    was_taken: bool,
    /// The reader has the terminal open as long as this is.
    open: Option<PipeWriter>,
}

impl Screen {
    /// Starts it on 24 lines of 80 columns.
    pub(crate) fn start(command: Command) -> Self {
        let (keys, terminal) = pair();
        let mut command = in_session(&command);
        let child = command
            .stdin(terminal.try_clone().expect("clones"))
            .stdout(terminal.try_clone().expect("clones"))
            .stderr(terminal)
            .spawn()
            .expect("starts");
        // With it goes our side of the terminal, so that the program's end closes it.
        drop(command);
        let mut reader = keys.try_clone().expect("clones");
        let (sender, output) = channel();
        let (closed, open) = pipe().expect("a pipe");
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while is_readable(&reader, &closed)
                && let Ok(read @ 1..) = reader.read(&mut bytes)
            {
                if sender.send(bytes[..read].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            keys,
            output,
            parser: vt100::Parser::new(ROWS, COLUMNS, 0),
            was_taken: false,
            open: Some(open),
        }
    }

    /// Takes in what the program writes next; gives whether there was anything before its end.
    fn read(&mut self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.output.recv_timeout(left) {
            Ok(bytes) => {
                // One by one: the alternate screen may come and go in one write.
                for byte in bytes {
                    self.parser.process(&[byte]);
                    self.was_taken |= self.parser.screen().alternate_screen();
                }
                true
            }
            Err(RecvTimeoutError::Disconnected) => false,
            Err(RecvTimeoutError::Timeout) => panic!("nothing new on:\n{}", self.contents()),
        }
    }

    pub(crate) fn contents(&self) -> String {
        self.parser.screen().contents()
    }

    pub(crate) fn contains(&self, text: &str) -> bool {
        self.contents().contains(text)
    }

    /// Until the text is on the screen.
    pub(crate) fn wait_for(&mut self, text: &str) {
        self.wait_until(|screen| screen.contains(text));
    }

    /// Until the screen is like this.
    pub(crate) fn wait_until(&mut self, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !holds(self) {
            let more = self.read(deadline);
            assert!(more, "it has ended:\n{}", self.contents());
        }
    }

    pub(crate) fn press(&mut self, keys: &[u8]) {
        self.keys.write_all(keys).expect("writes");
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a pid")).expect("a pid")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("signals");
    }

    /// The terminal goes away, as when a window is closed. Gives how the program ended.
    pub(crate) fn hang_up(mut self) -> ExitStatus {
        self.open = None;
        self.keys = File::open("/dev/null").expect("opens");
        // The reader has let go of it.
        while self.output.recv().is_ok() {}
        wait(&mut self.child)
    }

    /// Makes the window so large; the terminal tells the program.
    pub(crate) fn resize(&mut self, rows: NonZero<u16>, columns: NonZero<u16>) {
        self.parser.screen_mut().set_size(rows, columns);
        set_size(&self.keys, rows, columns);
    }

    /// Until the program has stopped, with all that it wrote before.
    pub(crate) fn wait_until_stopped(&mut self) {
        let deadline = Instant::now() + LIMIT;
        let stopped = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
        while waitid(WaitId::Pid(self.pid()), stopped)
            .expect("waits")
            .is_none()
        {
            assert!(Instant::now() < deadline, "it does not stop");
            std::thread::sleep(Duration::from_millis(10));
        }
        while self.is_taken() {
            let more = self.read(deadline);
            assert!(more, "it has not given the terminal back");
        }
    }

    /// A line of the screen, from 0, without blanks at its end.
    pub(crate) fn line(&self, row: usize) -> String {
        let contents = self.contents();
        contents.lines().nth(row).unwrap_or_default().to_owned()
    }

    /// Whether the program has the terminal for itself: raw, without a cursor, or on the alternate
    /// screen.
    pub(crate) fn is_taken(&self) -> bool {
        let modes = tcgetattr(&self.keys).expect("has settings").local_modes;
        let screen = self.parser.screen();
        !modes.contains(LocalModes::ICANON | LocalModes::ECHO)
            || screen.hide_cursor()
            || screen.alternate_screen()
    }

    /// Whether the alternate screen was ever on.
    pub(crate) fn was_taken(&self) -> bool {
        self.was_taken
    }

    pub(crate) fn has_colour(&self) -> bool {
        self.has_cell(|cell| {
            cell.fgcolor() != vt100::Color::Default || cell.bgcolor() != vt100::Color::Default
        })
    }

    pub(crate) fn has_dim(&self) -> bool {
        self.has_cell(vt100::Cell::dim)
    }

    fn has_cell(&self, wanted: impl Fn(&vt100::Cell) -> bool) -> bool {
        let screen = self.parser.screen();
        let (rows, columns) = screen.size();
        (0..rows.get())
            .flat_map(|row| (0..columns.get()).map(move |column| (row, column)))
            .filter_map(|(row, column)| screen.cell(row, column))
            .any(wanted)
    }

    /// Takes in all that the program writes until it ends.
    pub(crate) fn end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + LIMIT;
        while self.read(deadline) {}
        wait(&mut self.child)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The same command, with its standard input as the terminal of a session of its own: it knows no
/// other terminal, and nothing else is stopped when it stops its process group.
fn in_session(command: &Command) -> Command {
    let mut own = Command::new("setsid");
    own.arg("--ctty").arg(command.get_program());
    own.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => own.env(name, value),
            None => own.env_remove(name),
        };
    }
    own
}

fn set_size(terminal: &File, rows: NonZero<u16>, columns: NonZero<u16>) {
    let size = Winsize {
        ws_row: rows.get(),
        ws_col: columns.get(),
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(terminal, size).expect("sets");
}

/// Both sides of a new terminal: the person's, and the program's.
fn pair() -> (File, File) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let keys = openpt(flags).expect("opens");
    grantpt(&keys).expect("grants");
    unlockpt(&keys).expect("unlocks");
    let name = ptsname(&keys, Vec::new()).expect("has a name");
    let terminal = File::options()
        .read(true)
        .write(true)
        .custom_flags(OpenptFlags::NOCTTY.bits().cast_signed())
        .open(OsStr::from_bytes(name.as_bytes()))
        .expect("opens");
    set_size(&terminal, ROWS, COLUMNS);
    (File::from(keys), terminal)
}
