//! `delete` and `deletecollection`: grace, finalizers, and what becomes of dependents.

use super::options::selection;
use crate::body::Body;
use crate::call::Call;
use crate::context::Operation;
use crate::decode::decode;
use crate::meta;
use crate::storage::{Entry, Object, Preconditions};
use http::{Response, StatusCode};
use jiff::{Timestamp, ToSpan};
use machinery::Status;
use machinery::field::{FieldError, Path};
use serde_json::{Value, json};
use std::sync::Arc;

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
const TRIES: usize = 10_000;

/// What becomes of dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Propagation {
    Orphan,
    Background,
    Foreground,
}

/// `metav1.DeleteOptions`.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteOptions {
    pub(crate) grace_seconds: Option<i64>,
    pub(crate) preconditions: Preconditions,
    propagation: Option<Propagation>,
    /// The client asked for dependents to go, by the old option.
    cascades: bool,
    pub(crate) dry_run: bool,
}

impl DeleteOptions {
    /// From the body, or else from the query.
    fn parse(call: &Call) -> Result<DeleteOptions, Status> {
        let body = if call.body.is_empty() { from_query(call)? } else { decode(&call.content_type, &call.body)?.value };
        let mut options = DeleteOptions::read(&body)?;
        options.dry_run |= call.dry_run()?;
        Ok(options)
    }

    /// From an object.
    pub(crate) fn read(body: &Value) -> Result<DeleteOptions, Status> {
        let invalid = |error| Status::invalid("meta.k8s.io", "DeleteOptions", "", vec![error]);
        let path = Path::new("propagationPolicy");
        let orphan = meta::at(body, &["orphanDependents"]).and_then(Value::as_bool);
        let policy = meta::text_at(body, &["propagationPolicy"]);
        if orphan.is_some() && !policy.is_empty() {
            return Err(invalid(FieldError::invalid(
                &path,
                policy,
                "orphanDependents and deletionPropagation cannot be both set",
            )));
        }
        let propagation = match (policy, orphan) {
            ("Orphan", _) | ("", Some(true)) => Some(Propagation::Orphan),
            ("Background", _) | ("", Some(false)) => Some(Propagation::Background),
            ("Foreground", _) => Some(Propagation::Foreground),
            ("", None) => None,
            (other, _) => {
                return Err(invalid(FieldError::not_supported(&path, other, &["Background", "Foreground", "Orphan"])));
            }
        };
        let dry_run = meta::at(body, &["dryRun"]).and_then(Value::as_array).cloned().unwrap_or_default();
        if let Some(other) = dry_run.iter().find(|value| *value != "All") {
            return Err(invalid(FieldError::not_supported(&Path::new("dryRun"), other.clone(), &["All"])));
        }
        let text = |field: &str| meta::at(body, &["preconditions", field]).and_then(Value::as_str).map(str::to_owned);
        let revision = text("resourceVersion").map(|text| text.parse().unwrap_or(0));
        let grace = meta::at(body, &["gracePeriodSeconds"]).and_then(Value::as_i64);
        Ok(DeleteOptions {
            grace_seconds: grace.map(|seconds| if seconds < 0 { 1 } else { seconds }),
            preconditions: Preconditions { uid: text("uid"), revision },
            propagation,
            cascades: orphan == Some(false),
            dry_run: !dry_run.is_empty(),
        })
    }

    /// The finalizers an object gets for what becomes of its dependents.
    fn finalizers(&self, object: &Value, orphans_by_default: bool) -> Vec<String> {
        let mut finalizers = meta::finalizers(object);
        let has = |name: &str| finalizers.iter().any(|finalizer| finalizer == name);
        let propagation = self.propagation.unwrap_or(match (has(ORPHAN), has(FOREGROUND)) {
            (true, _) => Propagation::Orphan,
            (_, true) => Propagation::Foreground,
            _ if orphans_by_default => Propagation::Orphan,
            _ => Propagation::Background,
        });
        finalizers.retain(|name| name != ORPHAN && name != FOREGROUND);
        match propagation {
            Propagation::Orphan => finalizers.push(ORPHAN.to_owned()),
            Propagation::Foreground => finalizers.push(FOREGROUND.to_owned()),
            Propagation::Background => {}
        }
        finalizers
    }
}

