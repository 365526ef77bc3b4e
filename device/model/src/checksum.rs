//! Checksums: of words that a job sums, and of what a COPY or FILL has left in VRAM.
//!
//! Each step is a bijection of the sum so far for a given word, and of the word for a given sum: one
//! word that differs always makes a difference.

use hmmgpu_contract::compute::{CHECKSUM_BASIS, CHECKSUM_PRIME};
use hmmgpu_contract::desc::Status;
use vm_memory::{Bytes, VolatileSlice};

use crate::command::{Fault, Place, Source, Transfer};
use crate::dma::Access;
use crate::queue::{Run, Stop};

/// Unit in which VRAM is read.
const PIECE_BYTES: usize = 4096;

/// The checksum with one more word.
pub(crate) fn add(sum: u64, word: u64) -> u64 {
    (sum ^ word).wrapping_mul(CHECKSUM_PRIME)
}

/// The checksum with all words of a slice of whole pages.
fn add_slice(mut sum: u64, slice: &VolatileSlice<'_, ()>) -> Result<u64, Fault> {
    let mut piece = [0; PIECE_BYTES];
    for place in (0..slice.len()).step_by(PIECE_BYTES) {
        slice
            .read_slice(&mut piece, place)
            .map_err(|_| Fault::from(Status::STATUS_BAD_COUNT))?;
        for word in piece.as_chunks::<8>().0 {
            sum = add(sum, u64::from_le_bytes(*word));
        }
    }
    Ok(sum)
}

/// Tells the checksum of what VRAM holds of a COPY or FILL that is done.
///
/// # Errors
/// The run has ended, or the address cannot be written.
pub(crate) fn tell(run: &Run<'_>, transfer: &Transfer, address: u64) -> Result<(), Stop> {
    let place = match (transfer.dst, transfer.src) {
        (dst @ Place::Vram(_), _) => dst,
        (_, Source::Place(src)) => src,
        // Only a FILL of VRAM tells one.
        (_, Source::Pattern(_)) => return Ok(()),
    };
    let mut sum = CHECKSUM_BASIS;
    let mut done = 0;
    while done < transfer.bytes {
        // A permit for each: whoever waits for the map goes in between.
        let permit = run.permit()?;
        let bytes = permit.left().min(transfer.bytes - done);
        let len = usize::try_from(bytes).unwrap_or(usize::MAX);
        let slice = run
            .shared
            .memory(&permit)
            .slice(place.at(done), len, Access::Read)?;
        sum = add_slice(sum, &slice)?;
        done += slice.len() as u64;
        run.keep(permit, bytes);
    }
    let permit = run.permit()?;
    permit.write(address, &sum.to_le_bytes())?;
    run.keep(permit, 0);
    Ok(())
}
