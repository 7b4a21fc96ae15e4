//! What upstream says of wrong definitions.

use super::*;
use serde_json::json;

fn definition() -> Value {
    json!({"metadata": {"name": "widgets.x.io"}, "status": {"storedVersions": ["v1"]}, "spec": {
        "group": "x.io", "scope": "Namespaced", "conversion": {"strategy": "None"},
        "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema":
            {"type": "object", "properties": {"spec": {"type": "object"}}}}}]}})
}

fn told(found: &Errors) -> Vec<String> {
    found.0.iter().map(ToString::to_string).collect()
}

fn created(change: impl FnOnce(&mut Value)) -> Vec<String> {
    let (mut object, mut errors) = (definition(), Errors::default());
    change(&mut object);
    create(&object, &mut errors);
    told(&errors)
}

/// The schema of the one version, with a field `f` of this schema.
fn with_field(field: Value) -> Vec<String> {
    created(|object| object["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["f"] = field)
}

#[test]
fn names_and_versions() {
    assert_eq!(created(|_| {}), [""; 0]);
    assert_eq!(
        created(|object| object["metadata"]["name"] = "a.b".into()),
        [r#"metadata.name: Invalid value: "a.b": must be spec.names.plural+"."+spec.group"#]
    );
    assert_eq!(
        created(|object| object["spec"]["scope"] = "All".into()),
        [r#"spec.scope: Unsupported value: "All": supported values: "Cluster", "Namespaced""#]
    );
    assert_eq!(
        created(|object| object["spec"]["names"]["listKind"] = "Widget".into()),
        [r#"spec.names.listKind: Invalid value: "Widget": kind and listKind may not be the same"#]
    );
    assert_eq!(
        created(|object| object["status"]["storedVersions"] = json!(["v0", "v1"])),
        [
            r#"status.storedVersions[0]: Invalid value: "v0": missing from spec.versions; v0 was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in v0 and removes v0 from status.storedVersions"#
        ]
    );
    assert_eq!(
        created(|object| object["spec"]["conversion"] = json!({"strategy": "Webhook"})),
        [
            "spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook",
            "spec.conversion.conversionReviewVersions: Required value"
        ]
    );
    let protected = created(|object| {
        object["spec"]["group"] = "x.k8s.io".into();
        object["metadata"]["name"] = "widgets.x.k8s.io".into();
    });
    assert_eq!(
        protected,
        [
            "metadata.annotations[api-approved.kubernetes.io]: Required value: protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111"
        ]
    );
    let two = created(|object| {
        let mut second = object["spec"]["versions"][0].clone();
        second["name"] = "v2".into();
        object["spec"]["versions"].as_array_mut().unwrap().push(second);
    });
    assert!(two[0].ends_with("must have exactly one version marked as storage version"), "{two:?}");
}

#[test]
fn what_stays() {
    let mut old = definition();
    old["status"]["conditions"] = json!([{"type": "Established", "status": "True"}]);
    for (path, value, expected) in [
        ("/spec/scope", "Cluster", r#"spec.scope: Invalid value: "Cluster": field is immutable"#),
        ("/spec/names/plural", "wodgets", r#"spec.names.plural: Invalid value: "wodgets": field is immutable"#),
    ] {
        let (mut new, mut errors) = (old.clone(), Errors::default());
        *new.pointer_mut(path).unwrap() = value.into();
        update(&new, &old, &mut errors);
        assert_eq!(told(&errors), [expected]);
    }
}

#[test]
fn schemas() {
    const F: &str = "spec.validation.openAPIV3Schema.properties[f]";
    for (field, expected) in [
        (json!({"type": "string", "default": "x", "enum": ["x"]}), vec![]),
        (json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}), vec![]),
        (json!({}), vec![".type: Required value: must not be empty for specified object fields"]),
        (json!({"type": "array"}), vec![".items: Required value: must be specified"]),
        (
            json!({"type": "text"}),
            vec![
                r#".type: Unsupported value: "text": supported values: "array", "boolean", "integer", "number", "object", "string""#,
            ],
        ),
        (
            json!({"type": "integer", "default": "x"}),
            vec![r#".default: Invalid value: "string":  in body must be of type integer: "string""#],
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string"}}, "default": {"b": 1}}),
            vec![r#".default: Invalid value: {"b":1}: must not have unknown fields"#],
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": {"type": "string"}}),
            vec![".additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive"],
        ),
        (
            json!({"type": "string", "allOf": [{"type": "string", "minLength": 1}]}),
            vec![".allOf[0].type: Forbidden: must be empty to be structural"],
        ),
        (
            json!({"type": "array", "items": {"type": "string"}, "uniqueItems": true}),
            vec![
                ".uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
            ],
        ),
        (
            json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a"],
                "items": {"type": "object", "properties": {"a": {"type": "string"}}}}),
            vec![
                ".items.properties[a].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
            ],
        ),
        (
            json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "object"}}),
            vec![
                ".items.x-kubernetes-map-type: Invalid value: null: must be atomic as item of a list with x-kubernetes-list-type=set",
            ],
        ),
        (
            json!({"type": "object", "nullable": true, "x-kubernetes-embedded-resource": true}),
            vec![
                ".properties: Required value: must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields",
            ],
        ),
        (
            json!({"type": "string", "x-kubernetes-validations": [{"rule": ""}]}),
            vec![".x-kubernetes-validations[0].rule: Required value: rule is not specified"],
        ),
    ] {
        let expected: Vec<String> = expected.into_iter().map(|rest| format!("{F}{rest}")).collect();
        assert_eq!(with_field(field.clone()), expected, "{field}");
    }
}

#[test]
fn schemas_as_a_whole() {
    let bad = with_field(json!({"type": "string", "pattern": "("}));
    assert!(bad[0].contains("must be a valid regular expression, but isn't"), "{bad:?}");
    let undeclared = created(|object| {
        object["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["anyOf"] =
            json!([{"properties": {"a": {"minLength": 1}}}]);
    });
    assert_eq!(
        undeclared,
        [
            "spec.validation.openAPIV3Schema.properties[a]: Required value: because it is defined in spec.validation.openAPIV3Schema.anyOf[0].properties[a]"
        ]
    );
    let root = created(|object| {
        object["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}});
    });
    assert_eq!(
        root,
        [
            "spec.validation.openAPIV3Schema.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified"
        ]
    );
}

#[test]
fn paths_into_objects() {
    let version = |field: &str, value: Value| {
        created(|object| {
            let version = &mut object["spec"]["versions"][0];
            version[field] = value;
            version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"] =
                json!({"color": {"type": "string"}, "size": {"type": "number"}});
        })
    };
    assert_eq!(version("selectableFields", json!([{"jsonPath": ".spec.color"}])), [""; 0]);
    assert_eq!(
        version("selectableFields", json!([{"jsonPath": ".spec.size"}])),
        [
            r#"spec.selectableFields[0].jsonPath: Invalid value: ".spec.size": must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed."#
        ]
    );
    assert_eq!(
        version("additionalPrinterColumns", json!([{"name": "A", "type": "text", "jsonPath": "spec"}])),
        [
            r#"spec.additionalPrinterColumns[0].type: Invalid value: "text": must be one of boolean,date,integer,number,string"#,
            r#"spec.additionalPrinterColumns[0].JSONPath: Invalid value: "spec": must be a simple json path starting with ."#,
        ]
    );
    assert_eq!(
        version("subresources", json!({"scale": {"specReplicasPath": ".status.x", "statusReplicasPath": ""}})),
        [
            r#"spec.subresources.scale.specReplicasPath: Invalid value: ".status.x": should be a json path under .spec"#,
            "spec.subresources.scale.statusReplicasPath: Required value",
        ]
    );
}