fn from_query(call: &Call) -> Result<Value, Status> {
    let mut options = json!({});
    if let Some(seconds) = call.query.number::<i64>("gracePeriodSeconds")? {
        options["gracePeriodSeconds"] = seconds.into();
    }
    if let Some(policy) = call.query.get("propagationPolicy") {
        options["propagationPolicy"] = policy.into();
    }
    if call.query.get("orphanDependents").is_some() {
        options["orphanDependents"] = call.query.flag("orphanDependents").into();
    }
    Ok(options)
}

/// How a deletion went.
pub(crate) struct Deleted {
    pub(crate) object: Object,
    /// It is gone; else it is on its way.
    pub(crate) gone: bool,
}

/// Serves a DELETE of one object.
pub(super) async fn delete(call: &mut Call) -> Result<Response<Body>, Status> {
    let options = DeleteOptions::parse(call)?;
    let (namespace, name) = (call.namespace().to_owned(), call.name().to_owned());
    warn_of_orphans(call, &options);
    let deleted = delete_one(call, &namespace, &name, &options).await?;
    let returns = call.served.strategy.facts().returns_deleted;
    if deleted.gone && !returns {
        let status = success(call, &deleted.object.value());
        return Ok(crate::respond::value(call.accept, StatusCode::OK, &status));
    }
    let code = if !deleted.gone && options.cascades { StatusCode::ACCEPTED } else { StatusCode::OK };
    call.answer(code, &deleted.object).await
}

fn warn_of_orphans(call: &mut Call, options: &DeleteOptions) {
    if call.served.resource.plural == "jobs" && options.propagation.is_none() {
        call.warnings.push(
            "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning".to_owned(),
        );
    }
}

