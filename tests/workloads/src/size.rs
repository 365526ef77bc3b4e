//! Sizes on the command line: `4096`, `64K`, `16M`, `2G`.

/// Parses a size in bytes, with an optional binary suffix.
pub(crate) fn parse(text: &str) -> Result<usize, String> {
    let (digits, shift) = match text.chars().last() {
        Some('k' | 'K') => (&text[..text.len() - 1], 10),
        Some('m' | 'M') => (&text[..text.len() - 1], 20),
        Some('g' | 'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number: usize = digits
        .parse()
        .map_err(|_| format!("{text:?} is no size: write a number with K, M or G"))?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("{text:?} is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes() {
        assert_eq!(parse("4096"), Ok(4096));
        assert_eq!(parse("64K"), Ok(65536));
        assert_eq!(parse("16m"), Ok(16 << 20));
        assert_eq!(parse("2G"), Ok(2 << 30));
        for bad in ["", "M", "1T", "-1", "99999999999G"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
