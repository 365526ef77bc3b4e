//! DMA_MAP.

use std::io::ErrorKind;
use std::os::fd::AsFd;

use crate::bytes;
use crate::common::*;

const READ: u32 = 1;
const WRITE: u32 = 2;

fn map(flags: u32, offset: u64, address: u64, size: u64) -> Vec<u8> {
    bytes![32u32, flags, offset, address, size]
}

#[test]
fn memory_comes_with_its_descriptor() {
    let harness = Harness::new();
    let file = memory(1 << 20);
    let payload = map(READ | WRITE, 0x3000, 0x1_0000_0000, 0x8_0000);
    let reply = harness
        .client()
        .call_with(DMA_MAP, &payload, &[file.as_fd()])
        .ok();
    assert!(reply.payload.is_empty(), "{reply:?}");
    let Call::Map {
        flags: 3,
        offset: 0x3000,
        address: 0x1_0000_0000,
        size: 0x8_0000,
        file: Some(got),
    } = harness.recorder.one()
    else {
        panic!("asked something else")
    };
    assert_eq!(identity(&got), identity(&file));
    let flags = rustix::io::fcntl_getfd(got).expect("flags");
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
}

#[test]
fn ranges_without_a_descriptor_and_read_only_ones_are_passed_on() {
    let harness = Harness::new();
    let mut client = harness.client();
    for flags in [READ, WRITE, READ | WRITE, 0] {
        client.call(DMA_MAP, &map(flags, 0, 0xc_0000, 0x4000)).ok();
        match harness.recorder.one() {
            Call::Map {
                flags: f,
                offset: 0,
                address: 0xc_0000,
                size: 0x4000,
                file: None,
            } => {
                assert_eq!(f, flags);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_last_page_of_the_address_space_can_be_mapped() {
    let harness = Harness::new();
    let top = 0u64.wrapping_sub(4096);
    harness
        .client()
        .call(DMA_MAP, &map(READ, 0, top, 4096))
        .ok();
    assert!(matches!(harness.recorder.one(), Call::Map { address, .. } if address == top));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let harness = Harness::new();
    let mut client = harness.client();
    for payload in [
        map(READ | 4, 0, 0, 4096),
        map(1 << 31, 0, 0, 4096),
        map(READ, 0, 0, 0),
        map(READ, 0, u64::MAX - 4095, 8192),
        map(READ, u64::MAX - 4095, 0, 8192),
        bytes![31u32, READ, 0u64, 0u64, 4096u64],
        map(READ, 0, 0, 4096)[..31].to_vec(),
        bytes![32u32],
        vec![],
    ] {
        client.call(DMA_MAP, &payload).fails(EINVAL);
    }
    let file = memory(8192);
    let two = [file.as_fd(), file.as_fd()];
    client
        .call_with(DMA_MAP, &map(READ, 0, 0, 4096), &two)
        .fails(EINVAL);
    assert!(harness.recorder.take().is_empty());
}

#[test]
fn errors_of_the_backend_are_never_success() {
    let harness = Harness::new();
    let mut client = harness.client();
    harness.recorder.fail_with(Some(EEXIST));
    client.call(DMA_MAP, &map(READ, 0, 0, 4096)).fails(EEXIST);
    // An errno of zero would read as success.
    harness.recorder.fail_with(Some(0));
    client.call(DMA_MAP, &map(READ, 0, 0, 4096)).fails(EIO);
    harness.recorder.fail_without_errno(ErrorKind::InvalidInput);
    client.call(DMA_MAP, &map(READ, 0, 0, 4096)).fails(EINVAL);
}

#[test]
fn posted_it_works_without_an_answer() {
    let harness = Harness::new();
    let mut client = harness.client();
    client.post(DMA_MAP, &map(READ, 0, 0, 4096));
    client.post(DMA_MAP, &map(READ, 0, 0, 0));
    client.call(DEVICE_RESET, &[]).ok();
    let calls = harness.recorder.take();
    assert!(
        matches!(calls[..], [Call::Map { .. }, Call::Reset]),
        "{calls:?}"
    );
}

#[test]
fn another_client_implementation_maps() {
    use std::os::fd::AsRawFd;
    let harness = Harness::new();
    let (path, file) = (harness.path.clone(), memory(8192));
    let sent = identity(&file);
    bounded(move || {
        let mut client = vfio_user::Client::new(&path).expect("a client");
        client
            .dma_map(4096, 0x1000, 4096, file.as_raw_fd())
            .expect("map");
    });
    match harness.recorder.one() {
        Call::Map {
            flags: 3,
            offset: 4096,
            address: 0x1000,
            size: 4096,
            file: Some(file),
        } => {
            assert_eq!(identity(&file), sent);
        }
        other => panic!("{other:?}"),
    }
}
