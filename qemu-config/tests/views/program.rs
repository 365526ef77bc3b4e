//! The program, and waiting for its end.

use std::io::{Read, Seek};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take: far longer than it does, even where the machine is slow.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// The program, with this runtime directory.
pub(crate) fn hmmgpu(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hmmgpu"));
    command
        .args(arguments)
        .env("XDG_RUNTIME_DIR", home)
        .env("TERM", "xterm-256color")
        .env_remove("NO_COLOR")
        .env_remove("HMMGPU_LOG");
    command
}

/// What it left behind.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs it without a terminal.
pub(crate) fn run(home: &Path, arguments: &[&str]) -> Ended {
    let mut stdout = tempfile::tempfile().expect("a file");
    let mut stderr = tempfile::tempfile().expect("a file");
    let mut child = hmmgpu(home, arguments)
        .stdin(Stdio::null())
        .stdout(stdout.try_clone().expect("clones"))
        .stderr(stderr.try_clone().expect("clones"))
        .spawn()
        .expect("starts");
    let status = wait(&mut child);
    let text = |file: &mut std::fs::File| {
        let mut text = String::new();
        file.rewind().expect("rewinds");
        file.read_to_string(&mut text).expect("reads");
        text
    };
    Ended {
        code: status.code(),
        stdout: text(&mut stdout),
        stderr: text(&mut stderr),
    }
}

/// Waits for its end. It is killed, and the test fails, when that does not come.
pub(crate) fn wait(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(status) = child.try_wait().expect("waits") {
            return status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the program does not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
