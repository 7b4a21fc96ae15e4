//! Sets of fields, and their `FieldsV1` encoding.

use super::element::{Element, json_string};
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;
use std::cmp::Ordering;
use std::fmt;

/// Nesting beyond which an encoded set is refused.
const DEPTH_MAX: usize = 200;

/// A set of fields: a tree of path elements, of which some are in the set. Sorted; no node without a member in or below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set(Vec<Node>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) element: Element,
    /// Whether the path that ends here is in the set.
    pub(super) owned: bool,
    pub(super) children: Set,
}

/// A field's path, as in messages: `.spec.containers[name="a"].image`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldPath(pub Vec<Element>);

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|element| element.fmt(f))
    }
}

impl Set {
    /// The set of one path of fields.
    pub fn of(path: &[&str]) -> Set {
        let mut set = Set::default();
        let elements: Vec<Element> = path.iter().map(|name| Element::field(name)).collect();
        set.insert(&elements);
        set
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn nodes(&self) -> &[Node] {
        &self.0
    }

    fn find(&self, element: &Element) -> Option<&Node> {
        let at = self.0.binary_search_by(|node| node.element.cmp(element)).ok()?;
        Some(&self.0[at])
    }

    /// What is in the set below an element, and whether the element itself is.
    pub(super) fn below(&self, element: &Element) -> Option<(bool, &Set)> {
        self.find(element).map(|node| (node.owned, &node.children))
    }

    /// Whether a path is in the set.
    pub fn has(&self, path: &[Element]) -> bool {
        match path {
            [] => false,
            [last] => self.find(last).is_some_and(|node| node.owned),
            [first, rest @ ..] => self.find(first).is_some_and(|node| node.children.has(rest)),
        }
    }

    /// Adds a path.
    pub fn insert(&mut self, path: &[Element]) {
        let [first, rest @ ..] = path else { return };
        let at = match self.0.binary_search_by(|node| node.element.cmp(first)) {
            Ok(at) => at,
            Err(at) => {
                self.0.insert(at, Node { element: first.clone(), owned: false, children: Set::default() });
                at
            }
        };
        if rest.is_empty() {
            self.0[at].owned = true;
        } else {
            self.0[at].children.insert(rest);
        }
    }

    /// Adds a node, unless nothing is in it. Quick when nodes come in order.
    pub(super) fn push(&mut self, element: impl FnOnce() -> Element, owned: bool, children: Set) {
        if !owned && children.is_empty() {
            return;
        }
        let node = Node { element: element(), owned, children };
        if self.0.last().is_none_or(|last| last.element < node.element) {
            return self.0.push(node);
        }
        match self.0.binary_search_by(|known| known.element.cmp(&node.element)) {
            Ok(at) => {
                let known = &mut self.0[at];
                known.owned |= node.owned;
                known.children = known.children.union(&node.children);
            }
            Err(at) => self.0.insert(at, node),
        }
    }

    /// What is in either.
    pub fn union(&self, other: &Set) -> Set {
        let mut out = Vec::with_capacity(self.0.len().max(other.0.len()));
        zip(&self.0, &other.0, |a, b| match (a, b) {
            (Some(a), Some(b)) => out.push(Node {
                element: a.element.clone(),
                owned: a.owned || b.owned,
                children: a.children.union(&b.children),
            }),
            (Some(one), None) | (None, Some(one)) => out.push(one.clone()),
            (None, None) => {}
        });
        Set(out)
    }

    /// What is in both.
    pub fn intersection(&self, other: &Set) -> Set {
        let mut out = Set::default();
        zip(&self.0, &other.0, |a, b| {
            if let (Some(a), Some(b)) = (a, b) {
                out.push(|| a.element.clone(), a.owned && b.owned, a.children.intersection(&b.children));
            }
        });
        out
    }

    /// Whether anything is in both.
    pub fn intersects(&self, other: &Set) -> bool {
        let mut found = false;
        zip(&self.0, &other.0, |a, b| {
            if let (Some(a), Some(b)) = (a, b) {
                found |= (a.owned && b.owned) || a.children.intersects(&b.children);
            }
        });
        found
    }

    /// What is in this one alone. A path does not take what is below it along.
    pub fn difference(mut self, other: &Set) -> Set {
        self.subtract(other, false);
        self
    }

    /// The same, where a path of the other takes all that is below it along.
    pub fn without(mut self, other: &Set) -> Set {
        self.subtract(other, true);
        self
    }

    fn subtract(&mut self, other: &Set, whole: bool) {
        for node in &other.0 {
            let Ok(at) = self.0.binary_search_by(|own| own.element.cmp(&node.element)) else { continue };
            let own = &mut self.0[at];
            own.owned &= !node.owned;
            if node.owned && whole {
                own.children.0.clear();
            } else {
                own.children.subtract(&node.children, whole);
            }
            if !own.owned && own.children.is_empty() {
                self.0.remove(at);
            }
        }
    }

    /// Whether all of it is in the other.
    pub fn is_within(&self, other: &Set) -> bool {
        let mut within = true;
        zip(&self.0, &other.0, |a, b| {
            within &= match (a, b) {
                (Some(a), Some(b)) => (!a.owned || b.owned) && a.children.is_within(&b.children),
                (a, _) => a.is_none(),
            };
        });
        within
    }

    /// Only what is at or below a path.
    pub fn at_or_below(&self, path: &[&str]) -> Set {
        let [first, rest @ ..] = path else { return self.clone() };
        let mut out = Set::default();
        if let Some(node) = self.find(&Element::field(first)) {
            let owned = node.owned && rest.is_empty();
            out.push(|| node.element.clone(), owned, node.children.at_or_below(rest));
        }
        out
    }

    /// Every path in it, parents before children.
    pub fn paths(&self) -> Vec<FieldPath> {
        let (mut out, mut path) = (Vec::new(), Vec::new());
        self.collect(&mut path, &mut out);
        out
    }

    fn collect(&self, path: &mut Vec<Element>, out: &mut Vec<FieldPath>) {
        // Upstream tells the members of a level before what is below them.
        for node in self.0.iter().filter(|node| node.owned) {
            path.push(node.element.clone());
            out.push(FieldPath(path.clone()));
            path.pop();
        }
        for node in &self.0 {
            path.push(node.element.clone());
            node.children.collect(path, out);
            path.pop();
        }
    }

    /// The `FieldsV1` encoding, with upstream's order of members.
    pub fn to_json(&self) -> String {
        let mut out = String::with_capacity(256);
        self.write(&mut out, &mut String::new(), false);
        out
    }

    fn write(&self, out: &mut String, scratch: &mut String, owned: bool) {
        out.push('{');
        if owned && !self.is_empty() {
            out.push_str("\".\":{}");
        }
        for node in &self.0 {
            if !out.ends_with('{') {
                out.push(',');
            }
            scratch.clear();
            node.element.write(scratch);
            json_string(out, scratch);
            out.push(':');
            node.children.write(out, scratch, node.owned);
        }
        out.push('}');
    }

    /// Reads the encoding.
    pub fn from_json(text: &str) -> Result<Set, String> {
        let mut reader = serde_json::Deserializer::from_str(text);
        let (_, set) = serde::de::DeserializeSeed::deserialize(Reader(0), &mut reader).map_err(|e| e.to_string())?;
        reader.end().map_err(|error| error.to_string())?;
        Ok(set)
    }

    /// Reads the encoding out of a value.
    pub fn from_value(value: &Value) -> Result<Set, String> {
        let (_, set) = serde::de::DeserializeSeed::deserialize(Reader(0), value).map_err(|e| e.to_string())?;
        Ok(set)
    }
}

/// Walks two sorted lists of nodes side by side.
fn zip<'a>(a: &'a [Node], b: &'a [Node], mut each: impl FnMut(Option<&'a Node>, Option<&'a Node>)) {
    let (mut left, mut right) = (a.iter().peekable(), b.iter().peekable());
    loop {
        let order = match (left.peek(), right.peek()) {
            (Some(a), Some(b)) => a.element.cmp(&b.element),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return,
        };
        match order {
            Ordering::Less => each(left.next(), None),
            Ordering::Greater => each(None, right.next()),
            Ordering::Equal => each(left.next(), right.next()),
        }
    }
}

