//! DEVICE_GET_INFO.

use crate::bytes;
use crate::common::*;

#[test]
fn it_is_a_pci_device_that_can_be_reset() {
    let harness = Harness::new();
    let reply = harness
        .client()
        .call(DEVICE_GET_INFO, &bytes![16u32, 0u32, 0u32, 0u32])
        .ok();
    let (reset, pci) = (1u32, 2u32);
    // Nine regions, as VFIO numbers them for PCI; INTx, MSI, MSI-X.
    assert_eq!(reply.payload, bytes![16u32, reset | pci, 9u32, 3u32]);
}

#[test]
fn more_room_than_needed_is_no_error() {
    let harness = Harness::new();
    let mut client = harness.client();
    // `vfio_user::Client` counts the header in.
    let reply = client
        .call(DEVICE_GET_INFO, &bytes![32u32, 0u32, 0u32, 0u32])
        .ok();
    assert_eq!(reply.u32(0), 16);
}

#[test]
fn too_little_room_or_payload_is_refused() {
    let harness = Harness::new();
    let mut client = harness.client();
    for payload in [
        bytes![15u32, 0u32, 0u32, 0u32],
        bytes![0u32, 0u32, 0u32, 0u32],
        bytes![16u32, 0u32, 0u32],
        bytes![16u32],
        vec![],
    ] {
        client.call(DEVICE_GET_INFO, &payload).fails(EINVAL);
    }
    client
        .call(DEVICE_GET_INFO, &bytes![16u32, 0u32, 0u32, 0u32])
        .ok();
}
