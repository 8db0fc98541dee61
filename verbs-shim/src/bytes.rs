// SPDX-License-Identifier: MIT OR Apache-2.0

//! Lengths as people write them. The launcher reads them too.

/// Reads a number with an optional K, M or G (powers of 1024).
pub(crate) fn parse(value: &[u8]) -> Option<usize> {
    let (digits, shift) = match value.split_last()? {
        (b'k' | b'K', rest) => (rest, 10),
        (b'm' | b'M', rest) => (rest, 20),
        (b'g' | b'G', rest) => (rest, 30),
        _ => (value, 0),
    };
    let number: usize = core::str::from_utf8(digits)
        .ok()
        .filter(|d| d.starts_with(|c: char| c.is_ascii_digit()))?
        .parse()
        .ok()?;
    number.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes() {
        assert_eq!(parse(b"0"), Some(0));
        assert_eq!(parse(b"4096"), Some(4096));
        assert_eq!(parse(b"64K"), Some(64 << 10));
        assert_eq!(parse(b"2m"), Some(2 << 20));
        assert_eq!(parse(b"1G"), Some(1 << 30));
        for wrong in [
            &b"K"[..],
            b"-1",
            b"+1",
            b"1.5M",
            b"1T",
            b"99999999999G",
            b"1 ",
        ] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }
}
