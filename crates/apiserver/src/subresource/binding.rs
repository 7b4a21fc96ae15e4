//! `pods/binding`: the scheduler says where a pod runs.

use crate::body::Body;
use crate::call::Call;
use crate::context::Operation;
use crate::meta;
use crate::storage::KindStore;
use http::{Response, StatusCode};
use machinery::Status;
use machinery::field::{FieldError, Path};
use serde_json::{Value, json};

/// Serves a POST of a Binding, to `pods/NAME/binding` or to `bindings`.
pub(super) async fn bind(call: &mut Call) -> Result<Response<Body>, Status> {
    let mut binding = call.part_body("v1", "Binding")?;
    let name = if call.name().is_empty() { meta::name(&binding).to_owned() } else { call.name().to_owned() };
    if !meta::name(&binding).is_empty() && meta::name(&binding) != name {
        return Err(Status::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({name})",
            meta::name(&binding)
        )));
    }
    target(&binding)?;
    let dry_run = call.dry_run()?;
    call.admit_as("Binding", Operation::Create, Some(&mut binding), None, dry_run).await?;
    call.validate_as("Binding", Operation::Create, Some(&mut binding), None, dry_run).await?;
    let node = target(&binding)?;
    let pods = call.api.storage.kind("", "pods")?;
    if dry_run {
        assign(&mut pods.find(call.namespace(), &name)?.value(), &binding, &node, &name)?;
    } else {
        write(&pods, call.namespace(), &name, &binding, &node).await?;
    }
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(crate::respond::value(call.accept, StatusCode::CREATED, &status))
}

fn target(binding: &Value) -> Result<String, Status> {
    let path = Path::new("target");
    let (kind, name) = (meta::text_at(binding, &["target", "kind"]), meta::text_at(binding, &["target", "name"]));
    let mut errors = Vec::new();
    if !matches!(kind, "" | "Node") {
        errors.push(FieldError::not_supported(&path.child("kind"), kind, &["Node", "<empty>"]));
    }
    if name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    }
    if errors.is_empty() {
        Ok(name.to_owned())
    } else {
        Err(Status::invalid("", "Binding", meta::name(binding), errors))
    }
}

async fn write(pods: &KindStore, namespace: &str, name: &str, binding: &Value, node: &str) -> Result<(), Status> {
    pods.update(namespace, name, |pod| assign(pod, binding, node, name)).await?;
    Ok(())
}

/// Puts the node into the pod; 409 when the pod is elsewhere, gated or on its way out.
fn assign(pod: &mut Value, binding: &Value, node: &str, name: &str) -> Result<(), Status> {
    let conflict = |why: String| Err(Status::conflict("", "pods/binding", name, why));
    let (uid, wanted) = (meta::text(pod, "uid"), meta::text(binding, "uid"));
    if !wanted.is_empty() && wanted != uid {
        return conflict(format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {uid}"));
    }
    if meta::deleting(pod) {
        return conflict(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let current = meta::text_at(pod, &["spec", "nodeName"]);
    if !current.is_empty() {
        return conflict(format!("pod {name} is already assigned to node {current:?}"));
    }
    if meta::at(pod, &["spec", "schedulingGates"]).and_then(Value::as_array).is_some_and(|gates| !gates.is_empty()) {
        return conflict(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    meta::member(pod, "spec").insert("nodeName".to_owned(), node.into());
    for field in ["annotations", "labels"] {
        let extra = meta::at(binding, &["metadata", field]).and_then(Value::as_object).cloned().unwrap_or_default();
        let own = meta::metadata(pod).entry(field).or_insert(Value::Null);
        match own.as_object_mut() {
            Some(own) => own.extend(extra),
            None if extra.is_empty() => drop(meta::metadata(pod).remove(field)),
            None => *own = extra.into(),
        }
    }
    let generation = meta::generation(pod) + 1;
    meta::metadata(pod).insert("generation".to_owned(), generation.into());
    scheduled(pod);
    Ok(())
}

fn scheduled(pod: &mut Value) {
    let condition = json!({
        "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": machinery::time::now(),
    });
    let conditions = meta::member(pod, "status").entry("conditions").or_insert_with(|| json!([]));
    if let Some(conditions) = conditions.as_array_mut() {
        conditions.retain(|condition| condition["type"] != "PodScheduled");
        conditions.push(condition);
    }
}
