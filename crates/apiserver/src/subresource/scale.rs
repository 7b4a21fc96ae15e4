//! `scale`: the number of replicas, whatever the kind.

use crate::body::Body;
use crate::call::Call;
use crate::custom::{Scale, nested};
use crate::decode::decode;
use crate::handlers::apply::APPLY;
use crate::handlers::{self, Target, update};
use crate::meta;
use crate::ownership::Written;
use crate::storage::Object;
use crate::strategy::Part;
use http::{Response, StatusCode};
use machinery::apply::{Builtin, Element, Manager, Managers, Operation, Set, Versions, Write};
use machinery::field::{FieldError, Path};
use machinery::schema::Schema;
use machinery::selector::LabelSelector;
use machinery::{Status, patch};
use serde_json::{Value, json};
use std::borrow::Cow;

const API_VERSION: &str = "autoscaling/v1";
pub(crate) const KIND: &str = "Scale";
/// Admission sees the scale, not the object.
const TARGET: Target = Target { part: Part::Main, scale: true };

/// Serves a request to the scale of an object.
pub(super) async fn handle(call: &mut Call) -> Result<Response<Body>, Status> {
    let object = match &*call.attributes.verb.clone() {
        "get" => {
            let entry = call.served.store()?.get(call.namespace(), call.name());
            entry.ok_or_else(|| call.served.not_found(call.name()))?.object.clone()
        }
        "update" => {
            let wanted = call.part_body(API_VERSION, KIND)?;
            set(call, |_, _| Ok(wanted.clone())).await?
        }
        _ if call.content_type == APPLY => apply(call).await?,
        _ => {
            let change = decode("application/json", &call.body)?.value;
            let json_patch = match &*call.content_type {
                "application/json-patch+json" => true,
                "application/merge-patch+json" | "application/strategic-merge-patch+json" => false,
                other => return Err(crate::decode::unsupported(other)),
            };
            set(call, |_, mut current| {
                // A revision counts only when the client names it.
                if meta::at(&change, &["metadata", "resourceVersion"]).is_none() {
                    meta::metadata(&mut current).remove("resourceVersion");
                }
                if json_patch {
                    patch::json_patch(&mut current, &change)?
                } else {
                    patch::merge_patch(&mut current, &change)?
                }
                Ok(current)
            })
            .await?
        }
    };
    let object = call.served.working(&object).await?;
    if let Some(paths) = custom_paths(call).filter(|paths| nested(&object, &paths.spec_replicas_path).is_none()) {
        let why = format!("the spec replicas field {:?} does not exist", paths.spec_replicas_path);
        return Err(Status::internal(why));
    }
    let scale = scale_of(call, &object);
    call.answer_value(StatusCode::OK, scale)
}

/// Changes the replicas to what `wanted` makes of the present scale.
async fn set<F>(call: &mut Call, mut wanted: F) -> Result<Object, Status>
where
    F: FnMut(&Call, Value) -> Result<Value, Status> + Send,
{
    update(call, TARGET, |call, live| {
        let mut object = live.object.clone();
        let scale = wanted(call, scale_of(call, &object))?;
        let replicas = replicas_of(call, &scale)?;
        match custom_paths(call) {
            Some(paths)
                if meta::at(&scale, &["spec", "replicas"]).is_none()
                    && nested(&object, &paths.spec_replicas_path).is_none() =>
            {
                let why = format!("the spec replicas field {:?} cannot be empty", paths.spec_replicas_path);
                return Err(Status::bad_request(why));
            }
            _ => put_replicas(call, &mut object, replicas),
        }
        // The revision is the client's, not the one just read.
        let version = meta::text(&scale, "resourceVersion").to_owned();
        meta::set(meta::metadata(&mut object), "resourceVersion", (!version.is_empty()).then(|| version.into()));
        if let Some(uid) = meta::at(&scale, &["metadata", "uid"]) {
            meta::metadata(&mut object).insert("uid".to_owned(), uid.clone());
        }
        Ok(object.into())
    })
    .await
}

