//! REGION_READ and REGION_WRITE.

use std::io::ErrorKind;

use hmmgpu_server::MAX_DATA_BYTES;

use crate::bytes;
use crate::common::*;

fn expected(offset: u64, count: u64) -> Vec<u8> {
    (offset..offset + count).map(pattern).collect()
}

fn write(offset: u64, region: u32, data: &[u8]) -> Vec<u8> {
    let count = u32::try_from(data.len()).expect("count");
    let mut payload = bytes![offset, region, count];
    payload.extend_from_slice(data);
    payload
}

#[test]
fn reads_of_any_size_return_what_the_backend_has() {
    let harness = Harness::new();
    let mut client = harness.client();
    for (region, offset, count) in [
        (0, 0, 4),
        (0, 0xfffc, 4),
        (0, 0, 0x1_0000),
        (4, 17, 3),
        (CONFIG, 0xfff, 1),
        (0, 8, 0),
    ] {
        let data = client.read(region, offset, count);
        assert_eq!(data, expected(offset, count.into()));
        let bytes = count as usize;
        match harness.recorder.one() {
            Call::Read {
                region: r,
                offset: o,
                bytes: b,
            } => {
                assert_eq!((r, o, b), (region, offset, bytes));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_write_carries_its_data_and_its_reply_none() {
    let harness = Harness::new();
    let mut client = harness.client();
    for data in [vec![1], vec![1, 2, 3, 4], vec![7; 0x1_0000]] {
        let reply = client.call(REGION_WRITE, &write(0, 0, &data)).ok();
        let count = u32::try_from(data.len()).expect("count");
        assert_eq!(reply.payload, bytes![0u64, 0u32, count]);
        match harness.recorder.one() {
            Call::Write {
                region: 0,
                offset: 0,
                data: written,
            } => assert_eq!(written, data),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn posted_writes_are_carried_out_in_order_and_never_answered() {
    let harness = Harness::new();
    let mut client = harness.client();
    for value in 0..1000u32 {
        client.post(REGION_WRITE, &write(8, 0, &value.to_ne_bytes()));
    }
    assert_eq!(client.read(0, 0, 4), expected(0, 4));
    let mut calls = harness.recorder.take();
    assert!(matches!(calls.pop(), Some(Call::Read { .. })));
    let values: Vec<u32> = calls
        .into_iter()
        .map(|call| match call {
            Call::Write {
                region: 0,
                offset: 8,
                data,
            } => u32::from_ne_bytes(data.try_into().expect("4 bytes")),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(values, (0..1000).collect::<Vec<_>>());
}

#[test]
fn posted_writes_that_fail_are_not_answered_either() {
    let harness = Harness::new();
    let mut client = harness.client();
    // Outside the region, no such region, and a backend that fails.
    client.post(REGION_WRITE, &write(0x1_0000, 0, &[0; 4]));
    client.post(REGION_WRITE, &write(0, 99, &[0; 4]));
    client.post(REGION_WRITE, &bytes![0u64, 0u32, 4u32]);
    harness.recorder.fail_with(Some(EIO));
    client.post(REGION_WRITE, &write(0, 0, &[0; 4]));
    assert_eq!(client.read(0, 0, 2), [0xff; 2]);
    let calls = harness.recorder.take();
    assert!(
        matches!(calls[..], [Call::Write { .. }, Call::Read { .. }]),
        "{calls:?}"
    );
}

#[test]
fn a_posted_read_is_dropped() {
    let harness = Harness::new();
    let mut client = harness.client();
    client.post(REGION_READ, &bytes![0u64, 0u32, 4u32]);
    client.call(DEVICE_RESET, &[]).ok();
    assert!(matches!(harness.recorder.one(), Call::Reset));
}

#[test]
fn reads_outside_a_region_return_all_ones() {
    let harness = Harness::new();
    let mut client = harness.client();
    for (region, offset, count) in [
        (0, 0x1_0000, 4),
        (0, 0xfffe, 4),
        (0, u64::MAX, 4),
        (0, u64::MAX - 3, 4),
        (1, 0, 4),
        (6, 0, 2),
        (CONFIG, 4096, 1),
        (9, 0, 8),
        (u32::MAX, 0, 4),
    ] {
        assert_eq!(
            client.read(region, offset, count),
            vec![0xff; count as usize]
        );
    }
    assert!(harness.recorder.take().is_empty());
}

#[test]
fn a_read_that_the_backend_fails_returns_all_ones() {
    let harness = Harness::new();
    harness.recorder.fail_with(Some(EIO));
    assert_eq!(harness.client().read(0, 0, 4), [0xff; 4]);
}

#[test]
fn writes_outside_a_region_are_refused() {
    let harness = Harness::new();
    let mut client = harness.client();
    for (offset, region) in [
        (0x1_0000, 0),
        (0xfffd, 0),
        (u64::MAX, 0),
        (0, 2),
        (0, 9),
        (4093, CONFIG),
    ] {
        client
            .call(REGION_WRITE, &write(offset, region, &[0; 4]))
            .fails(EINVAL);
    }
    assert!(harness.recorder.take().is_empty());
}

#[test]
fn a_write_that_the_backend_fails_carries_its_errno() {
    let harness = Harness::new();
    let mut client = harness.client();
    harness.recorder.fail_with(Some(EEXIST));
    client
        .call(REGION_WRITE, &write(0, 0, &[0; 4]))
        .fails(EEXIST);
    harness.recorder.fail_with(None);
    harness.recorder.fail_without_errno(ErrorKind::Other);
    client.call(REGION_WRITE, &write(0, 0, &[0; 4])).fails(EIO);
}

#[test]
fn counts_that_disagree_with_the_payload_are_refused() {
    let harness = Harness::new();
    let mut client = harness.client();
    for payload in [
        bytes![0u64, 0u32, 4u32, 0u16],
        bytes![0u64, 0u32, 4u32, 0u64],
        bytes![0u64, 0u32, 4u32],
        bytes![0u64, 0u32, u32::MAX, 0u32],
        bytes![0u64, 0u32],
        vec![],
    ] {
        client.call(REGION_WRITE, &payload).fails(EINVAL);
    }
    for payload in [bytes![0u64, 0u32], bytes![0u64, 0u32, 4u32, 0u8], vec![]] {
        client.call(REGION_READ, &payload).fails(EINVAL);
    }
    assert!(harness.recorder.take().is_empty());
}

#[test]
fn the_largest_transfer_works_and_a_larger_one_is_refused() {
    let mut description = plain();
    description.regions[2].size = 1 << 30;
    let harness = Harness::with(description);
    let mut client = harness.client();
    let most = u32::try_from(MAX_DATA_BYTES).expect("count");

    let data = vec![0x5a; MAX_DATA_BYTES];
    client.call(REGION_WRITE, &write(4096, 2, &data)).ok();
    match harness.recorder.one() {
        Call::Write {
            region: 2,
            offset: 4096,
            data: written,
        } => assert!(written == data),
        other => panic!("{other:?}"),
    }
    assert!(client.read(2, 1, most) == expected(1, most.into()));

    // 4 GiB that nobody allocates.
    for count in [most + 1, u32::MAX] {
        client
            .call(REGION_READ, &bytes![0u64, 2u32, count])
            .fails(EINVAL);
    }
    assert_eq!(client.read(2, 0, 4), expected(0, 4));
}

#[test]
fn another_client_implementation_reads_and_writes() {
    let harness = Harness::new();
    let path = harness.path.clone();
    bounded(move || {
        let mut client = vfio_user::Client::new(&path).expect("a client");
        let mut data = [0; 8];
        client.region_read(0, 64, &mut data).expect("read");
        assert_eq!(data[..], expected(64, 8));
        client
            .region_read(0, 1 << 40, &mut data)
            .expect("a read that is out of bounds");
        assert_eq!(data, [0xff; 8]);
        client.region_write(0, 4, &[9; 4]).expect("write");
    });
    let calls = harness.recorder.take();
    assert!(
        matches!(&calls[..], [Call::Read { .. }, Call::Write { offset: 4, data, .. }] if *data == [9; 4]),
        "{calls:?}"
    );
}
