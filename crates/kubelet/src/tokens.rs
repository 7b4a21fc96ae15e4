//! Tokens of service accounts for projected volumes: asked for once, asked for anew before they end.

use crate::spec;
use crate::view::now_ns;
use crate::volumes::TokenSource;
use async_trait::async_trait;
use client::Client;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection};
use parking_lot::Mutex;
use std::collections::HashMap;

const DAY_NS: i64 = 86_400 * 1_000_000_000;

#[derive(Clone)]
struct Held {
    token: String,
    renew_ns: i64,
}

type Key = (String, String, i64);

/// Tokens in use, by pod UID and by audience and lifetime.
pub struct Tokens {
    client: Client,
    held: Mutex<HashMap<String, HashMap<Key, Held>>>,
}

impl Tokens {
    /// Asks with this client.
    pub fn new(client: Client) -> Tokens {
        Tokens { client, held: Mutex::default() }
    }

    /// When the first token of the pod shall be renewed.
    pub fn renew_ns(&self, uid: &str) -> Option<i64> {
        self.held.lock().get(uid)?.values().map(|h| h.renew_ns).min()
    }

    /// The pod is gone.
    pub fn release(&self, uid: &str) {
        self.held.lock().remove(uid);
    }

    async fn request(&self, pod: &Pod, account: &str, key: &Key) -> Result<Held, String> {
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: (!key.1.is_empty()).then(|| vec![key.1.clone()]),
                expiration_seconds: Some(key.2),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: pod.metadata.name.clone(),
                    uid: pod.metadata.uid.clone(),
                }),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let api = kube::Api::<ServiceAccount>::namespaced(self.client.clone(), spec::namespace(pod));
        let answer = api.create_token_request(account, &kube::api::PostParams::default(), &request).await;
        let answer = answer.map_err(|e| format!("failed to fetch token: {}", message(&e)))?;
        let status = answer.status.ok_or("failed to fetch token: the answer has no status")?;
        let now = now_ns();
        let ends = status.expiration_timestamp.map_or(0, |t| i64::try_from(t.0.as_nanosecond()).unwrap_or(i64::MAX));
        let life = (ends - now).max(0);
        // At 80 % of its life, at most a day, and not all pods of a node at one moment.
        let jitter = i64::from(fastrand::u32(0..10_000)) * 1_000_000;
        let renew_ns = now + (life / 5 * 4).min(DAY_NS) - jitter.min(life / 10);
        let token = status.token.ok_or("failed to fetch token: the answer has none")?;
        Ok(Held { token, renew_ns })
    }
}

/// The message of an API error, without the client's own wrapping.
pub fn message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

#[async_trait]
impl TokenSource for Tokens {
    async fn token(&self, pod: &Pod, p: &ServiceAccountTokenProjection) -> Result<String, String> {
        let account = spec::spec(pod).service_account_name.as_deref().filter(|n| !n.is_empty()).unwrap_or("default");
        let key = (
            account.to_owned(),
            p.audience.clone().unwrap_or_default(),
            p.expiration_seconds.filter(|s| *s > 0).unwrap_or(3600),
        );
        let uid = spec::uid(pod).to_owned();
        let held = self.held.lock().get(&uid).and_then(|h| h.get(&key)).cloned();
        if let Some(held) = held.filter(|h| now_ns() < h.renew_ns) {
            return Ok(held.token);
        }
        let fresh = self.request(pod, account, &key).await?;
        let token = fresh.token.clone();
        self.held.lock().entry(uid).or_default().insert(key, fresh);
        Ok(token)
    }
}
