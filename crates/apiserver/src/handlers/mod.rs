//! One handler for each verb.

pub(crate) mod apply;
mod create;
mod delete;
mod list;
mod options;
mod patch;
mod read;
mod repeated;
mod update;
mod watch;

pub(crate) use delete::{DeleteOptions, delete_one};
pub(crate) use update::{Target, update};

use crate::body::Body;
use crate::call::Call;
use http::Response;
use machinery::Status;
use std::sync::Arc;

/// Serves a request to a stored resource.
pub(crate) async fn handle(call: &mut Call) -> Result<Response<Body>, Status> {
    let resource = Arc::clone(&call.served.resource);
    let verb = call.attributes.verb.clone();
    // Discovery hides some verbs of a kind on its way out; its last objects can be written all the same.
    let leaving = call.served.custom().is_some_and(|version| version.terminating());
    if !resource.allows(&verb) && !leaving {
        return Err(Status::method_not_allowed(&resource.group, &resource.plural, &verb));
    }
    match verb.as_str() {
        "get" => read::get(call).await,
        "list" => list::list(call).await,
        "watch" => watch::watch(call).await,
        "create" => create::create(call).await,
        "update" => update::put(call).await,
        "patch" => patch::patch(call, update::Target::main()).await,
        "delete" => delete::delete(call).await,
        "deletecollection" => delete::delete_collection(call).await,
        _ => Err(Status::method_not_allowed(&resource.group, &resource.plural, &verb)),
    }
}

/// Writes to a part of a stored object by its subresource.
pub(crate) async fn handle_part(call: &mut Call, target: Target) -> Result<Response<Body>, Status> {
    match call.attributes.verb.as_str() {
        "get" => read::get(call).await,
        "update" => update::put_part(call, target).await,
        "patch" => patch::patch(call, target).await,
        verb => Err(Status::method_not_allowed(&call.served.resource.group, &call.served.resource.plural, verb)),
    }
}