/// Reads one level: whether it has itself as a member, and what is below. Holds the depth.
struct Reader(usize);

impl<'de> serde::de::DeserializeSeed<'de> for Reader {
    type Value = (bool, Set);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(bool, Set), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Reader {
    type Value = (bool, Set);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of fields")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(bool, Set), A::Error> {
        if self.0 >= DEPTH_MAX {
            return Err(A::Error::custom("nested too deeply"));
        }
        let (mut own, mut empty, mut set) = (false, true, Set::default());
        while let Some(step) = members.next_key_seed(StepReader)? {
            empty = false;
            let Step::Element(element) = step else {
                own |= matches!(step, Step::Own);
                members.next_value::<serde::de::IgnoredAny>()?;
                continue;
            };
            let (owned, children) = members.next_value_seed(Reader(self.0 + 1))?;
            set.push(|| element, owned, children);
        }
        // A field without anything below it is a member itself.
        Ok((own || empty, set))
    }
}

/// A key of the encoding.
enum Step {
    /// `.`: the level itself.
    Own,
    Element(Element),
    /// What a later version may know.
    Unknown,
}

struct StepReader;

impl<'de> serde::de::DeserializeSeed<'de> for StepReader {
    type Value = Step;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Step, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for StepReader {
    type Value = Step;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a step of a field's path")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Step, E> {
        if text == "." {
            return Ok(Step::Own);
        }
        Ok(Element::parse(text).map_err(E::custom)?.map_or(Step::Unknown, Step::Element))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(paths: &[&str]) -> Set {
        let mut set = Set::default();
        for path in paths {
            let elements: Vec<Element> = path.split('/').map(|step| Element::parse(step).unwrap().unwrap()).collect();
            set.insert(&elements);
        }
        set
    }

    #[test]
    fn encoding() {
        for (paths, text) in [
            (&[][..], "{}"),
            (&["f:a"], r#"{"f:a":{}}"#),
            (&["f:a/f:b", "f:a"], r#"{"f:a":{".":{},"f:b":{}}}"#),
            (&["f:l/k:{\"n\":\"x\"}/f:n", "f:l/k:{\"n\":\"x\"}"], r#"{"f:l":{"k:{\"n\":\"x\"}":{".":{},"f:n":{}}}}"#),
            (&["f:b", "f:a/v:\"q\"", "f:a/v:3"], r#"{"f:a":{"v:3":{},"v:\"q\"":{}},"f:b":{}}"#),
        ] {
            let set = set(paths);
            assert_eq!(set.to_json(), text);
            assert_eq!(Set::from_json(text).unwrap(), set);
            assert_eq!(Set::from_value(&serde_json::from_str(text).unwrap()).unwrap(), set);
        }
        assert_eq!(
            Set::from_json(r#"{"q:x":{"y":{}},"f:a":{}}"#).unwrap(),
            set(&["f:a"]),
            "unknown steps are left out"
        );
        for bad in ["", "[]", "{\"x\":{}}", "{\"f:a\":1}", "{\"f:a\":{}} x", "null"] {
            assert!(Set::from_json(bad).is_err(), "{bad}");
        }
        let deep = format!("{}{}", "{\"f:a\":".repeat(5000), "}".repeat(5000));
        assert!(Set::from_json(&deep).is_err());
    }

    fn any_set() -> impl Strategy<Value = Set> {
        let step = prop::sample::select(vec!["f:a", "f:b", "f:c", "k:{\"x\":1}", "v:2"]);
        let path = prop::collection::vec(step, 1..4).prop_map(|steps| steps.join("/"));
        prop::collection::vec(path, 0..12).prop_map(|paths| set(&paths.iter().map(String::as_str).collect::<Vec<_>>()))
    }

    fn texts(set: &Set) -> std::collections::BTreeSet<String> {
        set.paths().iter().map(ToString::to_string).collect()
    }

    proptest! {
        #[test]
        fn sets_behave_like_sets_of_paths(a in any_set(), b in any_set()) {
            let (x, y) = (texts(&a), texts(&b));
            prop_assert_eq!(texts(&a.union(&b)), &x | &y);
            prop_assert_eq!(texts(&a.intersection(&b)), &x & &y);
            prop_assert_eq!(texts(&a.clone().difference(&b)), &x - &y);
            prop_assert_eq!(a.intersects(&b), x.intersection(&y).next().is_some());
            prop_assert_eq!(a.is_within(&b), x.is_subset(&y));
            prop_assert_eq!(Set::from_json(&a.to_json()).unwrap(), a.clone());
            let below = |path: &String| y.iter().any(|other| path.starts_with(other.as_str()));
            prop_assert_eq!(texts(&a.without(&b)), x.iter().filter(|path| !below(path)).cloned().collect());
        }

        #[test]
        fn any_text_ends_without_a_panic(text in "\\PC*") {
            let _ = Set::from_json(&text);
        }
    }
}
