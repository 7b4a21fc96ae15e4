//! `scale`: the number of replicas, whatever the kind.

use crate::body::Body;
use crate::call::Call;
use crate::decode::decode;
use crate::handlers::{Target, update};
use crate::meta;
use crate::storage::Object;
use http::{Response, StatusCode};
use machinery::field::{FieldError, Path};
use machinery::selector::LabelSelector;
use machinery::{Status, patch};
use serde_json::{Value, json};

const API_VERSION: &str = "autoscaling/v1";

/// Serves a request to the scale of an object.
pub(super) async fn handle(call: &mut Call) -> Result<Response<Body>, Status> {
    let object = match &*call.attributes.verb.clone() {
        "get" => {
            let entry = call.served.store()?.get(call.namespace(), call.name());
            entry.ok_or_else(|| call.served.not_found(call.name()))?.object.clone()
        }
        "update" => {
            let mut wanted = decode(&call.content_type, &call.body)?.value;
            call.identify(&mut wanted, API_VERSION, "Scale")?;
            set(call, |_, _| Ok(wanted.clone())).await?
        }
        _ => {
            let change = decode("application/json", &call.body)?.value;
            let json_patch = match &*call.content_type {
                "application/json-patch+json" => true,
                "application/merge-patch+json" | "application/strategic-merge-patch+json" => false,
                "application/apply-patch+yaml" => {
                    return Err(Status::not_implemented("server-side apply is not implemented yet"));
                }
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
    let scale = scale_of(call, &object.value());
    call.answer_value(StatusCode::OK, scale)
}

/// Changes the replicas to what `wanted` makes of the present scale.
async fn set<F>(call: &mut Call, mut wanted: F) -> Result<Object, Status>
where
    F: FnMut(&Call, Value) -> Result<Value, Status> + Send,
{
    update(call, Target::main(), |call, entry| {
        let mut object = entry.value();
        let scale = wanted(call, scale_of(call, &object))?;
        let replicas = replicas_of(call, &scale)?;
        meta::member(&mut object, "spec").insert("replicas".to_owned(), replicas.into());
        // The revision is the client's, not the one just read.
        let version = meta::text(&scale, "resourceVersion").to_owned();
        meta::set(meta::metadata(&mut object), "resourceVersion", (!version.is_empty()).then(|| version.into()));
        if let Some(uid) = meta::at(&scale, &["metadata", "uid"]) {
            meta::metadata(&mut object).insert("uid".to_owned(), uid.clone());
        }
        Ok(object)
    })
    .await
}

fn replicas_of(call: &Call, scale: &Value) -> Result<i32, Status> {
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

fn scale_of(call: &Call, object: &Value) -> Value {
    let metadata = |field: &str| meta::at(object, &["metadata", field]).cloned();
    let mut own = json!({"name": call.name()});
    for field in ["namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = metadata(field) {
            own[field] = value;
        }
    }
    let number = |path: &[&str]| meta::at(object, path).and_then(Value::as_i64).unwrap_or(0);
    let mut spec = json!({});
    if number(&["spec", "replicas"]) != 0 {
        spec["replicas"] = number(&["spec", "replicas"]).into();
    }
    let mut status = json!({"replicas": number(&["status", "replicas"])});
    let selector = selector_of(call, object);
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    json!({"kind": "Scale", "apiVersion": API_VERSION, "metadata": own, "spec": spec, "status": status})
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
