//! Which requests a flow schema is about, and into which flows it divides them.

use crate::context::Attributes;
use crate::meta;
use http::HeaderValue;
use serde_json::Value;

const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// A FlowSchema.
#[derive(Clone, Debug)]
pub(super) struct Schema {
    pub(super) name: String,
    pub(super) uid: HeaderValue,
    pub(super) level: String,
    pub(super) precedence: i64,
    by_user: bool,
    by_namespace: bool,
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    others: Vec<OtherRule>,
}

#[derive(Clone, Debug)]
enum Subject {
    User(String),
    Group(String),
    /// The part of the user's name that is the same for all meant, and whether it is all of it.
    Account(String, bool),
    Nobody,
}

#[derive(Clone, Debug)]
struct ResourceRule {
    verbs: Texts,
    groups: Texts,
    resources: Texts,
    namespaces: Texts,
    cluster: bool,
}

#[derive(Clone, Debug)]
struct OtherRule {
    verbs: Texts,
    urls: Texts,
}

/// Texts of which one is wanted; `*` is any.
#[derive(Clone, Debug)]
enum Texts {
    Any,
    These(Vec<String>),
}

impl Texts {
    fn read(value: &Value, field: &str) -> Texts {
        let list = meta::at(value, &[field]).and_then(Value::as_array).into_iter().flatten();
        let list: Vec<String> = list.filter_map(|text| text.as_str().map(str::to_owned)).collect();
        if list.iter().any(|text| text == "*") { Texts::Any } else { Texts::These(list) }
    }

    fn any(&self, matches: impl Fn(&str) -> bool) -> bool {
        match self {
            Texts::Any => true,
            Texts::These(list) => list.iter().any(|text| matches(text)),
        }
    }
}

impl Schema {
    pub(super) fn read(schema: &Value) -> Schema {
        let spec = &schema["spec"];
        let distinguisher = meta::text_at(spec, &["distinguisherMethod", "type"]);
        Schema {
            name: meta::name(schema).to_owned(),
            uid: HeaderValue::try_from(meta::text(schema, "uid")).unwrap_or_else(|_| HeaderValue::from_static("")),
            level: meta::text_at(spec, &["priorityLevelConfiguration", "name"]).to_owned(),
            precedence: spec["matchingPrecedence"].as_i64().unwrap_or(1000),
            by_user: distinguisher == "ByUser",
            by_namespace: distinguisher == "ByNamespace",
            rules: list(spec, "rules").map(Rule::read).collect(),
        }
    }

    pub(super) fn matches(&self, attributes: &Attributes) -> bool {
        self.rules.iter().any(|rule| rule.matches(attributes))
    }

    /// What tells the flows of the schema apart.
    pub(super) fn distinguisher<'a>(&self, attributes: &'a Attributes) -> &'a str {
        match (self.by_user, self.by_namespace) {
            (true, _) => &attributes.user.name,
            (_, true) => &attributes.namespace,
            _ => "",
        }
    }
}

fn list<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    meta::at(value, &[field]).and_then(Value::as_array).into_iter().flatten()
}

impl Rule {
    fn read(rule: &Value) -> Rule {
        Rule {
            subjects: list(rule, "subjects").map(Subject::read).collect(),
            resources: list(rule, "resourceRules")
                .map(|rule| ResourceRule {
                    verbs: Texts::read(rule, "verbs"),
                    groups: Texts::read(rule, "apiGroups"),
                    resources: Texts::read(rule, "resources"),
                    namespaces: Texts::read(rule, "namespaces"),
                    cluster: rule["clusterScope"].as_bool().unwrap_or(false),
                })
                .collect(),
            others: list(rule, "nonResourceRules")
                .map(|rule| OtherRule { verbs: Texts::read(rule, "verbs"), urls: Texts::read(rule, "nonResourceURLs") })
                .collect(),
        }
    }

    fn matches(&self, attributes: &Attributes) -> bool {
        self.subjects.iter().any(|subject| subject.is(attributes))
            && if attributes.resource_request {
                self.resources.iter().any(|rule| rule.matches(attributes))
            } else {
                self.others.iter().any(|rule| rule.matches(attributes))
            }
    }
}

impl Subject {
    fn read(subject: &Value) -> Subject {
        let text = |path: &[&str]| meta::text_at(subject, path).to_owned();
        match meta::text_at(subject, &["kind"]) {
            "User" => Subject::User(text(&["user", "name"])),
            "Group" => Subject::Group(text(&["group", "name"])),
            "ServiceAccount" => {
                let (namespace, name) = (text(&["serviceAccount", "namespace"]), text(&["serviceAccount", "name"]));
                let all = name == "*";
                Subject::Account(format!("{SERVICE_ACCOUNT}{namespace}:{}", if all { "" } else { &name }), !all)
            }
            _ => Subject::Nobody,
        }
    }

