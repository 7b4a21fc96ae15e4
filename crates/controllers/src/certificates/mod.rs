//! Certificates: requests are approved (nodes' own), signed (by the cluster's signers) and cleaned up; the authority is published.

mod bundle;
mod pod;
mod signer;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use client::Informer;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest as Csr, CertificateSigningRequestCondition as Condition, CertificateSigningRequestSpec,
};
use kube::api::{DeleteParams, PostParams, Preconditions};
use pki::{Pki, Request};

use crate::control::{Controller, Error, Loop, Queue, Shared, Step};

/// How long what is settled (signed, denied, failed) stays, and what is not.
const SETTLED_SECONDS: i64 = 3_600;
const PENDING_SECONDS: i64 = 24 * 3_600;

struct Certificates {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    pki: Arc<Pki>,
    requests: Informer<Csr>,
}

/// Starts the controllers.
pub(crate) fn start(shared: &Arc<Shared>, pki: &Arc<Pki>) {
    let queue = Arc::new(Queue::new());
    let requests: Informer<Csr> = shared.informers.all();
    let controller = Certificates {
        shared: Arc::clone(shared),
        queue: Arc::clone(&queue),
        pki: Arc::clone(pki),
        requests: requests.clone(),
    };
    Loop::new(shared, controller, queue).on_own(&requests).start(5);
    pod::start(shared);
    bundle::start(shared, pki.authority().certificate_pem());
}

/// What is to be done about a request.
#[derive(Clone, Debug, PartialEq)]
enum Action {
    /// It has been there long enough.
    Delete,
    /// It is a node's: approve it if its sender may ask so. The subresources that say so, with what to tell.
    Ask(Vec<(&'static str, &'static str)>),
    /// Sign it.
    Sign,
    /// Its signer does not sign that.
    Fail(String),
    /// Nothing, for now.
    Nothing,
}

fn conditions(request: &Csr) -> &[Condition] {
    request.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default()
}

fn has(request: &Csr, kind: &str) -> bool {
    conditions(request).iter().any(|condition| condition.type_ == kind && condition.status == "True")
}

fn certificate(request: &Csr) -> Option<&[u8]> {
    let certificate = request.status.as_ref()?.certificate.as_ref()?;
    Some(certificate.0.as_slice()).filter(|bytes| !bytes.is_empty())
}

/// When the request goes; none when it stays.
fn due(request: &Csr) -> Option<i64> {
    let created = || request.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second());
    if conditions(request).is_empty() {
        return created().map(|created| created + PENDING_SECONDS);
    }
    let certificate = certificate(request);
    let times = conditions(request).iter().filter_map(|condition| {
        let since = condition.last_update_time.as_ref()?.0.as_second();
        match (condition.type_.as_str(), certificate) {
            ("Denied" | "Failed", _) => Some(since + SETTLED_SECONDS),
            ("Approved", None) => Some(since + PENDING_SECONDS),
            ("Approved", Some(pem)) => Some((since + SETTLED_SECONDS).min(expires(pem).unwrap_or(i64::MAX))),
            _ => None,
        }
    });
    times.min()
}

/// When the first certificate of a PEM text ceases to be valid.
fn expires(pem: &[u8]) -> Option<i64> {
    let block = pki::pem::blocks(&String::from_utf8_lossy(pem)).into_iter().next()?;
    pki::Certificate::from_der(&block.der).ok().map(|certificate| certificate.not_after)
}

fn plan(request: &Csr, now: i64) -> Action {
    if request.metadata.deletion_timestamp.is_some() {
        return Action::Nothing;
    }
    if due(request).is_some_and(|due| due <= now) {
        return Action::Delete;
    }
    if certificate(request).is_some() || has(request, "Denied") || has(request, "Failed") {
        return Action::Nothing;
    }
    let Ok(asked) = Request::from_pem(&request.spec.request.0) else { return Action::Nothing };
    if has(request, "Approved") {
        return match signer::judge(&request.spec, &asked) {
            None => Action::Nothing,
            Some(Ok(())) => Action::Sign,
            Some(Err(why)) => Action::Fail(why),
        };
    }
    if request.spec.signer_name != signer::KUBELET_CLIENT || signer::judge(&request.spec, &asked) != Some(Ok(())) {
        return Action::Nothing;
    }
    let own = request.spec.username.as_deref() == Some(&asked.common_name);
    let mut ask = Vec::new();
    if own {
        ask.push(("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview."));
    }
    ask.push(("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview."));
    Action::Ask(ask)
}

