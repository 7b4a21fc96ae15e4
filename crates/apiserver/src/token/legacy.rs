//! Tokens that lie in Secrets (`kubernetes.io/service-account-token`): good while the Secret holds them and their account exists.

use super::TokenError;
use crate::context::UserInfo;
use crate::meta;
use crate::storage::{Entry, Storage};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;

/// Who issues them, whatever the cluster's issuer is.
const ISSUER: &str = "kubernetes/serviceaccount";
/// The day a token was used last, and since when it is not to be used.
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

/// What such a token says.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Claims {
    iss: String,
    sub: String,
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    namespace: String,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    secret: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    account: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    uid: String,
}

impl Claims {
    /// The claims, if they are of this kind.
    pub(super) fn read(claims: &[u8]) -> Option<Self> {
        serde_json::from_slice::<Self>(claims).ok().filter(|claims| claims.iss == ISSUER)
    }
}

/// When an object's deletion began, in seconds since 1970. Most are not being deleted, which their bytes say without being decoded.
pub(super) fn deleted_at(entry: &Entry) -> Option<i64> {
    let marked = std::str::from_utf8(&entry.object.body).is_ok_and(|text| text.contains("\"deletionTimestamp\""));
    let object = marked.then(|| entry.value())?;
    machinery::time::parse(meta::text(&object, "deletionTimestamp")).map(|at| at.as_second())
}

/// Whose token it is, if it is still good; its Secret is marked with the day.
pub(super) fn authenticate(storage: &Arc<Storage>, claims: &Claims, token: &str) -> Result<UserInfo, TokenError> {
    let Claims { namespace, secret: name, account, uid, .. } = claims;
    if claims.sub != format!("system:serviceaccount:{namespace}:{account}") {
        return Err(TokenError::Malformed("its subject is not its service account"));
    }
    let invalid = |why: &str| Err(TokenError::Invalidated(why.to_owned()));
    let entry = storage.kind("", "secrets").ok().and_then(|secrets| secrets.get(namespace, name));
    let Some(secret) = entry.map(|entry| entry.value()).filter(|secret| !meta::deleting(secret)) else {
        return invalid("Token has been invalidated");
    };
    let held = STANDARD.decode(meta::text_at(&secret, &["data", "token"])).unwrap_or_default();
    if held != token.as_bytes() {
        return invalid("Token does not match server's copy");
    }
    let entry = storage.kind("", "serviceaccounts").ok().and_then(|accounts| accounts.get(namespace, account));
    if !entry.is_some_and(|entry| *entry.uid == **uid && deleted_at(&entry).is_none()) {
        return Err(TokenError::Unbound("the service account"));
    }
    let label = |key: &str| meta::at(&secret, &["metadata", "labels", key]).and_then(Value::as_str).unwrap_or_default();
    mark_used(storage, namespace, name, label(LAST_USED));
    if !label(INVALID_SINCE).is_empty() {
        return Err(TokenError::Invalidated(format!(
            "the token in secret {namespace}/{name} for service account {namespace}/{account} has been marked invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the '{INVALID_SINCE}' label from the secret to temporarily allow use of this token"
        )));
    }
    Ok(UserInfo {
        name: claims.sub.clone(),
        uid: uid.clone(),
        groups: vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")],
        ..UserInfo::default()
    })
}

/// Writes the day into the Secret, unless it is there. Beside the request: nobody waits for it.
fn mark_used(storage: &Arc<Storage>, namespace: &str, name: &str, last: &str) {
    let today = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
    if last >= today.as_str() {
        return;
    }
    let Ok(secrets) = storage.kind("", "secrets") else { return };
    let (namespace, name) = (namespace.to_owned(), name.to_owned());
    tokio::spawn(async move {
        let mark = |secret: &mut Value| {
            let labels = meta::metadata(secret).entry("labels").or_insert(Value::Null);
            if !labels.is_object() {
                *labels = serde_json::json!({});
            }
            labels[LAST_USED] = today.as_str().into();
            Ok(())
        };
        if let Err(status) = secrets.update(&namespace, &name, mark).await {
            tracing::debug!(namespace, name, error = %status.message, "a used token could not be marked");
        }
    });
}
