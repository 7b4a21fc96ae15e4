//! `x-kubernetes-validations` of custom resources: what rules refuse, and which rules are refused.
#![allow(clippy::unwrap_used, clippy::too_many_lines, reason = "a test may fail by it; tables are long")]

mod common;

use common::{Server, start, until};
use serde_json::{Value, json};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/a/widgets";

fn definition(spec: &Value) -> Value {
    let schema = json!({"type": "object", "properties": {"spec": spec},
        "x-kubernetes-validations": [{"rule": "self.metadata.name.startsWith('w')", "message": "a bad name"}]});
    json!({"metadata": {"name": "widgets.example.com"}, "spec": {
        "group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
    }})
}

async fn serve(server: &Server, spec: Value) {
    server.post(DEFINITIONS, definition(&spec)).await.ok();
    server.post("/api/v1/namespaces", json!({"metadata": {"name": "a"}})).await.ok();
    until(|| server.get(WIDGETS), |answer| answer.code == 200).await;
}

fn widget(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

/// The errors of an answer, as `field: message`.
fn causes(answer: &common::Answer) -> Vec<String> {
    if answer.code < 300 {
        return Vec::new();
    }
    let body = answer.json();
    let list = body["details"]["causes"].as_array().cloned().unwrap_or_default();
    list.iter()
        .map(|cause| format!("{}: {}", cause["field"].as_str().unwrap_or_default(), cause["message"].as_str().unwrap()))
        .collect()
}

#[tokio::test]
async fn objects_are_checked() {
    let server = start().await;
    let rules = |list: Value| list;
    serve(&server, json!({"type": "object", "x-kubernetes-validations": rules(json!([
        {"rule": "!has(self.min) || !has(self.max) || self.min <= self.max", "message": "min is above max"},
        {"rule": "!has(self.max) || self.max < 100", "messageExpression": "self.max > 200 ? 'far too large' : 'too large'", "fieldPath": ".max", "reason": "FieldValueForbidden"},
        {"rule": "!has(self.when) || self.when > timestamp('2020-01-01T00:00:00Z')"},
        {"rule": "!has(self.port) || (type(self.port) == int ? self.port > 0 : self.port.endsWith('%'))"},
        {"rule": "!has(self.__namespace__) || self.__namespace__ != 'x'"},
        {"rule": "!has(self.boom) || 10 / self.boom > 0"},
    ])), "properties": {
        "min": {"type": "integer"}, "max": {"type": "integer"}, "when": {"type": "string", "format": "date-time"},
        "port": {"x-kubernetes-int-or-string": true}, "namespace": {"type": "string"}, "boom": {"type": "integer"},
        "class": {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "class is immutable"}]},
        "once": {"type": "string", "x-kubernetes-validations": [{"rule": "oldSelf.hasValue() || self == 'first'", "optionalOldSelf": true}]},
        "tags": {"type": "array", "maxItems": 10, "items": {"type": "string", "maxLength": 10, "x-kubernetes-validations": [{"rule": "self != 'bad'"}]}},
        "names": {"type": "object", "maxProperties": 10, "additionalProperties": {"type": "object", "properties": {"n": {"type": "integer"}},
            "x-kubernetes-validations": [{"rule": "self.n > 0", "message": "n"}]}},
    }})).await;
    for (spec, expected) in [
        (json!({}), vec![]),
        (
            json!({"min": 1, "max": 2, "when": "2026-01-01T00:00:00Z", "port": "5%", "class": "a", "once": "first", "tags": ["x"], "names": {"a": {"n": 1}}}),
            vec![],
        ),
        (json!({"min": 3, "max": 2}), vec!["spec: Invalid value: min is above max"]),
        (json!({"max": 100}), vec!["spec.max: Forbidden: too large"]),
        (
            json!({"when": "2019-01-01T00:00:00Z"}),
            vec!["spec: Invalid value: failed rule: !has(self.when) || self.when > timestamp('2020-01-01T00:00:00Z')"],
        ),
        (
            json!({"port": 0}),
            vec![
                "spec: Invalid value: failed rule: !has(self.port) || (type(self.port) == int ? self.port > 0 : self.port.endsWith('%'))",
            ],
        ),
        (
            json!({"namespace": "x"}),
            vec!["spec: Invalid value: failed rule: !has(self.__namespace__) || self.__namespace__ != 'x'"],
        ),
        (
            json!({"boom": 0}),
            vec![
                "spec: Invalid value: \"object\": division by zero evaluating rule: !has(self.boom) || 10 / self.boom > 0",
            ],
        ),
        (
            json!({"once": "second"}),
            vec!["spec.once: Invalid value: \"second\": failed rule: oldSelf.hasValue() || self == 'first'"],
        ),
        (json!({"tags": ["ok", "bad"]}), vec!["spec.tags[1]: Invalid value: \"bad\": failed rule: self != 'bad'"]),
        (json!({"names": {"x": {"n": 0}}}), vec!["spec.names[x]: Invalid value: n"]),
    ] {
        let answer = server.post(WIDGETS, widget("w", &spec)).await;
        assert_eq!(causes(&answer), expected, "{spec}");
        if answer.code < 300 {
            server.delete(&format!("{WIDGETS}/w"), Value::Null).await.ok();
        }
    }
    let answer = server.post(WIDGETS, widget("x", &json!({}))).await;
    assert_eq!(causes(&answer), [": Invalid value: a bad name"]);
    // What is of the wrong type is not looked at by rules.
    let answer = server.post(WIDGETS, widget("w", &json!({"max": "many"}))).await;
    assert!(
        causes(&answer).iter().any(|cause| cause.contains("some validation rules were not checked")),
        "{:?}",
        causes(&answer)
    );
}

