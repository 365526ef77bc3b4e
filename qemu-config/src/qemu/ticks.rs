//! How fast the host's cycle counter goes.
#![allow(unsafe_code)] // The instruction that reads it is an intrinsic.

use std::sync::OnceLock;

/// Ticks of the host's cycle counter (TSC) in a millisecond, which is its rate in kHz; measured
/// once. `None` where the host has none, or is too busy for a measurement.
///
/// QEMU's TCG gives a guest the host's counter as its own. On a busy host a kernel that measures its
/// rate against an emulated timer finds a tenth of it, or ten times as much: its time then goes as
/// wrong, and it seems to hang. The kernel's option `tsc_early_khz` tells it.
pub fn host_khz() -> Option<u32> {
    static KHZ: OnceLock<Option<u32>> = OnceLock::new();
    *KHZ.get_or_init(measure)
}

#[cfg(target_arch = "x86_64")]
fn measure() -> Option<u32> {
    use std::time::{Duration, Instant};

    /// Long enough for an error far below the hundredth that the kernel takes for right.
    const WINDOW: Duration = Duration::from_millis(20);
    const TRIES: usize = 16;

    /// A look at counter and clock at the same time, and how long both together took.
    fn look() -> (u64, Instant, Duration) {
        let looks = (0..TRIES).map(|_| {
            let before = Instant::now();
            // SAFETY: every x86-64 has the instruction; it changes nothing but registers.
            let ticks = unsafe { std::arch::x86_64::_rdtsc() };
            (ticks, before, before.elapsed())
        });
        // The one that was interrupted least.
        let shortest = looks.min_by_key(|(_, _, took)| *took);
        shortest.unwrap_or_else(|| (0, Instant::now(), Duration::MAX))
    }

    (0..TRIES).find_map(|_| {
        let (first, begin, unsure) = look();
        std::thread::sleep(WINDOW);
        let (last, end, unsure_too) = look();
        let elapsed = end.duration_since(begin);
        if (unsure + unsure_too) * 1000 > elapsed {
            return None;
        }
        let ticks = u128::from(last.checked_sub(first)?);
        u32::try_from(ticks * 1_000_000 / elapsed.as_nanos()).ok()
    })
}

#[cfg(not(target_arch = "x86_64"))]
fn measure() -> Option<u32> {
    None
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn measurements_agree() {
        let (a, b) = (measure().expect("a rate"), measure().expect("a rate"));
        assert!(a.abs_diff(b) < a / 200, "{a} and {b} kHz");
        // From the slowest x86-64 to faster than any.
        assert!((500_000..10_000_000).contains(&a), "{a} kHz");
    }
}
