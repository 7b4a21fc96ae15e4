//! What is fuzzed: each target takes bytes and says, in a few words, what became of them.

use crate::secured::{self, Client};
use api::catalogue;
use apiserver::context::{Peer, UserInfo};
use bytes::Bytes;
use cel::{Env, NoSizes, Program, Type, Value as Cel};
use http::Request;
use http_body_util::{BodyExt, Full};
use machinery::jsonpath::JsonPath;
use machinery::quantity::Quantity;
use machinery::schema::Schema;
use machinery::selector::{FieldSelector, LabelSelector};
use machinery::{name, protobuf};
use serde_json::{Value, json};
use std::sync::Arc;

/// All of them.
pub const NAMES: [&str; 15] = [
    "json",
    "yaml",
    "protobuf",
    "json-patch",
    "merge-patch",
    "strategic-patch",
    "apply",
    "selectors",
    "cel",
    "quantities",
    "names",
    "jsonpath",
    "urls",
    "definitions",
    "credentials",
];

type Target = Box<dyn Fn(&[u8]) -> String>;

/// A target, and the seeds it makes itself.
pub fn open(name: &str) -> (Target, Vec<Vec<u8>>) {
    match name {
        "json" => (bodies("POST", "application/json"), objects()),
        "yaml" => (bodies("POST", "application/yaml"), objects()),
        "json-patch" => (patches("application/json-patch+json"), Vec::new()),
        "merge-patch" => (patches("application/merge-patch+json"), objects()),
        "strategic-patch" => (patches("application/strategic-merge-patch+json"), objects()),
        "apply" => (patches("application/apply-patch+yaml"), objects()),
        "definitions" => (definitions(), Vec::new()),
        "urls" => (urls(), Vec::new()),
        "credentials" => (credentials(), Vec::new()),
        "protobuf" => (Box::new(protobuf), messages()),
        "selectors" => (Box::new(selectors), Vec::new()),
        "cel" => (Box::new(expression), Vec::new()),
        "quantities" => (Box::new(quantity), Vec::new()),
        "names" => (Box::new(names), Vec::new()),
        "jsonpath" => (Box::new(path), Vec::new()),
        other => panic!("there is no target {other}"),
    }
}

/// A server, and one who may do everything there.
struct Server {
    runtime: tokio::runtime::Runtime,
    secured: secured::Secured,
}

impl Server {
    fn start() -> Arc<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let secured = runtime.block_on(secured::start());
        Arc::new(Self { runtime, secured })
    }

    fn make(&self, path: &str, object: Value) {
        self.runtime.block_on(self.secured.make(path, object));
    }

    /// Code and message of the answer. A server must not fail, whatever it is sent.
    fn ask(&self, client: &Client, request: http::request::Builder, body: &[u8]) -> String {
        let Ok(request) = request.body(Full::new(Bytes::copy_from_slice(body))) else { return String::new() };
        let user = UserInfo { name: "fuzz".into(), groups: vec!["system:masters".into()], ..UserInfo::default() };
        let anyone = Peer { user: Some(Arc::new(user)), ..Peer::default() };
        let peer = if client.token.is_some() { Peer::default() } else { anyone };
        let answer = async {
            let (head, body) = self.secured.api.handle(request, peer).await.into_parts();
            let body = tokio::time::timeout(std::time::Duration::from_secs(5), body.collect()).await;
            (head.status.as_u16(), body.map_or_else(|_| Bytes::new(), |body| body.unwrap().to_bytes()))
        };
        let (code, body) = self.runtime.block_on(answer);
        let status: Value = serde_json::from_slice(&body).unwrap_or_default();
        let message = status["message"].as_str().unwrap_or_default();
        assert!(code != 500 || EXPECTED.iter().any(|part| message.contains(part)), "{code} {message}");
        format!("{code} {message}")
    }
}

/// 500 is upstream's answer, too.
const EXPECTED: [&str; 2] = ["failed to create typed patch object", "failed to decode managed fields"];