impl Certificates {
    /// Whether the sender may create requests of this kind.
    async fn may(&self, spec: &CertificateSigningRequestSpec, subresource: &str, key: &str) -> Result<bool, Error> {
        let text = |text: &str| Some(text.to_owned());
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: spec.username.clone(),
                uid: spec.uid.clone(),
                groups: spec.groups.clone(),
                extra: spec.extra.clone(),
                resource_attributes: Some(ResourceAttributes {
                    group: text("certificates.k8s.io"),
                    version: text("*"),
                    resource: text("certificatesigningrequests"),
                    subresource: text(subresource),
                    verb: text("create"),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let answer =
            self.shared.cluster().create(&PostParams::default(), &review).await.step("review access for", key)?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }

    /// Writes one part of the status.
    async fn write(&self, subresource: &str, request: &Csr, key: &str) -> Result<(), Error> {
        let api = self.shared.cluster::<Csr>();
        let written = api.replace_subresource(subresource, key, &PostParams::default(), request).await;
        written.unless_gone("settle certificate request", key).map(drop)
    }

    async fn ask(&self, request: &Csr, kinds: &[(&str, &str)], key: &str) -> Result<(), Error> {
        for (subresource, message) in kinds {
            if self.may(&request.spec, subresource, key).await? {
                let condition = condition("Approved", "AutoApproved", message);
                return self.write("approval", &with(request, condition), key).await;
            }
        }
        Err(Error::NotYet(format!("the right to have {key} approved")))
    }

    async fn sign(&self, request: &Csr, key: &str) -> Result<(), Error> {
        let unusable = |error: &dyn std::fmt::Display| Error::Unusable(error.to_string());
        let asked = Request::from_pem(&request.spec.request.0).map_err(|e| unusable(&e))?;
        let usages = request.spec.usages.as_deref().unwrap_or_default();
        let life = signer::life(request.spec.expiration_seconds);
        let signed = self.pki.authority().sign(&asked, usages, life, SystemTime::now()).map_err(|e| unusable(&e))?;
        let mut request = request.clone();
        request.status.get_or_insert_default().certificate = Some(ByteString(signed.into_bytes()));
        self.write("status", &request, key).await
    }

    async fn delete(&self, request: &Csr, key: &str) -> Result<(), Error> {
        let exactly = Preconditions {
            uid: request.metadata.uid.clone(),
            resource_version: request.metadata.resource_version.clone(),
        };
        let how = DeleteParams::default().preconditions(exactly);
        self.shared.cluster::<Csr>().delete(key, &how).await.unless_gone("delete certificate request", key).map(drop)
    }
}

fn condition(kind: &str, reason: &str, message: &str) -> Condition {
    Condition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        ..Condition::default()
    }
}

fn with(request: &Csr, condition: Condition) -> Csr {
    let mut request = request.clone();
    request.status.get_or_insert_default().conditions.get_or_insert_default().push(condition);
    request
}

impl Controller for Certificates {
    const NAME: &'static str = "certificatesigningrequest-controller";

    fn all(&self) -> Vec<String> {
        self.requests.list().iter().map(|request| client::key(&**request)).collect()
    }

    async fn reconcile(&self, key: &str) -> Result<(), Error> {
        let Some(request) = self.requests.get(key) else { return Ok(()) };
        let now = Timestamp::now().as_second();
        match plan(&request, now) {
            Action::Delete => return self.delete(&request, key).await,
            Action::Ask(kinds) => self.ask(&request, &kinds, key).await?,
            Action::Sign => self.sign(&request, key).await?,
            Action::Fail(why) => {
                let condition = condition("Failed", "SignerValidationFailure", &why);
                self.write("status", &with(&request, condition), key).await?;
            }
            Action::Nothing => {}
        }
        if let Some(left) = due(&request).and_then(|due| u64::try_from(due - now).ok()) {
            self.queue.add_after(key.to_owned(), Duration::from_secs(left));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::object;
    use serde_json::{Value, json};

    /// `openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -subj /O=system:nodes/CN=system:node:n1`, base64.
    const NODE: &str = include_str!("../../testdata/node.csr.base64");

    fn request(signer: &str, usages: &[&str], user: &str, status: Value) -> Csr {
        object(json!({
            "metadata": {"name": "r", "creationTimestamp": "1970-01-01T00:00:00Z"},
            "spec": {"request": NODE.trim(), "signerName": signer, "usages": usages, "username": user},
            "status": status,
        }))
    }

    #[test]
    fn what_is_done() {
        let node = &["digital signature", "client auth"][..];
        let kubelet = "kubernetes.io/kube-apiserver-client-kubelet";
        let approved =
            json!({"conditions": [{"type": "Approved", "status": "True", "lastUpdateTime": "1970-01-01T00:00:00Z"}]});
        let ended = |kind: &str| json!({"conditions": [{"type": kind, "status": "True", "lastUpdateTime": "1970-01-01T00:00:00Z"}]});
        let issued = json!({"certificate": "eA==", "conditions": approved["conditions"]});
        let ask = |kinds: &[&'static str]| kinds.to_vec();
        let rows = [
            (request(kubelet, node, "system:node:n1", json!({})), 0, Ok(ask(&["selfnodeclient", "nodeclient"]))),
            (request(kubelet, node, "bootstrapper", json!({})), 0, Ok(ask(&["nodeclient"]))),
            (request(kubelet, &["server auth"], "system:node:n1", json!({})), 0, Err(Action::Nothing)),
            (request("example.org/x", node, "system:node:n1", json!({})), 0, Err(Action::Nothing)),
            (request(kubelet, node, "u", json!({})), 86_400, Err(Action::Delete)),
            (request(kubelet, node, "u", approved.clone()), 0, Err(Action::Sign)),
            (request(kubelet, node, "u", approved.clone()), 86_400, Err(Action::Delete)),
            (request("example.org/x", node, "u", approved.clone()), 0, Err(Action::Nothing)),
            (
                request(kubelet, &["client auth"], "u", approved.clone()),
                0,
                Err(Action::Fail("usages did not match [client auth digital signature key encipherment]".into())),
            ),
            (request(kubelet, node, "u", ended("Denied")), 3_599, Err(Action::Nothing)),
            (request(kubelet, node, "u", ended("Denied")), 3_600, Err(Action::Delete)),
            (request(kubelet, node, "u", ended("Failed")), 3_600, Err(Action::Delete)),
            (request(kubelet, node, "u", issued.clone()), 3_599, Err(Action::Nothing)),
            (request(kubelet, node, "u", issued), 3_600, Err(Action::Delete)),
        ];
        for (at, (request, now, expected)) in rows.into_iter().enumerate() {
            let found = match plan(&request, now) {
                Action::Ask(kinds) => Ok(kinds.into_iter().map(|(kind, _)| kind).collect()),
                other => Err(other),
            };
            assert_eq!(found, expected, "row {at}");
        }
    }
}
