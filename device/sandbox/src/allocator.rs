//! What the allocator would find out later, from files that are out of reach by then.
#![allow(unsafe_code)] // mallopt() of the C library.

/// Tells the allocator how many arenas there may be, so that it does not look for the number of
/// processors when it has made the eighth. It is as many as it would come to.
pub(crate) fn prepare() {
    #[cfg(target_env = "gnu")]
    {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let arenas = i32::try_from(8 * processors).unwrap_or(i32::MAX);
        // SAFETY: it takes the allocator's lock and stores the number, which is read as a whole.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, arenas) };
    }
}