fn success(call: &Call, object: &Value) -> Value {
    let resource = &call.served.resource;
    let mut details = json!({"name": meta::name(object), "kind": resource.plural, "uid": meta::text(object, "uid")});
    if !resource.group.is_empty() {
        details["group"] = json!(resource.group);
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

/// Deletes an object, or begins to.
pub(crate) async fn delete_one(
    call: &mut Call,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
) -> Result<Deleted, Status> {
    let served = Arc::clone(&call.served);
    let store = served.store()?;
    name.clone_into(&mut call.attributes.name);
    for _ in 0..TRIES {
        let entry = store.get(namespace, name).ok_or_else(|| served.not_found(name))?;
        options
            .preconditions
            .check(store.info(), &entry)
            .map_err(|status| Status { details: status.details, ..status })?;
        let old = entry.value();
        let converted = served.converted(&entry.object).await?;
        let shown = Some(converted.as_ref().unwrap_or(&old));
        call.admit(Operation::Delete, None, shown, options.dry_run).await?;
        call.validate(Operation::Delete, None, shown, options.dry_run).await?;
        match plan(call, &old, options) {
            Plan::Keep => return Ok(Deleted { object: entry.object.clone(), gone: false }),
            Plan::Mark(object) => {
                if let Some(object) = mark(call, &entry, &object, options.dry_run).await? {
                    return Ok(Deleted { object, gone: false });
                }
            }
            Plan::Remove(object) => {
                if let Some(object) = remove(call, &entry, &object, options.dry_run).await? {
                    return Ok(Deleted { object, gone: true });
                }
            }
        }
    }
    Err(served.modified(name))
}

async fn mark(call: &Call, entry: &Entry, object: &Value, dry_run: bool) -> Result<Option<Object>, Status> {
    if dry_run {
        return Ok(Some(Object::encoded(object, entry.object.revision)));
    }
    call.served.store()?.replace(entry, object).await
}

async fn remove(call: &Call, entry: &Entry, object: &Value, dry_run: bool) -> Result<Option<Object>, Status> {
    if dry_run {
        return Ok(Some(entry.object.clone()));
    }
    let store = call.served.store()?;
    let removed = store.remove(entry).await?;
    if removed.is_some() {
        call.api.chain.settle((&store.info().group, &store.info().resource), None, Some(object)).await;
    }
    Ok(removed.map(|removed| Object::encoded(object, removed.revision)))
}

/// What a deletion does to an object.
enum Plan {
    /// Nothing: it is on its way already.
    Keep,
    /// It is marked and stays for now.
    Mark(Value),
    /// It goes; this is its last state.
    Remove(Value),
}

fn plan(call: &Call, old: &Value, options: &DeleteOptions) -> Plan {
    let strategy = &call.served.strategy;
    let mut object = old.clone();
    let finalizers = options.finalizers(old, strategy.facts().orphans_by_default);
    let stays = !finalizers.is_empty() || strategy.held(old);
    meta::set(meta::metadata(&mut object), "finalizers", (!finalizers.is_empty()).then(|| json!(finalizers)));
    let grace = strategy.grace_seconds(old, options.grace_seconds);
    if meta::deleting(old) {
        return plan_again(old, object, grace.is_some(), options.grace_seconds, stays);
    }
    let seconds = grace.unwrap_or(0);
    if seconds == 0 && !stays {
        return Plan::Remove(object);
    }
    set_deletion(&mut object, Timestamp::now(), seconds);
    let generation = meta::generation(old);
    if generation > 0 {
        meta::metadata(&mut object).insert("generation".to_owned(), json!(generation + 1));
    }
    strategy.begin_deletion(&mut object);
    Plan::Mark(object)
}

/// The plan for an object that is being deleted already: grace can only get shorter.
fn plan_again(old: &Value, mut object: Value, graceful: bool, requested: Option<i64>, stays: bool) -> Plan {
    let was = meta::at(old, &["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64).unwrap_or(0);
    let finalizers_changed = meta::finalizers(old) != meta::finalizers(&object);
    match requested {
        _ if !graceful || was == 0 => {}
        Some(seconds) if seconds < was => {
            let until = machinery::time::parse(meta::text(old, "deletionTimestamp")).unwrap_or_else(Timestamp::now);
            let began = until.checked_sub(was.seconds()).unwrap_or(until);
            let left = began.checked_add(seconds.seconds()).unwrap_or(began).duration_since(Timestamp::now()).as_secs();
            if seconds == 0 && !stays {
                return Plan::Remove(object);
            }
            // Grace that has run out already ends as soon as somebody looks.
            let seconds = if left < 0 && seconds != 0 { 1 } else { seconds };
            let start = if left < 0 { Timestamp::now().checked_sub(seconds.seconds()).unwrap_or(began) } else { began };
            set_deletion(&mut object, start, seconds);
            return Plan::Mark(object);
        }
        _ if finalizers_changed => return Plan::Mark(object),
        _ => return Plan::Keep,
    }
    match (stays, finalizers_changed) {
        (false, _) => Plan::Remove(object),
        (true, true) => Plan::Mark(object),
        (true, false) => Plan::Keep,
    }
}

fn set_deletion(object: &mut Value, start: Timestamp, seconds: i64) {
    let until = start.checked_add(seconds.seconds()).unwrap_or(start);
    let metadata = meta::metadata(object);
    metadata.insert("deletionTimestamp".to_owned(), machinery::time::format(until).into());
    metadata.insert("deletionGracePeriodSeconds".to_owned(), json!(seconds));
}

/// Serves a DELETE of a collection.
pub(super) async fn delete_collection(call: &mut Call) -> Result<Response<Body>, Status> {
    let options = DeleteOptions::parse(call)?;
    let store = Arc::clone(call.served.store()?);
    let entries = store.select(&selection(call)?);
    let mut items = Vec::with_capacity(entries.len());
    for entry in entries {
        match delete_one(call, entry.namespace(), entry.name(), &options).await {
            Ok(deleted) => items.push(deleted.object),
            Err(status) if status.code == 404 => {}
            Err(status) => return Err(status),
        }
    }
    let items = call.served.values(&items.iter().collect::<Vec<_>>()).await?;
    let list = json!({
        "kind": call.served.resource.list_kind, "apiVersion": call.served.api_version,
        "metadata": {"resourceVersion": store.revision().to_string()}, "items": items,
    });
    Ok(crate::respond::value(call.accept, StatusCode::OK, &list))
}