#[tokio::test]
async fn changes_are_checked_and_what_stays_is_let_pass() {
    let server = start().await;
    let schema = |limit: i64| {
        json!({"type": "object", "properties": {
            "class": {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "class is immutable"}]},
            "size": {"type": "integer", "x-kubernetes-validations": [{"rule": format!("self < {limit}"), "message": "too large"}]},
            "more": {"type": "string"},
        }})
    };
    serve(&server, schema(100)).await;
    server.post(WIDGETS, widget("w", &json!({"class": "a", "size": 50}))).await.ok();
    let path = format!("{WIDGETS}/w");
    let change = |spec: Value| server.patch(&path, "merge", json!({"spec": spec}));
    // A patch that does not change anything the rules forbid.
    for (spec, expected) in [
        (json!({"class": "b"}), vec!["spec.class: Invalid value: \"b\": class is immutable"]),
        (json!({"size": 60}), vec![]),
        (json!({"size": 100}), vec!["spec.size: Invalid value: 100: too large"]),
        (json!({"class": null}), vec![]),
        (json!({"class": "b"}), vec![]),
    ] {
        let answer = server.patch(&path, "merge", json!({"spec": spec})).await;
        assert_eq!(causes(&answer), expected, "{spec}");
    }
    // The rule becomes stricter: what is there already may stay.
    let mut stricter = server.get(&format!("{DEFINITIONS}/widgets.example.com")).await.ok();
    stricter["spec"] = definition(&schema(10))["spec"].clone();
    server.put(&format!("{DEFINITIONS}/widgets.example.com"), stricter).await.ok();
    let tried = format!("{WIDGETS}?dryRun=All");
    until(|| server.post(&tried, widget("w2", &json!({"size": 20}))), |answer| answer.code == 422).await;
    change(json!({"more": "x"})).await.ok();
    assert_eq!(causes(&change(json!({"size": 61})).await), ["spec.size: Invalid value: 61: too large"]);
    change(json!({"size": 5})).await.ok();
}

