//! Admission policies: what they refuse, change and warn of; what is wrong with policies themselves.
#![allow(clippy::unwrap_used, clippy::too_many_lines, reason = "a test may fail by it; tables are long")]

mod common;

use apiserver::Config;
use apiserver::context::{Attributes, Authorizer, Decision, UserInfo};
use common::{Server, start_on, until};
use serde_json::{Value, json};
use tower::ServiceExt;

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/a/configmaps";

async fn start() -> Server {
    let server = start_on(Config::default(), |storage, chain| {
        chain.admission = apiserver::admission::configured(storage).unwrap().to_vec();
    })
    .await;
    for name in ["a", "b"] {
        let labels = json!({"env": name});
        server.post("/api/v1/namespaces", json!({"metadata": {"name": name, "labels": labels}})).await.ok();
    }
    server
}

fn rules(resource: &str) -> Value {
    json!({"resourceRules": [{"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"], "resources": [resource]}]})
}

/// A policy about config maps with more in its spec, and a binding of it with more in its.
async fn install(server: &Server, kind: &str, name: &str, spec: Value, binding: Value) {
    let mut whole = json!({"matchConstraints": rules("configmaps")});
    whole.as_object_mut().unwrap().extend(spec.as_object().cloned().unwrap());
    let (policies, bindings) = (format!("{kind}policies"), format!("{kind}policybindings"));
    server.post(&format!("{GROUP}/{policies}"), json!({"metadata": {"name": name}, "spec": whole})).await.ok();
    let mut whole = json!({"policyName": name});
    if kind == "validatingadmission" {
        whole["validationActions"] = json!(["Deny"]);
    }
    whole.as_object_mut().unwrap().extend(binding.as_object().cloned().unwrap());
    server
        .post(&format!("{GROUP}/{bindings}"), json!({"metadata": {"name": format!("{name}-b")}, "spec": whole}))
        .await
        .ok();
}

async fn remove(server: &Server, kind: &str, name: &str) {
    server.delete(&format!("{GROUP}/{kind}policybindings/{name}-b"), Value::Null).await.ok();
    server.delete(&format!("{GROUP}/{kind}policies/{name}"), Value::Null).await.ok();
}

fn map(name: &str, data: Value) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": "x"}}, "data": data})
}

/// What creating a map with the data `{"k": "v"}` gives under one policy: the code and message.
async fn outcome(server: &Server, spec: Value, binding: Value) -> (u16, String) {
    install(server, "validatingadmission", "p", spec, binding).await;
    let answer = server.post(MAPS, map("m", json!({"k": "v"}))).await;
    let text = match answer.code {
        201 => String::new(),
        _ => answer.json()["message"].as_str().unwrap().to_owned(),
    };
    remove(server, "validatingadmission", "p").await;
    if answer.code == 201 {
        server.delete(&format!("{MAPS}/m"), Value::Null).await.ok();
    }
    (answer.code, text)
}

const DENIED: &str = "configmaps \"m\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'p-b' denied request: ";

