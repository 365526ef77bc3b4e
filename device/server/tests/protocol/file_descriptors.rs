//! Which message descriptors belong to, and what becomes of those that belong to none.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use crate::bytes;
use crate::common::*;

fn map(address: u64) -> Vec<u8> {
    bytes![32u32, 3u32, 0u64, address, 4096u64]
}

/// Address and file of each map that the backend was asked for.
fn maps(recorder: &Recorder) -> Vec<(u64, Option<(u64, u64)>)> {
    recorder
        .take()
        .into_iter()
        .filter_map(|call| match call {
            Call::Map { address, file, .. } => Some((address, file.map(identity))),
            _ => None,
        })
        .collect()
}

fn drain(client: &mut Raw, replies: usize) {
    for _ in 0..replies {
        client.reply().ok();
    }
}

#[test]
fn of_messages_that_come_at_once_the_one_sent_with_them_gets_them() {
    let harness = Harness::new();
    let mut client = harness.client();
    let (first, second) = (memory(4096), memory(4096));
    let none: &[BorrowedFd<'_>] = &[];
    // Without and with descriptors, by turns. A chunk ends behind the first that has some.
    let plan: [(u64, &[BorrowedFd<'_>]); 7] = [
        (0x1000, none),
        (0x2000, none),
        (0x3000, &[first.as_fd()]),
        (0x4000, none),
        (0x5000, &[second.as_fd()]),
        (0x6000, &[first.as_fd()]),
        (0x7000, none),
    ];
    let expected: Vec<_> = plan
        .iter()
        .map(|(address, fds)| (*address, fds.first().map(identity)))
        .collect();
    // Once at leisure, and many times in a hurry, so that many ways of gluing occur.
    for _ in 0..200 {
        for (address, fds) in plan {
            client.send(&message(7, DMA_MAP, COMMAND, &map(address)), fds);
        }
        drain(&mut client, plan.len());
        assert_eq!(maps(&harness.recorder), expected);
    }
}

#[test]
fn they_find_their_message_in_a_long_queue() {
    let harness = Harness::new();
    let mut client = harness.client();
    let file = memory(4096);
    // The server cannot send so many replies before some are read. So when it receives again,
    // all that is sent here waits in the socket.
    let reads = 60;
    for _ in 0..reads {
        let read = bytes![0u64, 0u32, 0x1_0000u32];
        client.send(&message(1, REGION_READ, COMMAND, &read), &[]);
    }
    let addresses = 1..=60u64;
    for address in addresses.clone() {
        let fds = [file.as_fd()];
        let fds = if address % 7 == 0 { &fds[..] } else { &[] };
        client.send(&message(9, DMA_MAP, COMMAND, &map(address * 4096)), fds);
    }
    drain(&mut client, reads + 60);
    let expected: Vec<_> = addresses
        .map(|address| (address * 4096, (address % 7 == 0).then(|| identity(&file))))
        .collect();
    let maps: Vec<_> = maps(&harness.recorder);
    assert_eq!(maps, expected);
}

#[test]
fn they_may_come_with_any_part_of_their_message() {
    let harness = Harness::new();
    let mut client = harness.client();
    let file = memory(4096);
    let whole = message(5, DMA_MAP, COMMAND, &map(0x1000));
    for cut in 1..whole.len() {
        // With the first part, and with the second.
        for with_second in [false, true] {
            let fds = [file.as_fd()];
            let (first, second): (&[_], &[_]) = if with_second {
                (&[], &fds)
            } else {
                (&fds, &[])
            };
            client.send(&whole[..cut], first);
            client.send(&whole[cut..], second);
            client.reply().ok();
            assert_eq!(maps(&harness.recorder), [(0x1000, Some(identity(&file)))]);
        }
    }
}

#[test]
fn those_of_a_command_that_takes_none_are_closed() {
    let harness = Harness::new();
    let mut client = harness.client();
    let (mut reader, writer) = pipe();
    let fds = [writer.as_fd(), writer.as_fd()];
    client
        .call_with(REGION_READ, &bytes![0u64, 0u32, 4u32], &fds)
        .ok();
    client.call_with(DEVICE_RESET, &[], &fds).ok();
    client.call_with(0x4242, &[1; 40], &fds).fails(EOPNOTSUPP);
    client.call_with(DMA_MAP, &map(0x1000), &fds).fails(EINVAL);
    client.send(&message(1, DEVICE_RESET, POSTED, &[]), &fds);
    client.call(DEVICE_RESET, &[]).ok();
    // The end of the pipe comes when its last writer is closed.
    drop(writer);
    let end = bounded(move || reader.read(&mut [0; 1]).expect("read"));
    assert_eq!(end, 0);
}

#[test]
fn more_than_announced_are_refused_and_closed() {
    let harness = Harness::new();
    let mut client = harness.client();
    let (mut reader, writer) = pipe();
    let fds = vec![writer.as_fd(); 17];
    let payload = bytes![20u32, 4u32 | 32, 2u32, 0u32, 16u32];
    client.call_with(8, &payload, &fds).fails(EMFILE);
    let fds = vec![writer.as_fd(); 60];
    client.call_with(DMA_MAP, &map(0x1000), &fds).fails(EMFILE);
    assert!(harness.recorder.take().is_empty());
    drop(writer);
    assert_eq!(bounded(move || reader.read(&mut [0; 1]).expect("read")), 0);
    client.call(DEVICE_RESET, &[]).ok();
}

#[test]
fn a_client_cannot_make_the_server_hold_many() {
    let harness = Harness::new();
    let mut client = harness.client();
    let (mut reader, writer) = pipe();
    let fds = vec![writer.as_fd(); 16];
    // One message, and with every byte of it descriptors.
    let whole = message(5, REGION_WRITE, COMMAND, &[0; 500]);
    for byte in &whole[..whole.len() - 1] {
        client.send(std::slice::from_ref(byte), &fds);
    }
    client.send(&whole[whole.len() - 1..], &[]);
    let before = Instant::now();
    client.reply().fails(EMFILE);
    assert!(before.elapsed() < PATIENCE);
    drop(writer);
    assert_eq!(bounded(move || reader.read(&mut [0; 1]).expect("read")), 0);
    client.call(DEVICE_RESET, &[]).ok();
}

#[test]
fn those_of_a_message_that_never_ends_are_closed() {
    let harness = Harness::new();
    let (mut reader, writer) = pipe();
    let client = harness.client();
    client.send(
        &message(5, DMA_MAP, COMMAND, &map(0))[..20],
        &[writer.as_fd()],
    );
    drop((client, writer));
    assert_eq!(bounded(move || reader.read(&mut [0; 1]).expect("read")), 0);
}

fn pipe() -> (File, File) {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("pipe");
    (reader.into(), writer.into())
}
