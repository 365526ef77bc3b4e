//! Bytes that no honest client sends: the connection survives where the boundary to the next
//! message is known, and the server survives always.

use std::net::Shutdown;

use crate::bytes;
use crate::common::*;

/// The server serves another client.
fn alive(harness: &Harness) {
    harness.client().call(DEVICE_RESET, &[]).ok();
}

#[test]
fn sizes_that_cannot_be_true_end_the_connection() {
    let harness = Harness::new();
    for size in [0u32, 1, 15, (1 << 20) + 33, 1 << 31, u32::MAX] {
        let mut client = harness.client();
        client.send(&bytes![1u16, REGION_WRITE, size, 0u32, 0u32], &[]);
        client.expect_end();
    }
    alive(&harness);
}

#[test]
fn the_same_goes_for_the_very_first_message() {
    let harness = Harness::new();
    for noise in [
        vec![0; 64],
        vec![0xff; 64],
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
    ] {
        let mut client = Raw::connect(&harness.path);
        client.send(&noise, &[]);
        client.expect_end();
    }
    alive(&harness);
}

#[test]
fn undefined_flags_are_refused() {
    let harness = Harness::new();
    let mut client = harness.client();
    // Another type; the error flag on a command; bits that are not defined.
    for flags in [2, 15, 1 << 5, 1 << 6, 1 << 31, 0xffff_ffe0] {
        let id = client.id();
        client.send(&message(id, REGION_WRITE, flags, &[0; 40]), &[]);
        let reply = client.reply();
        reply.fails(EINVAL);
        assert_eq!((reply.id, reply.command), (id, REGION_WRITE));
    }
    // The same on messages that take no answer.
    for flags in [2 | POSTED, 1 << 5 | POSTED, 1 << 31 | POSTED] {
        client.send(&message(3, DEVICE_RESET, flags, &[]), &[]);
    }
    client.call(DEVICE_RESET, &[]).ok();
    assert!(matches!(harness.recorder.one(), Call::Reset));
}

#[test]
fn undefined_flags_on_the_very_first_message_are_refused_too() {
    let harness = Harness::new();
    for flags in [2, 15, 1 << 5, 1 << 31] {
        let mut client = Raw::connect(&harness.path);
        client.send(&message(7, VERSION, flags, &[]), &[]);
        let reply = client.reply();
        reply.fails(EINVAL);
        assert_eq!((reply.id, reply.command), (7, VERSION));
        client.call(VERSION, &version(0, 0, QEMU_JSON)).ok();
    }
    alive(&harness);
}

#[test]
fn replies_to_nothing_are_not_answered() {
    let harness = Harness::new();
    let mut client = harness.client();
    for flags in [1, 1 | POSTED, 1 | 1 << 5] {
        client.send(&message(3, DEVICE_RESET, flags, &[]), &[]);
        client.send(&message(3, 11, flags, &[0; 2000]), &[]);
    }
    client.call(DEVICE_RESET, &[]).ok();
    assert!(matches!(harness.recorder.one(), Call::Reset));
}

#[test]
fn every_truncated_payload_is_refused_and_the_next_message_works() {
    let harness = Harness::new();
    let mut client = harness.client();
    let whole: [(u16, Vec<u8>); 7] = [
        (DMA_MAP, bytes![32u32, 1u32, 0u64, 0u64, 4096u64]),
        (DMA_UNMAP, bytes![24u32, 0u32, 0u64, 4096u64]),
        (DEVICE_GET_INFO, bytes![16u32, 0u32, 0u32, 0u32]),
        (GET_REGION_INFO, bytes![32u32, 0u32, 0u32, 0u32, 0u64, 0u64]),
        (GET_IRQ_INFO, bytes![16u32, 0u32, 2u32, 0u32]),
        (SET_IRQS, bytes![20u32, 1u32 | 32, 2u32, 0u32, 1u32]),
        (REGION_READ, bytes![0u64, 0u32, 4u32]),
    ];
    for (command, payload) in whole {
        for length in 0..payload.len() {
            client.call(command, &payload[..length]).fails(EINVAL);
        }
        assert!(harness.recorder.take().is_empty(), "command {command}");
        client.call(command, &payload).ok();
        harness.recorder.take();
    }
}

#[test]
fn every_command_filled_with_noise_is_answered() {
    let harness = Harness::new();
    let mut client = harness.client();
    for command in 0..=20 {
        for byte in [0, 1, 0x7f, 0x80, 0xff] {
            for length in [4, 16, 20, 24, 32, 100] {
                client.call(command, &vec![byte; length]);
            }
        }
    }
    client.call(DEVICE_RESET, &[]).ok();
}

#[test]
fn one_byte_at_a_time() {
    let harness = Harness::new();
    let mut client = Raw::connect(&harness.path);
    let messages = [
        (
            message(1, VERSION, COMMAND, &version(0, 0, QEMU_JSON)),
            true,
        ),
        (
            message(2, REGION_WRITE, POSTED, &bytes![4u64, 0u32, 4u32, 7u32]),
            false,
        ),
        (
            message(3, REGION_READ, COMMAND, &bytes![0u64, 0u32, 4u32]),
            true,
        ),
    ];
    for (message, answered) in messages {
        for byte in &message {
            client.send(std::slice::from_ref(byte), &[]);
        }
        if answered {
            client.reply().ok();
        }
    }
    let calls = harness.recorder.take();
    assert!(
        matches!(
            calls[..],
            [Call::Write { offset: 4, .. }, Call::Read { .. }]
        ),
        "{calls:?}"
    );
}

