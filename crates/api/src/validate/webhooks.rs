//! Webhook configurations.

use super::at::{At, Errors};
use super::meta;
use crate::look::Look;
use machinery::name;
use serde_json::Value;

const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];
const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
/// The most `matchConditions` of a webhook.
const CONDITIONS_MAX: usize = 64;

/// A configuration; `old` is what it was before a change.
pub(super) fn configuration(object: &Value, old: Option<&Value>, errors: &mut Errors) {
    let at = At::root("webhooks");
    let mut names: Vec<&str> = Vec::new();
    let recognized = old.is_none_or(|old| old.items("webhooks").iter().all(recognizes));
    let unique = old.is_none_or(has_unique_names);
    let harmless = old.is_none_or(|old| old.items("webhooks").iter().all(is_harmless));
    for (index, hook) in object.items("webhooks").iter().enumerate() {
        let here = at.index(index);
        webhook(hook, &here, harmless, object.text("kind") == "MutatingWebhookConfiguration", errors);
        review_versions(hook, &here.field("admissionReviewVersions"), recognized, errors);
        let name = hook.text("name");
        if unique && !name.is_empty() && names.contains(&name) {
            errors.duplicate(&here.field("name"), name);
        }
        names.push(name);
    }
}

fn recognizes(hook: &Value) -> bool {
    hook.items("admissionReviewVersions").iter().any(|version| REVIEW_VERSIONS.contains(&version.text("")))
}

fn is_harmless(hook: &Value) -> bool {
    matches!(hook.text("sideEffects"), "None" | "NoneOnDryRun")
}

fn has_unique_names(configuration: &Value) -> bool {
    let mut names: Vec<&str> = configuration.items("webhooks").iter().map(|hook| hook.text("name")).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    names.len() == all
}

fn webhook(hook: &Value, at: &At<'_>, harmless: bool, mutating: bool, errors: &mut Errors) {
    let name = hook.text("name");
    qualified_name(name, &at.field("name"), errors);
    for (index, rule) in hook.items("rules").iter().enumerate() {
        self::rule(rule, &at.field("rules").index(index), errors);
    }
    let choice = |field: &str, supported: &[&str], errors: &mut Errors| {
        if hook.has(field) {
            errors.one_of(&at.field(field), hook.text(field), supported);
        }
    };
    choice("failurePolicy", &["Fail", "Ignore"], errors);
    choice("matchPolicy", &["Equivalent", "Exact"], errors);
    let effects: &[&str] =
        if harmless { &["None", "NoneOnDryRun"] } else { &["None", "NoneOnDryRun", "Some", "Unknown"] };
    if !hook.has("sideEffects") {
        let detail = format!("must specify one of {}", effects.join(", "));
        errors.required(&at.field("sideEffects"), &detail);
    }
    choice("sideEffects", effects, errors);
    if hook.has("timeoutSeconds") && !(1..=30).contains(&hook.int("timeoutSeconds")) {
        let detail = "the timeout value must be between 1 and 30 seconds";
        errors.invalid(&at.field("timeoutSeconds"), hook.at("timeoutSeconds").clone(), detail);
    }
    for field in ["namespaceSelector", "objectSelector"] {
        if hook.has(field) {
            meta::selector(hook.at(field), &at.field(field), errors);
        }
    }
    if mutating {
        choice("reinvocationPolicy", &["IfNeeded", "Never"], errors);
    }
    client_config(hook.at("clientConfig"), &at.field("clientConfig"), errors);
    conditions(hook, &at.field("matchConditions"), errors);
}

fn qualified_name(text: &str, at: &At<'_>, errors: &mut Errors) {
    if text.is_empty() {
        return errors.required(at, "");
    }
    let wrong = name::dns1123_subdomain(text);
    if !wrong.is_empty() {
        return errors.invalid(at, text, wrong.join(","));
    }
    if text.split('.').count() < 3 {
        errors.invalid(at, text, "should be a domain with at least three segments separated by dots");
    }
}

fn client_config(config: &Value, at: &At<'_>, errors: &mut Errors) {
    match (config.has("url"), config.has("service")) {
        (true, false) => url(config.text("url"), &at.field("url"), errors),
        (false, true) => service(config.at("service"), &at.field("service"), errors),
        _ => errors.required(at, "exactly one of url or service is required"),
    }
}

/// The URL of a webhook, `https` only.
fn url(text: &str, at: &At<'_>, errors: &mut Errors) {
    const FORM: &str = "; desired format: https://host[/path]";
    let (scheme, rest) = text.split_once("://").map_or(("", text), |(scheme, rest)| (scheme, rest));
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = if scheme.is_empty() { "" } else { rest.split('/').next().unwrap_or_default() };
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let bad_host = host.contains(|c: char| c.is_whitespace() || "<>\"{}|\\^`".contains(c));
    if bad_host || text.chars().any(char::is_control) {
        return errors.required(at, &format!("url must be a valid URL: parse {text:?}: invalid character{FORM}"));
    }
    if scheme != "https" {
        errors.invalid(at, scheme, format!("'https' is the only allowed URL scheme{FORM}"));
    }
    if host.is_empty() {
        errors.invalid(at, host, format!("host must be specified{FORM}"));
    }
    if !user.is_empty() {
        errors.invalid(at, user, "user information is not permitted in the URL");
    }
    if !fragment.is_empty() {
        errors.invalid(at, fragment, "fragments are not permitted in the URL");
    }
    if !query.is_empty() {
        errors.invalid(at, query, "query parameters are not permitted in the URL");
    }
}

