//! Server-side apply: a PATCH that says what the object shall be, as far as its author cares (KEP-555).

use super::create::store_new;
use super::update::{Target, update};
use crate::body::Body;
use crate::call::Call;
use crate::decode::{Decoded, decode};
use crate::meta;
use crate::ownership::{Kinds, Live, Written};
use http::{Response, StatusCode};
use machinery::Status;
use machinery::apply::{Applied, ApplyError, Conflict, Managers, Operation, Set, Versions, Write, compare, extract};
use machinery::field::{FieldError, Path};
use serde_json::Value;
use std::sync::Arc;

/// The media type of an applied object; JSON is YAML, too.
pub(crate) const APPLY: &str = "application/apply-patch+yaml";
/// The client that applied on its own side before, and what it left.
const KUBECTL: &str = "kubectl";
const LAST_APPLIED: [&str; 3] = ["metadata", "annotations", "kubectl.kubernetes.io/last-applied-configuration"];
/// All annotations of an object together, in bytes.
const ANNOTATIONS_BYTES_MAX: usize = 256 << 10;

/// Serves an apply to an object or a part of it; makes the object when it is not there.
pub(super) async fn apply(call: &mut Call, target: Target) -> Result<Response<Body>, Status> {
    let dry_run = options(call)?;
    let config = config(call)?;
    let served = Arc::clone(&call.served);
    let store = served.store()?;
    let whole = call.attributes.subresource.is_empty();
    if whole && store.get(call.namespace(), call.name()).is_none() {
        let warned = call.warnings.len();
        match create(call, &config, dry_run).await {
            // Somebody else was quicker.
            Err(status) if status.reason == "AlreadyExists" => call.warnings.truncate(warned),
            created => return created,
        }
    }
    let written = update(call, target, |call, live| {
        let pinned = meta::at(&config, &["metadata", "resourceVersion"]).is_some();
        let mut written = onto(call, target, live, &config)?;
        if !pinned {
            meta::metadata(&mut written.object).remove("resourceVersion");
        }
        call.identify_patched(&mut written.object)?;
        written.object = call.complete(written.object, Vec::new())?;
        Ok(written)
    })
    .await?;
    call.answer(StatusCode::OK, &written).await
}

/// 422 unless the options are as they must be; whether it is a dry run.
pub(crate) fn options(call: &Call) -> Result<bool, Status> {
    let dry_run = call.write_options()?;
    if call.query.get("fieldManager").is_none() {
        let why = "is required for apply patch";
        return Err(call.bad_option(FieldError::required(&Path::new("fieldManager"), why)));
    }
    Ok(dry_run)
}

/// The applied object: of the right kind, about the object of the URL.
fn config(call: &mut Call) -> Result<Value, Status> {
    let Decoded { value, duplicates } = read(call)?;
    let (group, version) = api::catalogue::split_api_version(&call.served.api_version);
    let kind = call.served.resource.kind.clone();
    let config = identified(value, (group, version, &kind))?;
    named(call, &config)?;
    call.strictly(repeated(call, &duplicates))?;
    Ok(config)
}

/// What stands twice, with its line where that can be told.
pub(crate) fn repeated(call: &Call, duplicates: &[String]) -> Vec<String> {
    if duplicates.is_empty() {
        return Vec::new();
    }
    let lines = super::repeated::lines(&String::from_utf8_lossy(&call.body));
    if lines.len() == duplicates.len() {
        return lines.iter().map(|(line, key)| format!("line {line}: key {key:?} already set in map")).collect();
    }
    let key = |path: &str| path.rsplit(['.', '"']).find(|step| !step.is_empty()).unwrap_or_default().to_owned();
    duplicates.iter().map(|duplicate| format!("key {:?} already set in map", key(duplicate))).collect()
}

/// The body; what stands in it twice is told apart.
pub(crate) fn read(call: &Call) -> Result<Decoded, Status> {
    // Nearly all clients send JSON, which reads faster.
    let json = call.body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    let decoded = if json { decode("application/json", &call.body).ok() } else { None };
    let decoded = match decoded {
        Some(decoded) => decoded,
        None => decode("application/yaml", &call.body)
            .map_err(|status| Status::bad_request(format!("error decoding patch: {}", status.message)))?,
    };
    match decoded.value {
        Value::Object(_) | Value::Null => Ok(decoded),
        other => Err(Status::bad_request(format!(
            "error decoding patch: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            match other {
                Value::Array(_) => "array",
                Value::String(_) => "string",
                Value::Bool(_) => "bool",
                _ => "number",
            }
        ))),
    }
}

/// 400 unless an object says that it is of a kind.
pub(crate) fn identified(object: Value, (group, version, kind): (&str, &str, &str)) -> Result<Value, Status> {
    let (given, given_kind) = (meta::text_at(&object, &["apiVersion"]), meta::text_at(&object, &["kind"]));
    if given == api::catalogue::api_version(group, version) && given_kind == kind {
        return Ok(object);
    }
    let (group, version) = api::catalogue::split_api_version(given);
    Err(Status::bad_request(format!("invalid object type: {group}/{version}, Kind={given_kind}")))
}

