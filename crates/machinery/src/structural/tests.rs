//! Pruning, defaulting and validation on small schemas, with what upstream answers.

use super::*;
use serde_json::json;

fn schema() -> Structural {
    Structural::compile(&json!({"type": "object", "required": ["spec"], "properties": {
        "spec": {"type": "object", "required": ["size", "cronSpec"], "properties": {
            "size": {"type": "integer", "minimum": 1, "maximum": 10, "format": "int32"},
            "ratio": {"type": "number", "minimum": 0, "exclusiveMinimum": true, "multipleOf": 0.5},
            "cronSpec": {"type": "string", "pattern": "^(\\d+|\\*)(/\\d+)?$", "minLength": 1, "maxLength": 4},
            "mode": {"type": "string", "enum": ["b", "a"], "default": "a"},
            "when": {"type": "string", "format": "date-time"},
            "port": {"x-kubernetes-int-or-string": true},
            "maybe": {"type": "string", "nullable": true, "default": "x"},
            "never": {"type": "string"},
            "labels": {"type": "object", "additionalProperties": {"type": "string", "maxLength": 2}, "maxProperties": 2},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                "properties": {"known": {"type": "object", "properties": {"x": {"type": "string"}}}}},
            "template": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object"}}},
            "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}, "maxItems": 3},
            "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port", "proto"], "items": {
                "type": "object", "properties": {"port": {"type": "integer"}, "proto": {"type": "string", "default": "TCP"},
                    "name": {"type": "string", "maxLength": 3}}}},
            "one": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
                "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
        }},
        "status": {"type": "object", "properties": {"n": {"type": "integer"}}},
    }}))
}

fn base() -> Value {
    json!({"apiVersion": "x.io/v1", "kind": "X", "metadata": {"name": "x"}, "spec": {"size": 1, "cronSpec": "*"}})
}

fn with(spec: Value) -> Value {
    let mut object = base();
    for (key, value) in spec.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    object
}

#[test]
fn pruning() {
    let schema = schema();
    for (spec, unknown, left) in [
        (json!({"x": 1, "labels": {"a": "b"}}), vec!["spec.x"], json!({"labels": {"a": "b"}})),
        (
            json!({"free": {"any": {"y": 1}, "known": {"x": "", "z": 1}}}),
            vec!["spec.free.known.z"],
            json!({"free": {"any": {"y": 1}, "known": {"x": ""}}}),
        ),
        (
            json!({"template": {"apiVersion": "v1", "kind": "K", "metadata": {"a": 1}, "spec": {"q": 1}, "o": 1}}),
            vec!["spec.template.o", "spec.template.spec.q"],
            json!({"template": {"apiVersion": "v1", "kind": "K", "metadata": {"a": 1}, "spec": {}}}),
        ),
        (json!({"ports": [{"port": 1}, {"b": 1}]}), vec!["spec.ports[1].b"], json!({"ports": [{"port": 1}, {}]})),
        (json!({"never": null, "maybe": null, "mode": null}), vec![], json!({"maybe": null, "mode": null})),
    ] {
        let mut object = with(spec);
        assert_eq!(schema.prune(&mut object), unknown);
        assert_eq!(object, with(left));
    }
    let mut object = json!({"kind": "X", "spec": {}, "more": 1});
    assert_eq!(Structural::compile(&Value::Null).prune(&mut object), ["more", "spec"]);
    assert_eq!(object, json!({"kind": "X"}));
}

#[test]
fn defaulting() {
    let schema = schema();
    assert!(schema.has_defaults());
    for (spec, expected) in [
        (json!({}), json!({"mode": "a", "maybe": "x"})),
        (json!({"mode": null, "maybe": null}), json!({"mode": "a", "maybe": null})),
        (
            json!({"ports": [{"port": 1}, {"proto": "UDP"}]}),
            json!({"mode": "a", "maybe": "x", "ports": [{"port": 1, "proto": "TCP"}, {"proto": "UDP"}]}),
        ),
    ] {
        let mut object = with(spec);
        schema.default(&mut object);
        assert_eq!(object, with(expected));
        let again = object.clone();
        schema.default(&mut object);
        assert_eq!(object, again);
    }
}

