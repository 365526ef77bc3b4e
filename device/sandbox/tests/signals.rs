//! Signals are handled on any thread, and handlers tell of them by a socket: engines can, too.

use std::os::unix::net::UnixDatagram;

use hmmgpu_sandbox::{Role, confine_calls, has_seccomp};

#[test]
fn an_engine_can_tell_the_other_end_of_a_socket_and_nobody_else() {
    if !has_seccomp() {
        return eprintln!("skipped: no seccomp");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("another");
    let another = UnixDatagram::bind(&path).unwrap();
    another.set_nonblocking(true).unwrap();
    let (engine, other) = UnixDatagram::pair().unwrap();
    let free = UnixDatagram::unbound().unwrap();
    // It stays confined.
    let thread = std::thread::spawn(move || {
        confine_calls(Role::Engine).unwrap();
        engine.send(b"Ctrl-C").unwrap();
        let error = free.send_to(b"hello", &path).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    });
    thread.join().unwrap();
    assert_eq!(other.recv(&mut [0; 16]).unwrap(), 6);
    another.recv(&mut [0; 16]).unwrap_err();
}