/// 400 unless name and namespace are those of the URL.
pub(crate) fn named(call: &Call, config: &Value) -> Result<(), Status> {
    let (name, namespace) = (meta::name(config), meta::text(config, "namespace"));
    if name.is_empty() && meta::at(config, &["metadata"]).is_none_or(Value::is_object) {
        return Err(Status::bad_request(format!(
            "the name of the object ({} based on URL) was undeterminable: name must be provided",
            call.name()
        )));
    }
    if !name.is_empty() && name != call.name() {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            call.name()
        )));
    }
    if call.served.resource.namespaced && !namespace.is_empty() && namespace != call.namespace() {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    if meta::at(config, &["metadata", "managedFields"]).is_some() {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    Ok(())
}

async fn create(call: &mut Call, config: &Value, dry_run: bool) -> Result<Response<Body>, Status> {
    let resource = Arc::clone(&call.served.resource);
    let live = Live { object: call.served.working_form(call.zero()), managed: None };
    let mut written = onto(call, Target::main(), &live, config)?;
    let uid = meta::text(&written.object, "uid");
    if !uid.is_empty() {
        let why = format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
        return Err(Status::conflict(&resource.group, &resource.plural, call.name(), why));
    }
    call.identify_patched(&mut written.object)?;
    written.object = call.complete(written.object, Vec::new())?;
    meta::metadata(&mut written.object).remove("resourceVersion");
    call.place(&mut written.object)?;
    let created = store_new(call, written, dry_run).await?;
    call.answer(StatusCode::CREATED, &created).await
}

/// The live object with the applied one on top, and who owns what then.
fn onto(call: &Call, target: Target, live: &Live, config: &Value) -> Result<Written, Status> {
    let managers = match live.managed.as_deref().map(Managers::from_json).transpose() {
        Ok(managers) => managers.unwrap_or_default(),
        Err(why) => return Err(Status::internal(format!("failed to decode managed fields: {why}"))),
    };
    let (kinds, was) = (Kinds { call, part: target.part }, live.served(&call.served));
    let manager = call.manager(Operation::Apply);
    let by_kubectl = manager.name == KUBECTL;
    let write = Write { versions: &kinds, version: &call.served.api_version, live: &was, manager };
    let now = machinery::time::now();
    let managers = if managers.0.is_empty() { write.before_first_apply(&call.zero(), &now) } else { managers };
    let force = call.query.flag("force");
    let applied = match write.apply(config, managers.clone(), force, &now) {
        Err(ApplyError::Conflicts(conflicts)) if by_kubectl => upgraded(&write, config, managers, conflicts, &now),
        other => other,
    };
    let Applied { object, managers } = applied.map_err(|error| refusal(config, error))?;
    let mut object = object.unwrap_or_else(|| was.into_owned());
    if by_kubectl && !meta::text_at(&object, &LAST_APPLIED).is_empty() {
        remember(&mut object, config);
    }
    Ok(Written { object, managers: Some(managers) })
}

/// What kubectl itself applied before, on its side, it takes over without conflict.
fn upgraded(
    write: &Write<'_, Kinds<'_>>,
    config: &Value,
    managers: Managers,
    conflicts: Vec<Conflict>,
    now: &str,
) -> Result<Applied, ApplyError> {
    let Some(own) = last_applied(write) else { return Err(ApplyError::Conflicts(conflicts)) };
    let others: Vec<Conflict> = conflicts.into_iter().filter(|conflict| !conflict.is_in(&own)).collect();
    if others.is_empty() { write.apply(config, managers, true, now) } else { Err(ApplyError::Conflicts(others)) }
}

/// The fields that were applied last from the client's side and are still as they were.
fn last_applied(write: &Write<'_, Kinds<'_>>) -> Option<Set> {
    let text = meta::text_at(write.live, &LAST_APPLIED);
    let last: Value = serde_json::from_str(text).ok()?;
    let place = write.versions.place(write.version)?;
    if meta::text_at(&last, &["apiVersion"]) != write.version || machinery::apply::check(&last, place).is_err() {
        return None;
    }
    let change = compare(&last, write.live, place);
    Some(extract(&last, place).difference(&change.set).difference(&change.removed))
}

/// Keeps the annotation of client-side apply as if that had been used.
fn remember(object: &mut Value, config: &Value) {
    let mut config = config.clone();
    let [_, field, key] = LAST_APPLIED;
    if let Some(annotations) = meta::metadata(&mut config).get_mut(field).and_then(Value::as_object_mut) {
        annotations.remove(key);
    }
    let Some(annotations) = meta::metadata(object).get_mut(field).and_then(Value::as_object_mut) else { return };
    annotations.insert(key.to_owned(), format!("{config}\n").into());
    let bytes = |(key, value): (&String, &Value)| key.len() + value.as_str().map_or(0, str::len);
    if annotations.iter().map(bytes).sum::<usize>() > ANNOTATIONS_BYTES_MAX {
        annotations.insert(key.to_owned(), "".into());
    }
}

/// Upstream's words.
pub(crate) fn refusal(config: &Value, error: ApplyError) -> Status {
    let message = error.message();
    match error {
        ApplyError::Invalid(why) => {
            let (group, version) = api::catalogue::split_api_version(meta::text_at(config, &["apiVersion"]));
            let kind = meta::text_at(config, &["kind"]);
            let slash = format!("{}/{}", meta::text(config, "namespace"), meta::name(config));
            Status::new(
                500,
                "",
                format!("failed to create typed patch object ({slash}; {group}/{version}, Kind={kind}): {why}"),
            )
        }
        ApplyError::Conflicts(conflicts) => {
            conflicts.iter().fold(Status::new(409, "Conflict", message), |status, one| {
                let what = format!("conflict with {}", one.manager.describe());
                status.with_cause("FieldManagerConflict", &one.path.to_string(), what)
            })
        }
    }
}
