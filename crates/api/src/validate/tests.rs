//! The golden vectors: upstream's own errors for the same objects and changes.

use super::{create, update};
use machinery::field::FieldError;
use machinery::schema::{Schema, check};
use serde_json::{Value, json};

/// Kinds whose own checks are still to be written; the schema alone judges them.
const GENERIC: &[&str] = &[
    "CSIDriver",
    "CSIStorageCapacity",
    "CertificateSigningRequest",
    "CustomResourceDefinition",
    "IPAddress",
    "PersistentVolume",
    "RuntimeClass",
    "ServiceCIDR",
    "VolumeAttachment",
];

/// Errors as text, sorted. Where a message shows an object or an unchangeable value, that part is left out: upstream spells such
/// values as Go does, or as null.
fn texts(errors: impl Iterator<Item = (String, String, String)>) -> Vec<String> {
    let mut list: Vec<String> =
        errors.map(|(reason, field, message)| format!("{reason} {field} {}", comparable(&message))).collect();
    list.sort();
    list
}

fn comparable(message: &str) -> String {
    let message = message.lines().next().unwrap_or_default();
    let (title, rest) = message.split_once(": ").unwrap_or((message, ""));
    let shows_object = rest.starts_with('{') || rest.starts_with("null");
    let detail = rest.rsplit_once(": ").map_or("", |(_, detail)| detail);
    match () {
        () if detail == "field is immutable" => format!("{title}: field is immutable"),
        () if shows_object && rest.ends_with('}') => title.to_owned(),
        () if shows_object => format!("{title}: {detail}"),
        () => message.to_owned(),
    }
}

fn ours(errors: &[FieldError]) -> Vec<String> {
    texts(errors.iter().map(|e| (e.kind.reason().to_owned(), e.path.to_string(), e.body())))
}

fn theirs(errors: &Value) -> Vec<String> {
    let text = |e: &Value, field: &str| e[field].as_str().unwrap_or_default().to_owned();
    texts(errors.as_array().into_iter().flatten().map(|e| (text(e, "reason"), text(e, "field"), text(e, "message"))))
}

fn loaded(object: &Value) -> (String, String, String, Value) {
    let (group, version) = crate::catalogue::split_api_version(object["apiVersion"].as_str().unwrap());
    let kind = object["kind"].as_str().unwrap();
    let mut value = object.clone();
    check(&mut value, Schema::builtin().kind(group, version, kind).unwrap()).unwrap();
    crate::default(group, version, kind, &mut value);
    (group.to_owned(), version.to_owned(), kind.to_owned(), value)
}

/// Prints what differs, so that one run shows all of it.
fn differences(what: &str, ours: &[String], theirs: &[String]) -> usize {
    let missing = theirs.iter().filter(|t| !ours.contains(t)).map(|t| format!("  missing: {t}"));
    let extra = ours.iter().filter(|t| !theirs.contains(t)).map(|t| format!("  extra:   {t}"));
    let list: Vec<String> = missing.chain(extra).collect();
    if !list.is_empty() {
        println!("{what}\n{}", list.join("\n"));
    }
    list.len()
}

#[test]
fn errors_on_creation_as_upstream() {
    let mut wrong = 0;
    for line in include_str!("../../testdata/objects.jsonl").lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let (group, version, kind, value) = loaded(&case["in"]);
        let named = case["in"]["metadata"]["name"].as_str();
        if case["validated"] != true || named.is_none() || GENERIC.contains(&kind.as_str()) && !case["errors"].is_null()
        {
            continue;
        }
        let mut expected = theirs(&case["errors"]);
        // The allocator sets this port later.
        expected.retain(|e| !e.contains("healthCheckNodePort"));
        wrong += differences(&format!("{kind} {named:?}"), &ours(&create(&group, &version, &kind, &value)), &expected);
    }
    assert_eq!(wrong, 0);
}

#[test]
fn errors_on_change_as_upstream() {
    let mut wrong = 0;
    for line in include_str!("../../testdata/updates.jsonl").lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let (group, version, kind, new) = loaded(&case["new"]);
        let (_, _, _, old) = loaded(&case["old"]);
        wrong += differences(
            &format!("change of {kind}"),
            &ours(&update(&group, &version, &kind, &new, &old)),
            &theirs(&case["errors"]),
        );
    }
    assert_eq!(wrong, 0);
}

