//! Commands that the server does not have, and those that go the other way.

use crate::common::*;

#[test]
fn they_are_refused_with_their_payload_and_the_next_one_works() {
    let harness = Harness::new();
    let mut client = harness.client();
    // 0 is none; 6 region I/O descriptors; 11 and 12 DMA reads and writes, which servers send;
    // 14 dirty pages; 15 several writes in one; 16 to 18 device features and migration.
    for command in [0, 6, 11, 12, 14, 15, 16, 17, 18, 19, 0x7fff, 0xffff] {
        for bytes in [0, 1, 16, 24, 4096, 1 << 20] {
            client.call(command, &vec![0xa5; bytes]).fails(EOPNOTSUPP);
        }
        client.post(command, &[0xa5; 100]);
    }
    client.call(DEVICE_RESET, &[]).ok();
    assert!(matches!(harness.recorder.one(), Call::Reset));
}