/// The Service of a webhook.
fn service(service: &Value, at: &At<'_>, errors: &mut Errors) {
    for field in ["name", "namespace"] {
        if service.text(field).is_empty() {
            errors.required(&at.field(field), "");
        }
    }
    let port = if service.has("port") { service.int("port") } else { 443 };
    if !(1..=65535).contains(&port) {
        errors.invalid(&at.field("port"), port, "port is not valid: must be between 1 and 65535, inclusive");
    }
    let (path, at) = (service.text("path"), at.field("path"));
    if matches!(path, "" | "/") {
        return;
    }
    if path == "//" {
        return errors.invalid(&at, path, "segment[0] may not be empty");
    }
    if !path.starts_with('/') {
        errors.invalid(&at, path, "must start with a '/'");
    }
    // Upstream looks at what follows the first character, whatever it is.
    let mut characters = path.chars();
    characters.next();
    let rest = characters.as_str();
    for (index, step) in rest.strip_suffix('/').unwrap_or(rest).split('/').enumerate() {
        if step.is_empty() {
            errors.invalid(&at, path, format!("segment[{index}] may not be empty"));
            continue;
        }
        for wrong in name::dns1123_subdomain(step) {
            errors.invalid(&at, path, format!("segment[{index}]: {wrong}"));
        }
    }
}

fn review_versions(hook: &Value, at: &At<'_>, recognized: bool, errors: &mut Errors) {
    let versions = hook.items("admissionReviewVersions");
    if versions.is_empty() {
        return errors.required(at, "must specify one of v1, v1beta1");
    }
    for (index, version) in versions.iter().enumerate() {
        let text = version.text("");
        if versions[..index].contains(version) {
            errors.invalid(&at.index(index), text, "duplicate version");
            continue;
        }
        errors.texts(&at.index(index), text, name::dns1035_label(text));
    }
    if recognized && !recognizes(hook) {
        errors.invalid(at, versions.to_vec(), "must include at least one of v1, v1beta1");
    }
}

fn rule(rule: &Value, at: &At<'_>, errors: &mut Errors) {
    let operations = rule.items("operations");
    let crowded = |items: &[Value]| items.len() > 1 && items.iter().any(|item| item == "*");
    if operations.is_empty() {
        errors.required(&at.field("operations"), "");
    }
    if crowded(operations) {
        let detail = "if '*' is present, must not specify other operations";
        errors.invalid(&at.field("operations"), operations.to_vec(), detail);
    }
    for (index, operation) in operations.iter().enumerate() {
        errors.one_of(&at.field("operations").index(index), operation.text(""), &OPERATIONS);
    }
    for (field, words) in [("apiGroups", "API groups"), ("apiVersions", "API versions")] {
        let items = rule.items(field);
        if items.is_empty() {
            errors.required(&at.field(field), "");
        }
        if crowded(items) {
            let detail = format!("if '*' is present, must not specify other {words}");
            errors.invalid(&at.field(field), items.to_vec(), detail);
        }
    }
    for (index, _) in rule.items("apiVersions").iter().enumerate().filter(|(_, version)| version.text("").is_empty()) {
        errors.required(&at.field("apiVersions").index(index), "");
    }
    resources(rule.items("resources"), &at.field("resources"), errors);
    if rule.has("scope") {
        errors.one_of(&at.field("scope"), rule.text("scope"), &["*", "Cluster", "Namespaced"]);
    }
}

fn resources(resources: &[Value], at: &At<'_>, errors: &mut Errors) {
    if resources.is_empty() {
        errors.required(at, "");
    }
    let (mut all_of, mut any_with): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    // Upstream remembers the last plain name only.
    let mut plain = false;
    for (index, resource) in resources.iter().enumerate() {
        let (text, at) = (resource.text(""), at.index(index));
        if text.is_empty() {
            errors.required(&at, "");
            continue;
        }
        let Some((name, sub)) = text.split_once('/') else {
            plain = text != "*";
            continue;
        };
        if all_of.contains(&name) {
            errors.invalid(&at, text, format!("if '{name}/*' is present, must not specify {text}"));
        }
        if any_with.contains(&sub) {
            errors.invalid(&at, text, format!("if '*/{sub}' is present, must not specify {text}"));
        }
        if sub == "*" {
            all_of.push(name);
        }
        if name == "*" {
            any_with.push(sub);
        }
    }
    let has = |text: &str| resources.iter().any(|resource| resource == text);
    if resources.len() > 1 && has("*/*") {
        errors.invalid(at, resources.to_vec(), "if '*/*' is present, must not specify other resources");
    }
    if has("*") && plain {
        let detail = "if '*' is present, must not specify other resources without subresources";
        errors.invalid(at, resources.to_vec(), detail);
    }
}

fn conditions(hook: &Value, at: &At<'_>, errors: &mut Errors) {
    let conditions = hook.items("matchConditions");
    if conditions.len() > CONDITIONS_MAX {
        errors.too_many(at, conditions.len(), CONDITIONS_MAX);
    }
    for (index, condition) in conditions.iter().enumerate() {
        let (name, at) = (condition.text("name"), at.index(index));
        if condition.text("expression").trim().is_empty() {
            errors.required(&at.field("expression"), "");
        }
        if name.is_empty() {
            errors.required(&at.field("name"), "");
        } else {
            errors.texts(&at.field("name"), name, name::qualified_name(name));
        }
        if conditions[..index].iter().any(|other| other.text("name") == name) && !name.is_empty() {
            errors.duplicate(&at.field("name"), name);
        }
    }
}
