//! VERSION: what must come first.

use crate::bytes;
use crate::common::*;

fn negotiate(minor: u16) -> Reply {
    let harness = Harness::new();
    Raw::connect(&harness.path)
        .call(VERSION, &version(0, minor, QEMU_JSON))
        .ok()
}

#[test]
fn the_reply_says_version_0_0_whatever_minor_version_the_client_has() {
    for minor in [0, 1, 7] {
        assert_eq!(negotiate(minor).payload[..4], bytes![0u16, 0u16]);
    }
}

#[test]
fn the_reply_offers_what_the_server_does_and_no_more() {
    let payload = negotiate(0).payload;
    let json = payload[4..].strip_suffix(&[0]).expect("NUL at the end");
    let json: serde_json::Value = serde_json::from_slice(json).expect("JSON");
    let expected = serde_json::json!({
        "capabilities": {
            "max_msg_fds": 16,
            "max_data_xfer_size": 1 << 20,
            "pgsizes": 4096,
            "max_dma_maps": hmmgpu_model::MAX_DMA_MAPS,
        }
    });
    assert_eq!(json, expected);
}

#[test]
fn capabilities_may_be_missing_or_unknown() {
    for payload in [
        bytes![0u16, 0u16],
        version(0, 0, "{}"),
        version(0, 0, r#"{"capabilities": {}}"#),
        version(
            0,
            0,
            r#"{"capabilities": {"from_the_future": [1, {"a": null}]}, "more": 1}"#,
        ),
    ] {
        let harness = Harness::new();
        Raw::connect(&harness.path).call(VERSION, &payload).ok();
    }
}

#[test]
fn another_major_version_is_refused_and_the_client_may_try_again() {
    let harness = Harness::new();
    let mut client = Raw::connect(&harness.path);
    client
        .call(VERSION, &version(1, 0, QEMU_JSON))
        .fails(EINVAL);
    client.call(VERSION, &version(0, 0, QEMU_JSON)).ok();
}

#[test]
fn bad_payloads_are_refused_and_the_client_may_try_again() {
    let harness = Harness::new();
    let mut client = Raw::connect(&harness.path);
    let mut bad = vec![
        vec![],
        vec![0],
        vec![0; 3],
        // No NUL at its end, and no JSON before it.
        [bytes![0u16, 0u16], b"{}".to_vec()].concat(),
        bytes![0u16, 0u16, 0u8],
        // Not UTF-8, and a NUL inside.
        bytes![0u16, 0u16, 0xffu8, 0xfeu8, 0u8],
        version(0, 0, "{\0}"),
        // Nested deeper than any parser's stack goes.
        version(0, 0, &"[".repeat(1 << 20)),
        version(0, 0, &r#"{"a":"#.repeat(100_000)),
    ];
    for json in [
        "nonsense",
        "[]",
        "null",
        "{",
        r#"{"capabilities": 1}"#,
        r#"{"capabilities": {"max_msg_fds": "many"}}"#,
        r#"{"capabilities": {"max_msg_fds": -1}}"#,
        r#"{"capabilities": {"max_data_xfer_size": 1.5}}"#,
        r#"{"capabilities": {"pgsizes": null}}"#,
        r#"{"capabilities": {"max_msg_fds": 1e999}}"#,
    ] {
        bad.push(version(0, 0, json));
    }
    for payload in bad {
        client.call(VERSION, &payload).fails(EINVAL);
    }
    client.call(VERSION, &version(0, 0, QEMU_JSON)).ok();
}

#[test]
fn nothing_works_before_it() {
    let harness = Harness::new();
    let mut client = Raw::connect(&harness.path);
    client.call(DEVICE_RESET, &[]).fails(EINVAL);
    client
        .call(DEVICE_GET_INFO, &bytes![16u32, 0u32, 0u32, 0u32])
        .fails(EINVAL);
    client
        .call(REGION_READ, &bytes![0u64, 0u32, 4u32])
        .fails(EINVAL);
    client.post(REGION_WRITE, &bytes![0u64, 0u32, 4u32, 1u32]);
    client.call(VERSION, &version(0, 0, QEMU_JSON)).ok();
    assert!(harness.recorder.take().is_empty());
}

#[test]
fn it_comes_once() {
    let harness = Harness::new();
    let mut client = harness.client();
    client
        .call(VERSION, &version(0, 0, QEMU_JSON))
        .fails(EINVAL);
    client.call(DEVICE_RESET, &[]).ok();
}

#[test]
fn posted_it_has_no_answer_and_no_effect() {
    let harness = Harness::new();
    let mut client = Raw::connect(&harness.path);
    client.post(VERSION, &version(0, 0, QEMU_JSON));
    client.call(DEVICE_RESET, &[]).fails(EINVAL);
    client.call(VERSION, &version(0, 0, QEMU_JSON)).ok();
}

#[test]
fn another_client_implementation_negotiates() {
    let harness = Harness::new();
    let path = harness.path.clone();
    bounded(move || drop(vfio_user::Client::new(&path).expect("a client")));
}
