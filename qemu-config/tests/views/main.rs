//! `hmmgpu smi` and `hmmgpu top` as a user starts them, against a server that is made up and on a
//! terminal that is emulated.

mod program;
mod sample;
mod server;
mod terminal;

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

#[test]
fn top_shows_quits_and_gives_the_terminal_back() {
    let home = home();
    let server = Server::start(home.path(), sample::hello());
    let mut screen = Screen::start(hmmgpu(home.path(), &["top", RARELY]));
    screen.wait_for("svm-mix");
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
