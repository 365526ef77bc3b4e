//! Content that names its page: no two pages of a run, and no two rounds of a page, are alike,
//! so data that is stale or went to the wrong page cannot pass.

/// From one word of a page to the next. Odd, so that the words of a page all differ.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// What the first word of a page holds, by the seed of the round and the number of the page.
pub(crate) fn page_base(seed: u64, page: usize) -> u64 {
    // Odd multiples of distinct bits, then mixed: distinct pages give distinct bases.
    mix(seed.wrapping_add((page as u64).wrapping_mul(0xd134_2543_de82_ef95)))
}

/// A bijection that spreads every bit of its input over the result.
pub(crate) fn mix(mut value: u64) -> u64 {
    value ^= value >> 32;
    value = value.wrapping_mul(0xd6e8_feb8_6659_fd93);
    value ^= value >> 32;
    value = value.wrapping_mul(0xd6e8_feb8_6659_fd93);
    value ^ value >> 32
}

/// The word of a page at an index.
pub(crate) fn word(base: u64, index: usize) -> u64 {
    base.wrapping_add((index as u64).wrapping_mul(STEP))
}

/// Writes a page.
pub(crate) fn fill(words: &mut [u64], base: u64) {
    for (index, slot) in words.iter_mut().enumerate() {
        *slot = word(base, index);
    }
}

/// Bytes of a page that differ from what [`fill`] wrote.
pub(crate) fn differing_bytes(words: &[u64], base: u64) -> u64 {
    // One pass without branches for the usual case, in which nothing differs.
    let mut difference = 0;
    for (index, &found) in words.iter().enumerate() {
        difference |= found ^ word(base, index);
    }
    if difference == 0 {
        return 0;
    }
    let expected = (0..words.len()).map(|index| word(base, index));
    count(words.iter().copied().zip(expected))
}

/// Bytes of a page that are not zero.
pub(crate) fn nonzero_bytes(words: &[u64]) -> u64 {
    if words.iter().fold(0, |all, word| all | word) == 0 {
        return 0;
    }
    count(words.iter().map(|&found| (found, 0)))
}

/// Bytes of words that are not this one.
pub(crate) fn bytes_unlike(words: &[u64], word: u64) -> u64 {
    count(words.iter().map(|&found| (found, word)))
}

fn count(pairs: impl Iterator<Item = (u64, u64)>) -> u64 {
    pairs
        .map(|(found, expected)| {
            let difference = (found ^ expected).to_ne_bytes();
            difference.iter().filter(|&&byte| byte != 0).count() as u64
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_differing_byte_is_counted() {
        let mut words = [0; 512];
        let base = page_base(1, 7);
        fill(&mut words, base);
        assert_eq!(differing_bytes(&words, base), 0);
        words[3] ^= 0xff;
        words[511] ^= 0x0100_0000_0000_0001;
        assert_eq!(differing_bytes(&words, base), 3);
    }

    #[test]
    fn another_page_or_round_does_not_pass() {
        let mut words = [0; 512];
        fill(&mut words, page_base(1, 7));
        assert!(differing_bytes(&words, page_base(1, 8)) > 3000);
        assert!(differing_bytes(&words, page_base(2, 7)) > 3000);
        assert!(nonzero_bytes(&words) > 3000);
        assert_eq!(nonzero_bytes(&[0; 512]), 0);
    }

    #[test]
    fn pages_have_distinct_bases() {
        let bases: HashSet<u64> = (0..100_000).map(|page| page_base(5, page)).collect();
        assert_eq!(bases.len(), 100_000);
    }
}