#[tokio::test]
async fn bad_rules_are_refused() {
    let server = start().await;
    let string = |rules: Value| json!({"type": "string", "maxLength": 10, "x-kubernetes-validations": rules});
    let at = "spec.validation.openAPIV3Schema.properties[spec].properties[f].x-kubernetes-validations[0]";
    let within = |schema: Value| json!({"type": "object", "properties": {"f": schema}});
    for (schema, field, message) in [
        (
            string(json!([{"rule": "self."}])),
            ".rule",
            "compilation failed: ERROR: <input>:1:6: Syntax error: no viable alternative at input '.'",
        ),
        (string(json!([{"rule": "self + 'a'"}])), ".rule", "cel expression must evaluate to a bool"),
        (
            string(json!([{"rule": "self > 1"}])),
            ".rule",
            "compilation failed: ERROR: <input>:1:6: found no matching overload for '_>_' applied to '(string, int)'",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string"}}, "x-kubernetes-validations": [{"rule": "self.b == 'x'"}]}),
            ".rule",
            "compilation failed: ERROR: <input>:1:5: undefined field 'b'",
        ),
        (
            string(json!([{"rule": "true", "messageExpression": "1"}])),
            ".messageExpression",
            "messageExpression must evaluate to a string",
        ),
        (
            string(json!([{"rule": "true", "optionalOldSelf": true}])),
            ".optionalOldSelf",
            "may not be set if oldSelf is not used in rule",
        ),
        (
            json!({"type": "array", "items": {"type": "array", "items": {"type": "string"}}, "x-kubernetes-validations": [{"rule": "self.all(x, self.all(y, x == y))"}]}),
            ".rule",
            "estimated rule cost exceeds budget by factor of more than 100x",
        ),
        (
            json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-validations": [{"rule": "self.all(x, x.contains('abc'))"}]}),
            ".rule",
            "estimated rule cost exceeds budget by factor of",
        ),
    ] {
        let answer = server.post(DEFINITIONS, definition(&within(schema.clone()))).await;
        assert_eq!(answer.code, 422, "{schema}");
        let (causes, wanted) = (causes(&answer), format!("{at}{field}: "));
        assert!(
            causes.iter().any(|cause| cause.starts_with(&wanted) && cause.contains(message)),
            "{schema}\n{causes:#?}"
        );
    }
    let loose = within(json!({"type": "array", "maxItems": 3, "items": string(json!([{"rule": "self == oldSelf"}]))}));
    let causes = causes(&server.post(DEFINITIONS, definition(&loose)).await);
    assert!(
        causes[0].contains("oldSelf cannot be used on the uncorrelatable portion of the schema within"),
        "{causes:?}"
    );
}

/// Elements of atomic lists have no old state of their own: they are let pass while the list around them is as it was (KEP-4008).
/// Asked of upstream's API server.
#[tokio::test]
async fn what_was_wrong_in_an_unchanged_list_is_let_pass() {
    let server = start().await;
    let item = |rules: bool| {
        let mut item = json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}});
        if rules {
            item["x-kubernetes-validations"] = json!([{"rule": "self.b > 7"}]);
            item["properties"]["a"]["x-kubernetes-validations"] = json!([{"rule": "self > 5", "message": "a big"}]);
            item["properties"]["b"]["minimum"] = 5.into();
        }
        json!({"type": "object", "properties": {"n": {"type": "integer"}, "list": {"type": "array", "maxItems": 10, "items": item}}})
    };
    serve(&server, item(false)).await;
    let path = format!("{WIDGETS}/w");
    server.post(WIDGETS, widget("w", &json!({"n": 1, "list": [{"a": 1, "b": 1}, {"a": 2, "b": 2}]}))).await.ok();
    let schema = definition(&item(true))["spec"]["versions"].clone();
    server
        .patch(&format!("{DEFINITIONS}/widgets.example.com"), "merge", json!({"spec": {"versions": schema}}))
        .await
        .ok();
    let strict = widget("w2", &json!({"list": [{"a": 1, "b": 9}]}));
    let tried = format!("{WIDGETS}?dryRun=All");
    until(|| server.post(&tried, strict.clone()), |answer| answer.code == 422).await;

    let unrelated = server.patch(&path, "merge", json!({"spec": {"n": 2}})).await;
    let warnings: Vec<&str> = unrelated.headers.get_all("warning").iter().map(|text| text.to_str().unwrap()).collect();
    assert_eq!(
        (unrelated.code, warnings),
        (
            200,
            vec![
                "299 - \"spec.list[0]: Invalid value: failed rule: self.b > 7\"",
                "299 - \"spec.list[0].a: Invalid value: 1: a big\"",
                "299 - \"spec.list[1]: Invalid value: failed rule: self.b > 7\"",
                "299 - \"spec.list[1].a: Invalid value: 2: a big\"",
            ]
        )
    );
    let change = json!([{"op": "replace", "path": "/spec/list/0/b", "value": 9}]);
    assert_eq!(
        causes(&server.patch(&path, "json", change).await),
        [
            "spec.list[1].b: Invalid value: 2: spec.list[1].b in body should be greater than or equal to 5",
            "spec.list[0].a: Invalid value: 1: a big",
            "spec.list[1]: Invalid value: failed rule: self.b > 7",
            "spec.list[1].a: Invalid value: 2: a big",
        ]
    );
}
