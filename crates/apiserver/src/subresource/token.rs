//! `serviceaccounts/token`: a token on request.

use crate::body::Body;
use crate::call::Call;
use crate::context::Operation;
use crate::decode::decode;
use http::{Response, StatusCode};
use machinery::Status;
use std::sync::Arc;

/// Serves a POST of a TokenRequest.
pub(super) async fn request(call: &mut Call) -> Result<Response<Body>, Status> {
    let Some(tokens) = call.api.chain.tokens.as_ref().map(Arc::clone) else {
        return Err(Status::not_implemented("this server issues no tokens"));
    };
    let dry_run = call.dry_run()?;
    let mut object = decode(&call.content_type, &call.body)?.value;
    call.identify(&mut object, "authentication.k8s.io/v1", "TokenRequest")?;
    let (namespace, name) = (call.namespace().to_owned(), call.name().to_owned());
    call.admit_as("TokenRequest", Operation::Create, Some(&mut object), None, dry_run).await?;
    tokens.complete(&namespace, &name, &mut object)?;
    call.validate_as("TokenRequest", Operation::Create, Some(&mut object), None, dry_run).await?;
    let answer = tokens.request(&namespace, &name, object).await?;
    call.answer_value(StatusCode::CREATED, answer)
}
