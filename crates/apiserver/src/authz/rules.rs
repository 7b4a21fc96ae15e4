//! Policy rules: what a rule covers, and whether one set of rules covers another.

use crate::context::Attributes;
use serde_json::Value;

/// One rule of a role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Verbs, or `*`.
    pub verbs: Box<[Box<str>]>,
    /// API groups, or `*`.
    pub groups: Box<[Box<str>]>,
    /// Resources (`pods`, `pods/log`, `*/scale`, `*`).
    pub resources: Box<[Box<str>]>,
    /// Names; empty for all.
    pub names: Box<[Box<str>]>,
    /// Paths of non-resource requests, `*` at the end for all below.
    pub urls: Box<[Box<str>]>,
}

fn has(list: &[Box<str>], item: &str) -> bool {
    list.iter().any(|member| **member == *item || &**member == "*")
}

impl Rule {
    /// Reads a `PolicyRule`.
    pub fn parse(value: &Value) -> Self {
        let list = |field: &str| -> Box<[Box<str>]> {
            let items = value.get(field).and_then(Value::as_array);
            items.map(|items| items.iter().filter_map(Value::as_str).map(Into::into).collect()).unwrap_or_default()
        };
        Self {
            verbs: list("verbs"),
            groups: list("apiGroups"),
            resources: list("resources"),
            names: list("resourceNames"),
            urls: list("nonResourceURLs"),
        }
    }

    /// Reads the `rules` of a role.
    pub fn parse_all(role: &Value) -> Vec<Self> {
        role.get("rules")
            .and_then(Value::as_array)
            .map(|rules| rules.iter().map(Self::parse).collect())
            .unwrap_or_default()
    }

    /// Whether it allows a request.
    pub fn allows(&self, attributes: &Attributes) -> bool {
        if !has(&self.verbs, &attributes.verb) {
            return false;
        }
        if !attributes.resource_request {
            return self.urls.iter().any(|url| url_covers(url, &attributes.path));
        }
        has(&self.groups, &attributes.group)
            && self.resources.iter().any(|r| resource_covers(r, &attributes.resource, &attributes.subresource))
            && (self.names.is_empty() || self.names.iter().any(|name| **name == *attributes.name))
    }

    /// Splits into rules of one verb, one group, one resource and one name (or one verb and one URL) each.
    pub fn atoms(&self) -> Vec<Self> {
        let one = |item: &str| -> Box<[Box<str>]> { Box::new([item.into()]) };
        let mut atoms = Vec::new();
        for verb in &self.verbs {
            for url in &self.urls {
                atoms.push(Self { verbs: one(verb), urls: one(url), ..Self::default() });
            }
            for group in &self.groups {
                for resource in &self.resources {
                    let atom =
                        Self { verbs: one(verb), groups: one(group), resources: one(resource), ..Self::default() };
                    match self.names.is_empty() {
                        true => atoms.push(atom),
                        false => atoms.extend(self.names.iter().map(|name| Self { names: one(name), ..atom.clone() })),
                    }
                }
            }
        }
        atoms
    }

    /// Whether it covers an atom.
    fn covers(&self, atom: &Self) -> bool {
        let first = |list: &[Box<str>]| list.first().cloned().unwrap_or_default();
        if !has(&self.verbs, &first(&atom.verbs)) {
            return false;
        }
        if let Some(url) = atom.urls.first() {
            return self.urls.iter().any(|own| url_covers(own, url));
        }
        let wanted = first(&atom.resources);
        let (resource, subresource) = wanted.split_once('/').unwrap_or((&wanted, ""));
        has(&self.groups, &first(&atom.groups))
            && self.resources.iter().any(|own| resource_covers(own, resource, subresource))
            && (self.names.is_empty() || atom.names.first().is_some_and(|name| self.names.contains(name)))
    }

    /// The object form.
    pub fn to_value(&self) -> Value {
        let mut value = serde_json::Map::new();
        let lists = [
            ("verbs", &self.verbs),
            ("apiGroups", &self.groups),
            ("resources", &self.resources),
            ("resourceNames", &self.names),
            ("nonResourceURLs", &self.urls),
        ];
        for (field, list) in lists {
            if !list.is_empty() {
                value.insert(field.to_owned(), list.iter().map(|item| Value::from(&**item)).collect());
            }
        }
        Value::Object(value)
    }
}

fn url_covers(own: &str, path: &str) -> bool {
    own == "*" || own == path || own.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}

