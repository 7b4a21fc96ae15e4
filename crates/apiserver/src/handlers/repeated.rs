//! On which lines of a YAML document keys stand that its map has already: upstream's parser tells, ours does not.
//!
//! Only asked once such keys were found. Reads block style, and documents of one line; where it finds another number of keys than the
//! parser did, no line is told.

use std::collections::BTreeSet;

/// Lines, from 1, and keys that stand a second time.
pub(super) fn lines(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    // Maps that are open, by the column of their keys.
    let mut open: Vec<(usize, BTreeSet<&str>)> = Vec::new();
    let mut inside_text: Option<usize> = None;
    for (at, line) in text.lines().enumerate() {
        let code = line.trim_start();
        let indent = line.len() - code.len();
        if code.is_empty() || code.starts_with('#') || inside_text.is_some_and(|column| indent > column) {
            continue;
        }
        inside_text = None;
        let rest = code.trim_start_matches("- ").trim_start();
        let (column, is_item) = (line.len() - rest.len(), rest.len() < code.len());
        let Some((key, value)) = key_of(rest) else { continue };
        open.retain(|(own, _)| *own < column || (*own == column && !is_item));
        if value.starts_with(['|', '>']) {
            inside_text = Some(column);
        }
        match open.last_mut().filter(|(own, _)| *own == column) {
            Some((_, keys)) => {
                if !keys.insert(key) {
                    found.push((at + 1, key.to_owned()));
                }
            }
            None => open.push((column, BTreeSet::from([key]))),
        }
    }
    found
}

fn key_of(code: &str) -> Option<(&str, &str)> {
    let (key, value) = match code.chars().next()? {
        quote @ ('"' | '\'') => {
            code[1..].split_once(quote).and_then(|(key, rest)| Some((key, rest.strip_prefix(':')?)))?
        }
        '{' | '[' => return None,
        _ => code.split_once(':')?,
    };
    (value.is_empty() || value.starts_with(' ')).then(|| (key, value.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_keys() {
        for (text, expected) in [
            ("a: 1\nb: 2\na: 3\n", vec![(3, "a")]),
            (
                "\nspec:\n  foo: 1\n  foo: 2\n  ports:\n  - name: x\n    port: 1\n  - name: y\n    port: 2\n",
                vec![(4, "foo")],
            ),
            ("a:\n  x: 1\nb:\n  x: 1\n", vec![]),
            ("a:\n- x: 1\n  x: 2\n- x: 1\n", vec![(3, "x")]),
            ("a: |\n  b: 1\n  b: 2\nc: 1\n", vec![]),
            ("\"a\": 1\n'a': 2\n# a: 3\nurl: http://x:1\n", vec![(2, "a")]),
            ("{\"a\": 1, \"a\": 2}", vec![]),
        ] {
            let found = lines(text);
            let found: Vec<(usize, &str)> = found.iter().map(|(line, key)| (*line, key.as_str())).collect();
            assert_eq!(found, expected, "{text}");
        }
    }
}
