//! Copying between mapped memory, as fast as the host can.
//!
//! From 4 KiB up, and where the CPU has AVX2, stores are streamed past the caches: what moves
//! between system memory and VRAM is rarely read by the same core again, and not reading the
//! destination first saves a third of the memory traffic. Streaming stores are weakly ordered: what
//! tells somebody of a copy comes after [`settle`]. A fence for each copy would wait until the last
//! of its bytes are on their way, which at 4 KiB is a good part of its time.
#![allow(unsafe_code)] // Streaming stores exist only as intrinsics on raw pointers.

use vm_memory::VolatileSlice;
use vm_memory::bitmap::BitmapSlice;

/// Smallest copy for which streaming pays.
const STREAM_MIN: usize = 4096;

/// All that this thread has copied is visible before anything that it stores from now on.
pub(crate) fn settle() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 CPU has it, and it touches no memory.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    };
}

/// Begins to fetch what the next copy but a few will read first: its address is translated, and its
/// first block on the way, while others are copied.
pub(crate) fn announce<S: BitmapSlice>(src: &VolatileSlice<'_, S>) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_NTA, _mm_prefetch};
        const LINE: usize = 64;
        const BYTES: usize = 256;
        let guard = src.ptr_guard();
        for line in (0..BYTES.min(src.len())).step_by(LINE) {
            // SAFETY: it lies in the slice, and a prefetch does nothing where it cannot.
            unsafe { _mm_prefetch::<_MM_HINT_NTA>(guard.as_ptr().wrapping_add(line).cast()) };
        }
    }
}

/// Copies all of `src` to the beginning of `dst`, or as much as fits, to be visible when it is
/// [settled](settle). The two may be the same memory through different mappings; what ends up there
/// is then unspecified.
pub(crate) fn copy<D: BitmapSlice, S: BitmapSlice>(
    dst: &VolatileSlice<'_, D>,
    src: &VolatileSlice<'_, S>,
) {
    let len = src.len().min(dst.len());
    let (from, to) = (src.ptr_guard(), dst.ptr_guard_mut());
    // SAFETY: both guards cover at least `len` bytes of mapped memory and live to the end of the
    // call; slices of different mappings do not overlap in address space, and for slices of one
    // mapping `copy_raw` demands nothing more than `memmove` does.
    unsafe { copy_raw(to.as_ptr(), from.as_ptr(), len) };
}

/// Copies `src` to the beginning of `dst`, or as much as fits, to be visible when it is
/// [settled](settle).
pub(crate) fn copy_from_buffer<D: BitmapSlice>(dst: &VolatileSlice<'_, D>, src: &[u8]) {
    let len = src.len().min(dst.len());
    let to = dst.ptr_guard_mut();
    // SAFETY: the guard covers at least `len` bytes of mapped memory, `src` is as long.
    unsafe { copy_raw(to.as_ptr(), src.as_ptr(), len) };
}

/// Copies by the best way that the CPU has.
///
/// # Safety
/// `src` is valid for reading and `dst` for writing `len` bytes. A guest may change either at the
/// same time: no value read here is interpreted, so the worst outcome is a torn copy.
unsafe fn copy_raw(dst: *mut u8, src: *const u8, len: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        let (to, from) = (dst.addr(), src.addr());
        let apart = to.abs_diff(from) >= len;
        if len >= STREAM_MIN && apart && std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: as for this function; AVX2 is there, and the ranges do not overlap.
            unsafe { stream_avx2(dst, src, len) };
            return;
        }
    }
    // SAFETY: as for this function; overlap is allowed here.
    unsafe { std::ptr::copy(src, dst, len) };
}

/// Copies with 32-byte streaming stores. Each block is loaded before any of it is stored. To fetch
/// what comes next is left to the CPU, which does it better than prefetches in this loop.
///
/// # Safety
/// As [`copy_raw`]; in addition the ranges do not overlap, and the CPU has AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn stream_avx2(mut dst: *mut u8, mut src: *const u8, mut len: usize) {
    use std::arch::x86_64::{__m256i, _mm256_loadu_si256, _mm256_stream_si256};
    const VECTOR: usize = size_of::<__m256i>();
    const VECTORS: usize = 8;
    const BLOCK: usize = VECTORS * VECTOR;

    let head = dst.align_offset(VECTOR).min(len);
    // SAFETY: every access below lies in the first `len` bytes that the caller vouches for:
    // `head <= len`, a block is handled only while `len >= BLOCK`, and the tail is what is left.
    // Streaming stores are aligned, because `head` bytes bring `dst` to a multiple of 32 and it
    // grows by multiples of it.
    unsafe {
        if head > 0 {
            std::ptr::copy_nonoverlapping(src, dst, head);
            src = src.add(head);
            dst = dst.add(head);
            len -= head;
        }
        while len >= BLOCK {
            let block: [__m256i; VECTORS] =
                std::array::from_fn(|i| _mm256_loadu_si256(src.add(i * VECTOR).cast()));
            for (i, vector) in block.into_iter().enumerate() {
                _mm256_stream_si256(dst.add(i * VECTOR).cast(), vector);
            }
            src = src.add(BLOCK);
            dst = dst.add(BLOCK);
            len -= BLOCK;
        }
        if len > 0 {
            std::ptr::copy_nonoverlapping(src, dst, len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use vm_memory::{Bytes, MmapRegion, VolatileMemory};

    const AREA: usize = 32 * 1024;

    fn noise(seed: u32, len: usize) -> Vec<u8> {
        let mut state = seed | 1;
        (0..len)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state.to_be_bytes()[0]
            })
            .collect()
    }

    proptest! {
        #[test]
        fn equals_a_plain_copy(
            from in 0_usize..300,
            to in 0_usize..300,
            len in prop_oneof![0_usize..600, 4000_usize..4300, 8000_usize..20_000],
            seed in any::<u32>(),
            buffer in any::<bool>(),
        ) {
            let src = MmapRegion::<()>::new(AREA).unwrap();
            let dst = MmapRegion::<()>::new(AREA).unwrap();
            let (data, mut expected) = (noise(seed, AREA), noise(!seed, AREA));
            src.get_slice(0, AREA).unwrap().write_slice(&data, 0).unwrap();
            dst.get_slice(0, AREA).unwrap().write_slice(&expected, 0).unwrap();
            let target = dst.get_slice(to, len).unwrap();
            if buffer {
                copy_from_buffer(&target, &data[from..from + len]);
            } else {
                copy(&target, &src.get_slice(from, len).unwrap());
            }
            expected[to..to + len].copy_from_slice(&data[from..from + len]);
            let mut found = vec![0; AREA];
            dst.get_slice(0, AREA).unwrap().read_slice(&mut found, 0).unwrap();
            prop_assert!(found == expected, "bytes differ");
        }

        #[test]
        fn overlap_within_one_mapping_is_a_move(
            from in 0_usize..3000,
            to in 0_usize..3000,
            len in 0_usize..20_000,
        ) {
            let area = MmapRegion::<()>::new(AREA).unwrap();
            let mut expected = noise(7, AREA);
            area.get_slice(0, AREA).unwrap().write_slice(&expected, 0).unwrap();
            copy(&area.get_slice(to, len).unwrap(), &area.get_slice(from, len).unwrap());
            expected.copy_within(from..from + len, to);
            let mut found = vec![0; AREA];
            area.get_slice(0, AREA).unwrap().read_slice(&mut found, 0).unwrap();
            prop_assert!(found == expected, "bytes differ");
        }
    }
}
