//! What the copy engine stands beside: loops over the same addresses that do nothing but copy, in
//! all ways that might be the fastest. The best of a run is the floor.
#![allow(unsafe_code)] // Copies by raw pointers and intrinsics, as fast as they can be.

/// A way to copy bytes between places that do not overlap.
///
/// Both places are valid for so many bytes, aligned to a page, and a multiple of 4 KiB long.
type Copy = unsafe fn(*mut u8, *const u8, usize);

/// Number of ways.
pub(crate) const WAYS: usize = 7;

/// All ways, those that this CPU does not have replaced by the plain one.
pub(crate) fn ways() -> [(&'static str, Copy); WAYS] {
    let plain: (&'static str, Copy) = ("plain", plain);
    #[cfg(target_arch = "x86_64")]
    {
        let avx2 = std::arch::is_x86_feature_detected!("avx2");
        let avx512 = std::arch::is_x86_feature_detected!("avx512f");
        let with = |has: bool, name, copy: Copy| if has { (name, copy) } else { plain };
        [
            plain,
            ("rep movsb", x86::rep_movsb),
            with(avx2, "AVX2 x2", x86::avx2::<2, 0>),
            with(avx2, "AVX2 x4, prefetch", x86::avx2::<4, 1024>),
            with(avx2, "AVX2 x8", x86::avx2::<8, 0>),
            with(avx2, "AVX2 x8, prefetch", x86::avx2::<8, 1024>),
            with(avx512, "AVX-512 x4", x86::avx512),
        ]
    }
    #[cfg(not(target_arch = "x86_64"))]
    [plain; WAYS]
}

unsafe fn plain(dst: *mut u8, src: *const u8, len: usize) {
    // SAFETY: as for any way.
    unsafe { std::ptr::copy_nonoverlapping(src, dst, len) };
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;
    use std::arch::x86_64::{
        __m256i, _MM_HINT_NTA, _mm_prefetch, _mm256_loadu_si256, _mm256_stream_si256,
    };

    const LINE: usize = 64;

    pub(super) unsafe fn rep_movsb(dst: *mut u8, src: *const u8, len: usize) {
        // SAFETY: as for any way; the direction flag is clear by the ABI.
        unsafe {
            asm!("rep movsb", inout("rcx") len => _, inout("rdi") dst => _, inout("rsi") src => _,
                options(nostack, preserves_flags));
        }
    }

    /// Prefetches the lines of a block that is `ahead` bytes away; for 0 nothing.
    unsafe fn prefetch(src: *const u8, block: usize, ahead: usize) {
        if ahead > 0 {
            for line in (0..block).step_by(LINE) {
                // SAFETY: a prefetch cannot fault, whatever the address.
                unsafe { _mm_prefetch::<_MM_HINT_NTA>(src.wrapping_add(ahead + line).cast()) };
            }
        }
    }

    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn avx2<const VECTORS: usize, const AHEAD: usize>(
        dst: *mut u8,
        src: *const u8,
        len: usize,
    ) {
        const SIZE: usize = size_of::<__m256i>();
        for at in (0..len).step_by(VECTORS * SIZE) {
            // SAFETY: as for any way; blocks divide 4 KiB, so that each is inside.
            unsafe {
                let (dst, src) = (dst.add(at), src.add(at));
                prefetch(src, VECTORS * SIZE, AHEAD);
                let block: [__m256i; VECTORS] =
                    std::array::from_fn(|i| _mm256_loadu_si256(src.add(i * SIZE).cast()));
                for (i, vector) in block.into_iter().enumerate() {
                    _mm256_stream_si256(dst.add(i * SIZE).cast(), vector);
                }
            }
        }
    }

    /// The compiler has no intrinsics for these vectors in the oldest version that is supported.
    pub(super) unsafe fn avx512(dst: *mut u8, src: *const u8, len: usize) {
        // SAFETY: as for any way; blocks of 256 bytes divide 4 KiB, so that each is inside, and the
        // CPU has AVX-512F.
        unsafe {
            asm!(
                "2:",
                "vmovdqu64 zmm16, [{src}]",
                "vmovdqu64 zmm17, [{src} + 64]",
                "vmovdqu64 zmm18, [{src} + 128]",
                "vmovdqu64 zmm19, [{src} + 192]",
                "vmovntdq [{dst}], zmm16",
                "vmovntdq [{dst} + 64], zmm17",
                "vmovntdq [{dst} + 128], zmm18",
                "vmovntdq [{dst} + 192], zmm19",
                "add {src}, 256",
                "add {dst}, 256",
                "sub {len}, 256",
                "jnz 2b",
                src = inout(reg) src => _,
                dst = inout(reg) dst => _,
                len = inout(reg) len => _,
                out("xmm16") _, out("xmm17") _, out("xmm18") _, out("xmm19") _,
                options(nostack)
            );
        }
    }
}

/// Copies all pieces of `len` bytes from and to offsets of two parts of different mappings, which begin on page
/// boundaries, in one way. Everything is
/// written when it returns.
pub(crate) fn copy_all(
    copy: Copy,
    dst: &vm_memory::VolatileSlice<'_>,
    src: &vm_memory::VolatileSlice<'_>,
    pieces: &[(usize, usize)],
    len: usize,
) {
    let fits = |offset: usize, size: usize| {
        offset.is_multiple_of(4096) && offset.checked_add(len).is_some_and(|end| end <= size)
    };
    assert!(len.is_multiple_of(4096));
    let inside = |(to, from): &(usize, usize)| fits(*to, dst.len()) && fits(*from, src.len());
    assert!(pieces.iter().all(inside));
    let (to_all, from_all) = (dst.ptr_guard_mut(), src.ptr_guard());
    for (to, from) in pieces {
        // SAFETY: both pieces lie in their mappings, which are different ones, on page boundaries.
        unsafe { copy(to_all.as_ptr().add(*to), from_all.as_ptr().add(*from), len) };
    }
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
}
