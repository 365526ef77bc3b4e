//! DMA_UNMAP.

use crate::bytes;
use crate::common::*;

const DIRTY_BITMAP: u32 = 1;
const ALL: u32 = 2;

fn unmap(flags: u32, address: u64, size: u64) -> Vec<u8> {
    bytes![24u32, flags, address, size]
}

#[test]
fn a_range_is_unmapped_and_repeated_in_the_reply() {
    let harness = Harness::new();
    let payload = unmap(0, 0x10_0000, 0x2000);
    let reply = harness.client().call(DMA_UNMAP, &payload).ok();
    assert_eq!(reply.payload, payload);
    match harness.recorder.one() {
        Call::Unmap {
            all: false,
            address: 0x10_0000,
            size: 0x2000,
        } => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_protocols_bit_for_all_is_bit_1() {
    let harness = Harness::new();
    harness.client().call(DMA_UNMAP, &unmap(ALL, 0, 0)).ok();
    assert!(matches!(
        harness.recorder.one(),
        Call::Unmap { all: true, .. }
    ));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let harness = Harness::new();
    let mut client = harness.client();
    for payload in [
        unmap(0, 0, 0),
        unmap(0, u64::MAX - 4095, 8192),
        unmap(ALL, 0x1000, 0),
        unmap(ALL, 0, 0x1000),
        unmap(4, 0, 0x1000),
        unmap(ALL | DIRTY_BITMAP, 0, 0),
        bytes![23u32, 0u32, 0u64, 4096u64],
        unmap(0, 0, 4096)[..23].to_vec(),
        vec![],
    ] {
        client.call(DMA_UNMAP, &payload).fails(EINVAL);
    }
    client
        .call(DMA_UNMAP, &unmap(DIRTY_BITMAP, 0, 4096))
        .fails(EOPNOTSUPP);
    assert!(harness.recorder.take().is_empty());
}

#[test]
fn errors_of_the_backend_reach_the_client() {
    let harness = Harness::new();
    let mut client = harness.client();
    harness.recorder.fail_with(Some(2));
    client.call(DMA_UNMAP, &unmap(0, 0, 4096)).fails(2);
    harness.recorder.fail_with(None);
    client.call(DMA_UNMAP, &unmap(0, 0, 4096)).ok();
}

#[test]
fn another_client_implementation_unmaps() {
    let harness = Harness::new();
    let path = harness.path.clone();
    bounded(move || {
        let mut client = vfio_user::Client::new(&path).expect("a client");
        client.dma_unmap(0x1000, 4096).expect("unmap");
    });
    assert!(matches!(
        harness.recorder.one(),
        Call::Unmap {
            all: false,
            address: 0x1000,
            ..
        }
    ));
}
