//! The JSON of the VERSION command.

use hmmgpu_model::MAX_DMA_MAPS;
use rustix::io::Errno;
use serde_json::{Map, Value, json};

use crate::wire::{MAX_DATA_BYTES, MAX_MESSAGE_FDS};

/// The one page size that DMA maps are made of, in bytes.
const PAGE_BYTES: u64 = hmmgpu_contract::PAGE_SIZE;

/// Checks what a client says of itself: nothing, or a NUL-terminated JSON object whose member
/// `capabilities`, if there is one, is an object, with numbers where the protocol wants numbers.
/// Nothing in it changes what the server does: it never sends a command of its own, and
/// unknown members are for versions to come.
///
/// # Errors
/// `EINVAL` for anything else.
pub(crate) fn check_client(text: &[u8]) -> Result<(), Errno> {
    if text.is_empty() {
        return Ok(());
    }
    let text = text.strip_suffix(&[0]).ok_or(Errno::INVAL)?;
    let value: Map<String, Value> = serde_json::from_slice(text).map_err(|_| Errno::INVAL)?;
    let capabilities = match value.get("capabilities") {
        None => return Ok(()),
        Some(Value::Object(capabilities)) => capabilities,
        Some(_) => return Err(Errno::INVAL),
    };
    for name in [
        "max_msg_fds",
        "max_data_xfer_size",
        "pgsizes",
        "max_dma_maps",
    ] {
        if capabilities
            .get(name)
            .is_some_and(|value| value.as_u64().is_none())
        {
            return Err(Errno::INVAL);
        }
    }
    Ok(())
}

/// What the server says of itself, NUL-terminated. It has to be shorter than what QEMU sends, for
/// QEMU takes no longer reply, and no number may be above QEMU's own. Not offered: `write_multiple`, for a posted
/// write costs as little; `twin_socket`, for the server sends no commands; and `migration`.
pub(crate) fn server() -> Vec<u8> {
    let value = json!({
        "capabilities": {
            "max_msg_fds": MAX_MESSAGE_FDS,
            "max_data_xfer_size": MAX_DATA_BYTES,
            "pgsizes": PAGE_BYTES,
            "max_dma_maps": MAX_DMA_MAPS,
        }
    });
    let mut text = value.to_string().into_bytes();
    text.push(0);
    text
}