pub(crate) fn put_replicas(call: &Call, object: &mut Value, replicas: i32) {
    match custom_paths(call) {
        Some(paths) => set_nested(object, &paths.spec_replicas_path, replicas.into()),
        None => {
            meta::member(object, "spec").insert("replicas".to_owned(), replicas.into());
        }
    }
}

/// Applies a scale: the replicas alone, which the kind's other managers may own.
async fn apply(call: &mut Call) -> Result<Object, Status> {
    handlers::apply::options(call)?;
    let decoded = handlers::apply::read(call)?;
    let repeated = handlers::apply::repeated(call, &decoded.duplicates);
    let config = handlers::apply::identified(decoded.value, ("autoscaling", "v1", "Scale"))?;
    handlers::apply::named(call, &config)?;
    call.strictly(repeated)?;
    let force = call.query.flag("force");
    update(call, TARGET, |call, live| {
        let (scale, now) = (scale_of(call, &live.object), machinery::time::now());
        let manager = Manager { api_version: API_VERSION.to_owned(), ..call.manager(Operation::Apply) };
        let write = Write { versions: &ScaleVersions, version: API_VERSION, live: &scale, manager };
        let owners = live.managers();
        let applied = write.apply(&config, of_scale(call, &owners), force, &now);
        let applied = applied.map_err(|error| handlers::apply::refusal(&config, error))?;
        let scale = applied.object.unwrap_or_else(|| scale.clone());
        let replicas = replicas_of(call, &scale)?;
        let mut object = live.object.clone();
        put_replicas(call, &mut object, replicas);
        let version = meta::at(&config, &["metadata", "resourceVersion"]).cloned();
        meta::set(meta::metadata(&mut object), "resourceVersion", version);
        Ok(Written { object, managers: Some(of_object(call, owners, applied.managers)) })
    })
    .await
}

/// The scale as a kind of one version.
struct ScaleVersions;

impl Versions<'static> for ScaleVersions {
    type Place = Builtin<'static>;

    fn place(&self, version: &str) -> Option<Builtin<'static>> {
        let schema = Schema::builtin().kind("autoscaling", "v1", "Scale").filter(|_| version == API_VERSION)?;
        Some(Builtin::new(schema))
    }

    fn convert<'v>(&self, object: &'v Value, version: &str) -> Option<Cow<'v, Value>> {
        (version == API_VERSION).then_some(Cow::Borrowed(object))
    }

    fn writable(&self, fields: Set, _: &str) -> Set {
        fields
    }
}

/// Where the replicas are in a scale.
const REPLICAS: [&str; 2] = ["spec", "replicas"];

/// Where they are in the object.
fn replicas_path(call: &Call) -> Vec<&str> {
    match custom_paths(call) {
        Some(paths) => paths.spec_replicas_path.split('.').filter(|step| !step.is_empty()).collect(),
        None => REPLICAS.to_vec(),
    }
}

fn owns(owner: &Manager, path: &[&str]) -> bool {
    let path: Vec<Element> = path.iter().map(|name| Element::field(name)).collect();
    owner.fields.has(&path)
}

fn owns_replicas(call: &Call, owner: &Manager) -> bool {
    owner.api_version == call.served.api_version && owns(owner, &replicas_path(call))
}

/// The owners of an object's replicas, as owners of its scale's.
fn of_scale(call: &Call, owners: &Managers) -> Managers {
    let owners = owners.0.iter().filter(|owner| owns_replicas(call, owner));
    let scale =
        |owner: &Manager| Manager { api_version: API_VERSION.to_owned(), fields: Set::of(&REPLICAS), ..owner.clone() };
    Managers(owners.map(scale).collect())
}