#[test]
fn many_messages_in_one_segment_cut_anywhere() {
    let harness = Harness::new();
    let mut bytes = Vec::new();
    for id in 0..3u16 {
        bytes.extend(message(
            id,
            REGION_READ,
            COMMAND,
            &bytes![u64::from(id), 0u32, 4u32],
        ));
        bytes.extend(message(
            id,
            REGION_WRITE,
            POSTED,
            &bytes![0u64, 0u32, 4u32, 1u32],
        ));
    }
    let mut client = harness.client();
    for cut in 0..bytes.len() {
        client.send(&bytes[..cut], &[]);
        client.send(&bytes[cut..], &[]);
        for id in 0..3 {
            let reply = client.reply().ok();
            assert_eq!((reply.id, reply.u64(0)), (id, u64::from(id)));
        }
    }
    // Behind the last write, so that it has been carried out.
    client.call(DEVICE_RESET, &[]).ok();
    assert_eq!(harness.recorder.take().len(), bytes.len() * 6 + 1);
}

#[test]
fn a_large_message_between_small_ones() {
    let mut description = plain();
    description.regions[2].size = 1 << 20;
    let harness = Harness::with(description);
    let mut client = harness.client();
    let mut large = bytes![0u64, 2u32, 1u32 << 20];
    large.extend((0..1 << 20).map(pattern));
    for _ in 0..3 {
        let mut bytes = message(1, REGION_READ, COMMAND, &bytes![0u64, 0u32, 4u32]);
        bytes.extend(message(2, REGION_WRITE, COMMAND, &large));
        bytes.extend(message(3, REGION_READ, COMMAND, &bytes![0u64, 0u32, 8u32]));
        client.send(&bytes, &[]);
        for id in 1..=3 {
            assert_eq!(client.reply().ok().id, id);
        }
        let calls = harness.recorder.take();
        let [
            Call::Read { .. },
            Call::Write { data, .. },
            Call::Read { bytes: 8, .. },
        ] = &calls[..]
        else {
            panic!("{} calls", calls.len())
        };
        assert!(data[..] == large[16..], "the data is not what was sent");
    }
}

#[test]
fn a_client_may_leave_at_any_byte() {
    let harness = Harness::new();
    let whole = message(1, REGION_WRITE, COMMAND, &bytes![4u64, 0u32, 4u32, 7u32]);
    for length in 0..whole.len() {
        let client = harness.client();
        client.send(&whole[..length], &[]);
        drop(client);
    }
    for length in 0..20 {
        let client = Raw::connect(&harness.path);
        client.send(
            &message(1, VERSION, COMMAND, &version(0, 0, "{}"))[..length],
            &[],
        );
        drop(client);
    }
    alive(&harness);
    // No part of a message was taken for a whole one.
    assert!(matches!(harness.recorder.one(), Call::Reset));
}

#[test]
fn a_client_may_leave_without_its_replies() {
    let harness = Harness::new();
    for _ in 0..20 {
        let client = harness.client();
        for id in 0..20 {
            let read = bytes![0u64, 0u32, 0x1_0000u32];
            client.send(&message(id, REGION_READ, COMMAND, &read), &[]);
        }
        drop(client);
    }
    alive(&harness);
}

#[test]
fn a_client_may_stop_sending_and_still_gets_its_replies() {
    let harness = Harness::new();
    let mut client = harness.client();
    client.send(
        &message(1, REGION_READ, COMMAND, &bytes![0u64, 0u32, 4u32]),
        &[],
    );
    client.stream.shutdown(Shutdown::Write).expect("shutdown");
    client.reply().ok();
    client.expect_end();
    alive(&harness);
}

#[test]
fn a_client_that_reads_no_replies_makes_the_server_wait_and_not_grow() {
    let mut description = plain();
    description.regions[2].size = 1 << 30;
    let harness = Harness::with(description);
    let mut client = harness.client();
    let read = message(1, REGION_READ, COMMAND, &bytes![0u64, 2u32, 1u32 << 20]);
    client.stream.set_nonblocking(true).expect("nonblocking");
    // The server stops reading, and then there is no room to send.
    let mut sent = 0;
    let mut refused = 0;
    while refused < 1000 {
        match rustix::net::send(&client.stream, &read, rustix::net::SendFlags::NOSIGNAL) {
            Ok(bytes) => {
                assert_eq!(bytes, read.len(), "small messages go whole");
                sent += 1;
            }
            Err(rustix::io::Errno::AGAIN) => {
                refused += 1;
                std::thread::yield_now();
            }
            Err(errno) => panic!("{errno}"),
        }
        assert!(sent < 100_000, "it takes all that is sent");
    }
    let carried_out = harness.recorder.take().len();
    assert!(
        carried_out < 16,
        "{carried_out} replies of 1 MiB are somewhere"
    );
    // It goes on where it stopped.
    client.stream.set_nonblocking(false).expect("blocking");
    for _ in 0..50 {
        assert_eq!(client.reply().ok().payload.len(), 16 + (1 << 20));
    }
}