/// Bodies for a collection, which differs with the input.
fn bodies(method: &'static str, content_type: &'static str) -> Target {
    let server = Server::start();
    let places: Vec<String> = catalogue::all()
        .iter()
        .filter(|resource| resource.is_stored() && resource.allows("create"))
        .map(|resource| {
            let root = if resource.group.is_empty() {
                "/api/v1".to_owned()
            } else {
                format!("/apis/{}", resource.api_version())
            };
            let namespace = if resource.namespaced { "/namespaces/default" } else { "" };
            format!("{root}{namespace}/{}?dryRun=All&fieldValidation=Warn", resource.plural)
        })
        .collect();
    Box::new(move |input| {
        // An object goes where its kind belongs, anything else anywhere.
        let kind = |plural: &str| {
            String::from_utf8_lossy(input).to_lowercase().contains(&format!("\"{}\"", plural.trim_end_matches('s')))
        };
        let plural = |place: &str| {
            place.split('?').next().and_then(|path| path.rsplit('/').next()).unwrap_or_default().to_owned()
        };
        let place = places.iter().find(|place| kind(&plural(place))).unwrap_or(&places[input.len() % places.len()]);
        let request = Request::builder().method(method).uri(place).header("content-type", content_type);
        server.ask(&Client::default(), request, input)
    })
}

/// A small object of every kind.
fn objects() -> Vec<Vec<u8>> {
    let schema = Schema::builtin();
    let object = |resource: &Arc<catalogue::Resource>| {
        let mut object = json!({"apiVersion": resource.api_version(), "kind": &*resource.kind, "metadata": {"name": "a", "labels": {"a": "b"}}});
        let ty = schema.kind(&resource.group, &resource.version, &resource.kind)?;
        for field in
            ty.as_struct()?.fields().filter(|field| !matches!(field.name(), "metadata" | "apiVersion" | "kind"))
        {
            object[field.name()] = machinery::schema::Schema::zero(field.ty());
        }
        Some(object.to_string().into_bytes())
    };
    catalogue::all().iter().filter(|resource| resource.is_stored()).filter_map(object).collect()
}

const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/default/deployments";

fn deployment() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": {"a": "b"}, "annotations": {"x": "y"}},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {
            "volumes": [{"name": "v", "emptyDir": {}}], "containers": [{"name": "c", "image": "x", "env": [{"name": "E", "value": "1"}],
            "ports": [{"containerPort": 80}], "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}}}})
}

fn patches(content_type: &'static str) -> Target {
    let server = Server::start();
    server.make(DEPLOYMENT, deployment());
    Box::new(move |input| {
        let place = format!("{DEPLOYMENT}/d?dryRun=All&fieldManager=fuzz");
        let request = Request::patch(place).header("content-type", content_type);
        server.ask(&Client::default(), request, input)
    })
}

/// Definitions of custom resources whose schema is the input.
fn definitions() -> Target {
    let server = Server::start();
    Box::new(move |input| {
        let Ok(schema) = serde_json::from_slice::<Value>(input) else { return "no JSON".to_owned() };
        let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "as.x.io"},
            "spec": {"group": "x.io", "scope": "Namespaced", "names": {"plural": "as", "kind": "A"}, "versions": [{"name": "v1", "served": true,
                "storage": true, "schema": {"openAPIV3Schema": schema}}]}});
        let place = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions?dryRun=All";
        let request = Request::post(place).header("content-type", "application/json");
        server.ask(&Client::default(), request, definition.to_string().as_bytes())
    })
}

/// Paths and queries; what no URL can hold is left out.
fn urls() -> Target {
    let server = Server::start();
    server.make(DEPLOYMENT, deployment());
    for name in ["a", "b", "c"] {
        server.make(
            "/api/v1/namespaces/default/configmaps",
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}),
        );
    }
    Box::new(move |input| {
        let text: String = input.iter().filter(|byte| byte.is_ascii_graphic()).map(|byte| char::from(*byte)).collect();
        let mut answers = String::new();
        for accept in
            ["application/json", "application/json;as=Table;g=meta.k8s.io;v=v1", "application/vnd.kubernetes.protobuf"]
        {
            let request = Request::get(format!("/{}", text.trim_start_matches('/'))).header("accept", accept);
            // No stream is waited for.
            if !text.contains("watch") && !text.contains("proxy") {
                answers += &server.ask(&Client::default(), request, b"");
            }
        }
        answers
    })
}

