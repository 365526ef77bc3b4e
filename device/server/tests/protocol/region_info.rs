//! DEVICE_GET_REGION_INFO.

use std::fs::File;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use hmmgpu_server::{Description, MmapArea, Region};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::bytes;
use crate::common::*;

const READ_WRITE: u32 = 3;
const MMAP: u32 = 4;
const CAPS: u32 = 8;

fn ask(argsz: u32, index: u32) -> Vec<u8> {
    bytes![argsz, 0u32, index, 0u32, 0u64, 0u64]
}

#[test]
fn regions_are_those_of_the_device() {
    let harness = Harness::new();
    let mut client = harness.client();
    for (index, size) in [
        (0, 0x1_0000u64),
        (1, 0),
        (2, 0),
        (4, 0x2000),
        (6, 0),
        (CONFIG, 4096),
        (8, 0),
    ] {
        let reply = client.call(GET_REGION_INFO, &ask(32, index)).ok();
        let flags = if size == 0 { 0 } else { READ_WRITE };
        assert_eq!(reply.payload, bytes![32u32, flags, index, 0u32, size, 0u64]);
    }
}

#[test]
fn an_unknown_index_and_a_short_request_are_refused() {
    let harness = Harness::new();
    let mut client = harness.client();
    for payload in [
        ask(32, 9),
        ask(32, u32::MAX),
        ask(31, 0),
        ask(0, 0),
        ask(32, 0)[..31].to_vec(),
        bytes![32u32],
        vec![],
    ] {
        client.call(GET_REGION_INFO, &payload).fails(EINVAL);
    }
    client.call(GET_REGION_INFO, &ask(32, 0)).ok();
}

/// A device whose BAR 2 can be mapped in two places.
fn mappable(areas: Vec<MmapArea>) -> (Description, File) {
    let file = memory(0x10_0000);
    let mut description = plain();
    description.regions[2] = Region {
        size: 0x10_0000,
        flags: READ_WRITE | MMAP,
        offset: 0x3000,
        file: Some(file.try_clone().expect("clone").into()),
        areas,
    };
    (description, file)
}

fn two_areas() -> Vec<MmapArea> {
    vec![
        MmapArea {
            offset: 0x1000,
            size: 0x2000,
        },
        MmapArea {
            offset: 0x8000,
            size: 0x1000,
        },
    ]
}

/// The reply's bytes and the descriptors that came with them.
fn ask_with_fds(client: &mut Raw, argsz: u32, index: u32) -> (Vec<u8>, Vec<OwnedFd>) {
    let id = client.id();
    client.send(
        &message(id, GET_REGION_INFO, COMMAND, &ask(argsz, index)),
        &[],
    );
    let mut bytes = vec![0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        &client.stream,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )
    .expect("recvmsg");
    bytes.truncate(received.bytes);
    let fds = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    (bytes, fds)
}

#[test]
fn too_little_room_for_the_areas_is_answered_with_how_much_they_need() {
    let (description, _file) = mappable(two_areas());
    let harness = Harness::with(description);
    let mut client = harness.client();
    for argsz in [32, 40, 79] {
        let (reply, fds) = ask_with_fds(&mut client, argsz, 2);
        let flags = READ_WRITE | MMAP | CAPS;
        assert_eq!(
            reply[16..],
            bytes![80u32, flags, 2u32, 32u32, 0x10_0000u64, 0x3000u64]
        );
        assert!(
            fds.is_empty(),
            "the client asks again, and would get it twice"
        );
    }
}

#[test]
fn with_enough_room_come_the_areas_and_the_file() {
    let (description, file) = mappable(two_areas());
    let harness = Harness::with(description);
    let (reply, fds) = ask_with_fds(&mut harness.client(), 80, 2);
    let mut expected = bytes![
        80u32,
        READ_WRITE | MMAP | CAPS,
        2u32,
        32u32,
        0x10_0000u64,
        0x3000u64
    ];
    // Capability 1 (sparse mmap), version 1, none after it; two areas.
    expected.extend(bytes![1u16, 1u16, 0u32, 2u32, 0u32]);
    expected.extend(bytes![0x1000u64, 0x2000u64, 0x8000u64, 0x1000u64]);
    assert_eq!(reply[16..], expected);
    assert_eq!(fds.len(), 1);
    assert_eq!(identity(&fds[0]), identity(&file));
}

#[test]
fn a_region_that_is_mappable_throughout_needs_no_areas() {
    let (description, file) = mappable(Vec::new());
    let harness = Harness::with(description);
    let (reply, fds) = ask_with_fds(&mut harness.client(), 32, 2);
    assert_eq!(
        reply[16..],
        bytes![
            32u32,
            READ_WRITE | MMAP,
            2u32,
            0u32,
            0x10_0000u64,
            0x3000u64
        ]
    );
    assert_eq!(fds.len(), 1);
    assert_eq!(identity(&fds[0]), identity(&file));
}

#[test]
fn another_client_implementation_reads_regions_and_areas() {
    let (description, file) = mappable(two_areas());
    let harness = Harness::with(description);
    let path = harness.path.clone();
    bounded(move || {
        let client = vfio_user::Client::new(&path).expect("a client");
        let sizes: Vec<u64> = (0..9)
            .map(|index| client.region(index).expect("region").size)
            .collect();
        assert_eq!(sizes, [0x1_0000, 0, 0x10_0000, 0, 0x2000, 0, 0, 4096, 0]);
        let region = client.region(2).expect("region");
        let areas: Vec<(u64, u64)> = region
            .sparse_areas
            .iter()
            .map(|area| (area.offset, area.size))
            .collect();
        assert_eq!(areas, [(0x1000, 0x2000), (0x8000, 0x1000)]);
        let backing = region.file_offset.as_ref().expect("a file");
        assert_eq!(identity(backing.file()), identity(&file));
        assert_eq!(backing.start(), 0x3000);
    });
}
