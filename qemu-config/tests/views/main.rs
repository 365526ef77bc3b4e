//! `hmmgpu smi` and `hmmgpu top` as a user starts them, against a server that is made up and on a
//! terminal that is emulated.

mod program;
mod sample;
mod server;
mod terminal;

use std::num::NonZero;
use std::path::Path;
use std::process::Command;

use program::{hmmgpu, run};
use rustix::process::Signal;
use server::Server;
use terminal::Screen;

/// For tests on a terminal: the made-up server says all that it has to say at once.
const RARELY: &str = "--interval=3600";

/// A runtime directory. Its path is short, as those of sockets have to be.
fn home() -> tempfile::TempDir {
    tempfile::tempdir_in("/tmp").expect("a folder")
}

#[test]
fn smi_finds_the_gpus_that_run() {
    let home = home();
    let none = run(home.path(), &["smi"]);
    assert_eq!(none.code, Some(1));
    assert!(none.stderr.contains("hmmgpu bench"), "says what to do");
    let made = home.path().join("hmmgpu").exists();
    assert!(!made, "a reader makes nothing");

    let _server = Server::start(home.path(), sample::hello());
    let table = run(home.path(), &["smi"]);
    assert_eq!(table.code, Some(0), "{table:?}");
    assert!(
        table.stdout.contains("1000 1.95 GiB 10.5 GB/s"),
        "{table:?}"
    );

    let query = ["smi", "--query", "label,vram.used"];
    let csv = run(
        home.path(),
        &[&query[..], &["--format", "csv,noheader"]].concat(),
    );
    assert_eq!(csv.stdout, "bench,516 MiB\n");

    let json = run(home.path(), &["smi", "--json"]);
    let document: serde_json::Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!(document["schema"], "hmmgpu.smi/1");
    let gpu = &document["gpus"][0];
    assert_eq!(gpu["server"]["label"], "bench");
    assert_eq!(gpu["snapshot"]["vram"]["used_bytes"], 516 << 20);
}

#[test]
fn smi_prints_the_last_events() {
    let home = home();
    let _server = Server::start(home.path(), sample::hello());
    let all = run(home.path(), &["smi", "--events"]);
    assert_eq!(all.code, Some(0), "{all:?}");
    let lines: Vec<_> = all.stdout.lines().collect();
    assert_eq!(lines[0], "bench, pid 4711");
    assert!(lines[1].contains("1.000000  device") && lines[1].ends_with("begins generation 1"));
    let last = run(home.path(), &["smi", "--events", "1", "--json"]);
    let document: serde_json::Value = serde_json::from_str(&last.stdout).expect("JSON");
    assert_eq!(document["schema"], "hmmgpu.events/1");
    assert_eq!(document["server"]["pid"], 4711);
    assert_eq!(document["events"].as_array().map(Vec::len), Some(1));
    assert_eq!(document["events"][0]["event"], "told");
}

#[test]
fn smi_tells_of_a_server_of_another_version() {
    let home = home();
    let mut hello = sample::hello();
    hello.protocol = "hmmgpu.control/2".into();
    let _server = Server::start(home.path(), hello);
    let output = run(home.path(), &["smi"]);
    assert_eq!(output.code, Some(1));
    let told = output.stderr.contains("speaks hmmgpu.control/2");
    assert!(told, "{output:?}");
}

#[test]
fn top_prints_frames_without_a_terminal() {
    let home = home();
    let _server = Server::start(home.path(), sample::hello());
    let plain = run(home.path(), &["top"]);
    assert_eq!(plain.code, Some(2));
    assert!(plain.stderr.contains("--batch"), "{plain:?}");
    let frames = run(home.path(), &["top", "--batch", "-n", "2", RARELY]);
    assert_eq!(frames.code, Some(0), "{frames:?}");
    let title = "GPU 1/1 bench pid 4711";
    assert_eq!(frames.stdout.matches(title).count(), 2, "{frames:?}");
    assert!(frames.stdout.contains("svm-mix") && !frames.stdout.contains('\u{1b}'));
}

/// A server, and a view of it on a terminal.
fn view(home: &Path, arguments: &[&str]) -> (Server, Screen) {
    let server = Server::start(home, sample::hello());
    let mut screen = Screen::start(hmmgpu(home, arguments));
    screen.wait_for("svm-mix");
    (server, screen)
}

#[test]
fn top_shows_quits_and_gives_the_terminal_back() {
    let home = home();
    let (server, mut screen) = view(home.path(), &["top", RARELY]);
    assert!(screen.is_taken() && screen.has_colour());
    assert!(screen.contains("VRAM map"), "{}", screen.contents());
    screen.press(b"h");
    screen.wait_for("another GPU");
    screen.press(b"h");
    drop(server);
    screen.wait_for("the server has ended");
    screen.press(b"q");
    assert_eq!(screen.end().code(), Some(0));
    assert!(screen.was_taken() && !screen.is_taken());
}