    fn is(&self, attributes: &Attributes) -> bool {
        let user = &attributes.user;
        match self {
            Subject::User(name) => name == "*" || *name == user.name,
            Subject::Group(name) => name == "*" || user.groups.contains(name),
            Subject::Account(name, whole) => {
                if *whole {
                    user.name == *name
                } else {
                    user.name.starts_with(name.as_str())
                }
            }
            Subject::Nobody => false,
        }
    }
}

impl ResourceRule {
    fn matches(&self, attributes: &Attributes) -> bool {
        let resource = |wanted: &str| match wanted.split_once('/') {
            None => wanted == attributes.resource && attributes.subresource.is_empty(),
            Some((resource, sub)) => resource == attributes.resource && sub == attributes.subresource,
        };
        self.verbs.any(|verb| verb == attributes.verb)
            && self.groups.any(|group| group == attributes.group)
            && self.resources.any(resource)
            && if attributes.namespace.is_empty() {
                self.cluster
            } else {
                self.namespaces.any(|namespace| namespace == attributes.namespace)
            }
    }
}

impl OtherRule {
    fn matches(&self, attributes: &Attributes) -> bool {
        let path = &*attributes.path;
        let url = |url: &str| {
            url.strip_suffix("/*")
                .map_or(url == path, |prefix| path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/')))
        };
        self.verbs.any(|verb| verb == attributes.verb) && self.urls.any(url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::UserInfo;
    use serde_json::json;
    use std::sync::Arc;

    fn request(user: &str, groups: &[&str], verb: &str, resource: &str, namespace: &str) -> Attributes {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        Attributes {
            user: Arc::new(UserInfo { name: user.to_owned(), groups, ..UserInfo::default() }),
            verb: verb.to_owned(),
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
            path: format!("/{resource}"),
            resource_request: !resource.starts_with("healthz"),
            ..Attributes::default()
        }
    }

    #[test]
    fn bootstrap_schemas_divide_requests_as_upstream() {
        let mut schemas: Vec<Schema> = super::super::bootstrap::schemas().iter().map(Schema::read).collect();
        schemas.sort_by(|one, other| (one.precedence, &one.name).cmp(&(other.precedence, &other.name)));
        let all = "system:authenticated";
        for (attributes, schema, flow) in [
            (request("admin", &["system:masters", all], "get", "pods", "a"), "exempt", ""),
            (request("system:anonymous", &["system:unauthenticated"], "get", "healthz", ""), "probes", ""),
            (
                request("system:node:n", &["system:nodes", all], "update", "nodes", ""),
                "system-node-high",
                "system:node:n",
            ),
            (request("system:node:n", &["system:nodes", all], "get", "pods", "a"), "system-nodes", "system:node:n"),
            (request("system:kube-scheduler", &[all], "list", "pods", "a"), "kube-scheduler", "a"),
            (
                request("system:serviceaccount:kube-system:dns", &["system:serviceaccounts", all], "list", "pods", "a"),
                "kube-system-service-accounts",
                "a",
            ),
            (
                request("system:serviceaccount:a:b", &["system:serviceaccounts", all], "list", "pods", "a"),
                "service-accounts",
                "system:serviceaccount:a:b",
            ),
            (request("jane", &[all], "list", "pods", "a"), "global-default", "jane"),
            (request("nobody", &[all], "get", "healthz/x", ""), "global-default", "nobody"),
        ] {
            let found = schemas.iter().find(|schema| schema.matches(&attributes)).unwrap();
            assert_eq!((&*found.name, found.distinguisher(&attributes)), (schema, flow), "{attributes:?}");
        }
    }

    #[test]
    fn rules_in_detail() {
        let schema = |rule: Value| {
            let mut rule = rule;
            rule["subjects"] = json!([{"kind": "User", "user": {"name": "*"}}]);
            Schema::read(&json!({"metadata": {"name": "s"}, "spec": {"rules": [rule]}}))
        };
        let resources = |resources: &[&str], namespaces: &[&str], cluster: bool| {
            schema(
                json!({"resourceRules": [{"verbs": ["*"], "apiGroups": [""], "resources": resources, "namespaces": namespaces, "clusterScope": cluster}]}),
            )
        };
        let status = Attributes { subresource: "status".to_owned(), ..request("u", &[], "get", "nodes", "") };
        let pods = request("u", &[], "get", "pods", "a");
        for (schema, attributes, expected) in [
            (resources(&["nodes"], &[], true), &status, false),
            (resources(&["nodes/status"], &[], true), &status, true),
            (resources(&["nodes/status"], &["*"], false), &status, false),
            (resources(&["pods"], &["a"], false), &pods, true),
            (resources(&["pods"], &["b"], false), &pods, false),
            (resources(&["pods"], &[], true), &pods, false),
        ] {
            assert_eq!(schema.matches(attributes), expected, "{schema:?}");
        }
    }
}
