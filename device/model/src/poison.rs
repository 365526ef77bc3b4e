//! Free memory is filled with a pattern, and looked at before it is used anew, when VRAM is checked
//! in full.
//!
//! Memory that was never freed since the last scrub is zero. So free memory is known without a state
//! of its own: a page of it is all pattern, or all zero.

use hmmgpu_contract::{PAGE_SHIFT, PAGE_SIZE};
use hmmgpu_telemetry::Record;
use vm_memory::{Bytes, VolatileSlice};

use crate::command::Fault;
use crate::copy::copy_from_buffer;
use crate::queue::{Run, Stop};

const PAGE: usize = 1 << PAGE_SHIFT;
/// What free memory is filled with; its words are no pointers that anybody has.
const POISON: [u8; PAGE] = [0x6b; PAGE];
const ZERO: [u8; PAGE] = [0; PAGE];

/// Fills memory that was freed.
pub(crate) fn apply(run: &Run<'_>, address: u64, bytes: u64) -> Result<(), Stop> {
    each(run, address, bytes, |_, page| {
        copy_from_buffer(page, &POISON)
    })
}

/// Looks at memory that is about to be allocated: tells telemetry of what has changed.
pub(crate) fn verify(run: &mut Run<'_>, address: u64, bytes: u64) -> Result<(), Stop> {
    let (mut first, mut pages) = (None, 0);
    let mut found = [0; PAGE];
    each(run, address, bytes, |at, page| {
        let read = page.read_slice(&mut found, 0);
        if read.is_ok() && found != POISON && found != ZERO {
            first.get_or_insert(at);
            pages += 1;
        }
    })?;
    if let Some(address) = first {
        run.record(Record::Changed {
            address,
            pages,
            index: run.index(),
        });
    }
    Ok(())
}

/// Calls `apply` with the offset of each page and the page, under permits of the run.
fn each(
    run: &Run<'_>,
    address: u64,
    bytes: u64,
    mut apply: impl FnMut(u64, &VolatileSlice<'_, ()>),
) -> Result<(), Stop> {
    let mut done = 0;
    while done < bytes {
        let permit = run.permit()?;
        let begin = done;
        let end = bytes.min(done.saturating_add(permit.left()));
        while done < end {
            let at = address + done;
            let page: Result<_, Fault> = run.shared.vram.slice(at, PAGE);
            apply(at, &page?);
            done += PAGE_SIZE;
        }
        run.keep(permit, done - begin);
    }
    Ok(())
}