#[test]
fn validation() {
    let schema = schema();
    for (spec, expected) in [
        (json!({"size": 2, "port": "http", "when": "2020-01-02T03:04:05Z", "maybe": null, "ratio": 2}), vec![]),
        (
            json!({"size": "2"}),
            vec![r#"spec.size: Invalid value: "string": spec.size in body must be of type integer: "string""#],
        ),
        (
            json!({"size": 0}),
            vec!["spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1"],
        ),
        (
            json!({"size": 11}),
            vec!["spec.size: Invalid value: 11: spec.size in body should be less than or equal to 10"],
        ),
        (
            json!({"ratio": 0.75}),
            vec!["spec.ratio: Invalid value: 0.75: spec.ratio in body should be a multiple of 0.5"],
        ),
        (json!({"ratio": 0}), vec!["spec.ratio: Invalid value: 0: spec.ratio in body should be greater than 0"]),
        (json!({"cronSpec": "*/100"}), vec!["spec.cronSpec: Too long: may not be more than 4 bytes"]),
        (
            json!({"cronSpec": "x"}),
            vec![r#"spec.cronSpec: Invalid value: "x": spec.cronSpec in body should match '^(\d+|\*)(/\d+)?$'"#],
        ),
        (
            json!({"cronSpec": ""}),
            vec![r#"spec.cronSpec: Invalid value: "": spec.cronSpec in body should be at least 1 chars long"#],
        ),
        (json!({"mode": "c"}), vec![r#"spec.mode: Unsupported value: "c": supported values: "b", "a""#]),
        (
            json!({"when": "today"}),
            vec![r#"spec.when: Invalid value: "today": spec.when in body must be of type date-time: "today""#],
        ),
        (
            json!({"port": 1.5}),
            vec![r#"spec.port: Invalid value: "number": spec.port in body must be of type integer,string: "number""#],
        ),
        (
            json!({"never": null}),
            vec![r#"spec.never: Invalid value: "null": spec.never in body must be of type string: "null""#],
        ),
        (json!({"labels": {"a": "xxx"}}), vec!["spec.labels.a: Too long: may not be more than 2 bytes"]),
        (json!({"labels": {"a": "", "b": "", "c": ""}}), vec!["spec.labels: Too many: 3: must have at most 2 items"]),
        (json!({"tags": ["a", "b", "c", "d"]}), vec!["spec.tags: Too many: 4: must have at most 3 items"]),
        (
            json!({"one": {}}),
            vec![
                r#"<nil>: Invalid value: "": "spec.one" must validate one and only one schema (oneOf). Found none valid"#,
                "spec.one.a: Required value",
            ],
        ),
        (
            json!({"one": {"a": "", "b": ""}}),
            vec![
                r#"<nil>: Invalid value: "": "spec.one" must validate one and only one schema (oneOf). Found 2 valid alternatives"#,
            ],
        ),
    ] {
        let errors: Vec<String> = schema.validate(&with(spec)).iter().map(ToString::to_string).collect();
        assert_eq!(errors, expected);
    }
    let errors: Vec<String> = schema.validate(&json!({"spec": {"size": 1}})).iter().map(ToString::to_string).collect();
    assert_eq!(errors, ["spec.cronSpec: Required value"]);
    assert_eq!(schema.validate(&json!({}))[0].to_string(), "spec: Required value");
    assert_eq!(schema.validate_field("status", &json!({"n": "x"}), None)[0].path.as_str(), "status.n");
}

#[test]
fn what_was_wrong_before_may_stay() {
    let schema = schema();
    let bad = with(json!({"size": 99, "ports": [{"port": 1, "proto": "TCP", "name": "long"}]}));
    let mut changed = bad.clone();
    changed["spec"]["mode"] = json!("b");
    changed["spec"]["ports"].as_array_mut().unwrap().insert(0, json!({"port": 2, "proto": "TCP"}));
    assert_eq!(schema.validate_update(&changed, &bad), []);
    changed["spec"]["ports"][1]["proto"] = json!("UDP");
    changed["spec"]["size"] = json!(98);
    let paths: Vec<_> =
        schema.validate_update(&changed, &bad).iter().map(|error| error.path.as_str().to_owned()).collect();
    assert_eq!(paths, ["spec.ports[1].name", "spec.size"]);
}

#[test]
fn lists_without_repetition() {
    let schema = schema();
    for (spec, expected) in [
        (json!({"tags": ["a", "b"]}), vec![]),
        (json!({"tags": ["a", "b", "a", "a"]}), vec![r#"spec.tags[2]: Duplicate value: "a""#]),
        (
            json!({"ports": [{"port": 1, "proto": "TCP"}, {"port": 1, "proto": "UDP"}, {"port": 1, "proto": "TCP"}]}),
            vec![r#"spec.ports[2]: Duplicate value: {"port":1,"proto":"TCP"}"#],
        ),
    ] {
        let errors: Vec<String> = schema.validate_lists(&with(spec)).iter().map(ToString::to_string).collect();
        assert_eq!(errors, expected);
    }
}

#[test]
fn formats() {
    for (format, good, bad) in [
        ("uri", &["http://a/b", "/x"][..], &["a b", "x"][..]),
        ("email", &["a@b.c"], &["a", "a@", "@b"]),
        ("hostname", &["a", "a-b.example.com"], &["-a", "a b", "a_b"]),
        ("ipv4", &["1.2.3.4"], &["1.2.3", "::1"]),
        ("ipv6", &["::1"], &["1.2.3.4"]),
        ("cidr", &["10.0.0.0/8", "fd00::/64"], &["10.0.0.0", "10.0.0.0/33"]),
        ("mac", &["00:11:22:33:44:55"], &["00:11"]),
        ("uuid", &["7b1c2d3e-0000-4000-8000-000000000000"], &["7b1c2d3e"]),
        ("isbn10", &["0321751043"], &["0321751042"]),
        ("isbn13", &["978-0321751041"], &["978-0321751042"]),
        ("creditcard", &["4111-1111-1111-1111"], &["4111-1111-1111-1112"]),
        ("hexcolor", &["#FFF", "00ff00"], &["#FF"]),
        ("rgbcolor", &["rgb(1,2,3)"], &["rgb(1,2,300)"]),
        ("byte", &["aGVsbG8="], &["a*"]),
        ("date", &["2020-02-29"], &["2021-02-29", "x"]),
        ("duration", &["1h30m", "22 ns", "5s"], &["5", "x"]),
        (
            "date-time",
            &["2014-12-15T19:30:20.000Z", "2014-12-15T19:30:20+01:00"],
            &["2014-12-15", "2014-13-15T19:30:20Z"],
        ),
        ("k8s-short-name", &["a-b"], &["A", "a.b"]),
        ("k8s-long-name", &["a.b"], &["a..b"]),
        ("no-such-format", &["anything"], &[]),
    ] {
        let schema = Structural::compile(&json!({"type": "string", "format": format}));
        for text in good {
            assert_eq!(schema.validate(&json!(text)), [], "{format} {text}");
        }
        for text in bad {
            assert_eq!(schema.validate(&json!(text)).len(), 1, "{format} {text}");
        }
    }
}

#[test]
fn patterns_as_go_reads_them() {
    for (pattern, good, bad) in [
        (r"^\d+$", "12", "٣"),
        (r"^[\w-]+$", "a-b_", "é"),
        (r"^[a[b]+$", "[ab", "c"),
        (r"^[]a]+$", "]a", "b"),
        ("^[a&&b]+$", "&ab", "c"),
        (r"^[[:alpha:]]+$", "az", "1"),
        (r"^[^\s]+$", "a", " "),
    ] {
        let regex = translate_pattern(pattern).unwrap();
        assert!(regex.is_match(good) && !regex.is_match(bad), "{pattern}");
    }
    assert!(translate_pattern("(").is_err());
}

#[test]
fn equal_schemas_are_stored_once() {
    let leaf = json!({"type": "string", "description": "differs"});
    let part = |text: &str| json!({"type": "object", "description": text, "properties": {"a": leaf, "b": leaf}});
    let whole =
        Structural::compile(&json!({"type": "object", "properties": {"x": part("1"), "y": part("2"), "z": part("3")}}));
    assert_eq!(whole.nodes.len(), 3);
    let root = whole.root();
    assert_eq!(root.properties().map(|(name, _)| name).collect::<Vec<_>>(), ["x", "y", "z"]);
    assert_eq!(root.property("x").map(Node::index), root.property("y").map(Node::index));
}