/// Tokens, certificates and keys.
fn credentials() -> Target {
    let server = Server::start();
    Box::new(move |input| {
        let text = String::from_utf8_lossy(input).into_owned();
        let parsed = pki::Identity::from_pem(&text)
            .is_ok_and(|identity| identity.certificate().is_ok() | identity.key().is_ok());
        let subject = pki::Subject::of(input).is_ok();
        let token: String = text.chars().filter(char::is_ascii_graphic).collect();
        let client = Client { token: Some(token.clone()), ..Client::default() };
        let request = Request::get("/api").header("authorization", format!("Bearer {token}"));
        format!("{parsed} {subject} {}", server.ask(&client, request, b""))
    })
}

fn find<'s>(api_version: &str, kind: &str) -> Option<machinery::schema::TypeRef<'s>> {
    let (group, version) = catalogue::split_api_version(api_version);
    Schema::builtin().kind(group, version, kind)
}

/// Every kind's message. What was read can be written and read again, and is then the same.
fn protobuf(input: &[u8]) -> String {
    match protobuf::decode(input, None, find) {
        Ok(object) => {
            let ty = find(object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap()).unwrap();
            let again = protobuf::decode(&protobuf::encode(&object, ty), None, find).unwrap();
            let twice = protobuf::decode(&protobuf::encode(&again, ty), None, find).unwrap();
            assert_eq!(again, twice);
            format!("{} {}", object["kind"], object.as_object().map_or(0, serde_json::Map::len))
        }
        Err(error) => error.to_string(),
    }
}

fn messages() -> Vec<Vec<u8>> {
    let encode = |object: Vec<u8>| {
        let object: Value = serde_json::from_slice(&object).ok()?;
        Some(protobuf::encode(&object, find(object["apiVersion"].as_str()?, object["kind"].as_str()?)?))
    };
    objects().into_iter().filter_map(encode).collect()
}

fn selectors(input: &[u8]) -> String {
    let text = String::from_utf8_lossy(input);
    let labels = LabelSelector::parse(&text).map(|selector| selector.matches(|_| Some("a")));
    let fields = FieldSelector::parse(&text).map(|selector| selector.matches(|_| Some("a")));
    let object = serde_json::from_slice::<Value>(input).map(|value| LabelSelector::from_value(&value).is_ok());
    format!("{labels:?} {fields:?} {}", object.unwrap_or_default())
}

fn expression(input: &[u8]) -> String {
    let text = String::from_utf8_lossy(input);
    let env = Env::default().variable("object", Type::Dyn).variable("text", Type::String);
    let object = json!({"a": [1, 2, {"b": "c"}], "m": {"x": null, "y": 1.5}, "t": "2026-01-01T00:00:00Z"});
    let variables = [Cel::json(&object), Cel::string("héllo")];
    drop(Program::estimate(&text, &env, &NoSizes));
    match Program::compile(&text, &env) {
        Ok(program) => match program.evaluate(&variables.as_slice(), Program::COST_MAX).result {
            Ok(value) => format!("{:?} {}", value.to_json().is_ok(), program.result()),
            Err(fault) => fault.to_string(),
        },
        Err(issues) => issues.to_string(),
    }
}

fn quantity(input: &[u8]) -> String {
    match Quantity::parse(&String::from_utf8_lossy(input)) {
        Ok(quantity) => {
            let text = quantity.to_string();
            let again = Quantity::parse(&text).unwrap_or_else(|why| panic!("{text}: {why}"));
            assert_eq!(again, quantity);
            format!("{} {} {}", quantity.is_zero(), quantity.signum(), quantity.rounded_up() == quantity)
        }
        Err(why) => why.to_owned(),
    }
}

fn names(input: &[u8]) -> String {
    let text = String::from_utf8_lossy(input);
    let checks = [
        name::dns1123_label,
        name::dns1123_subdomain,
        name::dns1035_label,
        name::qualified_name,
        name::label_value,
        name::path_segment,
        name::config_map_key,
        name::env_var_name,
        name::port_name,
    ];
    format!("{:?}", checks.map(|check| check(&text).len()))
}

fn path(input: &[u8]) -> String {
    let object = json!({"a": [1, 2, {"b": "c"}, [[3]]], "m": {"x": null, "y": 1.5}, "t": "x"});
    match JsonPath::parse(&String::from_utf8_lossy(input)) {
        Ok(path) => path.find(&object).len().to_string(),
        Err(why) => why,
    }
}
