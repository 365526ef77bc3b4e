//! The `hmmgpu` program as a user starts it, as far as no guest is needed.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const LIMIT: Duration = Duration::from_secs(60);

/// The program, with a cache and a runtime folder of its own.
fn hmmgpu(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hmmgpu"));
    command
        .env("HMMGPU_CACHE", home.join("cache"))
        .env("XDG_RUNTIME_DIR", home);
    command.env_remove("HMMGPU_LOG").stdin(Stdio::null());
    command
}

fn run(home: &Path, arguments: &[&str]) -> Output {
    hmmgpu(home).args(arguments).output().expect("starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A child that does not outlive its test.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(
            command
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("starts"),
        )
    }

    fn first_line(&mut self) -> String {
        let stdout = self.0.stdout.as_mut().expect("is piped");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).expect("reads");
        line
    }

    fn first_error(&mut self) -> String {
        let stderr = self.0.stderr.as_mut().expect("is piped");
        let mut line = String::new();
        BufReader::new(stderr).read_line(&mut line).expect("reads");
        line
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).expect("a pid")).expect("a pid");
        kill_process(pid, signal).expect("signals");
    }

    fn end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.0.try_wait().expect("waits") {
                return status;
            }
            assert!(Instant::now() < deadline, "the program does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn wrong_arguments_exit_with_2_and_start_nothing() {
    let home = tempfile::tempdir().expect("a folder");
    for (arguments, word) in [
        (&["bench", "--size", "3M"][..], "multiple of 2M"),
        (
            &["bench", "--size", "2G", "--vram", "1G"],
            "do not fit into VRAM",
        ),
        (
            &["bench", "--size", "1G", "--memory", "1G"],
            "--memory 1536M",
        ),
        (
            &["bench", "--profile", "nosuch"],
            "built-in ones are default, bench, stress, two-gpus",
        ),
        (&["bench", "--profile", "two-gpus"], "--gpus 1"),
        (&["selftest", "--gpus", "1"], "need 2 GPUs"),
        (
            &["selftest", "--kernel-source", "/nonexistent"],
            "no Linux source tree",
        ),
        (&["selftest", "--against", "nosuch"], "test_hmm"),
        (
            &["run", "--telemetry", "-", "--", "true"],
            "name a file for --telemetry",
        ),
        (&["run", "--gpus", "9", "--", "true"], "1 to 8"),
        (
            &["run", "--file", "/nonexistent", "--", "true"],
            "/nonexistent",
        ),
        (
            &["run", "--kernel", "debian:sid", "--", "true"],
            "debian:7.2",
        ),
        (
            &["run", "--kernel", "debug:7.3", "--", "true"],
            "no kernel debug:7.3 here; build one by: hmmgpu kernel build --debug",
        ),
        (&["kernel", "build"], "--debug"),
        (
            &["bench", "--kernel", "/nonexistent"],
            "no kernel for the guest",
        ),
        (
            &[
                "bench",
                "--kernel-a",
                "debian:7.2",
                "--kernel-b",
                "/nonexistent",
            ],
            "no kernel for the guest",
        ),
        (
            &["selftest", "--kernel", "/dev/null,/nonexistent"],
            "no bzImage",
        ),
        (&["nosuch"], "nosuch"),
        (&["shell"], "hmmgpu run"),
    ] {
        let output = run(home.path(), arguments);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(word), "{arguments:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
    assert_eq!(
        std::fs::read_dir(home.path()).expect("reads").count(),
        0,
        "nothing was made"
    );
}

#[test]
fn a_kernel_without_device_private_memory_is_told_so() {
    let home = tempfile::tempdir().expect("a folder");
    let tree = home.path().join("linux");
    std::fs::create_dir(&tree).expect("makes");
    for name in ["Makefile", "Kconfig"] {
        std::fs::write(tree.join(name), "").expect("writes");
    }
    std::fs::write(tree.join(".config"), "CONFIG_64BIT=y\n").expect("writes");
    let tree = tree.to_str().expect("UTF-8");
    let output = run(home.path(), &["bench", "--kernel", tree]);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    for word in [
        tree,
        "CONFIG_DEVICE_PRIVATE=y",
        "CONFIG_TRANSPARENT_HUGEPAGE=y",
        "run make",
    ] {
        assert!(stderr.contains(word), "{word}: {stderr}");
    }
    assert!(!home.path().join("cache").exists(), "nothing was made");
}

#[test]
fn a_profile_error_names_file_line_and_key() {
    let home = tempfile::tempdir().expect("a folder");
    let file = home.path().join("mine.toml");
    std::fs::write(&file, "memory = \"2G\"\nvram = \"1G\"\nmemroy = 1\n").expect("writes");
    let file = file.to_str().expect("UTF-8");
    let output = run(home.path(), &["run", "--profile", file, "--", "true"]);
    assert_eq!(output.status.code(), Some(2));
    let stderr = text(&output.stderr);
    assert!(
        stderr.contains(&format!("{file}:3: key 'memroy'")),
        "{stderr}"
    );
}

#[test]
fn help_and_version_go_to_standard_output() {
    let home = tempfile::tempdir().expect("a folder");
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["bench", "--help"],
        &["help", "run"],
    ] {
        let output = run(home.path(), arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(
            !output.stdout.is_empty() && output.stderr.is_empty(),
            "{arguments:?}"
        );
    }
}

#[test]
fn an_output_that_cannot_be_written_is_noticed_before_any_work() {
    let home = tempfile::tempdir().expect("a folder");
    let output = run(
        home.path(),
        &["bench", "--json", "/nonexistent/result.json"],
    );
    assert_eq!(output.status.code(), Some(125));
    assert!(text(&output.stderr).contains("/nonexistent/result.json"));
    assert!(!home.path().join("cache").exists(), "nothing was made");
}

#[test]
fn work_that_fails_leaves_an_older_result_alone() {
    let home = tempfile::tempdir().expect("a folder");
    let result = home.path().join("result.json");
    std::fs::write(&result, "older").expect("writes");
    // Without host tools no guest can be made.
    let output = hmmgpu(home.path())
        .args(["bench", "--json"])
        .arg(&result)
        .env("PATH", "/nonexistent")
        .output()
        .expect("starts");
    assert_eq!(output.status.code(), Some(120), "{}", text(&output.stderr));
    assert_eq!(std::fs::read_to_string(&result).expect("reads"), "older");
}

#[test]
fn serve_says_how_to_attach_it_and_ends_on_sigterm() {
    let home = tempfile::tempdir().expect("a folder");
    let socket = home.path().join("gpu.sock");
    let telemetry = home.path().join("telemetry.json");
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = Running::start(
            hmmgpu(home.path())
                .args(["serve", "--vram", "64M", "--socket"])
                .arg(&socket)
                .arg("--telemetry")
                .arg(&telemetry),
        );
        let line = server.first_line();
        assert!(line.contains("vfio-user-pci"), "{line}");
        assert!(line.contains(socket.to_str().expect("UTF-8")), "{line}");
        assert!(line.contains("memory-backend-memfd"), "{line}");
        server.signal(signal);
        assert_eq!(server.end().code(), Some(0));
        assert!(!socket.exists(), "the socket is removed");
        let snapshot: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&telemetry).expect("reads")).expect("JSON");
        assert_eq!(snapshot["schema"], "hmmgpu.telemetry/2");
        assert_eq!(snapshot["vram"]["bytes"], 64 << 20);
        std::fs::remove_file(&telemetry).expect("removes");
    }
}

