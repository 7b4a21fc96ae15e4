//! Custom resources: definitions, and the objects they bring.
#![allow(clippy::unwrap_used, reason = "a test may fail by it")]

mod common;

use common::{Answer, Server, start};
use serde_json::{Value, json};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/x.io/v1/namespaces/a/widgets";

fn schema() -> Value {
    json!({"type": "object", "properties": {
        "spec": {"type": "object", "required": ["size"], "properties": {
            "size": {"type": "integer", "minimum": 1}, "color": {"type": "string", "default": "red"},
            "replicas": {"type": "integer"},
            "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}}}},
        "status": {"type": "object", "properties": {"replicas": {"type": "integer"}, "selector": {"type": "string"}, "phase": {"type": "string"}}}}})
}

fn definition(plural: &str, kind: &str) -> Value {
    json!({"metadata": {"name": format!("{plural}.x.io")}, "spec": {
        "group": "x.io", "scope": "Namespaced",
        "names": {"plural": plural, "kind": kind, "shortNames": [format!("{}s", &plural[..1])], "categories": ["all"]},
        "versions": [
            {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema()},
             "subresources": {"status": {}, "scale": {
                "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}},
             "selectableFields": [{"jsonPath": ".spec.color"}],
             "additionalPrinterColumns": [
                {"name": "Size", "type": "integer", "jsonPath": ".spec.size"}, {"name": "Color", "type": "string", "jsonPath": ".spec.color", "priority": 1}]},
            {"name": "v1beta1", "served": true, "storage": false, "deprecated": true,
             "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}})
}

fn widget(name: &str) -> Value {
    json!({"apiVersion": "x.io/v1", "kind": "Widget", "metadata": {"name": name, "labels": {"app": name}}, "spec": {"size": 1}})
}

async fn until(server: &Server, path: &str, good: impl Fn(&Value) -> bool) -> Value {
    let value = |answer: &Answer| serde_json::from_slice(&answer.body).unwrap_or_default();
    value(&common::until(|| server.get(path), |answer| good(&value(answer))).await)
}

fn is(definition: &Value, kind: &str, status: &str) -> bool {
    let conditions = definition["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == kind && condition["status"] == status)
}

async fn define(server: &Server, definition: Value) -> Value {
    let made = server.post(DEFINITIONS, definition).await.ok();
    let path = format!("{DEFINITIONS}/{}", made["metadata"]["name"].as_str().unwrap());
    until(server, &path, |definition| is(definition, "Established", "True")).await
}

async fn with_widgets() -> Server {
    let server = start().await;
    define(&server, definition("widgets", "Widget")).await;
    server
}

#[tokio::test]
async fn a_definition_comes_to_life() {
    let server = start().await;
    let made = server.post(DEFINITIONS, definition("widgets", "Widget")).await.ok();
    assert_eq!(made["spec"]["names"]["listKind"], "WidgetList");
    assert_eq!(made["status"]["storedVersions"], json!(["v1"]));
    let path = format!("{DEFINITIONS}/widgets.x.io");
    let definition = until(&server, &path, |definition| is(definition, "Established", "True")).await;
    assert!(is(&definition, "NamesAccepted", "True"));
    assert_eq!(definition["status"]["acceptedNames"], definition["spec"]["names"]);
    // In every document of discovery at once.
    let list = server.get("/apis/x.io/v1").await.ok();
    let names: Vec<_> = list["resources"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["widgets", "widgets/status", "widgets/scale"]);
    let group = server.get("/apis/x.io").await.ok();
    assert_eq!(group["preferredVersion"]["version"], "v1");
    let groups = server.get("/apis").await.ok();
    assert!(groups["groups"].as_array().unwrap().iter().any(|group| group["name"] == "x.io"));
    let accept = ("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    let all = server.send("GET", "/apis", &[accept], "").await.ok();
    let group = all["items"].as_array().unwrap().iter().find(|group| group["metadata"]["name"] == "x.io").unwrap();
    assert_eq!(group["versions"][0]["resources"][0]["shortNames"], json!(["ws"]));

    let widget = server.post(WIDGETS, widget("w")).await.ok();
    assert_eq!((&widget["spec"]["color"], &widget["metadata"]["generation"]), (&json!("red"), &json!(1)));

    // The definition waits for its instances, and takes everything with it.
    let answer = server.delete(&path, Value::Null).await.ok();
    assert_eq!(answer["metadata"]["finalizers"], json!(["customresourcecleanup.apiextensions.k8s.io"]));
    until(&server, &path, |answer| answer["code"] == 404).await;
    until(&server, WIDGETS, |answer| answer["code"] == 404).await;
    assert_eq!(server.get("/apis/x.io").await.code, 404);
    // Made anew, nothing of before is there.
    let server = server;
    define(&server, definition_again()).await;
    assert_eq!(server.get(WIDGETS).await.ok()["items"], json!([]));
}

fn definition_again() -> Value {
    definition("widgets", "Widget")
}

#[tokio::test]
async fn a_held_instance_holds_its_definition() {
    let server = with_widgets().await;
    let mut held = widget("held");
    held["metadata"]["finalizers"] = json!(["x.io/hold"]);
    server.post(WIDGETS, held).await.ok();
    let path = format!("{DEFINITIONS}/widgets.x.io");
    server.delete(&path, Value::Null).await.ok();
    until(&server, &format!("{WIDGETS}/held"), |widget| widget["metadata"]["deletionTimestamp"].is_string()).await;
    until(&server, &path, |definition| is(definition, "Terminating", "True")).await;
    let refused = server.post(WIDGETS, widget("late")).await;
    assert_eq!(refused.code, 403);
    assert_eq!(
        refused.json()["message"],
        "widgets.x.io \"late\" is forbidden: create not allowed while custom resource definition is terminating"
    );
    let freed = json!({"metadata": {"finalizers": null}});
    server.patch(&format!("{WIDGETS}/held"), "merge", freed).await.ok();
    until(&server, &path, |answer| answer["code"] == 404).await;
}

#[tokio::test]
async fn conflicting_names_wait() {
    let server = with_widgets().await;
    let mut rival = definition("wigwams", "Wigwam");
    rival["spec"]["names"]["shortNames"] = json!(["widget"]);
    server.post(DEFINITIONS, rival).await.ok();
    let path = format!("{DEFINITIONS}/wigwams.x.io");
    let refused = until(&server, &path, |definition| is(definition, "NamesAccepted", "False")).await;
    assert!(is(&refused, "Established", "False"));
    let condition = &refused["status"]["conditions"][0];
    assert_eq!(
        (&condition["reason"], &condition["message"]),
        (&json!("ShortNamesConflict"), &json!("\"widget\" is already in use"))
    );
    assert_eq!(server.get("/apis/x.io/v1/wigwams").await.code, 404);
    // Once the names are free, it gets them.
    server.delete(&format!("{DEFINITIONS}/widgets.x.io"), Value::Null).await.ok();
    until(&server, &path, |definition| is(definition, "Established", "True")).await;
    assert_eq!(server.get("/apis/x.io/v1/wigwams").await.code, 200);
}

#[tokio::test]
async fn what_is_refused_and_what_is_pruned() {
    let server = with_widgets().await;
    let with = |spec: Value| {
        let mut widget = widget("w");
        widget["spec"] = spec;
        widget
    };
    for (spec, message) in [
        (
            json!({"size": 0}),
            "Widget.x.io \"w\" is invalid: spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1",
        ),
        (json!({}), "Widget.x.io \"w\" is invalid: spec.size: Required value"),
        (json!({"size": 1, "tags": ["a", "a"]}), "Widget.x.io \"w\" is invalid: spec.tags[1]: Duplicate value: \"a\""),
    ] {
        let refused = server.post(WIDGETS, with(spec)).await;
        assert_eq!((refused.code, refused.json()["message"].as_str()), (422, Some(message)));
    }
    let unknown = with(json!({"size": 1, "x": {"y": 1}}));
    let strict = server.post(&format!("{WIDGETS}?fieldValidation=Strict"), unknown.clone()).await;
    assert_eq!(
        strict.json()["message"],
        "Widget in version \"v1\" cannot be handled as a Widget: strict decoding error: unknown field \"spec.x\""
    );
    let warned = server.post(WIDGETS, unknown).await;
    assert_eq!(warned.headers["warning"], "299 - \"unknown field \\\"spec.x\\\"\"");
    assert_eq!(warned.ok()["spec"], json!({"size": 1, "color": "red"}));
    let stale = server.put(&format!("{WIDGETS}/w"), with(json!({"size": 2}))).await;
    assert_eq!(
        stale.json()["message"],
        "Widget.x.io \"w\" is invalid: metadata.resourceVersion: Invalid value: 0: must be specified for an update"
    );
    let patched = server.patch(&format!("{WIDGETS}/w"), "strategic-merge", json!({"spec": {"size": 2}})).await;
    assert_eq!(patched.code, 415);
}

#[tokio::test]
async fn parts_scale_and_generation() {
    let server = with_widgets().await;
    let path = format!("{WIDGETS}/w");
    server.post(WIDGETS, widget("w")).await.ok();
    let changed = server.patch(&path, "merge", json!({"spec": {"replicas": 3}, "status": {"phase": "x"}})).await.ok();
    assert_eq!((&changed["metadata"]["generation"], changed.get("status")), (&json!(2), None));
    let status =
        json!({"status": {"replicas": 2, "selector": "a=b"}, "spec": {"size": 9}, "metadata": {"labels": {"x": "y"}}});
    let changed = server.patch(&format!("{path}/status"), "merge", status).await.ok();
    assert_eq!((&changed["metadata"]["generation"], &changed["spec"]["size"]), (&json!(2), &json!(1)));
    assert_eq!(changed["metadata"]["labels"], json!({"app": "w"}));
    let refused = server.patch(&format!("{path}/status"), "merge", json!({"status": {"replicas": "x"}})).await;
    assert_eq!(
        refused.json()["details"]["causes"][0],
        json!({"reason": "FieldValueTypeInvalid", "field": "status.replicas",
            "message": "Invalid value: \"string\": status.replicas in body must be of type integer: \"string\""})
    );
    let scale = server.get(&format!("{path}/scale")).await.ok();
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]), (&json!(3), &json!({"replicas": 2, "selector": "a=b"})));
    let scaled = server.patch(&format!("{path}/scale"), "merge", json!({"spec": {"replicas": 5}})).await.ok();
    assert_eq!(scaled["spec"]["replicas"], 5);
    let widget = server.get(&path).await.ok();
    assert_eq!((&widget["spec"]["replicas"], &widget["metadata"]["generation"]), (&json!(5), &json!(3)));
}

#[tokio::test]
async fn seen_in_every_shape_and_version() {
    let server = with_widgets().await;
    let mut watch = server.watch(&format!("{WIDGETS}?watch=1&fieldSelector=spec.color=blue")).await;
    for (name, color) in [("w1", "red"), ("w2", "blue")] {
        let mut widget = widget(name);
        widget["spec"]["color"] = color.into();
        server.post(WIDGETS, widget).await.ok();
    }
    assert_eq!(watch.brief().await, "ADDED w2");
    let list = server.get("/apis/x.io/v1/widgets?fieldSelector=spec.color%3Dblue").await.ok();
    assert_eq!((&list["kind"], list["items"].as_array().unwrap().len()), (&json!("WidgetList"), 1));
    assert_eq!(server.get("/apis/x.io/v1/widgets?fieldSelector=spec.size%3D1").await.code, 400);
    let table =
        server.send("GET", WIDGETS, &[("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")], "").await.ok();
    let headings: Vec<_> = table["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].clone()).collect();
    assert_eq!(json!(headings), json!(["Name", "Size", "Color"]));
    assert_eq!(table["rows"][1]["cells"], json!(["w2", 1, "blue"]));
    let accept = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let partial = server.send("GET", WIDGETS, &[("accept", accept)], "").await.ok();
    assert_eq!((&partial["kind"], partial["items"][0].get("spec")), (&json!("PartialObjectMetadataList"), None));
    // The other version shows the same objects, and warns.
    let old = server.get("/apis/x.io/v1beta1/namespaces/a/widgets/w1").await;
    assert_eq!(old.headers["warning"], "299 - \"x.io/v1beta1 Widget is deprecated\"");
    assert_eq!(old.ok()["apiVersion"], "x.io/v1beta1");
    let mut odd = widget("w3");
    odd["apiVersion"] = "x.io/v1beta1".into();
    odd["spec"] = json!({"size": "odd", "more": true});
    let made = server.post("/apis/x.io/v1beta1/namespaces/a/widgets", odd).await.ok();
    assert_eq!(made["apiVersion"], "x.io/v1beta1");
    let seen = server.get(&format!("{WIDGETS}/w3")).await.ok();
    assert_eq!((&seen["apiVersion"], &seen["spec"]), (&json!("x.io/v1"), &json!({"size": "odd", "color": "red"})));
    let all = server.get("/apis/x.io/v1beta1/widgets").await.ok();
    assert!(all["items"].as_array().unwrap().iter().all(|item| item["apiVersion"] == "x.io/v1beta1"));
}

#[tokio::test]
async fn a_changed_schema_holds_for_what_is_stored() {
    let server = with_widgets().await;
    server.post(WIDGETS, widget("w")).await.ok();
    let mut watch = server.watch(&format!("{WIDGETS}?watch=1")).await;
    assert_eq!(watch.brief().await, "ADDED w");
    let path = format!("{DEFINITIONS}/widgets.x.io");
    let change = json!([
        {"op": "add", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/shape",
         "value": {"type": "string", "default": "round"}},
        {"op": "remove", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/color"},
        {"op": "remove", "path": "/spec/versions/0/selectableFields"}]);
    server.patch(&path, "json", change).await.ok();
    let widget = until(&server, &format!("{WIDGETS}/w"), |widget| widget["spec"]["shape"] == "round").await;
    assert_eq!(widget["spec"], json!({"size": 1, "shape": "round"}));
    let list = server.get(WIDGETS).await.ok();
    assert_eq!(list["items"][0]["spec"], widget["spec"]);
    assert_eq!(watch.brief().await, "end", "watches begin anew");
    // A version that is served no more is gone, its objects are not.
    let change = json!([{"op": "replace", "path": "/spec/versions/1/served", "value": false}]);
    server.patch(&path, "json", change).await.ok();
    until(&server, "/apis/x.io/v1beta1/widgets", |answer| answer["code"] == 404).await;
    assert_eq!(server.get(WIDGETS).await.ok()["items"].as_array().unwrap().len(), 1);
}

/// What clients read to explain and to check kinds, plain and by its hash.
#[tokio::test]
async fn described_in_openapi() {
    let server = with_widgets().await;
    let index = server.get("/openapi/v3").await.ok();
    let url = index["paths"]["apis/x.io/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    let answer = server.get(&url).await;
    let tag = answer.headers["etag"].to_str().unwrap().to_owned();
    assert!(answer.headers.contains_key("expires") && url.contains(tag.trim_matches('"')));
    let document = answer.ok();
    let widget = &document["components"]["schemas"]["io.x.v1.Widget"];
    assert_eq!(widget["properties"]["spec"]["properties"]["color"], json!({"type": "string", "default": "red"}));
    assert_eq!(
        widget["properties"]["metadata"]["allOf"][0]["$ref"],
        "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
    );
    assert_eq!(
        widget["x-kubernetes-group-version-kind"],
        json!([{"group": "x.io", "version": "v1", "kind": "Widget"}])
    );
    assert_eq!(widget["x-kubernetes-selectable-fields"], json!([{"fieldPath": "spec.color"}]));
    let item = &document["paths"]["/apis/x.io/v1/namespaces/{namespace}/widgets/{name}"];
    assert!(item["patch"]["requestBody"]["content"].get("application/strategic-merge-patch+json").is_none());
    assert!(document["components"]["schemas"].get("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").is_some());
    let all = server.get("/openapi/v2").await.ok();
    assert!(
        all["definitions"]["io.x.v1.WidgetList"]["properties"]["items"]["items"]["$ref"]
            == "#/definitions/io.x.v1.Widget"
    );
    assert_eq!(all["definitions"]["io.x.v1beta1.Widget"].get("properties"), None);
    // A change is there at once, under another hash.
    let path = format!("{DEFINITIONS}/widgets.x.io");
    let change =
        json!([{"op": "add", "path": "/spec/versions/0/schema/openAPIV3Schema/description", "value": "Things."}]);
    server.patch(&path, "json", change).await.ok();
    let index =
        until(&server, "/openapi/v3", |index| index["paths"]["apis/x.io/v1"]["serverRelativeURL"] != url.as_str())
            .await;
    let url = index["paths"]["apis/x.io/v1"]["serverRelativeURL"].as_str().unwrap();
    assert_eq!(server.get(url).await.ok()["components"]["schemas"]["io.x.v1.Widget"]["description"], "Things.");
    server.delete(&path, Value::Null).await.ok();
    until(&server, "/openapi/v3/apis/x.io/v1", |answer| answer["code"] == 404).await;
}

#[tokio::test]
async fn groups_of_the_community_say_whether_they_are_approved() {
    let server = start().await;
    let mut protected = definition("widgets", "Widget");
    protected["metadata"] =
        json!({"name": "widgets.x.k8s.io", "annotations": {"api-approved.kubernetes.io": "https://a.example/1"}});
    protected["spec"]["group"] = "x.k8s.io".into();
    let mut bare = protected.clone();
    bare["metadata"]["annotations"] = Value::Null;
    assert_eq!(server.post(DEFINITIONS, bare).await.code, 422);
    let approved = define(&server, protected).await;
    assert!(is(&approved, "KubernetesAPIApprovalPolicyConformant", "True"));
    let path = format!("{DEFINITIONS}/widgets.x.k8s.io");
    let change = json!({"metadata": {"annotations": {"api-approved.kubernetes.io": "unapproved, on trial"}}});
    server.patch(&path, "merge", change).await.ok();
    until(&server, &path, |definition| is(definition, "KubernetesAPIApprovalPolicyConformant", "False")).await;
}

/// As client-go asks for it.
#[tokio::test]
async fn everything_in_protobuf() {
    let server = with_widgets().await;
    let accept = ("accept", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf");
    let answer = server.send("GET", "/openapi/v2", &[accept], "").await;
    assert_eq!(answer.headers["content-type"], "application/com.github.proto-openapi.spec.v2.v1.0+protobuf");
    assert_eq!(&answer.body[..5], [10, 3, b'2', b'.', b'0']);
    let holds = |text: &str| answer.body.windows(text.len()).any(|bytes| bytes == text.as_bytes());
    assert!(holds("io.x.v1.Widget") && holds("io.k8s.api.core.v1.Pod") && holds("#/definitions/io.x.v1.Widget"));
    assert_eq!(server.send("GET", "/openapi/v2", &[("accept", "text/html")], "").await.code, 406);
}
