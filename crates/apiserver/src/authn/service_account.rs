//! Service-account tokens, as bearer tokens.

use crate::context::{Authenticator, Peer, UserInfo};
use crate::token::Tokens;
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use http::request::Parts;
use machinery::Status;
use std::sync::Arc;

/// Browsers cannot set headers on a WebSocket; they send the token as a subprotocol with this prefix.
const WEBSOCKET_PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

pub(super) struct BearerTokens(pub(super) Arc<Tokens>);

#[async_trait]
impl Authenticator for BearerTokens {
    async fn authenticate(&self, head: &Parts, _: &Peer) -> Result<Option<UserInfo>, Status> {
        let Some(token) = bearer_token(&head.headers) else { return Ok(None) };
        match self.0.authenticate(&token, None).await {
            Ok((user, _)) => Ok(Some(super::authenticated(user))),
            Err(error) => {
                tracing::debug!(%error, "bearer token refused");
                Err(Status::unauthorized())
            }
        }
    }
}

/// The token a request carries, if any.
pub fn bearer_token(headers: &HeaderMap) -> Option<String> {
    if let Some(value) = headers.get(AUTHORIZATION) {
        let (scheme, token) = value.to_str().ok()?.trim().split_once(' ')?;
        let token = token.trim();
        return (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned());
    }
    let protocols = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let encoded = protocols.flat_map(|value| value.split(',')).find_map(|p| p.trim().strip_prefix(WEBSOCKET_PREFIX))?;
    String::from_utf8(URL_SAFE_NO_PAD.decode(encoded).ok()?).ok()
}
