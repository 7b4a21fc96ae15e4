//! Sets of completion indexes, as the API writes them: `1,3-5,7`.

use std::collections::BTreeSet;

/// Parses; what is malformed is left out. `count` bounds the numbers.
pub(super) fn parse(text: &str, count: i32) -> BTreeSet<i32> {
    let mut all = BTreeSet::new();
    for part in text.split(',').filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
            all.extend(first.max(0)..=last.min(count - 1));
        }
    }
    all
}

/// Writes: runs of three and more as a range, of two as well.
pub(super) fn format(indexes: &BTreeSet<i32>) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut run: Option<(i32, i32)> = None;
    let end = |run: Option<(i32, i32)>, parts: &mut Vec<String>| match run {
        None => {}
        Some((a, b)) if a == b => parts.push(a.to_string()),
        Some((a, b)) if a + 1 == b => parts.push(format!("{a},{b}")),
        Some((a, b)) => parts.push(format!("{a}-{b}")),
    };
    for i in indexes {
        run = match run {
            Some((a, b)) if b + 1 == *i => Some((a, *i)),
            other => {
                end(other, &mut parts);
                Some((*i, *i))
            }
        };
    }
    end(run, &mut parts);
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways() {
        for text in ["", "0", "0,1", "0-2", "1,3-5,7", "0,2,4,5,7-9"] {
            assert_eq!(format(&parse(text, 10)), text);
        }
        assert_eq!(format(&parse("0-99,x,3", 4)), "0-3", "bounded, and nonsense left out");
    }
}
