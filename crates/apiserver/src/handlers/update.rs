//! `update`, and what every change of a stored object goes through.

use super::create::store_new;
use crate::body::Body;
use crate::call::Call;
use crate::context::Operation;
use crate::meta;
use crate::ownership::{self, Live, Written};
use crate::storage::{Entry, Object};
use crate::strategy::{Part, keep_metadata, validate_metadata_update};
use crate::subresource::scale;
use http::{Response, StatusCode};
use machinery::Status;
use machinery::field::{FieldError, Path};
use serde_json::Value;
use std::sync::Arc;

/// How often a change is tried when others write in between.
const TRIES: usize = 10_000;

/// What a write changes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    /// The part of the object.
    pub(crate) part: Part,
    /// Admission is shown the object's scale in its place.
    pub(crate) scale: bool,
}

impl Target {
    pub(crate) fn main() -> Target {
        Target::of(Part::Main)
    }

    pub(crate) fn of(part: Part) -> Target {
        Target { part, scale: false }
    }

    /// Whether the client named the revision it changes.
    fn pinned(object: &Value) -> bool {
        !matches!(meta::text(object, "resourceVersion"), "" | "0")
    }
}

/// Serves a PUT of an object.
pub(super) async fn put(call: &mut Call) -> Result<Response<Body>, Status> {
    let store = Arc::clone(call.served.store()?);
    let dry_run = call.write_options()?;
    let mut object = call.object()?;
    if meta::name(&object).is_empty() {
        return Err(Status::bad_request(format!(
            "the name of the object ({} based on URL) was undeterminable: name must be provided",
            call.name()
        )));
    }
    call.place(&mut object)?;
    let unconditional = call.served.strategy.facts().unconditional_update;
    if store.get(call.namespace(), call.name()).is_none() && call.served.strategy.facts().create_on_update {
        meta::metadata(&mut object).remove("resourceVersion");
        return match store_new(call, object.into(), dry_run).await {
            Ok(created) => call.answer(StatusCode::CREATED, &created).await,
            Err(status) => Err(status),
        };
    }
    if meta::text(&object, "resourceVersion").is_empty() && !unconditional {
        let path = Path::new("metadata").child("resourceVersion");
        let errors = vec![FieldError::invalid(&path, 0, "must be specified for an update")];
        call.judge(meta::name(&object), errors)?;
    }
    let written = update(call, Target::main(), |_, _| Ok(object.clone().into())).await?;
    call.answer(StatusCode::OK, &written).await
}

/// Serves a PUT of a part.
pub(super) async fn put_part(call: &mut Call, target: Target) -> Result<Response<Body>, Status> {
    call.write_options()?;
    let mut object = call.object()?;
    call.place(&mut object)?;
    let written = update(call, target, |_, _| Ok(object.clone().into())).await?;
    call.answer(StatusCode::OK, &written).await
}

/// Reads the object, lets `transform` make the new one (in the served version), and takes it through admission, strategy and
/// validation into the store. When the new one names a `resourceVersion` it must be the present one; else the change is tried
/// again when somebody else wrote in between.
pub(crate) async fn update<F>(call: &mut Call, target: Target, mut transform: F) -> Result<Object, Status>
where
    F: FnMut(&mut Call, &Live) -> Result<Written, Status> + Send,
{
    let served = Arc::clone(&call.served);
    let store = served.store()?;
    let dry_run = call.dry_run()?;
    for _ in 0..TRIES {
        let entry = store.get(call.namespace(), call.name()).ok_or_else(|| served.not_found(call.name()))?;
        let live = served.live(&entry.object).await?;
        let old = &live.object;
        let warned = call.warnings.len();
        let mut written = transform(call, &live)?;
        let managed = call.owners_of_changed(target.part, &live, &mut written);
        let mut object = served.working_form(written.object);
        check_identity(call, &object, &entry)?;
        let pinned = Target::pinned(&object);
        meta::copy_revision(&mut object, old);
        admit(call, target, &mut object, old, dry_run).await?;
        let grace = meta::at(&object, &["metadata", "deletionGracePeriodSeconds"]).cloned();
        keep_metadata(&mut object, old);
        served.strategy.prepare_update(target.part, &mut object, old);
        keep_metadata(&mut object, old);
        judge(call, target, &object, old, grace)?;
        if target.part == Part::Main && served.custom().is_none() {
            let info = store.info();
            call.warnings.extend(api::warnings(&info.group, &info.kind, &object, Some(old)));
        }
        validate(call, target, &mut object, old, dry_run).await?;
        ownership::put(&mut object, managed, &live);
        match commit(call, &entry, &mut object, old, dry_run).await? {
            Some(done) => return Ok(done),
            None if pinned => return Err(served.modified(call.name())),
            None => call.warnings.truncate(warned),
        }
    }
    Err(served.modified(call.name()))
}

