//! Flow schemas and priority levels.

use super::at::{At, Errors};
use crate::look::Look;
use machinery::name;
use serde_json::{Value, json};

const SPEC: At<'static> = At::root("spec");
const VERBS: [&str; 9] = ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];
/// Schemas are asked in the order of this number, which may be so large.
const PRECEDENCE_MAX: i64 = 10_000;
/// The queues of a level at most.
const QUEUES_MAX: i64 = 10_000_000;

pub(super) fn schema(object: &Value, errors: &mut Errors) {
    let spec = object.at("spec");
    let at = SPEC.field("matchingPrecedence");
    let precedence = spec.int("matchingPrecedence");
    if precedence <= 0 {
        errors.invalid(&at, precedence, "must be a positive value");
    }
    if precedence > PRECEDENCE_MAX {
        errors.invalid(&at, precedence, format!("must not be greater than {PRECEDENCE_MAX}"));
    }
    if precedence == 1 && object.text("metadata.name") != "exempt" {
        errors.invalid(&at, precedence, "only the schema named 'exempt' may have matchingPrecedence 1");
    }
    if spec.has("distinguisherMethod") {
        let ty = spec.text("distinguisherMethod.type");
        if !matches!(ty, "ByNamespace" | "ByUser") {
            // Upstream shows the whole method, as Go spells it.
            let at = SPEC.field("distinguisherMethod.type");
            errors.unsupported(&at, json!({"Type": ty}), &["ByNamespace", "ByUser"]);
        }
    }
    let level = spec.text("priorityLevelConfiguration.name");
    let at = SPEC.field("priorityLevelConfiguration.name");
    if level.is_empty() {
        errors.required(&at, "must reference a priority level");
    } else {
        errors.texts(&at, level, name::dns1123_subdomain(level));
    }
    let list = SPEC.field("rules");
    for (index, rule) in spec.items("rules").iter().enumerate() {
        policy(rule, &list.index(index), errors);
    }
}

