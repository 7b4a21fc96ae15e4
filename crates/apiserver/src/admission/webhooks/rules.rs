//! Which requests a webhook's rules are about.

use crate::context::Operation;
use crate::meta;
use serde_json::Value;

/// What rules look at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    pub(crate) group: &'a str,
    pub(crate) version: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) subresource: &'a str,
    pub(crate) operation: Operation,
    /// In a namespace; namespaces themselves are not.
    pub(crate) namespaced: bool,
}

/// One rule of a webhook.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<(String, String)>,
    /// `Cluster`, `Namespaced`, or anything else for both.
    scope: String,
}

impl Rule {
    pub(crate) fn read(rule: &Value) -> Rule {
        let texts = |field: &str| -> Vec<String> {
            let list = meta::at(rule, &[field]).and_then(Value::as_array).into_iter().flatten();
            list.filter_map(|text| text.as_str().map(str::to_owned)).collect()
        };
        let split = |text: String| match text.split_once('/') {
            Some((resource, subresource)) => (resource.to_owned(), subresource.to_owned()),
            None => (text, String::new()),
        };
        Rule {
            operations: texts("operations"),
            groups: texts("apiGroups"),
            versions: texts("apiVersions"),
            resources: texts("resources").into_iter().map(split).collect(),
            scope: meta::text_at(rule, &["scope"]).to_owned(),
        }
    }

    pub(crate) fn matches(&self, subject: &Subject<'_>) -> bool {
        let is = |pattern: &str, text: &str| pattern == "*" || pattern == text;
        let any = |patterns: &[String], text: &str| patterns.iter().any(|pattern| is(pattern, text));
        let scope = match &*self.scope {
            "Namespaced" => subject.namespaced,
            "Cluster" => !subject.namespaced,
            _ => true,
        };
        scope
            && any(&self.operations, subject.operation.as_str())
            && any(&self.groups, subject.group)
            && any(&self.versions, subject.version)
            && self
                .resources
                .iter()
                .any(|(resource, subresource)| is(resource, subject.resource) && is(subresource, subject.subresource))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rules_and_requests() {
        let pods = Subject {
            group: "",
            version: "v1",
            resource: "pods",
            subresource: "",
            operation: Operation::Create,
            namespaced: true,
        };
        let attach = Subject { subresource: "attach", operation: Operation::Connect, ..pods };
        let nodes = Subject { resource: "nodes", namespaced: false, ..pods };
        let rule = |operations: &[&str], resources: &[&str], scope: &str| {
            Rule::read(
                &json!({"operations": operations, "apiGroups": [""], "apiVersions": ["*"], "resources": resources, "scope": scope}),
            )
        };
        for (rule, expected) in [
            (rule(&["*"], &["*"], "*"), [true, false, true]),
            (rule(&["CREATE"], &["pods"], ""), [true, false, false]),
            (rule(&["UPDATE"], &["pods"], ""), [false, false, false]),
            (rule(&["*"], &["pods/*"], ""), [true, true, false]),
            (rule(&["CONNECT"], &["*/attach"], ""), [false, true, false]),
            (rule(&["*"], &["*/*"], "Cluster"), [false, false, true]),
            (rule(&["*"], &["*/*"], "Namespaced"), [true, true, false]),
        ] {
            let found = [&pods, &attach, &nodes].map(|subject| rule.matches(subject));
            assert_eq!(found, expected, "{rule:?}");
        }
        let other =
            Rule::read(&json!({"operations": ["*"], "apiGroups": ["apps"], "apiVersions": ["*"], "resources": ["*"]}));
        assert!(!other.matches(&pods));
    }
}