/// The state of a process, by its letter in proc(5).
fn state_of(pid: u32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    // The name before it stands in parentheses and may contain anything.
    let (_, behind) = stat.rsplit_once(") ").expect("a name");
    behind.chars().next().expect("a state")
}

#[test]
fn a_server_is_made_to_stand_still_and_killed() {
    let home = tempfile::tempdir().expect("a folder");
    let mut server = Running::start(
        hmmgpu(home.path())
            .args(["serve", "--vram", "64M", "--socket"])
            .arg(home.path().join("gpu.sock")),
    );
    server.first_line();
    let pid = server.0.id();
    let inject = |fault: &str| {
        let mut command = hmmgpu(home.path());
        command.args(["inject", fault]);
        command
    };
    let mut still = Running::start(&mut inject("server:stop=3600s"));
    let told = still.first_error();
    assert_eq!(told, format!("process {pid} stands still for 1h\n"));
    // A thread that waits for a CPU does nothing more, but stops only when it has one.
    let deadline = Instant::now() + LIMIT;
    while state_of(pid) != 'T' {
        assert!(Instant::now() < deadline, "it goes on");
        std::thread::sleep(Duration::from_millis(1));
    }
    still.signal(Signal::INT);
    assert_eq!(still.end().code(), Some(130));
    assert_ne!(state_of(pid), 'T');
    let short = inject("server:stop=1ms").output().expect("starts");
    assert_eq!(short.status.code(), Some(0));
    let told = text(&short.stderr);
    assert!(told.contains(&format!("process {pid} goes on")), "{told}");
    assert_ne!(state_of(pid), 'T');

    let killed = inject("server:kill").output().expect("starts");
    assert_eq!(killed.status.code(), Some(0), "{}", text(&killed.stderr));
    assert_eq!(server.end().signal(), Some(9));
    // It could not remove its socket; who looks for it next does.
    let control = home.path().join(format!("hmmgpu/{pid}.control"));
    assert!(control.exists());
    let none = inject("server:kill").output().expect("starts");
    assert_eq!(none.status.code(), Some(1));
    assert!(text(&none.stderr).contains("no GPU runs"));
    assert!(!control.exists());
    let wrong = inject("server:kill@3").output().expect("starts");
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong.stderr).contains("stop=TIME"));
}

