//! The blocks of a PEM text, in the form strangers send it.

use base64::Engine;
use base64::alphabet;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};

const BASE64: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, GeneralPurposeConfig::new());

/// One block of a PEM text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// What it says it is: `CERTIFICATE`.
    pub label: String,
    /// It has headers, as RFC 1421 allows.
    pub headers: bool,
    /// What it holds.
    pub der: Vec<u8>,
}

/// The blocks of a text in their order. Text around them, and what is no well-formed block, is passed over. Linear in the text.
pub fn blocks(text: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(label) = marker(line, "-----BEGIN ") else { continue };
        let mut rest = lines.clone();
        if let Some(block) = block(label, &mut rest) {
            found.push(block);
            lines = rest;
        }
    }
    found
}

fn marker<'l>(line: &'l str, begin: &str) -> Option<&'l str> {
    line.trim_end().strip_prefix(begin)?.strip_suffix("-----")
}

/// Reads a block's lines up to its end; another beginning, or an end of something else, breaks it off.
fn block<'t>(label: &str, lines: &mut impl Iterator<Item = &'t str>) -> Option<Block> {
    let (mut headers, mut body) = (false, String::new());
    for line in lines {
        if let Some(end) = marker(line, "-----END ") {
            let der = BASE64.decode(&body).ok().filter(|_| end == label)?;
            return Some(Block { label: label.to_owned(), headers, der });
        }
        if line.starts_with("-----") {
            return None;
        }
        if body.is_empty() && line.contains(':') {
            headers = true;
            continue;
        }
        body.extend(line.chars().filter(|c| !c.is_ascii_whitespace()));
    }
    None
}

/// A block as text.
pub(crate) fn write(label: &str, der: &[u8]) -> String {
    let body = BASE64.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        text.extend([line, "\n"]);
        rest = more;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_among_other_text() {
        let one = write("A", b"first");
        let long = write("B", &[9; 100]);
        let check = |text: &str, expected: &[(&str, bool, usize)]| {
            let found = blocks(text);
            let found: Vec<_> = found.iter().map(|b| (b.label.as_str(), b.headers, b.der.len())).collect();
            assert_eq!(found, expected, "{text}");
        };
        check("", &[]);
        check(&format!("hello\n{one}between\n{long}"), &[("A", false, 5), ("B", false, 100)]);
        check(&one.replace("-----\nZ", "-----\nK: v\n\nZ"), &[("A", true, 5)]);
        check(&one.replace('\n', "\r\n"), &[("A", false, 5)]);
        check(&one.replace("END A", "END B"), &[]);
        check(&format!("-----BEGIN X-----\n{one}"), &[("A", false, 5)]);
        check("-----BEGIN A-----\n?!\n-----END A-----", &[]);
        check("-----BEGIN A-----\n", &[]);
    }
}