fn resource_covers(own: &str, resource: &str, subresource: &str) -> bool {
    if own == "*" {
        return true;
    }
    match own.split_once('/') {
        None => subresource.is_empty() && own == resource,
        Some(("*", own)) => !subresource.is_empty() && own == subresource,
        Some((own, sub)) => own == resource && sub == subresource,
    }
}

/// The atoms of `wanted` that `owned` does not cover.
pub(super) fn uncovered(owned: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let atoms = wanted.iter().flat_map(Rule::atoms);
    atoms.filter(|atom| !owned.iter().any(|own| own.covers(atom))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_rule_allows() {
        let rule = |verbs: &[&str], groups: &[&str], resources: &[&str], names: &[&str], urls: &[&str]| {
            Rule::parse(
                &json!({"verbs": verbs, "apiGroups": groups, "resources": resources, "resourceNames": names, "nonResourceURLs": urls}),
            )
        };
        let all = rule(&["*"], &["*"], &["*"], &[], &[]);
        let pods = rule(&["get", "list"], &[""], &["pods"], &[], &[]);
        let logs = rule(&["get"], &[""], &["pods/log"], &[], &[]);
        let scales = rule(&["get"], &["apps"], &["*/scale"], &[], &[]);
        let named = rule(&["get"], &[""], &["pods"], &["a"], &[]);
        let urls = rule(&["get"], &[], &[], &[], &["/healthz", "/apis/*"]);
        let every_url = rule(&["*"], &[], &[], &[], &["*"]);
        let cases = [
            (&all, "delete", "apps", "deployments/scale", "x", true),
            (&all, "get", "-", "/healthz", "", false),
            (&pods, "get", "", "pods", "x", true),
            (&pods, "watch", "", "pods", "x", false),
            (&pods, "get", "apps", "pods", "x", false),
            (&pods, "get", "", "pods/log", "x", false),
            (&logs, "get", "", "pods/log", "x", true),
            (&logs, "get", "", "pods", "x", false),
            (&scales, "get", "apps", "deployments/scale", "x", true),
            (&scales, "get", "apps", "scale", "x", false),
            (&named, "get", "", "pods", "a", true),
            (&named, "get", "", "pods", "b", false),
            (&named, "get", "", "pods", "", false),
            (&urls, "get", "-", "/healthz", "", true),
            (&urls, "get", "-", "/healthz/etcd", "", false),
            (&urls, "get", "-", "/apis/apps/v1", "", true),
            (&urls, "post", "-", "/healthz", "", false),
            (&every_url, "post", "-", "/anything", "", true),
        ];
        for (rule, verb, group, what, name, expected) in cases {
            let (resource, subresource) = what.split_once('/').unwrap_or((what, ""));
            let attributes = Attributes {
                verb: verb.into(),
                group: group.into(),
                resource: resource.into(),
                subresource: subresource.into(),
                name: name.into(),
                path: what.into(),
                resource_request: group != "-",
                ..Attributes::default()
            };
            assert_eq!(rule.allows(&attributes), expected, "{verb} {group} {what} {name} by {rule:?}");
        }
    }

    #[test]
    fn what_rules_cover() {
        let rules = |value: Value| Rule::parse_all(&json!({"rules": value}));
        let owned = rules(json!([
            {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "pods/log"]},
            {"verbs": ["*"], "apiGroups": ["apps"], "resources": ["*"]},
            {"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a", "b"]},
            {"verbs": ["get"], "nonResourceURLs": ["/apis/*"]},
        ]));
        let cases = [
            (json!([]), 0),
            (json!([{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}]), 0),
            (json!([{"verbs": ["get", "watch"], "apiGroups": ["", "apps"], "resources": ["pods"]}]), 1),
            (json!([{"verbs": ["*"], "apiGroups": ["apps"], "resources": ["deployments/scale"]}]), 0),
            (json!([{"verbs": ["*"], "apiGroups": [""], "resources": ["pods"]}]), 1),
            (json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a", "c"]}]), 1),
            (json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"]}]), 1),
            (json!([{"verbs": ["get"], "nonResourceURLs": ["/apis/x/*", "/version"]}]), 1),
            (json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]), 1),
        ];
        for (wanted, missing) in cases {
            assert_eq!(uncovered(&owned, &rules(wanted.clone())).len(), missing, "{wanted}");
        }
    }
}
