//! Random numbers that a seed repeats.

use crate::pattern::mix;

/// A generator: a counter, well mixed.
#[derive(Clone, Debug)]
pub(crate) struct Rng {
    state: u64,
}

impl Rng {
    /// A generator of its own for each seed and stream.
    pub(crate) fn new(seed: u64, stream: u64) -> Rng {
        Rng {
            state: mix(mix(seed.wrapping_add(1)) ^ stream.wrapping_mul(0xa076_1d64_78bd_642f)),
        }
    }

    /// Any number.
    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// A number below `bound`, which is not zero.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        // The remainder is below a usize; the bias is of no consequence here.
        usize::try_from(self.next() % bound as u64).unwrap_or(0)
    }

    /// True once in `n` times.
    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_streams_differ() {
        let draw = |seed, stream| {
            let mut rng = Rng::new(seed, stream);
            (0..64).map(|_| rng.below(1000)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1, 0), draw(1, 0));
        assert_ne!(draw(1, 0), draw(1, 1));
        assert_ne!(draw(1, 0), draw(2, 0));
        assert!(draw(3, 3).iter().all(|&n| n < 1000));
    }
}
