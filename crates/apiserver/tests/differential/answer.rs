//! Answers in the form in which they are compared: `conformance/differential` brings upstream's into the same.

use regex::Regex;
use serde_json::{Map, Value, json};
use std::sync::LazyLock;

static TIMES: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z").unwrap());
static UIDS: LazyLock<Regex> =
    LazyLock::new(|| Regex::new("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").unwrap());
static VOLUMES: LazyLock<Regex> = LazyLock::new(|| Regex::new("kube-api-access-[a-z0-9]{5}").unwrap());
static TOKENS: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"eyJ[\w-]+\.[\w-]+\.[\w-]+").unwrap());
static HASHES: LazyLock<Regex> = LazyLock::new(|| Regex::new("SHA256=[0-9a-f]{64}").unwrap());
/// Changes in Go's notation, which differ from run to run, at the end of a refusal.
static CHANGES: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?s)(previously negative\)|immutable after creation|for bound claims)\n.*").unwrap());
static RUNS: LazyLock<Regex> = LazyLock::new(|| Regex::new("x{50,}").unwrap());
static MARKS: LazyLock<Regex> = LazyLock::new(|| Regex::new("<x([0-9]+)>").unwrap());

/// A line of a golden file with its long runs of letters.
pub(crate) fn expanded(line: &str) -> String {
    MARKS.replace_all(line, |mark: &regex::Captures<'_>| "x".repeat(mark[1].parse().unwrap())).into_owned()
}

/// A text with its long runs of letters as marks.
pub(crate) fn marked(text: &str) -> String {
    if !text.contains("xxxxxxxxxx") {
        return text.to_owned();
    }
    RUNS.replace_all(text, |run: &regex::Captures<'_>| format!("<x{}>", run[0].len())).into_owned()
}

/// A text without what differs from run to run, unless the client asked for it; long ones are cut.
fn masked_text(text: &str, known: &str) -> String {
    if text.len() < 20 {
        return text.to_owned();
    }
    let mut text = text.to_owned();
    // A search for a few letters saves most of the work, which in a debug build is much.
    let own: [(&LazyLock<Regex>, &str, &str); 5] = [
        (&TIMES, ":", "<time>"),
        (&UIDS, "-", "<uid>"),
        (&TOKENS, "eyJ", "<token>"),
        (&HASHES, "SHA256=", "SHA256=<own>"),
        (&VOLUMES, "kube-api-access-", "kube-api-access-<own>"),
    ];
    for (form, needle, mark) in own {
        if !text.contains(needle) {
            continue;
        }
        let asked = |found: &str| ["<time>", "<uid>"].contains(&mark) && known.contains(found);
        let keep = |found: &regex::Captures<'_>| if asked(&found[0]) { found[0].to_owned() } else { mark.to_owned() };
        text = form.replace_all(&text, keep).into_owned();
    }
    if text.contains('\n') {
        text = CHANGES.replace_all(&text, "$1").into_owned();
    }
    let text = marked(&text);
    let length = text.chars().count();
    if length <= 400 {
        return text;
    }
    format!("{}<{length} in all>", text.chars().take(380).collect::<String>())
}

/// An object without what differs from run to run, unless the client asked for it.
fn masked(value: &Value, known: &str, key: &str) -> Value {
    match value {
        Value::Object(map) => map
            .iter()
            .filter(|(key, value)| *key != "managedFields" && !(*key == "resourceVersion" && value.is_string()))
            .map(|(key, value)| (key.clone(), masked(value, known, key)))
            .collect(),
        Value::Array(items) => items.iter().map(|item| masked(item, known, key)).collect(),
        value
            if matches!(key, "clusterIP" | "clusterIPs" | "nodePort" | "healthCheckNodePort")
                && ![json!(""), json!("None"), json!(0)].contains(value)
                && !known.contains(&value.to_string()) =>
        {
            json!("<own>")
        }
        Value::String(text) => masked_text(text, known).into(),
        other => other.clone(),
    }
}

/// The changes that make `new` of `old`: pairs of a JSON pointer and a value, or the pointer alone.
pub(crate) fn difference(old: &Value, new: &Value, at: &str, out: &mut Vec<Value>) {
    match (old, new) {
        _ if old == new => {}
        (Value::Object(old), Value::Object(new)) => {
            let mut keys: Vec<&String> = old.keys().chain(new.keys().filter(|key| !old.contains_key(*key))).collect();
            keys.sort();
            for key in keys {
                let place = format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"));
                match (old.get(key), new.get(key)) {
                    (Some(old), Some(new)) => difference(old, new, &place, out),
                    (None, Some(new)) => out.push(json!([place, new])),
                    _ => out.push(json!([place])),
                }
            }
        }
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            for (index, (old, new)) in old.iter().zip(new).enumerate() {
                difference(old, new, &format!("{at}/{index}"), out);
            }
        }
        _ => out.push(json!([at, new])),
    }
}

/// JSON with its keys in order.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().map(|(key, value)| format!("{key:?}:{}", canonical(value))).collect();
            entries.sort();
            format!("{{{}}}", entries.join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}

/// An answer as it is compared. What the message of a refusal repeats of its causes is left out.
pub(crate) fn brief(code: u16, warnings: &[String], body: &Value, known: &str, name: &str) -> Value {
    let mut out = Map::new();
    out.insert("code".to_owned(), code.into());
    if !warnings.is_empty() {
        out.insert("warnings".to_owned(), warnings.iter().map(|warning| masked_text(warning, known)).collect());
    }
    if code < 400 {
        let mut object = masked(body, known, "");
        if object["kind"] == "SelfSubjectRulesReview" {
            for rules in ["resourceRules", "nonResourceRules"] {
                // Upstream tells them in no order.
                object["status"][rules].as_array_mut().unwrap().sort_by_cached_key(canonical);
            }
        }
        out.insert("object".to_owned(), object);
        return Value::Object(out);
    }
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let causes = body["details"]["causes"].as_array().cloned().unwrap_or_default();
    let told: Vec<String> = causes.iter().map(|c| format!("{}: {}", text(c, "field"), text(c, "message"))).collect();
    let told = if told.len() == 1 { told[0].clone() } else { format!("[{}]", told.join(", ")) };
    if code != 422 || text(body, "reason") != "Invalid" || text(body, "message") != format!("{name} is invalid: {told}")
    {
        for key in ["reason", "message"].into_iter().filter(|key| !text(body, key).is_empty()) {
            out.insert(key.to_owned(), masked_text(&text(body, key), known).into());
        }
    }
    if !causes.is_empty() {
        let short = |cause: &Value| {
            let reason = text(cause, "reason");
            let message = masked_text(&text(cause, "message"), known);
            json!([
                reason.strip_prefix("FieldValue").unwrap_or(&reason),
                masked_text(&text(cause, "field"), known),
                message
            ])
        };
        out.insert("causes".to_owned(), causes.iter().map(short).collect());
    }
    Value::Object(out)
}