async fn admit(call: &Call, target: Target, object: &mut Value, old: &Value, dry_run: bool) -> Result<(), Status> {
    if !target.scale {
        return call.admit(Operation::Update, Some(object), Some(old), dry_run).await;
    }
    let (mut scale, old) = (scale::scale_of(call, object), scale::scale_of(call, old));
    call.admit_as(scale::KIND, Operation::Update, Some(&mut scale), Some(&old), dry_run).await?;
    let replicas = scale::replicas_of(call, &scale)?;
    scale::put_replicas(call, object, replicas);
    Ok(())
}

async fn validate(call: &Call, target: Target, object: &mut Value, old: &Value, dry_run: bool) -> Result<(), Status> {
    if !target.scale {
        return call.validate(Operation::Update, Some(object), Some(old), dry_run).await;
    }
    let (mut scale, old) = (scale::scale_of(call, object), scale::scale_of(call, old));
    call.validate_as(scale::KIND, Operation::Update, Some(&mut scale), Some(&old), dry_run).await
}

/// 409 when the new object is about another one than is stored.
fn check_identity(call: &Call, object: &Value, entry: &Entry) -> Result<(), Status> {
    let version = meta::text(object, "resourceVersion");
    if !version.is_empty() && version != "0" && version != entry.object.revision.to_string() {
        return Err(call.served.modified(call.name()));
    }
    let uid = meta::text(object, "uid");
    // Of a patch, validation says so.
    if !uid.is_empty() && uid != &*entry.uid && call.attributes.verb != "patch" {
        let resource = &call.served.resource;
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", entry.uid);
        return Err(Status::conflict(&resource.group, &resource.plural, call.name(), why));
    }
    Ok(())
}

/// What is wrong with the change. `grace` is the grace the client wrote, which only a deletion sets.
fn judge(call: &Call, target: Target, object: &Value, old: &Value, grace: Option<Value>) -> Result<(), Status> {
    let Some(store) = &call.served.store else { return Ok(()) };
    let info = store.info();
    let mut errors = validate_metadata_update(object, old);
    if let Some(grace) = grace.filter(|grace| !grace.is_null())
        && Some(&grace) != meta::at(old, &["metadata", "deletionGracePeriodSeconds"])
    {
        let path = Path::new("metadata").child("deletionGracePeriodSeconds");
        errors.push(FieldError::invalid(&path, grace, "field is immutable"));
    }
    if errors.is_empty() {
        let own = call.served.strategy.validate_update(target.part, object, old);
        errors.extend(own);
        if matches!(target.part, Part::Main) {
            let kind = (&*info.group, &*info.version, &*info.kind);
            let more = call.served.typing.validate_update(kind, object, old, &call.warnings);
            let own = errors.len();
            for error in more {
                if !errors[..own].iter().any(|known| known.path == error.path && known.kind == error.kind) {
                    errors.push(error);
                }
            }
        } else if matches!(target.part, Part::Status) {
            errors.extend(call.served.typing.validate_status((&info.group, &info.version, &info.kind), object, old));
        }
    }
    call.judge(call.name(), errors)
}

/// Writes the change; when it was the last thing that kept a deleted object, removes it. None when somebody else wrote.
async fn commit(
    call: &Call,
    entry: &Entry,
    object: &mut Value,
    old: &Value,
    dry_run: bool,
) -> Result<Option<Object>, Status> {
    let store = call.served.store()?;
    let info = store.info();
    let (held, chain) = ((&*info.group, &*info.resource), &call.api.chain);
    chain.reserve(held, object, Some(old), dry_run).await?;
    if dry_run {
        return Ok(Some(Object::encoded(object, entry.object.revision)));
    }
    if ends_deletion(call, object) {
        let removed = store.remove(entry).await?;
        let (kept, dropped) = if removed.is_some() { (None, old) } else { (Some(old), &*object) };
        chain.settle(held, kept, Some(dropped)).await;
        return Ok(removed.map(|removed| Object::encoded(object, removed.revision)));
    }
    let result = match call.served.stored_form(object).await {
        Ok(stored) => store.replace(entry, &stored).await,
        Err(status) => Err(status),
    };
    let (kept, dropped) = if matches!(result, Ok(Some(_))) { (&*object, old) } else { (old, &*object) };
    chain.settle(held, Some(kept), Some(dropped)).await;
    result
}

/// Whether an object that is being deleted has nothing left that keeps it.
fn ends_deletion(call: &Call, object: &Value) -> bool {
    let grace = meta::at(object, &["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64);
    meta::deleting(object)
        && grace.unwrap_or(0) == 0
        && meta::finalizers(object).is_empty()
        && !call.served.strategy.held(object)
}