fn policy(rule: &Value, at: &At<'_>, errors: &mut Errors) {
    let list = at.field("subjects");
    if rule.items("subjects").is_empty() {
        errors.required(&list, "subjects must contain at least one value");
    }
    for (index, item) in rule.items("subjects").iter().enumerate() {
        subject(item, &list.index(index), errors);
    }
    if rule.items("resourceRules").is_empty() && rule.items("nonResourceRules").is_empty() {
        errors.required(at, "at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    let list = at.field("resourceRules");
    for (index, item) in rule.items("resourceRules").iter().enumerate() {
        resource_rule(item, &list.index(index), errors);
    }
    let list = at.field("nonResourceRules");
    for (index, item) in rule.items("nonResourceRules").iter().enumerate() {
        path_rule(item, &list.index(index), errors);
    }
}

fn subject(subject: &Value, at: &At<'_>, errors: &mut Errors) {
    const KINDS: [(&str, &str); 3] = [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];
    let kind = subject.text("kind");
    let Some((_, own)) = KINDS.iter().find(|(known, _)| *known == kind) else {
        errors.unsupported(&at.field("kind"), kind, &["Group", "ServiceAccount", "User"]);
        return;
    };
    for (other, field) in KINDS {
        let at = at.field(field);
        match (field == *own, subject.has(field)) {
            (true, false) => errors.required(&at, &format!("{field} is required when subject kind is '{other}'")),
            (false, true) => errors.forbidden(&at, format!("{field} is forbidden when subject kind is not '{other}'")),
            (true, true) if field == "serviceAccount" => account(subject.at(field), &at, errors),
            (true, true) if subject.at(field).text("name").is_empty() => errors.required(&at.field("name"), ""),
            _ => {}
        }
    }
}

fn account(account: &Value, at: &At<'_>, errors: &mut Errors) {
    let (own, at_name) = (account.text("name"), at.field("name"));
    if own.is_empty() {
        errors.required(&at_name, "");
    } else if own != "*" {
        errors.texts(&at_name, own, name::dns1123_subdomain(own));
    }
    let (namespace, at) = (account.text("namespace"), at.field("namespace"));
    if namespace.is_empty() {
        errors.required(&at, "must specify namespace for service account");
    } else {
        errors.texts(&at, namespace, name::dns1123_label(namespace));
    }
}

/// A star stands for all and then alone.
fn star_is_alone(list: &[Value], what: &str, at: &At<'_>, errors: &mut Errors) -> bool {
    let star = list.iter().any(|item| item == "*");
    if star && list.len() > 1 {
        errors.invalid(at, list.to_vec(), format!("if '*' is present, must not specify other {what}"));
    }
    star
}

fn verbs(rule: &Value, at: &At<'_>, errors: &mut Errors) {
    let (list, at) = (rule.items("verbs"), at.field("verbs"));
    if list.is_empty() {
        errors.required(&at, "verbs must contain at least one value");
    } else if !star_is_alone(list, "verbs", &at, errors)
        && list.iter().any(|verb| !VERBS.contains(&verb.as_str().unwrap_or_default()))
    {
        errors.unsupported(&at, list.to_vec(), &VERBS);
    }
}

fn resource_rule(rule: &Value, at: &At<'_>, errors: &mut Errors) {
    verbs(rule, at, errors);
    for (field, one, many) in [("apiGroups", "api group", "api groups"), ("resources", "resource", "resources")] {
        let (list, at) = (rule.items(field), at.field(field));
        if list.is_empty() {
            errors.required(&at, &format!("resource rules must supply at least one {one}"));
        } else {
            star_is_alone(list, many, &at, errors);
        }
    }
    let (list, at) = (rule.items("namespaces"), at.field("namespaces"));
    if list.is_empty() && !rule.flag("clusterScope") {
        let detail = "resource rules that are not cluster scoped must supply at least one namespace";
        errors.required(&at, detail);
    } else if !star_is_alone(list, "namespaces", &at, errors) {
        for (index, namespace) in list.iter().enumerate() {
            let namespace = namespace.as_str().unwrap_or_default();
            let wrong = name::dns1123_label(namespace);
            if !wrong.is_empty() {
                let detail = format!("each member of this list must be '*' or a DNS-1123 label; {}", wrong.join(", "));
                errors.invalid(&at.index(index), namespace, detail);
            }
        }
    }
}

fn path_rule(rule: &Value, at: &At<'_>, errors: &mut Errors) {
    verbs(rule, at, errors);
    let (list, at) = (rule.items("nonResourceURLs"), at.field("nonResourceURLs"));
    if list.is_empty() {
        errors.required(&at, "nonResourceURLs must contain at least one value");
    } else if !star_is_alone(list, "non-resource URLs", &at, errors) {
        for (index, path) in list.iter().enumerate() {
            if let Some(detail) = wrong_path(path.as_str().unwrap_or_default()) {
                errors.invalid(&at.index(index), path.clone(), detail);
            }
        }
    }
}

fn wrong_path(path: &str) -> Option<&'static str> {
    let star = path.find('*');
    if path.is_empty() {
        Some("must not be empty")
    } else if path == "/" {
        None
    } else if !path.starts_with('/') {
        Some("must start with slash")
    } else if path.contains(' ') {
        Some("must not contain white-space")
    } else if path.contains("//") {
        Some("must not contain double slash")
    } else if star.is_some_and(|at| at + 1 < path.len()) {
        Some("wildcard can only match suffix")
    } else if star.is_some_and(|at| !path[..at].ends_with('/')) {
        Some("wildcard can only come after slash")
    } else {
        None
    }
}

pub(super) fn level(object: &Value, errors: &mut Errors) {
    let spec = object.at("spec");
    let (exempt, limited) = (SPEC.field("exempt"), SPEC.field("limited"));
    match spec.text("type") {
        "Exempt" => {
            if spec.has("limited") {
                errors.forbidden(&limited, "");
            }
            if spec.has("exempt") {
                shares(spec.at("exempt"), &exempt, errors);
            }
        }
        "Limited" => {
            if spec.has("exempt") {
                errors.forbidden(&exempt, "");
            }
            if spec.has("limited") {
                limits(spec.at("limited"), &limited, errors);
            } else {
                errors.required(&limited, "");
            }
        }
        other => {
            if spec.has("limited") {
                errors.forbidden(&limited, "");
            }
            if other.is_empty() {
                errors.required(&SPEC.field("type"), "");
            } else {
                errors.unsupported(&SPEC.field("type"), other, &["Exempt", "Limited"]);
            }
        }
    }
}

fn shares(owner: &Value, at: &At<'_>, errors: &mut Errors) {
    if owner.int("nominalConcurrencyShares") < 0 {
        let at = at.field("nominalConcurrencyShares");
        errors.invalid(&at, owner.int("nominalConcurrencyShares"), "must be a non-negative integer");
    }
    errors.in_range(&at.field("lendablePercent"), owner.at("lendablePercent"), 0, 100);
}

fn limits(limited: &Value, at: &At<'_>, errors: &mut Errors) {
    shares(limited, at, errors);
    if let Some(percent) = limited.at("borrowingLimitPercent").as_i64().filter(|percent| *percent < 0) {
        let at = at.field("borrowingLimitPercent");
        errors.invalid(&at, percent, "if specified, must be a non-negative integer");
    }
    let (response, at) = (limited.at("limitResponse"), at.field("limitResponse"));
    let queuing = at.field("queuing");
    match response.text("type") {
        "Queue" if response.has("queuing") => queues(response.at("queuing"), &queuing, errors),
        "Queue" => errors.required(&queuing, ""),
        other => {
            if response.has("queuing") {
                errors.forbidden(&queuing, "");
            }
            match other {
                "Reject" => {}
                "" => errors.required(&at.field("type"), ""),
                other => errors.unsupported(&at.field("type"), other, &["Queue", "Reject"]),
            }
        }
    }
}

fn queues(queuing: &Value, at: &At<'_>, errors: &mut Errors) {
    let (length, queues, hand) = (queuing.int("queueLengthLimit"), queuing.int("queues"), queuing.int("handSize"));
    if length <= 0 {
        errors.invalid(&at.field("queueLengthLimit"), length, "must be positive");
    }
    if queues <= 0 {
        errors.invalid(&at.field("queues"), queues, "must be positive");
    } else if queues > QUEUES_MAX {
        errors.invalid(&at.field("queues"), queues, format!("must not be greater than {QUEUES_MAX}"));
    }
    let at = at.field("handSize");
    if hand <= 0 {
        errors.invalid(&at, hand, "must be positive");
    } else if hand > queues {
        errors.invalid(&at, hand, format!("should not be greater than queues ({queues})"));
    }
}