#[test]
fn telemetry_on_standard_output_is_alone_there() {
    let home = tempfile::tempdir().expect("a folder");
    let mut server = Running::start(
        hmmgpu(home.path())
            .args(["serve", "--vram", "64M", "--telemetry", "-", "--socket"])
            .arg(home.path().join("gpu.sock")),
    );
    let line = server.first_error();
    assert!(line.contains("vfio-user-pci"), "{line}");
    server.signal(Signal::TERM);
    let mut stdout = Vec::new();
    server
        .0
        .stdout
        .take()
        .expect("is piped")
        .read_to_end(&mut stdout)
        .expect("reads");
    assert_eq!(server.end().code(), Some(0));
    serde_json::from_slice::<serde_json::Value>(&stdout).expect("only JSON");
}

#[test]
fn a_socket_of_a_living_server_is_refused() {
    let home = tempfile::tempdir().expect("a folder");
    let socket = home.path().join("gpu.sock");
    let mut serve = hmmgpu(home.path());
    serve
        .args(["serve", "--vram", "64M", "--socket"])
        .arg(&socket);
    let mut first = Running::start(&mut serve);
    first.first_line();
    let second = serve.output().expect("starts");
    assert_eq!(second.status.code(), Some(125));
    assert!(
        text(&second.stderr).starts_with("hmmgpu: error: "),
        "{}",
        text(&second.stderr)
    );
    first.signal(Signal::TERM);
    assert_eq!(first.end().code(), Some(0));
}

#[test]
fn a_supervised_server_dies_with_its_parent() {
    let home = tempfile::tempdir().expect("a folder");
    let socket = home.path().join("gpu.sock");
    // The shell is the parent; it is killed once the server has said that it is ready.
    let script = r#""$0" serve --supervised --vram 64M --socket "$1" & wait"#;
    let mut shell = Running::start(
        Command::new("/bin/sh")
            .args(["-c", script, env!("CARGO_BIN_EXE_hmmgpu")])
            .arg(&socket)
            .stdin(Stdio::null())
            .process_group(0),
    );
    let stdout = shell.0.stdout.take().expect("is piped");
    let mut stdout = BufReader::new(stdout);
    let mut line = String::new();
    stdout.read_line(&mut line).expect("reads");
    assert_eq!(line, "ready\n");
    assert!(socket.exists());
    shell.signal(Signal::KILL);
    // The server holds the other end: its end is the end of the pipe.
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("reads");
    assert_eq!(rest, "");
    assert!(!socket.exists(), "it went in order");
}

#[test]
fn doctor_reports_as_text_and_json() {
    let home = tempfile::tempdir().expect("a folder");
    let output = run(home.path(), &["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["schema"], "hmmgpu.doctor/1");
    let ok = report["ok"].as_bool().expect("a verdict");
    assert_eq!(output.status.code(), Some(if ok { 0 } else { 1 }));
    let names: Vec<&str> = report["checks"]
        .as_array()
        .expect("checks")
        .iter()
        .filter_map(|check| check["name"].as_str())
        .collect();
    for name in [
        "bwrap",
        "cache",
        "tool root",
        "accelerator",
        "runtime folder",
    ] {
        assert!(names.contains(&name), "{names:?}");
    }
    let output = run(home.path(), &["doctor"]);
    assert!(text(&output.stdout).contains("accelerator"));
    assert!(!home.path().join("cache").exists(), "it makes nothing");
}

#[test]
fn doctor_exits_with_1_when_something_is_missing() {
    let home = tempfile::tempdir().expect("a folder");
    let output = hmmgpu(home.path())
        .args(["doctor"])
        .env("PATH", "/nonexistent")
        .env("HMMGPU_SOURCE", home.path())
        .output()
        .expect("starts");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    assert!(text(&output.stdout).contains("MISSING"));
}

#[test]
fn a_reader_that_has_gone_is_no_error() {
    let home = tempfile::tempdir().expect("a folder");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let status = hmmgpu(home.path())
        .arg("doctor")
        .env("PATH", "/nonexistent")
        .stdout(writer)
        .status()
        .expect("starts");
    assert_eq!(status.code(), Some(0));
}
