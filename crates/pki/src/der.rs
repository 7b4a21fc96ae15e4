//! Writing DER: the few shapes a certificate is made of.

/// Tag of a SEQUENCE.
const SEQUENCE: u8 = 0x30;

/// One element: tag, length, content.
pub(crate) fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match content.len() {
        len @ ..=0x7f => out.push(len.to_le_bytes()[0]),
        len => {
            let bytes = len.to_be_bytes();
            let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
            out.push(0x80 | (bytes.len() - zeros).to_le_bytes()[0]);
            out.extend_from_slice(&bytes[zeros..]);
        }
    }
    out.extend_from_slice(content);
    out
}

/// A SEQUENCE of elements that are written already.
pub(crate) fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    element(SEQUENCE, &parts.concat())
}

/// A positive INTEGER from its big-endian bytes, the first of which is not zero.
pub(crate) fn positive(bytes: &[u8]) -> Vec<u8> {
    let mut content = Vec::with_capacity(bytes.len() + 1);
    if bytes.first().is_some_and(|first| first & 0x80 != 0) {
        content.push(0);
    }
    content.extend_from_slice(bytes);
    element(0x02, &content)
}

/// A BIT STRING of whole bytes.
pub(crate) fn bits(bytes: &[u8]) -> Vec<u8> {
    element(0x03, &[&[0], bytes].concat())
}

/// A BIT STRING of named bits, bit 0 first, without the zeros at its end.
pub(crate) fn named_bits(set: u16) -> Vec<u8> {
    let mirrored = set.reverse_bits().to_be_bytes();
    let used = if mirrored[1] == 0 { &mirrored[..1] } else { &mirrored[..] };
    let unused = used.last().map_or(0, |last| last.trailing_zeros().min(7));
    element(0x03, &[&[unused.to_le_bytes()[0]], used].concat())
}

/// An OCTET STRING.
pub(crate) fn octets(bytes: &[u8]) -> Vec<u8> {
    element(0x04, bytes)
}

/// An OBJECT IDENTIFIER from its encoded content.
pub(crate) fn identifier(content: &[u8]) -> Vec<u8> {
    element(0x06, content)
}

/// A time, as RFC 5280 wants it: two digits of the year until 2049, then four.
pub(crate) fn time(seconds: i64) -> Vec<u8> {
    let stamp = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let zoned = stamp.to_zoned(jiff::tz::TimeZone::UTC);
    match zoned.year() {
        1950..=2049 => element(0x17, zoned.strftime("%y%m%d%H%M%SZ").to_string().as_bytes()),
        _ => element(0x18, zoned.strftime("%Y%m%d%H%M%SZ").to_string().as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes() {
        for (written, expected) in [
            (element(4, b"ab"), "04026162"),
            (octets(&[7; 200])[..4].to_vec(), "0481c807"),
            (octets(&[7; 300])[..5].to_vec(), "0482012c07"),
            (positive(&[0x80]), "02020080"),
            (positive(&[0x7f]), "02017f"),
            (named_bits(1), "03020780"),
            (named_bits(0b101), "030205a0"),
            (named_bits(0b1_0000_0001), "0303078080"),
            (time(0), "170d3730303130313030303030305a"),
            (time(2_524_608_000), "180f32303530303130313030303030305a"),
        ] {
            assert_eq!(hex::encode(&written), expected);
        }
    }
}