#[test]
fn webhook_configurations() {
    let hook = json!({
        "name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"service": {"name": "s", "namespace": "n", "path": "/a/b", "port": 443}},
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods", "pods/status"]}],
    });
    let set = |path: &str, value: Value| {
        let mut hook = hook.clone();
        let (parent, field) = path.rsplit_once('/').unwrap();
        hook.pointer_mut(parent).unwrap()[field] = value;
        hook
    };
    for (hook, expected) in [
        (hook.clone(), ""),
        (
            set("/name", json!("a.b")),
            "webhooks[0].name: Invalid value: \"a.b\": should be a domain with at least three segments separated by dots",
        ),
        (
            set("/sideEffects", json!("Some")),
            "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\"",
        ),
        (
            set("/timeoutSeconds", json!(31)),
            "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
        ),
        (
            set("/clientConfig", json!({})),
            "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
        ),
        (
            set("/clientConfig", json!({"url": "http://x/"})),
            "webhooks[0].clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
        ),
        (
            set("/clientConfig", json!({"url": "https://u@x/?a=b"})),
            "webhooks[0].clientConfig.url: Invalid value: \"u\": user information is not permitted in the URL",
        ),
        (
            set("/clientConfig/service/path", json!("/a//b")),
            "webhooks[0].clientConfig.service.path: Invalid value: \"/a//b\": segment[1] may not be empty",
        ),
        (
            set("/clientConfig/service/port", json!(70000)),
            "webhooks[0].clientConfig.service.port: Invalid value: 70000: port is not valid: must be between 1 and 65535, inclusive",
        ),
        (
            set("/admissionReviewVersions", json!(["v2"])),
            "webhooks[0].admissionReviewVersions: Invalid value: [\"v2\"]: must include at least one of v1, v1beta1",
        ),
        (
            set("/rules/0/operations", json!(["*", "CREATE"])),
            "webhooks[0].rules[0].operations: Invalid value: [\"*\",\"CREATE\"]: if '*' is present, must not specify other operations",
        ),
        (
            set("/rules/0/operations", json!(["GET"])),
            "webhooks[0].rules[0].operations[0]: Unsupported value: \"GET\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"DELETE\", \"UPDATE\"",
        ),
        (
            set("/rules/0/resources", json!(["*/*", "pods"])),
            "webhooks[0].rules[0].resources: Invalid value: [\"*/*\",\"pods\"]: if '*/*' is present, must not specify other resources",
        ),
        (
            set("/matchConditions", json!([{"name": "", "expression": "true"}])),
            "webhooks[0].matchConditions[0].name: Required value",
        ),
    ] {
        let object = json!({"kind": "ValidatingWebhookConfiguration", "metadata": {"name": "v"}, "webhooks": [hook]});
        let errors = create("admissionregistration.k8s.io", "v1", "ValidatingWebhookConfiguration", &object);
        assert_eq!(errors.first().map(ToString::to_string).unwrap_or_default(), expected);
    }
}

#[test]
fn api_services() {
    let good = json!({"metadata": {"name": "v1.a.b"}, "spec": {"group": "a.b", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1}});
    let set = |path: &str, value: Value| {
        let mut object = good.clone();
        let (parent, field) = path.rsplit_once('/').unwrap();
        object.pointer_mut(parent).unwrap()[field] = value;
        object
    };
    for (object, expected) in [
        (good.clone(), ""),
        (
            set("/metadata/name", json!("v1.c")),
            "metadata.name: Invalid value: \"v1.c\": must be `spec.version+\".\"+spec.group`: \"v1.a.b\"",
        ),
        (
            set("/spec/versionPriority", json!(0)),
            "spec.versionPriority: Invalid value: 0: must be positive and less than 1000",
        ),
        (
            set("/spec/groupPriorityMinimum", json!(20001)),
            "spec.groupPriorityMinimum: Invalid value: 20001: must be positive and less than 20000",
        ),
        (
            set("/spec/caBundle", json!("AAAA")),
            "spec.caBundle: Invalid value: \"3 bytes\": local APIServices may not have a caBundle",
        ),
        (set("/spec/service", json!({"namespace": "n"})), "spec.service.name: Required value"),
    ] {
        let errors = create("apiregistration.k8s.io", "v1", "APIService", &object);
        assert_eq!(errors.first().map(ToString::to_string).unwrap_or_default(), expected);
    }
}

#[test]
fn what_the_schema_requires_may_be_empty_where_upstream_lets_it() {
    let migration = |group: Value, resource: &str| {
        json!({"apiVersion": "storagemigration.k8s.io/v1", "kind": "StorageVersionMigration", "metadata": {"name": "a"},
            "spec": {"resource": {"group": group, "resource": resource}}})
    };
    let node = json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSINode", "metadata": {"name": "a"}, "spec": {"drivers": []}});
    for (object, expected) in [
        (node, vec![]),
        (migration("".into(), "pods"), vec![]),
        (migration(Value::Null, "pods"), vec![]),
        (migration("apps".into(), ""), vec!["spec.resource.resource"]),
    ] {
        let (group, version, kind, value) = loaded(&object);
        let errors = create(&group, &version, &kind, &value);
        let paths: Vec<&str> = errors.iter().map(|error| error.path.as_str()).collect();
        assert_eq!(paths, expected, "{object}");
    }
}
