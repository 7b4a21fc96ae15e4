//! `create`: a new object.

use crate::body::Body;
use crate::call::Call;
use crate::context::Operation;
use crate::meta;
use crate::ownership::Written;
use crate::parts;
use crate::storage::Object;
use http::{Response, StatusCode};
use machinery::Status;
use machinery::field::{FieldError, Path};
use serde_json::{Value, json};
use std::sync::Arc;

/// Letters of generated names: none that make words, none that look alike.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LEN: usize = 5;
/// The longest name that gets a suffix; the rest is cut.
const GENERATE_NAME_MAX: usize = 63 - SUFFIX_LEN;
/// How often a generated name is tried.
const GENERATE_TRIES: usize = 8;

/// Serves a POST.
pub(super) async fn create(call: &mut Call) -> Result<Response<Body>, Status> {
    let dry_run = call.write_options()?;
    let mut object = call.object()?;
    call.place(&mut object)?;
    let generate = meta::name(&object).is_empty() && !meta::text(&object, "generateName").is_empty();
    let mut tries = 0;
    loop {
        tries += 1;
        let mut attempt = object.clone();
        if generate {
            let name = generated(meta::text(&object, "generateName"));
            meta::metadata(&mut attempt).insert("name".to_owned(), name.into());
        }
        match store_new(call, attempt.into(), dry_run).await {
            Err(status) if generate && status.reason == "AlreadyExists" && tries < GENERATE_TRIES => {}
            Err(status) => return Err(status),
            Ok(created) => return call.answer(StatusCode::CREATED, &created).await,
        }
    }
}

/// `base` and five random letters.
fn generated(base: &str) -> String {
    let mut end = base.len().min(GENERATE_NAME_MAX);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = base[..end].to_owned();
    name.extend((0..SUFFIX_LEN).map(|_| char::from(ALPHABET[fastrand::usize(..ALPHABET.len())])));
    name
}

/// Takes an object of the served version through admission, strategy and validation into the store.
pub(super) async fn store_new(call: &mut Call, mut written: Written, dry_run: bool) -> Result<Object, Status> {
    let served = Arc::clone(&call.served);
    let store = served.store()?;
    let managed = call.owners_of_new(&mut written);
    let mut object = served.working_form(written.object);
    let named = meta::name(&object).to_owned();
    if meta::at(&object, &["metadata", "resourceVersion"]).is_some_and(|version| version != "") {
        return Err(Status::internal("resourceVersion should not be set on objects to be created"));
    }
    call.attributes.name.clone_from(&named);
    if served.custom().is_some_and(|version| version.terminating()) {
        let why = "create not allowed while custom resource definition is terminating";
        return Err(Status::forbidden(&served.resource.group, &served.resource.plural, &named, why));
    }
    wipe(&mut object);
    call.admit(Operation::Create, Some(&mut object), None, dry_run).await?;
    begin(&mut object);
    served.strategy.prepare_create(&mut object);
    served.strategy.note_creator(&mut object, &call.attributes.user);
    let (group, kind) = (store.info().group.clone(), store.info().kind.clone());
    let mut errors = served.typing.validate_create((&group, &store.info().version, &kind), &object);
    errors.extend(served.strategy.validate_create(&object));
    if named.is_empty() {
        let path = Path::new("metadata").child("name");
        let detail = "name or generateName is required";
        errors.retain(|error| error.path.as_str() != "metadata.name");
        errors.insert(0, FieldError::required(&path, detail));
    }
    call.judge(&named, errors)?;
    if served.custom().is_none() {
        call.warnings.extend(api::warnings(&group, &kind, &object, None));
    }
    call.validate(Operation::Create, Some(&mut object), None, dry_run).await?;
    let held = (&*group, &*store.info().resource);
    call.api.chain.reserve(held, &mut object, None, dry_run).await?;
    parts::join(&mut object, managed.as_deref());
    if dry_run {
        if store.get(meta::text(&object, "namespace"), &named).is_some() {
            return Err(Status::already_exists(&served.resource.group, &served.resource.plural, &named));
        }
        return Ok(Object { revision: 0, body: crate::encode::encode(&object) });
    }
    let result = match served.stored_form(&object).await {
        Ok(stored) => store.insert(&stored).await,
        Err(status) => Err(status),
    };
    if result.is_err() {
        call.api.chain.settle(held, None, Some(&object)).await;
    }
    result.map_err(|status| match &*status.reason {
        "AlreadyExists" => Status::already_exists(&served.resource.group, &served.resource.plural, &named),
        _ => status,
    })
}

/// What no client may set.
fn wipe(object: &mut Value) {
    let metadata = meta::metadata(object);
    let system = ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"];
    for field in system.into_iter().chain(["managedFields", "resourceVersion"]) {
        metadata.remove(field);
    }
}

/// What every new object gets.
fn begin(object: &mut Value) {
    let metadata = meta::metadata(object);
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion"] {
        metadata.remove(field);
    }
    metadata.insert("uid".to_owned(), uuid::Uuid::new_v4().to_string().into());
    metadata.insert("creationTimestamp".to_owned(), json!(machinery::time::now()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names() {
        for base in ["web-", "", &"x".repeat(300), "ééééééééééééééééééééééééééééééééé"]
        {
            let name = generated(base);
            assert!(name.len() <= 63 && name.len() >= SUFFIX_LEN, "{name}");
            assert!(base.starts_with(&name[..name.len() - SUFFIX_LEN]));
        }
    }
}
