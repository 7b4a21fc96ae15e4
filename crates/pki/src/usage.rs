//! What a certificate may be used for, in the words of `certificates.k8s.io`.

/// How a usage is written into a certificate.
#[derive(Clone, Copy)]
enum Written {
    /// A bit of the key usage.
    Bit(u8),
    /// An extended key usage: the content of its object identifier. The number is its place among several.
    Extended(u8, &'static [u8]),
}

use Written::{Bit, Extended};

/// All there are, sorted by their words.
const TABLE: [(&str, Written); 23] = [
    ("any", Extended(0, &[0x55, 0x1d, 0x25, 0x00])),
    ("cert sign", Bit(5)),
    ("client auth", Extended(2, &[0x2b, 6, 1, 5, 5, 7, 3, 2])),
    ("code signing", Extended(3, &[0x2b, 6, 1, 5, 5, 7, 3, 3])),
    ("content commitment", Bit(1)),
    ("crl sign", Bit(6)),
    ("data encipherment", Bit(3)),
    ("decipher only", Bit(8)),
    ("digital signature", Bit(0)),
    ("email protection", Extended(4, &[0x2b, 6, 1, 5, 5, 7, 3, 4])),
    ("encipher only", Bit(7)),
    ("ipsec end system", Extended(5, &[0x2b, 6, 1, 5, 5, 7, 3, 5])),
    ("ipsec tunnel", Extended(6, &[0x2b, 6, 1, 5, 5, 7, 3, 6])),
    ("ipsec user", Extended(7, &[0x2b, 6, 1, 5, 5, 7, 3, 7])),
    ("key agreement", Bit(4)),
    ("key encipherment", Bit(2)),
    ("microsoft sgc", Extended(10, &[0x2b, 6, 1, 4, 1, 0x82, 0x37, 10, 3, 3])),
    ("netscape sgc", Extended(11, &[0x60, 0x86, 0x48, 1, 0x86, 0xf8, 0x42, 4, 1])),
    ("ocsp signing", Extended(9, &[0x2b, 6, 1, 5, 5, 7, 3, 9])),
    ("s/mime", Extended(4, &[0x2b, 6, 1, 5, 5, 7, 3, 4])),
    ("server auth", Extended(1, &[0x2b, 6, 1, 5, 5, 7, 3, 1])),
    ("signing", Bit(0)),
    ("timestamping", Extended(8, &[0x2b, 6, 1, 5, 5, 7, 3, 8])),
];

/// The words, sorted.
pub const USAGES: [&str; 23] = {
    let mut words = [""; 23];
    let mut at = 0;
    while at < TABLE.len() {
        words[at] = TABLE[at].0;
        at += 1;
    }
    words
};

/// The key usage bits, and the extended ones' identifiers without repetition; the words nobody knows as an error.
pub(crate) fn read<S: AsRef<str>>(usages: &[S]) -> Result<(u16, Vec<&'static [u8]>), Vec<String>> {
    let (mut bits, mut extended, mut unknown) = (0, Vec::new(), Vec::new());
    for usage in usages {
        match TABLE.binary_search_by(|(word, _)| (*word).cmp(usage.as_ref())).map(|at| TABLE[at].1) {
            Ok(Bit(bit)) => bits |= 1 << bit,
            Ok(Extended(place, oid)) => extended.push((place, oid)),
            Err(_) => unknown.push(usage.as_ref().to_owned()),
        }
    }
    extended.sort_unstable();
    extended.dedup();
    if unknown.is_empty() { Ok((bits, extended.into_iter().map(|(_, oid)| oid).collect())) } else { Err(unknown) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_found() {
        assert!(USAGES.is_sorted());
        for word in USAGES {
            assert!(read(&[word]).is_ok_and(|(bits, extended)| (bits == 0) == (extended.len() == 1)), "{word}");
        }
        assert_eq!(read(&["nothing", "any"]), Err(vec!["nothing".to_owned()]));
        let (bits, extended) = read(&["s/mime", "server auth", "email protection", "signing"]).unwrap();
        assert_eq!((bits, extended.len(), extended[0].last()), (1, 2, Some(&1)));
    }
}
