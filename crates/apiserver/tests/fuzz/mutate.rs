//! Changes inputs: bytes, words of the format, and whole values of JSON.

use fastrand::Rng;
use serde_json::Value;

/// No input is longer; one in a hundred comes near.
pub const BYTES_MAX: usize = 1 << 20;

/// Pieces that parsers stumble over, whatever their format.
const WORDS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    "\"",
    "'",
    "\\",
    "/",
    "//",
    "..",
    "%2f",
    "%00",
    "%",
    "&",
    "*",
    "!",
    "!!binary ",
    "|",
    ">",
    "-",
    "- ",
    "? ",
    ": ",
    ",",
    "\n",
    "\r\n",
    "\t",
    "\0",
    "\u{feff}",
    "é",
    "\u{202e}",
    "null",
    "true",
    "NaN",
    ".inf",
    "-0",
    "0",
    "1e999",
    "-1e-999",
    "9223372036854775808",
    "18446744073709551616",
    "0x7f",
    "0o17",
    "1_000",
    "<<: *a",
    "&a ",
    "*a",
    "---\n",
    "%YAML 1.1\n",
    "$",
    "@",
    "~1",
    "~0",
    "=",
    "==",
    "!=",
    " in ",
    " notin ",
    "metadata.name=",
    "labelSelector=",
    "fieldSelector=",
    "limit=1",
    "continue=",
    "watch=1&timeoutSeconds=1",
    "resourceVersion=",
    "Ki",
    "Ei",
    "m",
    "n",
    "e",
    "$patch",
    "$retainKeys",
    "$setElementOrder/",
    "$deleteFromPrimitiveList/",
    "replace",
    "delete",
    "metadata",
    "managedFields",
    "f:",
    "k:{",
    "v:",
    "i:0",
    "apiVersion",
    "kind",
    "spec",
    "size()",
    ".map(x, x)",
    ".all(x, x)",
    "matches('(a+)+$')",
    "optional.of(",
    "?",
    "dyn(",
    "duration('1h')",
    "quantity('1')",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-list-type",
    "properties",
    "additionalProperties",
    "items",
    "allOf",
    "pattern",
    "default",
    "-----BEGIN CERTIFICATE-----",
    "-----END CERTIFICATE-----",
    "eyJhbGciOiJub25lIn0",
    ".",
];

/// One input made of another (and, at times, of a second).
pub fn mutate(rng: &mut Rng, input: &[u8], other: &[u8]) -> Vec<u8> {
    let mut out = match serde_json::from_slice::<Value>(input) {
        Ok(value) if rng.u8(..) < 128 => structure(rng, value),
        _ => input.to_vec(),
    };
    for _ in 0..rng.u8(0..6) {
        bytes(rng, &mut out, other);
    }
    if rng.u8(..) < 3 {
        nest(rng, &mut out);
    }
    out.truncate(BYTES_MAX);
    out
}

fn at(rng: &mut Rng, out: &[u8]) -> usize {
    rng.usize(0..=out.len())
}

fn bytes(rng: &mut Rng, out: &mut Vec<u8>, other: &[u8]) {
    let (from, to) = (at(rng, out), at(rng, out));
    let range = from.min(to)..from.max(to);
    match rng.u8(0..9) {
        0 if !out.is_empty() => {
            let place = rng.usize(0..out.len());
            out[place] ^= 1 << rng.u8(0..8);
        }
        1 if !out.is_empty() => {
            let place = rng.usize(0..out.len());
            out[place] = rng.u8(..);
        }
        2 => out.insert(from, rng.u8(..)),
        3 => drop(out.drain(range)),
        4 => {
            let piece = out[range].to_vec();
            out.splice(to..to, piece);
        }
        5 if !other.is_empty() => {
            let (a, b) = (at(rng, other), at(rng, other));
            out.splice(range, other[a.min(b)..a.max(b)].iter().copied());
        }
        6 => out.truncate(from),
        _ => {
            let word = WORDS[rng.usize(0..WORDS.len())];
            out.splice(from..from, word.bytes());
        }
    }
}

/// Repeats a piece many times: depth, length, and all that grows faster than its input.
fn nest(rng: &mut Rng, out: &mut Vec<u8>) {
    let from = at(rng, out);
    let piece = match rng.bool() {
        true => WORDS[rng.usize(0..WORDS.len())].as_bytes().to_vec(),
        false => out[from..(from + rng.usize(0..40)).min(out.len())].to_vec(),
    };
    let times = [100, 1_000, 10_000, 100_000][rng.usize(0..4)].min(BYTES_MAX / piece.len().max(1));
    out.splice(from..from, piece.repeat(times));
}

/// A value with something in it changed, as text. Keys may stand twice.
fn structure(rng: &mut Rng, mut value: Value) -> Vec<u8> {
    for _ in 0..rng.u8(1..4) {
        change(rng, &mut value, 0);
    }
    value.to_string().into_bytes()
}

fn change(rng: &mut Rng, value: &mut Value, depth: usize) {
    let deeper = depth < 100 && rng.u8(..) < 200;
    match value {
        Value::Array(list) if deeper && !list.is_empty() => {
            let place = rng.usize(0..list.len());
            change(rng, &mut list[place], depth + 1);
        }
        Value::Object(map) if deeper && !map.is_empty() => {
            let place = rng.usize(0..map.len());
            if let Some(value) = map.values_mut().nth(place) {
                change(rng, value, depth + 1);
            }
        }
        Value::Array(list) if rng.bool() => {
            let copy = list.first().cloned().unwrap_or_else(|| odd(rng));
            let times = if rng.u8(..) < 4 { 2_000 } else { rng.usize(1..4) };
            list.extend(std::iter::repeat_n(copy, times));
        }
        Value::Object(map) if rng.bool() => {
            let key = WORDS[rng.usize(0..WORDS.len())].to_owned();
            let value = odd(rng);
            map.insert(key, value);
        }
        other if rng.u8(..) < 30 => {
            for _ in 0..rng.usize(1..150) {
                *other = serde_json::json!([other.take()]);
            }
        }
        other => *other = odd(rng),
    }
}

fn odd(rng: &mut Rng) -> Value {
    use serde_json::json;
    match rng.u8(0..12) {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(rng.i64(..)),
        3 => json!(u64::MAX),
        4 => json!(1e300),
        5 => json!([]),
        6 => json!({}),
        7 => json!(""),
        8 => json!(-1),
        9 => json!("x".repeat(rng.usize(0..300))),
        10 => json!([{"name": "a"}, {"name": "a"}]),
        _ => json!(WORDS[rng.usize(0..WORDS.len())]),
    }
}
