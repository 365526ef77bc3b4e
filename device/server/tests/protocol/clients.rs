//! Clients one after the other, and two at once, on the real model.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use hmmgpu_contract::regs::{MAGIC_VALUE, Reg, STATE_READY};

use crate::bytes;
use crate::common::*;
use crate::serve::Running;

fn register(client: &mut Raw, register: Reg) -> u32 {
    let data = client.read(0, u64::from(register.0), 4);
    u32::from_ne_bytes(data.try_into().expect("4 bytes"))
}

fn wait_ready(client: &mut Raw) {
    let limit = std::time::Instant::now() + PATIENCE;
    while register(client, Reg::STATE) != STATE_READY {
        assert!(
            std::time::Instant::now() < limit,
            "the device does not get ready"
        );
        std::thread::yield_now();
    }
}

#[test]
fn each_finds_the_device_as_after_a_reset() {
    let server = Running::start();
    let mut generation = None;
    for _ in 0..3 {
        let mut client = Raw::negotiated(&server.socket);
        wait_ready(&mut client);
        assert_eq!(register(&mut client, Reg::MAGIC), MAGIC_VALUE);
        // One more with each client before.
        let now = register(&mut client, Reg::GENERATION);
        if let Some(before) = generation {
            assert_eq!(now, before + 1);
        }
        generation = Some(now);
        let mask = u64::from(Reg::INT_MASK.0);
        client
            .call(REGION_WRITE, &bytes![mask, 0u32, 4u32, 1u32])
            .ok();
        // Maps of the client before would be in the way of these.
        let memory = memory(1 << 20);
        let map = bytes![32u32, 3u32, 0u64, 0u64, 1u64 << 20];
        client.call_with(DMA_MAP, &map, &[memory.as_fd()]).ok();
        client
            .call_with(DMA_MAP, &map, &[memory.as_fd()])
            .fails(EEXIST);
    }
    server.stop();
}

/// Descriptors of this process, and so of the server in it, that are of one eventfd.
fn holders(event: &OwnedFd) -> usize {
    let id = |name: &OsStr| {
        let text = std::fs::read_to_string(Path::new("/proc/self/fdinfo").join(name)).ok()?;
        text.lines()
            .find(|line| line.starts_with("eventfd-id:"))
            .map(str::to_owned)
    };
    let ours = id(OsStr::new(&event.as_raw_fd().to_string())).expect("an eventfd has an id");
    std::fs::read_dir("/proc/self/fdinfo")
        .expect("fdinfo")
        .filter(|entry| id(&entry.as_ref().expect("entry").file_name()).as_ref() == Some(&ours))
        .count()
}

#[test]
fn what_a_client_gave_is_let_go_when_it_leaves() {
    let server = Running::start();
    let event = event();
    let mut client = Raw::negotiated(&server.socket);
    let connect = bytes![20u32, 36u32, 2u32, 0u32, 1u32];
    client.call_with(SET_IRQS, &connect, &[event.as_fd()]).ok();
    assert!(holders(&event) > 1);
    drop(client);
    // The next one is served when all is done for the one before.
    let next = Raw::negotiated(&server.socket);
    assert_eq!(holders(&event), 1);
    drop(next);
    server.stop();
}

#[test]
fn an_interrupt_that_is_no_eventfd_is_refused() {
    let server = Running::start();
    let mut client = Raw::negotiated(&server.socket);
    let connect = bytes![20u32, 36u32, 2u32, 0u32, 1u32];
    client
        .call_with(SET_IRQS, &connect, &[memory(4096).as_fd()])
        .fails(EINVAL);
    client
        .call_with(SET_IRQS, &connect, &[event().as_fd()])
        .ok();
    drop(client);
    server.stop();
}

#[test]
fn one_that_never_negotiates_changes_nothing() {
    let server = Running::start();
    let mut client = Raw::negotiated(&server.socket);
    wait_ready(&mut client);
    let generation = register(&mut client, Reg::GENERATION);
    drop(client);
    drop(Raw::connect(&server.socket));
    let mut stranger = Raw::connect(&server.socket);
    stranger.call(DEVICE_RESET, &[]).fails(EINVAL);
    drop(stranger);
    let mut client = Raw::negotiated(&server.socket);
    assert_eq!(register(&mut client, Reg::GENERATION), generation + 1);
    server.stop();
}

#[test]
fn a_second_one_waits_until_the_first_has_gone() {
    let server = Running::start();
    let mut first = Raw::negotiated(&server.socket);
    let mut second = Raw::connect(&server.socket);
    let id = second.id();
    second.send(
        &message(id, VERSION, COMMAND, &version(0, 0, QEMU_JSON)),
        &[],
    );
    // The first is served while the second waits.
    for _ in 0..100 {
        assert_eq!(register(&mut first, Reg::MAGIC), MAGIC_VALUE);
    }
    second.stream.set_nonblocking(true).expect("nonblocking");
    let answer = std::io::Read::read(&mut second.stream, &mut [0; 1]);
    assert_eq!(
        answer.expect_err("no answer yet").kind(),
        std::io::ErrorKind::WouldBlock
    );
    second.stream.set_nonblocking(false).expect("blocking");
    drop(first);
    assert_eq!(second.reply().ok().id, id);
    assert_eq!(register(&mut second, Reg::MAGIC), MAGIC_VALUE);
    drop(second);
    server.stop();
}

#[test]
fn one_that_does_not_negotiate_keeps_nobody_out() {
    let server = Running::start();
    let whole = message(1, VERSION, COMMAND, &version(0, 0, QEMU_JSON));
    for half in [&[][..], &whole[..whole.len() / 2]] {
        let mut silent = Raw::connect(&server.socket);
        silent.send(half, &[]);
        let mut next = Raw::negotiated(&server.socket);
        silent.expect_end();
        assert_eq!(register(&mut next, Reg::MAGIC), MAGIC_VALUE);
    }
    server.stop();
}

#[test]
fn a_bad_one_does_not_spoil_the_next() {
    let server = Running::start();
    for _ in 0..3 {
        let mut bad = Raw::negotiated(&server.socket);
        bad.send(&[0xff; 64], &[]);
        bad.expect_end();
        let mut good = Raw::negotiated(&server.socket);
        assert_eq!(register(&mut good, Reg::MAGIC), MAGIC_VALUE);
    }
    server.stop();
}
