//! DEVICE_SET_IRQS.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use hmmgpu_model::{Config, Device};
use hmmgpu_server::{ClientLog, ModelBackend};
use vfio_user::ServerBackend;

use crate::bytes;
use crate::common::*;

const NONE: u32 = 1;
const BOOL: u32 = 2;
const EVENTFD: u32 = 4;
const MASK: u32 = 8;
const UNMASK: u32 = 16;
const TRIGGER: u32 = 32;

const MSIX: u32 = 2;

fn irqs(flags: u32, index: u32, start: u32, count: u32) -> Vec<u8> {
    bytes![20u32, flags, index, start, count]
}

fn borrowed(fds: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    fds.iter().map(AsFd::as_fd).collect()
}

/// What the backend was asked, without the descriptors but with their number.
#[track_caller]
fn asked(call: Call) -> (u32, u32, u32, u32, usize) {
    match call {
        Call::SetIrqs {
            index,
            flags,
            start,
            count,
            fds,
        } => (index, flags, start, count, fds.len()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn qemu_enables_msix_in_two_steps() {
    let harness = Harness::new();
    let mut client = harness.client();
    // First one vector, with no descriptor; then all.
    client
        .call(SET_IRQS, &irqs(EVENTFD | TRIGGER, MSIX, 0, 1))
        .ok();
    assert_eq!(
        asked(harness.recorder.one()),
        (MSIX, EVENTFD | TRIGGER, 0, 1, 0)
    );
    let events: Vec<OwnedFd> = (0..16).map(|_| event()).collect();
    let reply = client
        .call_with(
            SET_IRQS,
            &irqs(EVENTFD | TRIGGER, MSIX, 0, 16),
            &borrowed(&events),
        )
        .ok();
    assert!(reply.payload.is_empty(), "{reply:?}");
    assert_eq!(
        asked(harness.recorder.one()),
        (MSIX, EVENTFD | TRIGGER, 0, 16, 16)
    );
}

#[test]
fn the_descriptors_keep_their_order_and_are_closed_on_exec() {
    let harness = Harness::new();
    // All eventfds are one file to fstat; memory is not.
    let files: Vec<OwnedFd> = (0..3).map(|_| memory(4096).into()).collect();
    let payload = irqs(EVENTFD | TRIGGER, MSIX, 5, 3);
    harness
        .client()
        .call_with(SET_IRQS, &payload, &borrowed(&files))
        .ok();
    let Call::SetIrqs {
        start: 5,
        count: 3,
        fds,
        ..
    } = harness.recorder.one()
    else {
        panic!("asked something else")
    };
    let got: Vec<_> = fds.iter().map(identity).collect();
    let sent: Vec<_> = files.iter().map(identity).collect();
    assert_eq!(got, sent);
    for fd in fds {
        let flags = rustix::io::fcntl_getfd(fd).expect("flags");
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }
}

#[test]
fn a_count_of_zero_disables_an_index() {
    let harness = Harness::new();
    let mut client = harness.client();
    // QEMU does so for INTx too, which has no vectors.
    for index in 0..3 {
        client
            .call(SET_IRQS, &irqs(NONE | TRIGGER, index, 0, 0))
            .ok();
        assert_eq!(
            asked(harness.recorder.one()),
            (index, NONE | TRIGGER, 0, 0, 0)
        );
    }
}

#[test]
fn bools_raise_the_vectors_that_are_true() {
    let harness = Harness::new();
    let mut client = harness.client();
    let mut payload = irqs(BOOL | TRIGGER, MSIX, 3, 4);
    payload.extend([0, 1, 0, 2]);
    client.call(SET_IRQS, &payload).ok();
    let calls: Vec<_> = harness.recorder.take().into_iter().map(asked).collect();
    assert_eq!(
        calls,
        [
            (MSIX, NONE | TRIGGER, 4, 1, 0),
            (MSIX, NONE | TRIGGER, 6, 1, 0)
        ]
    );
    payload.pop();
    client.call(SET_IRQS, &payload).fails(EINVAL);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let harness = Harness::new();
    let mut client = harness.client();
    for payload in [
        // Ranges: outside, too long, wrapping around, empty.
        irqs(NONE | TRIGGER, MSIX, 16, 1),
        irqs(NONE | TRIGGER, MSIX, 15, 2),
        irqs(NONE | TRIGGER, MSIX, 1, u32::MAX),
        irqs(NONE | TRIGGER, MSIX, u32::MAX, 1),
        irqs(EVENTFD | TRIGGER, MSIX, 0, 0),
        irqs(BOOL | TRIGGER, MSIX, 0, 0),
        irqs(NONE | MASK, MSIX, 0, 0),
        // Indices: without vectors, unknown.
        irqs(NONE | TRIGGER, 0, 0, 1),
        irqs(EVENTFD | TRIGGER, 1, 0, 1),
        irqs(NONE | TRIGGER, 3, 0, 0),
        irqs(NONE | TRIGGER, u32::MAX, 0, 0),
        // Flags: no data, no action, two of one, unknown.
        irqs(TRIGGER, MSIX, 0, 1),
        irqs(NONE, MSIX, 0, 1),
        irqs(NONE | BOOL | TRIGGER, MSIX, 0, 1),
        irqs(NONE | MASK | TRIGGER, MSIX, 0, 1),
        irqs(NONE | TRIGGER | 64, MSIX, 0, 1),
        // Sizes.
        irqs(NONE | TRIGGER, MSIX, 0, 1)[..19].to_vec(),
        bytes![19u32, NONE | TRIGGER, MSIX, 0u32, 1u32],
        vec![],
    ] {
        client.call(SET_IRQS, &payload).fails(EINVAL);
    }
    assert!(harness.recorder.take().is_empty());
}

#[test]
fn descriptors_must_be_as_many_as_vectors() {
    let harness = Harness::new();
    let mut client = harness.client();
    let events = [event(), event()];
    for (flags, count) in [(EVENTFD, 1), (EVENTFD, 3), (NONE, 2), (NONE, 0)] {
        let payload = irqs(flags | TRIGGER, MSIX, 0, count);
        client
            .call_with(SET_IRQS, &payload, &borrowed(&events))
            .fails(EINVAL);
    }
    assert!(harness.recorder.take().is_empty());
}

#[test]
fn masking_is_the_clients_own_work() {
    let harness = Harness::new();
    let mut client = harness.client();
    for action in [MASK, UNMASK] {
        client
            .call(SET_IRQS, &irqs(NONE | action, MSIX, 0, 1))
            .fails(EOPNOTSUPP);
    }
    assert!(harness.recorder.take().is_empty());
}

#[test]
fn posted_it_works_without_an_answer() {
    let harness = Harness::new();
    let mut client = harness.client();
    client.post(SET_IRQS, &irqs(NONE | TRIGGER, MSIX, 2, 1));
    client.post(SET_IRQS, &irqs(NONE | TRIGGER, MSIX, 99, 1));
    client.call(DEVICE_RESET, &[]).ok();
    let mut calls = harness.recorder.take();
    assert!(matches!(calls.pop(), Some(Call::Reset)));
    let calls: Vec<_> = calls.into_iter().map(asked).collect();
    assert_eq!(calls, [(MSIX, NONE | TRIGGER, 2, 1, 0)]);
}

#[test]
fn another_client_implementation_connects_vectors() {
    let harness = Harness::new();
    let path = harness.path.clone();
    bounded(move || {
        use std::os::fd::AsRawFd;
        let events = [event(), event()];
        let raw: Vec<_> = events.iter().map(AsRawFd::as_raw_fd).collect();
        let mut client = vfio_user::Client::new(&path).expect("a client");
        client
            .set_irqs(MSIX, EVENTFD | TRIGGER, 1, 2, &raw)
            .expect("set_irqs");
    });
    assert_eq!(
        asked(harness.recorder.one()),
        (MSIX, EVENTFD | TRIGGER, 1, 2, 2)
    );
}

fn device() -> Device {
    Device::new(Config {
        vram_bytes: 64 << 20,
        ..Config::default()
    })
    .expect("device")
}

#[test]
fn a_connected_vector_is_raised_until_it_is_disconnected() {
    let device = device();
    let log = ClientLog::default();
    let mut backend = ModelBackend::new(&device, &log);
    let event = event();
    let file = || vec![std::fs::File::from(event.try_clone().expect("clone"))];
    let mut set = |flags, start, count, fds| backend.set_irqs(MSIX, flags, start, count, fds);

    set(EVENTFD | TRIGGER, 3, 1, file()).expect("connect");
    set(NONE | TRIGGER, 3, 1, vec![]).expect("raise");
    assert_eq!(wait(&event), 1);
    set(NONE | TRIGGER, 4, 1, vec![]).expect("raise another");
    assert!(!is_raised(&event));

    set(EVENTFD | TRIGGER, 3, 1, vec![]).expect("disconnect one");
    set(NONE | TRIGGER, 0, 16, vec![]).expect("raise all");
    assert!(!is_raised(&event));

    set(EVENTFD | TRIGGER, 3, 1, file()).expect("connect");
    set(NONE | TRIGGER, 0, 0, vec![]).expect("disconnect all");
    set(NONE | TRIGGER, 0, 16, vec![]).expect("raise all");
    assert!(!is_raised(&event));
}

#[test]
fn a_client_that_fills_its_counter_blocks_nobody() {
    let device = device();
    let event = event();
    rustix::io::write(&event, &(u64::MAX - 1).to_ne_bytes()).expect("fill");
    let file = std::fs::File::from(event.try_clone().expect("clone"));
    bounded(move || {
        let log = ClientLog::default();
        let mut backend = ModelBackend::new(&device, &log);
        backend
            .set_irqs(MSIX, EVENTFD | TRIGGER, 0, 1, vec![file])
            .expect("connect");
        backend
            .set_irqs(MSIX, NONE | TRIGGER, 0, 1, vec![])
            .expect("raise");
    });
    assert_eq!(wait(&event), u64::MAX - 1);
}
