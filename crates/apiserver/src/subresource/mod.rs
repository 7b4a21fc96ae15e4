//! Subresources that read or change the stored object they belong to.

mod binding;
mod eviction;
pub(crate) mod scale;
mod token;

use crate::body::Body;
use crate::call::Call;
use crate::handlers::{self, Target};
use crate::strategy::Part;
use http::Response;
use machinery::Status;
use std::sync::Arc;

/// Serves a request to a subresource.
pub(crate) async fn handle(call: &mut Call) -> Result<Response<Body>, Status> {
    let resource = Arc::clone(&call.served.resource);
    let name = call.attributes.subresource.clone();
    let Some(subresource) = resource.subresource(&name) else { return Err(Status::no_such_path()) };
    if !subresource.verbs.contains(&&*call.attributes.verb) {
        let resource_name = format!("{}/{name}", resource.plural);
        return Err(Status::method_not_allowed(&resource.group, &resource_name, &call.attributes.verb));
    }
    let part = match &*name {
        "scale" => return scale::handle(call).await,
        "binding" => return binding::bind(call).await,
        "eviction" => return eviction::evict(call).await,
        "token" => return token::request(call).await,
        "status" => Part::Status,
        "finalize" => Part::Finalize,
        "approval" => Part::Approval,
        "ephemeralcontainers" => Part::EphemeralContainers,
        other => return Err(Status::not_implemented(format!("{}/{other} is not implemented yet", resource.plural))),
    };
    handlers::handle_part(call, Target::of(part)).await
}

/// Serves a POST to `bindings`, the old way of binding pods.
pub(crate) async fn bind(call: &mut Call) -> Result<Response<Body>, Status> {
    binding::bind(call).await
}