/// The owners of an object after those of its scale changed.
fn of_object(call: &Call, owners: Managers, scale: Managers) -> Managers {
    let replicas = Set::of(&replicas_path(call));
    let scale = scale.0.into_iter().filter(|owner| owns(owner, &REPLICAS));
    let mut left: Vec<Manager> =
        scale.map(|owner| Manager { api_version: call.served.api_version.clone(), ..owner }).collect();
    let mut all = Managers::default();
    for mut owner in owners.0 {
        if owns_replicas(call, &owner) && !left.iter().any(|new| new.is(&owner)) {
            owner.fields = owner.fields.difference(&replicas);
        }
        if let Some(at) = left.iter().position(|new| new.is(&owner)) {
            let new = left.remove(at);
            owner = Manager { fields: owner.fields.union(&replicas), time: new.time, ..owner };
        }
        if !owner.fields.is_empty() {
            all.0.push(owner);
        }
    }
    all.0.extend(left.into_iter().map(|owner| Manager { fields: replicas.clone(), ..owner }));
    all
}

pub(crate) fn replicas_of(call: &Call, scale: &Value) -> Result<i32, Status> {
    let path = Path::new("spec").child("replicas");
    let given = meta::at(scale, &["spec", "replicas"]).cloned().unwrap_or_else(|| json!(0));
    let bad = |error| Status::invalid("autoscaling", "Scale", call.name(), vec![error]);
    match given.as_i64().map(i32::try_from) {
        Some(Ok(replicas)) if replicas >= 0 => Ok(replicas),
        Some(_) => Err(bad(FieldError::invalid(&path, given, "must be greater than or equal to 0"))),
        None => Err(Status::bad_request(format!(
            "Scale in version \"v1\" cannot be handled as a Scale: json: cannot unmarshal {given} into Go struct field ScaleSpec.spec.replicas of type int32"
        ))),
    }
}

pub(crate) fn scale_of(call: &Call, object: &Value) -> Value {
    let metadata = |field: &str| meta::at(object, &["metadata", field]).cloned();
    let mut own = json!({"name": call.name()});
    for field in ["namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = metadata(field) {
            own[field] = value;
        }
    }
    let paths = custom_paths(call);
    let number = |path: &str| nested(object, path).and_then(Value::as_i64).unwrap_or(0);
    let (wanted, present) =
        paths.map_or((".spec.replicas", ".status.replicas"), |p| (&p.spec_replicas_path, &p.status_replicas_path));
    let mut spec = json!({});
    if number(wanted) != 0 {
        spec["replicas"] = number(wanted).into();
    }
    let mut status = json!({"replicas": number(present)});
    let selector = match paths {
        Some(paths) => {
            nested(object, &paths.label_selector_path).and_then(Value::as_str).unwrap_or_default().to_owned()
        }
        None => selector_of(call, object),
    };
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    json!({"kind": "Scale", "apiVersion": API_VERSION, "metadata": own, "spec": spec, "status": status})
}

/// Where a custom kind keeps what a scale is made of.
fn custom_paths(call: &Call) -> Option<&Scale> {
    call.served.custom()?.scale()
}

/// Sets a value at a dotted path; objects on the way are made.
fn set_nested(object: &mut Value, path: &str, value: Value) {
    let names: Vec<&str> = path.trim_start_matches('.').split('.').collect();
    let Some((last, above)) = names.split_last() else { return };
    let mut at = object;
    for name in above {
        meta::member(at, name);
        at = &mut at[*name];
    }
    if let Some(map) = at.as_object_mut() {
        map.insert((*last).to_owned(), value);
    }
}

fn selector_of(call: &Call, object: &Value) -> String {
    let selector = meta::at(object, &["spec", "selector"]).cloned().unwrap_or_default();
    let parsed = if call.served.resource.plural == "replicationcontrollers" {
        LabelSelector::from_value(&json!({"matchLabels": selector}))
    } else {
        LabelSelector::from_value(&selector)
    };
    parsed.map(|selector| selector.to_string()).unwrap_or_default()
}