#[tokio::test]
async fn validating() {
    let server = start().await;
    server
        .post(MAPS, json!({"metadata": {"name": "params", "labels": {"kind": "limits"}}, "data": {"max": "1"}}))
        .await
        .ok();
    let rule = |expression: &str| json!([{"expression": expression}]);
    let params = json!({"apiVersion": "v1", "kind": "ConfigMap"});
    let by_name = |name: &str, action: &str| json!({"paramRef": {"name": name, "parameterNotFoundAction": action}});
    let table = [
        ("true", json!({"validations": rule("true")}), json!({}), 201, ""),
        (
            "false",
            json!({"validations": rule("object.data.k == 'w'")}),
            json!({}),
            422,
            "failed expression: object.data.k == 'w'",
        ),
        (
            "message",
            json!({"validations": [{"expression": "false", "message": "no way", "reason": "Forbidden"}]}),
            json!({}),
            403,
            "no way",
        ),
        (
            "message expression",
            json!({"validations": [{"expression": "false", "message": "no", "messageExpression": "'got ' + object.data.k"}]}),
            json!({}),
            422,
            "got v",
        ),
        (
            "message expression that fails",
            json!({"validations": [{"expression": "false", "message": "no", "messageExpression": "'x' + object.data.nope"}]}),
            json!({}),
            422,
            "no",
        ),
        (
            "an error",
            json!({"validations": rule("object.data.nope == 'x'")}),
            json!({}),
            422,
            "expression 'object.data.nope == 'x'' resulted in error: no such key: nope",
        ),
        (
            "an error ignored",
            json!({"failurePolicy": "Ignore", "validations": rule("object.data.nope == 'x'")}),
            json!({}),
            201,
            "",
        ),
        (
            "the second fails",
            json!({"validations": [{"expression": "true"}, {"expression": "false", "message": "two"}]}),
            json!({}),
            422,
            "two",
        ),
        (
            "the request",
            json!({"validations": rule("request.operation == 'CREATE' && request.userInfo.username == 'tester' && request.namespace == 'a' && request.name == 'm' && request.resource.resource == 'configmaps' && request.kind.kind == 'ConfigMap' && !request.dryRun")}),
            json!({}),
            201,
            "",
        ),
        ("no old object", json!({"validations": rule("oldObject == null")}), json!({}), 201, ""),
        (
            "the namespace",
            json!({"validations": rule("namespaceObject.metadata.labels['env'] == 'a' && namespaceObject.metadata.creationTimestamp > timestamp('2020-01-01T00:00:00Z')")}),
            json!({}),
            201,
            "",
        ),
        (
            "variables",
            json!({"variables": [{"name": "k", "expression": "object.data.k"}, {"name": "kk", "expression": "variables.k + variables.k"}], "validations": rule("variables.kk == 'vv' && has(variables.k)")}),
            json!({}),
            201,
            "",
        ),
        (
            "a variable that fails",
            json!({"variables": [{"name": "k", "expression": "object.data.z"}], "validations": rule("variables.k == 'v'")}),
            json!({}),
            422,
            "expression 'variables.k == 'v'' resulted in error: composited variable \"k\" fails to evaluate: no such key: z",
        ),
        (
            "a condition that is false",
            json!({"matchConditions": [{"name": "c", "expression": "object.data.k == 'other'"}], "validations": rule("false")}),
            json!({}),
            201,
            "",
        ),
        (
            "a condition that fails",
            json!({"matchConditions": [{"name": "c", "expression": "object.data.z == 'v'"}], "validations": rule("false")}),
            json!({}),
            422,
            "expression 'object.data.z == 'v'' resulted in error: no such key: z",
        ),
        (
            "authorizer",
            json!({"validations": rule("authorizer.group('').resource('secrets').namespace('a').check('get').allowed() && authorizer.requestResource.check('delete').allowed()")}),
            json!({}),
            201,
            "",
        ),
        (
            "params by name",
            json!({"paramKind": params, "validations": rule("size(object.data) <= int(params.data.max)")}),
            by_name("params", "Deny"),
            201,
            "",
        ),
        (
            "params violated",
            json!({"paramKind": params, "validations": rule("size(object.data) < int(params.data.max)")}),
            by_name("params", "Deny"),
            422,
            "failed expression: size(object.data) < int(params.data.max)",
        ),
        (
            "params by label",
            json!({"paramKind": params, "validations": rule("params.data.max == '2'")}),
            json!({"paramRef": {"selector": {"matchLabels": {"kind": "limits"}}, "parameterNotFoundAction": "Deny"}}),
            422,
            "failed expression: params.data.max == '2'",
        ),
        (
            "no params",
            json!({"paramKind": params, "validations": rule("true")}),
            by_name("none", "Deny"),
            422,
            "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction",
        ),
        (
            "no params allowed",
            json!({"paramKind": params, "validations": rule("false")}),
            by_name("none", "Allow"),
            201,
            "",
        ),
        (
            "object selector",
            json!({"validations": rule("false")}),
            json!({"matchResources": {"objectSelector": {"matchLabels": {"app": "y"}}}}),
            201,
            "",
        ),
        (
            "namespace selector",
            json!({"validations": rule("false")}),
            json!({"matchResources": {"namespaceSelector": {"matchLabels": {"env": "b"}}}}),
            201,
            "",
        ),
        (
            "names",
            json!({"matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["configmaps"], "resourceNames": ["other"]}]}, "validations": rule("false")}),
            json!({}),
            201,
            "",
        ),
        (
            "excluded",
            json!({"matchConstraints": {"resourceRules": rules("*")["resourceRules"], "excludeResourceRules": rules("configmaps")["resourceRules"]}, "validations": rule("false")}),
            json!({}),
            201,
            "",
        ),
        ("warn", json!({"validations": rule("false")}), json!({"validationActions": ["Warn"]}), 201, ""),
        ("audit", json!({"validations": rule("false")}), json!({"validationActions": ["Audit"]}), 201, ""),
        (
            "too costly",
            json!({"validations": rule("lists.range(1000).all(x, lists.range(1000).all(y, x + y >= 0))")}),
            json!({}),
            422,
            "expression 'lists.range(1000).all(x, lists.range(1000).all(y, x + y >= 0))' resulted in error: operation cancelled: actual cost limit exceeded",
        ),
    ];
    for (name, spec, binding, code, message) in table {
        let expected = if message.is_empty() { String::new() } else { format!("{DENIED}{message}") };
        assert_eq!(outcome(&server, spec, binding).await, (code, expected), "{name}");
    }
}

#[tokio::test]
async fn warnings_and_causes() {
    let server = start().await;
    let spec = json!({"validations": [{"expression": "false", "message": "hm"}]});
    install(&server, "validatingadmission", "w", spec.clone(), json!({"validationActions": ["Warn", "Audit"]})).await;
    let answer = server.post(MAPS, map("m", json!({}))).await;
    let warning = answer.headers["warning"].to_str().unwrap();
    assert_eq!(warning, "299 - \"Validation failed for ValidatingAdmissionPolicy 'w' with binding 'w-b': hm\"");
    install(&server, "validatingadmission", "x", spec, json!({})).await;
    let answer = server.post(MAPS, map("n", json!({}))).await.json();
    let message = "ValidatingAdmissionPolicy 'x' with binding 'x-b' denied request: hm";
    assert_eq!(answer["details"]["causes"], json!([{"message": message}]));
    assert_eq!((answer["reason"].as_str(), answer["code"].as_u64()), (Some("Invalid"), Some(422)));
    // The policy itself can always be changed and removed.
    remove(&server, "validatingadmission", "x").await;
    server.post(MAPS, map("n", json!({}))).await.ok();
}

#[tokio::test]
async fn updates_see_both_objects_and_versions_are_equivalent() {
    let server = start().await;
    let spec = json!({"validations": [{"expression": "oldObject == null || oldObject.data.k == object.data.k", "message": "k stays"}]});
    install(&server, "validatingadmission", "p", spec, json!({})).await;
    server.post(MAPS, map("m", json!({"k": "1"}))).await.ok();
    let answer = server.put(&format!("{MAPS}/m"), map("m", json!({"k": "2"}))).await;
    assert_eq!(answer.code, 422);
    server.put(&format!("{MAPS}/m"), map("m", json!({"k": "1", "l": "3"}))).await.ok();
    remove(&server, "validatingadmission", "p").await;
    // A rule for events.k8s.io sees events of the core group as its own.
    let rules = |policy: &str| json!({"matchPolicy": policy, "resourceRules": [{"apiGroups": ["events.k8s.io"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["events"]}]});
    let event = |name: &str| json!({"metadata": {"name": name}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "a"}, "message": "hi", "reason": "R", "type": "Normal", "reportingComponent": "x"});
    let expression = "object.apiVersion == 'events.k8s.io/v1' && object.note == 'hi' && request.requestKind.group == '' && request.kind.group == 'events.k8s.io'";
    for (policy, negated, code) in [("Equivalent", false, 201), ("Equivalent", true, 422), ("Exact", true, 201)] {
        let expression = if negated { format!("!({expression})") } else { expression.to_owned() };
        let spec = json!({"matchConstraints": rules(policy), "validations": [{"expression": expression}]});
        install(&server, "validatingadmission", "e", spec, json!({})).await;
        let name = format!("e-{policy}-{negated}").to_lowercase();
        let answer = server.post("/api/v1/namespaces/a/events", event(&name)).await;
        assert_eq!(answer.code, code, "{policy} {negated} {:?}", answer.body);
        remove(&server, "validatingadmission", "e").await;
    }
}

#[tokio::test]
async fn mutating() {
    let server = start().await;
    let apply = |expression: &str| json!([{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}]);
    let patch = |expression: &str| json!([{"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}]);
    let table = [
        (
            "a label",
            apply("Object{metadata: Object.metadata{labels: {'new': 'x'}}}"),
            201,
            "/metadata/labels",
            json!({"app": "x", "new": "x"}),
        ),
        (
            "data",
            apply("Object{data: {'a': 'b', 'k': object.data.k + '!'}}"),
            201,
            "/data",
            json!({"a": "b", "k": "v!"}),
        ),
        (
            "absent",
            apply("Object{?immutable: optional.none(), data: {'z': '1'}}"),
            201,
            "/data",
            json!({"k": "v", "z": "1"}),
        ),
        (
            "patch",
            patch(
                "[JSONPatch{op: 'test', path: '/data/k', value: 'v'}, JSONPatch{op: 'replace', path: '/data/k', value: 'w'}]",
            ),
            201,
            "/data/k",
            json!("w"),
        ),
        (
            "patch that does not apply",
            patch(
                "[JSONPatch{op: 'test', path: '/data/k', value: 'x'}, JSONPatch{op: 'replace', path: '/data/k', value: 'w'}]",
            ),
            201,
            "/data/k",
            json!("v"),
        ),
        (
            "escaped key",
            patch("[JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('a.b/c'), value: 'd'}]"),
            201,
            "/metadata/labels/a.b~1c",
            json!("d"),
        ),
        (
            "object in a patch",
            patch("[JSONPatch{op: 'add', path: '/metadata/annotations', value: {'x': 'y'}}]"),
            201,
            "/metadata/annotations",
            json!({"x": "y"}),
        ),
        (
            "two",
            json!([apply("Object{data: {'one': '1'}}")[0], apply("Object{data: {'two': object.data.one + '2'}}")[0]]),
            201,
            "/data",
            json!({"k": "v", "one": "1", "two": "12"}),
        ),
        (
            "wrong name",
            apply("Object{metadata: Object.spec{labels: {'a': 'b'}}}"),
            403,
            "/message",
            json!(
                "policy 'p' with binding 'p-b' denied request: type mismatch: unexpected type name \"Object.spec\", expected \"Object.metadata\", which matches field name path from root Object type"
            ),
        ),
        ("no such field", apply("Object{spec: Object.spec{replicas: 1}}"), 403, "/reason", json!("Invalid")),
        (
            "an error",
            apply("Object{data: {'a': object.data.nope}}"),
            403,
            "/message",
            json!(
                "policy 'p' with binding 'p-b' denied request: expression 'Object{data: {'a': object.data.nope}}' resulted in error: no such key: nope"
            ),
        ),
    ];
    for (name, mutations, code, pointer, expected) in table {
        let spec = json!({"mutations": mutations, "reinvocationPolicy": "Never"});
        install(&server, "mutatingadmission", "p", spec, json!({})).await;
        let answer = server.post(MAPS, map("m", json!({"k": "v"}))).await;
        assert_eq!(answer.code, code, "{name}: {:?}", answer.body);
        assert_eq!(answer.json().pointer(pointer), Some(&expected), "{name}: {:?}", answer.body);
        remove(&server, "mutatingadmission", "p").await;
        if code == 201 {
            server.delete(&format!("{MAPS}/m"), Value::Null).await.ok();
        }
    }
}

#[tokio::test]
async fn lists_are_merged_by_key_and_atomic_ones_refused() {
    let server = start().await;
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
        "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "one", "image": "one:1"}]}}}});
    let container = |fields: &str| {
        format!(
            "Object{{spec: Object.spec{{template: Object.spec.template{{spec: Object.spec.template.spec{{containers: [Object.spec.template.spec.containers{{{fields}}}]}}}}}}}}"
        )
    };
    let table = [
        (container("name: 'two', image: 'two:2'"), 201, json!(["one", "two"])),
        (container("name: 'one', imagePullPolicy: 'Always'"), 201, json!(["one"])),
        (
            container("name: 'one', args: ['x']"),
            403,
            json!(
                "policy 'd' with binding 'd-b' denied request: error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.template.spec.containers[0].args"
            ),
        ),
    ];
    for (expression, code, expected) in table {
        let spec = json!({"matchConstraints": rules("deployments"), "reinvocationPolicy": "IfNeeded",
            "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}]});
        install(&server, "mutatingadmission", "d", spec, json!({})).await;
        let answer = server.post("/apis/apps/v1/namespaces/a/deployments", deployment.clone()).await;
        assert_eq!(answer.code, code, "{:?}", answer.body);
        let body = answer.json();
        let found = match code {
            201 => {
                let names = body["spec"]["template"]["spec"]["containers"].as_array().unwrap().iter();
                names.map(|container| container["name"].clone()).collect()
            }
            _ => body["message"].clone(),
        };
        assert_eq!(found, expected);
        remove(&server, "mutatingadmission", "d").await;
        if code == 201 {
            server.delete("/apis/apps/v1/namespaces/a/deployments/d", Value::Null).await.ok();
        }
    }
}

#[tokio::test]
async fn policies_see_what_those_before_them_changed() {
    let server = start().await;
    let change = |source: &str, policy: &str| json!({"reinvocationPolicy": policy, "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": source}}]});
    // The first one looks for what the second one sets, and is asked again.
    let first = "Object{data: has(object.data.second) ? {'first': 'saw it'} : {'first': 'did not'}}";
    install(&server, "mutatingadmission", "1", change(first, "IfNeeded"), json!({})).await;
    install(&server, "mutatingadmission", "2", change("Object{data: {'second': 'set'}}", "Never"), json!({})).await;
    let map = server.post(MAPS, map("m", json!({"k": "v"}))).await.ok();
    assert_eq!(map["data"], json!({"k": "v", "first": "saw it", "second": "set"}));
}

#[tokio::test]
async fn bad_policies_are_refused() {
    let server = start().await;
    let policy = |spec: Value| {
        let mut whole = json!({"matchConstraints": rules("configmaps"), "validations": [{"expression": "true"}]});
        whole.as_object_mut().unwrap().extend(spec.as_object().cloned().unwrap());
        json!({"metadata": {"name": "bad"}, "spec": whole})
    };
    let table = [
        (
            json!({"validations": [{"expression": "object."}]}),
            "spec.validations[0].expression",
            "Invalid value: \"object.\": compilation failed: ERROR: <input>:1:8: Syntax error: no viable alternative at input '.'\n | object.\n | .......^",
        ),
        (
            json!({"validations": [{"expression": "1 + 1"}]}),
            "spec.validations[0].expression",
            "Invalid value: \"1 + 1\": must evaluate to bool but got int",
        ),
        (
            json!({"validations": [{"expression": "params.x == 1"}]}),
            "spec.validations[0].expression",
            "Invalid value: \"params.x == 1\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'params' (in container '')\n | params.x == 1\n | ^",
        ),
        (
            json!({"validations": [{"expression": "true", "messageExpression": "authorizer == null ? 'a' : 'b'"}]}),
            "spec.validations[0].messageExpression",
            "Invalid value: \"authorizer == null ? 'a' : 'b'\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'authorizer' (in container '')\n | authorizer == null ? 'a' : 'b'\n | ^",
        ),
        (
            json!({"validations": [{"expression": "request.nope == 1"}]}),
            "spec.validations[0].expression",
            "Invalid value: \"request.nope == 1\": compilation failed: ERROR: <input>:1:8: undefined field 'nope'\n | request.nope == 1\n | .......^",
        ),
        (
            json!({"validations": [{"expression": "variables.nope == 1"}], "variables": [{"name": "yes", "expression": "1"}]}),
            "spec.validations[0].expression",
            "Invalid value: \"variables.nope == 1\": compilation failed: ERROR: <input>:1:10: undefined field 'nope'\n | variables.nope == 1\n | .........^",
        ),
        (
            json!({"variables": [{"name": "a-b", "expression": "1"}]}),
            "spec.variables[0].name",
            "Invalid value: \"a-b\": must be a valid CEL identifier",
        ),
        (
            json!({"matchConditions": [{"name": "x", "expression": "1"}]}),
            "spec.matchConditions[0].expression",
            "Invalid value: \"1\": must evaluate to bool but got int",
        ),
        (
            json!({"validations": []}),
            "spec.validations",
            "Required value: validations or auditAnnotations must contain at least one item",
        ),
        (
            json!({"validations": [{"expression": "true", "reason": "Gone"}]}),
            "spec.validations[0].reason",
            "Unsupported value: \"Gone\": supported values: \"Forbidden\", \"Invalid\", \"RequestEntityTooLarge\", \"Unauthorized\"",
        ),
        (
            json!({"validations": [{"expression": "'a'.matches('(')"}]}),
            "spec.validations[0].expression",
            "Invalid value: \"'a'.matches('(')\": compilation failed: ERROR: <input>:1:13: invalid matches argument\n | 'a'.matches('(')\n | ............^",
        ),
    ];
    for (spec, field, message) in table {
        let answer = server.post(&format!("{GROUP}/validatingadmissionpolicies"), policy(spec.clone())).await;
        assert_eq!(answer.code, 422, "{spec} {:?}", answer.body);
        let causes = answer.json()["details"]["causes"].clone();
        let found =
            causes.as_array().unwrap().iter().any(|cause| cause["field"] == field && cause["message"] == message);
        assert!(found, "{spec}\n{causes:#}");
    }
    let binding = json!({"metadata": {"name": "b"}, "spec": {"policyName": "x", "validationActions": ["Deny", "Warn"], "paramRef": {}}});
    let answer = server.post(&format!("{GROUP}/validatingadmissionpolicybindings"), binding).await;
    assert_eq!(answer.code, 422);
}

#[tokio::test]
async fn types_are_checked_in_the_status() {
    let server = start().await;
    let rules = json!({"resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["*"], "resources": ["deployments"]}]});
    for (name, expression, warning) in [
        ("good", "object.spec.replicas > 1 && object.metadata.namespace != ''", None),
        (
            "field",
            "object.spec.foo > 1",
            Some(
                "apps/v1, Kind=Deployment: ERROR: <input>:1:12: undefined field 'foo'\n | object.spec.foo > 1\n | ...........^\n",
            ),
        ),
        (
            "type",
            "object.spec.replicas > '1'",
            Some(
                "apps/v1, Kind=Deployment: ERROR: <input>:1:22: found no matching overload for '_>_' applied to '(int, string)'\n | object.spec.replicas > '1'\n | .....................^\n",
            ),
        ),
    ] {
        let spec = json!({"matchConstraints": rules, "validations": [{"expression": expression}]});
        let path = format!("{GROUP}/validatingadmissionpolicies");
        server.post(&path, json!({"metadata": {"name": name}, "spec": spec})).await.ok();
        let path = format!("{path}/{name}");
        let seen = |policy: Value| policy["status"]["observedGeneration"] == policy["metadata"]["generation"];
        let status = until(|| server.get(&path), |answer| seen(answer.json())).await.ok()["status"].clone();
        let expected = match warning {
            None => json!({}),
            Some(warning) => {
                json!({"expressionWarnings": [{"fieldRef": "spec.validations[0].expression", "warning": warning}]})
            }
        };
        assert_eq!(status["typeChecking"], expected, "{name}");
    }
}

/// As upstream tells it.
#[tokio::test]
async fn custom_kinds_are_checked_too() {
    let server = start().await;
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "size": {"type": "integer"}, "tags": {"type": "array", "items": {"type": "string"}},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}});
    let definition = json!({"metadata": {"name": "tcs.x.io"}, "spec": {
        "group": "x.io", "scope": "Namespaced", "names": {"plural": "tcs", "kind": "Tc"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}});
    server.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition).await.ok();
    until(|| server.get("/apis/x.io/v1/tcs"), |answer| answer.code == 200).await;
    let rules = json!({"resourceRules": [{"apiGroups": ["x.io"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["tcs"]}]});
    for (at, (expression, warning)) in [
        ("object.spec.nope == 1", "1:12: undefined field 'nope'"),
        ("object.spec.size == 'x'", "1:18: found no matching overload for '_==_' applied to '(int, string)'"),
        ("object.metadata.labels['a'] == 'b' && object.metadata.nope == 1", "1:54: undefined field 'nope'"),
        ("params.spec.nope == 1", "1:12: undefined field 'nope'"),
        ("object.spec.size == 1 && params.spec.tags.exists(t, t == 'a')", ""),
        ("object.spec.free.anything == 1", "1:17: undefined field 'anything'"),
        ("object.apiVersion == 1", "1:19: found no matching overload for '_==_' applied to '(string, int)'"),
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("{GROUP}/validatingadmissionpolicies/tc{at}");
        let spec = json!({"paramKind": {"apiVersion": "x.io/v1", "kind": "Tc"}, "matchConstraints": rules, "validations": [{"expression": expression}]});
        server
            .post(
                &format!("{GROUP}/validatingadmissionpolicies"),
                json!({"metadata": {"name": format!("tc{at}")}, "spec": spec}),
            )
            .await
            .ok();
        let checked = |answer: &common::Answer| answer.json()["status"]["observedGeneration"] == 1;
        let status = until(|| server.get(&path), checked).await.json()["status"]["typeChecking"].clone();
        let told = status["expressionWarnings"][0]["warning"].as_str().unwrap_or_default();
        let expected =
            if warning.is_empty() { String::new() } else { format!("x.io/v1, Kind=Tc: ERROR: <input>:{warning}") };
        assert_eq!(told.lines().next().unwrap_or_default(), expected, "{expression}");
    }
}

/// Jane may write policies, and get config maps in the namespace `a`; everybody else everything.
struct JaneWritesPolicies;

impl Authorizer for JaneWritesPolicies {
    fn authorize(&self, attributes: &Attributes) -> Decision {
        let reads = (&*attributes.verb, &*attributes.resource, &*attributes.namespace) == ("get", "configmaps", "a");
        let allowed = attributes.user.name != "jane" || attributes.group == "admissionregistration.k8s.io" || reads;
        if allowed { Decision::Allow(String::new()) } else { Decision::NoOpinion(String::new()) }
    }
}

/// As upstream asks of those who write policies and bindings.
#[tokio::test]
async fn nobody_names_parameters_that_she_may_not_read() {
    let server = start_on(Config::default(), |storage, chain| {
        chain.admission = apiserver::admission::configured(storage).unwrap().to_vec();
        chain.authorizer = std::sync::Arc::new(JaneWritesPolicies);
    })
    .await;
    let policy = |name: &str, kind: &str| {
        let params = json!({"apiVersion": "v1", "kind": kind});
        json!({"metadata": {"name": name}, "spec": {"paramKind": params, "matchConstraints": rules("configmaps"), "validations": [{"expression": "true"}]}})
    };
    let binding = |name: &str, policy: &str, params: Value| {
        let mut params = params;
        params["parameterNotFoundAction"] = "Allow".into();
        json!({"metadata": {"name": name}, "spec": {"policyName": policy, "paramRef": params, "validationActions": ["Deny"]}})
    };
    server.post(&format!("{GROUP}/validatingadmissionpolicies"), policy("p", "ConfigMap")).await.ok();
    let jane = server.api.service(UserInfo { name: "jane".to_owned(), ..UserInfo::default() });
    let user = "user &{jane  [system:authenticated] map[]}";
    let object = "permission on the object referenced by paramRef";
    let anything = "permission for all groups, versions and resources";
    for (resource, object, refused) in [
        (
            "policies",
            policy("q", "ConfigMap"),
            format!(
                "spec.paramKind: Forbidden: {user} must have \"get\" permission on all objects of the referenced paramKind (kind=ConfigMap, apiVersion=v1)"
            ),
        ),
        (
            "policybindings",
            binding("b", "p", json!({"name": "x", "namespace": "b"})),
            format!("spec.paramRef: Forbidden: {user} does not have \"get\" {object}"),
        ),
        (
            "policybindings",
            binding("b", "p", json!({"selector": {}, "namespace": "a"})),
            format!("spec.paramRef: Forbidden: {user} does not have \"list\" {object}"),
        ),
        (
            "policybindings",
            binding("b", "none", json!({"name": "x"})),
            format!(
                "spec.paramRef: Forbidden: unable to get policy none to determine minimum required permissions and {user} does not have \"get\" {anything}"
            ),
        ),
        ("policybindings", binding("b", "p", json!({"name": "x", "namespace": "a"})), String::new()),
    ] {
        let path = format!("{GROUP}/validatingadmission{resource}");
        let request = http::Request::post(path).header("content-type", "application/json");
        let request = request.body(http_body_util::Full::new(bytes::Bytes::from(object.to_string()))).unwrap();
        let (head, body) = jane.clone().oneshot(request).await.unwrap().into_parts();
        let body = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes();
        let answer: Value = serde_json::from_slice(&body).unwrap();
        let message = answer["message"].as_str().unwrap_or_default();
        assert_eq!(head.status.as_u16(), if refused.is_empty() { 201 } else { 422 }, "{message}");
        assert_eq!(message.split_once("is invalid: ").map_or("", |(_, why)| why), refused);
    }
}
