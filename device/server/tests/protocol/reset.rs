//! DEVICE_RESET.

use crate::common::*;

#[test]
fn it_resets_and_says_so() {
    let harness = Harness::new();
    let reply = harness.client().call(DEVICE_RESET, &[]).ok();
    assert!(reply.payload.is_empty(), "{reply:?}");
    assert!(matches!(harness.recorder.one(), Call::Reset));
}

#[test]
fn with_a_payload_it_is_something_else() {
    let harness = Harness::new();
    let mut client = harness.client();
    client.call(DEVICE_RESET, &[0]).fails(EINVAL);
    assert!(harness.recorder.take().is_empty());
}

#[test]
fn its_failure_is_reported() {
    let harness = Harness::new();
    harness.recorder.fail_with(Some(EIO));
    harness.client().call(DEVICE_RESET, &[]).fails(EIO);
}

#[test]
fn posted_it_resets_without_an_answer() {
    let harness = Harness::new();
    let mut client = harness.client();
    client.post(DEVICE_RESET, &[]);
    client.call(DEVICE_RESET, &[]).ok();
    assert!(matches!(
        harness.recorder.take()[..],
        [Call::Reset, Call::Reset]
    ));
}

#[test]
fn another_client_implementation_resets() {
    let harness = Harness::new();
    let path = harness.path.clone();
    bounded(move || {
        vfio_user::Client::new(&path)
            .expect("a client")
            .reset()
            .expect("reset")
    });
    assert!(matches!(harness.recorder.one(), Call::Reset));
}