#[test]
fn top_fills_the_window_however_large_it_gets() {
    let home = home();
    let (_server, mut screen) = view(home.path(), &["top", RARELY]);
    let is_whole = |screen: &Screen, last: usize| {
        let (first, last) = (screen.line(0), screen.line(last));
        assert!(first.starts_with(" GPU 1/1 bench pid 4711"), "{first}");
        assert!(last.starts_with(" q quit"), "{last}");
    };
    is_whole(&screen, 23);
    assert!(!screen.contains("folios/s"), "{}", screen.contents());
    let size = |lines| NonZero::new(lines).expect("a size");
    screen.resize(size(40), size(120));
    // Shown where there is room for it.
    let has_room = |screen: &Screen| screen.contains("folios/s");
    screen.wait_until(|screen| has_room(screen) && screen.line(39).starts_with(" q quit"));
    is_whole(&screen, 39);
    screen.resize(size(24), size(80));
    screen.wait_until(|screen| !has_room(screen) && screen.line(23).starts_with(" q quit"));
    screen.press(b"q");
    assert_eq!(screen.end().code(), Some(0));
}

#[test]
fn top_gives_the_terminal_back_while_it_is_suspended() {
    let home = home();
    let _server = Server::start(home.path(), sample::hello());
    let mut screen = Screen::start(hmmgpu(home.path(), &["top", RARELY]));
    // By the key, and by the signal that another program sends.
    let ways: [fn(&mut Screen); 2] = [
        |screen| screen.press(b"\x1a"),
        |screen| screen.signal(Signal::TSTP),
    ];
    for suspend in ways {
        screen.wait_for("svm-mix");
        assert!(screen.is_taken());
        suspend(&mut screen);
        screen.wait_until_stopped();
        assert!(!screen.contains("svm-mix"), "{}", screen.contents());
        screen.signal(Signal::CONT);
        screen.wait_for("q quit");
    }
    screen.press(b"\x03");
    assert_eq!(screen.end().code(), Some(0));
    assert!(!screen.is_taken());
}

#[test]
fn top_ends_when_its_terminal_goes_away() {
    let home = home();
    let (_server, screen) = view(home.path(), &["top", RARELY]);
    assert_eq!(screen.hang_up().code(), Some(129));
}

#[test]
fn smi_goes_on_until_ctrl_c_and_leaves_the_terminal_alone() {
    let home = home();
    let (_server, mut screen) = view(home.path(), &["smi", "-l", "1"]);
    assert!(!screen.is_taken());
    // The terminal makes it a signal.
    screen.press(b"\x03");
    assert_eq!(screen.end().code(), Some(0));
    let mut screen = Screen::start(hmmgpu(home.path(), &["smi", "-l", "1"]));
    screen.wait_for("svm-mix");
    screen.signal(Signal::TERM);
    assert_eq!(screen.end().code(), Some(143));
    assert!(!screen.was_taken() && !screen.is_taken());
}

#[test]
fn top_uses_no_colours_where_none_are_wanted() {
    let home = home();
    let _server = Server::start(home.path(), sample::hello());
    let mut command = hmmgpu(home.path(), &["top", RARELY]);
    command.env("NO_COLOR", "1");
    let mut screen = Screen::start(command);
    screen.wait_for("svm-mix");
    assert!(!screen.has_colour());
    assert!(screen.has_dim(), "what is quiet is told without colours");
}

#[test]
fn top_gives_the_terminal_back_when_it_is_told_to_end() {
    let home = home();
    let mut screen = Screen::start(hmmgpu(home.path(), &["top"]));
    screen.wait_for("No GPU runs");
    assert!(screen.is_taken());
    screen.signal(Signal::TERM);
    assert_eq!(screen.end().code(), Some(143));
    assert!(screen.was_taken() && !screen.is_taken());
}

#[test]
fn a_panic_gives_the_terminal_back() {
    let mut command = Command::new(std::env::current_exe().expect("a path"));
    command
        .args(["--exact", "panic_on_a_terminal", "--nocapture"])
        .env("HMMGPU_TEST_PANIC", "1")
        .env("RUST_BACKTRACE", "0");
    let mut screen = Screen::start(command);
    assert_eq!(screen.end().code(), Some(101));
    assert!(screen.was_taken() && !screen.is_taken());
    let told = screen.contains("on purpose");
    assert!(told, "it tells of itself after: {}", screen.contents());
}

/// What [`a_panic_gives_the_terminal_back`] runs on a terminal of its own; nothing elsewhere.
#[test]
fn panic_on_a_terminal() {
    if std::env::var_os("HMMGPU_TEST_PANIC").is_some() {
        let _screen = hmmgpu::views::top::Screen::enter().expect("a terminal");
        panic!("on purpose");
    }
}
