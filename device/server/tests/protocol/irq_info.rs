//! DEVICE_GET_IRQ_INFO.

use crate::bytes;
use crate::common::*;

#[test]
fn only_msix_has_vectors() {
    let harness = Harness::new();
    let mut client = harness.client();
    let eventfd = 1u32;
    for (index, flags, count) in [(0u32, 0, 0u32), (1, 0, 0), (2, eventfd, 16)] {
        let reply = client
            .call(GET_IRQ_INFO, &bytes![16u32, 0u32, index, 0u32])
            .ok();
        assert_eq!(reply.payload, bytes![16u32, flags, index, count]);
    }
}

#[test]
fn an_unknown_index_and_a_short_request_are_refused() {
    let harness = Harness::new();
    let mut client = harness.client();
    for payload in [
        // Errors and requests: QEMU asks for both, and is content without.
        bytes![16u32, 0u32, 3u32, 0u32],
        bytes![16u32, 0u32, 4u32, 0u32],
        bytes![16u32, 0u32, u32::MAX, 0u32],
        bytes![15u32, 0u32, 2u32, 0u32],
        bytes![16u32, 0u32, 2u32],
        vec![],
    ] {
        client.call(GET_IRQ_INFO, &payload).fails(EINVAL);
    }
    client
        .call(GET_IRQ_INFO, &bytes![16u32, 0u32, 2u32, 0u32])
        .ok();
}

#[test]
fn another_client_implementation_reads_it() {
    let harness = Harness::new();
    let path = harness.path.clone();
    let info = bounded(move || {
        vfio_user::Client::new(&path)
            .expect("a client")
            .get_irq_info(2)
            .expect("info")
    });
    assert_eq!((info.index, info.flags, info.count), (2, 1, 16));
}
