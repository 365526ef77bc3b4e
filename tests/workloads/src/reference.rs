//! What the kernels of the GPU compute, on the CPU.

use hmmgpu_contract::compute::{CHECKSUM_BASIS, CHECKSUM_PRIME};

/// CHECKSUM, in pieces: words are added in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Checksum(u64);

impl Checksum {
    /// Of nothing.
    pub(crate) fn new() -> Checksum {
        Checksum(CHECKSUM_BASIS)
    }

    /// Adds words.
    pub(crate) fn add(&mut self, words: impl IntoIterator<Item = u64>) {
        for word in words {
            self.0 = (self.0 ^ word).wrapping_mul(CHECKSUM_PRIME);
        }
    }

    /// The result.
    pub(crate) fn value(self) -> u64 {
        self.0
    }
}

/// CHECKSUM of words.
pub(crate) fn checksum(words: impl IntoIterator<Item = u64>) -> u64 {
    let mut checksum = Checksum::new();
    checksum.add(words);
    checksum.value()
}

/// One element of SAXPY: both steps are rounded.
pub(crate) fn saxpy(a: f32, x: f32, y: f32) -> f32 {
    a * x + y
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_depend_on_order_and_not_on_pieces() {
        assert_eq!(checksum([]), 0xcbf2_9ce4_8422_2325);
        assert_eq!(
            checksum([0xcbf2_9ce4_8422_2325 ^ 1, 0]),
            0x100_0000_01b3u64.wrapping_mul(0x100_0000_01b3)
        );
        assert_ne!(checksum([1, 2]), checksum([2, 1]));
        let mut pieces = Checksum::new();
        pieces.add([1, 2]);
        pieces.add([3]);
        assert_eq!(pieces.value(), checksum([1, 2, 3]));
    }

    #[test]
    fn saxpy_rounds_twice() {
        // Fused, the small term of the product would survive.
        let (a, x) = (1.0 + f32::EPSILON, 1.0 - f32::EPSILON);
        assert_eq!(saxpy(a, x, -1.0), a * x - 1.0);
        assert_ne!(saxpy(a, x, -1.0), a.mul_add(x, -1.0));
    }
}
