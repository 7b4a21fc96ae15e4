//! Service-account tokens: issuing them (TokenRequest), checking them, and publishing the keys that check them.
//!
//! Tokens are JWTs signed with RS256 and bound to objects: a token is good while its service account, and the pod, node or
//! secret it names, exist with the same uid.

mod legacy;

use crate::context::UserInfo;
use crate::meta;
use crate::storage::Storage;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use machinery::Status;
use machinery::field::{FieldError, Path};
use machinery::schema::Schema;
use pki::Pki;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// No token is longer, whoever sends it.
const TOKEN_BYTES_MAX: usize = 16 << 10;
/// Seconds a clock may differ.
const LEEWAY_SECONDS: i64 = 60;
const GROUP: &str = "authentication.k8s.io";
const KIND: &str = "TokenRequest";
const LIFE_SECONDS_DEFAULT: i64 = 3_600;
const LIFE_SECONDS_MIN: i64 = 600;
const LIFE_SECONDS_MAX: i64 = 1 << 32;
/// A token the kubelet asks for on a pod's behalf says 3607 seconds; it then lives a year with a warning after the time
/// asked for, for programs that read their token only once (upstream's `--service-account-extend-token-expiration`).
const LIFE_SECONDS_OF_PODS: i64 = 3_607;
const LIFE_SECONDS_EXTENDED: i64 = 365 * 24 * 3_600;

/// Why a token is not good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a JWT of the kind we make.
    #[error("token is malformed: {0}")]
    Malformed(&'static str),
    /// Not signed with our key.
    #[error("invalid bearer token, signature does not match")]
    Signature,
    /// Not issued by us, or for others.
    #[error("token audiences {0:?} is invalid for the target audiences {1:?}")]
    Audience(Vec<String>, Vec<String>),
    /// From another issuer.
    #[error("token issuer is not ours")]
    Issuer,
    /// Too early or too late.
    #[error("service account token has expired or is not valid yet")]
    Expired,
    /// What it is bound to is gone.
    #[error("service account token has been invalidated: {0} is gone")]
    Unbound(&'static str),
    /// It lies in a Secret no more, or another does.
    #[error("{0}")]
    Invalidated(String),
    /// There is no key yet, and there will be none.
    #[error("the signing key is missing: {0}")]
    Key(String),
}

/// An object a token is bound to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Bound {
    name: String,
    #[serde(default)]
    uid: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kubernetes {
    namespace: String,
    serviceaccount: Bound,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<Bound>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<Bound>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<Bound>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    warnafter: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Claims {
    aud: Vec<String>,
    exp: i64,
    iat: i64,
    iss: String,
    #[serde(default)]
    jti: String,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Kubernetes,
    nbf: i64,
    sub: String,
}

/// Issues and checks tokens.
pub struct Tokens {
    pki: Arc<Pki>,
    storage: Arc<Storage>,
    issuer: String,
    audiences: Vec<String>,
    jwks_uri: String,
}

impl Tokens {
    /// `issuer` is this cluster's (`https://kubernetes.default.svc.cluster.local`), and also the default audience;
    /// `address` is where clients reach the API server, `host:port`.
    pub fn new(pki: Arc<Pki>, storage: Arc<Storage>, issuer: &str, address: &str) -> Self {
        let jwks_uri = format!("https://{address}/openid/v1/jwks");
        Self { pki, storage, issuer: issuer.to_owned(), audiences: vec![issuer.to_owned()], jwks_uri }
    }

    /// Checks a token against the audiences wanted (ours, when none are given). Gives the user and the audiences that
    /// fit.
    pub async fn authenticate(
        &self,
        token: &str,
        audiences: Option<&[String]>,
    ) -> Result<(UserInfo, Vec<String>), TokenError> {
        let key = self.pki.service_account_key().await.map_err(|e| TokenError::Key(e.to_string()))?;
        let claims = match verify(key.public(), token)? {
            Verified::Bound(claims) => claims,
            Verified::Legacy(claims) => {
                // It was made for nobody in particular: for the API server, then.
                let fitting = self.fitting(&self.audiences, audiences)?;
                return legacy::authenticate(&self.storage, &claims, token).map(|user| (user, fitting));
            }
        };
        if claims.iss != self.issuer {
            return Err(TokenError::Issuer);
        }
        let now = jiff::Timestamp::now().as_second();
        if claims.exp + LEEWAY_SECONDS < now || claims.nbf - LEEWAY_SECONDS > now {
            return Err(TokenError::Expired);
        }
        let fitting = self.fitting(&claims.aud, audiences)?;
        self.check_bound(&claims.kubernetes, now)?;
        Ok((user(&claims), fitting))
    }

    /// Of the audiences wanted (ours, when none are given), those that a token is for; an error when there is none.
    fn fitting(&self, of_token: &[String], wanted: Option<&[String]>) -> Result<Vec<String>, TokenError> {
        let wanted = wanted.filter(|wanted| !wanted.is_empty()).unwrap_or(&self.audiences);
        let fitting: Vec<String> = wanted.iter().filter(|audience| of_token.contains(audience)).cloned().collect();
        if fitting.is_empty() {
            return Err(TokenError::Audience(of_token.to_vec(), wanted.to_vec()));
        }
        Ok(fitting)
    }

    /// What a token names must still be there; what is being deleted is for a minute more.
    fn check_bound(&self, kubernetes: &Kubernetes, now: i64) -> Result<(), TokenError> {
        let namespace = kubernetes.namespace.as_str();
        let exists = |resource: &str, namespace: &str, bound: &Bound| {
            let kind = self.storage.kind("", resource).ok();
            let entry = kind.and_then(|kind| kind.get(namespace, &bound.name)).filter(|entry| *entry.uid == *bound.uid);
            entry.is_some_and(|entry| legacy::deleted_at(&entry).is_none_or(|at| at >= now - LEEWAY_SECONDS))
        };
        if !exists("serviceaccounts", namespace, &kubernetes.serviceaccount) {
            return Err(TokenError::Unbound("the service account"));
        }
        if kubernetes.pod.as_ref().is_some_and(|pod| !exists("pods", namespace, pod)) {
            return Err(TokenError::Unbound("the pod"));
        }
        if kubernetes.secret.as_ref().is_some_and(|secret| !exists("secrets", namespace, secret)) {
            return Err(TokenError::Unbound("the secret"));
        }
        // A token of a pod names the pod's node for information only.
        let alone = kubernetes.pod.is_none();
        if alone && kubernetes.node.as_ref().is_some_and(|node| !exists("nodes", "", node)) {
            return Err(TokenError::Unbound("the node"));
        }
        Ok(())
    }

    /// Fills in what a TokenRequest for a service account leaves open, and says what is wrong with it.
    pub(crate) fn complete(&self, namespace: &str, name: &str, request: &mut Value) -> Result<(), Status> {
        let account = self.storage.kind("", "serviceaccounts")?.find(namespace, name)?;
        let metadata = meta::metadata(request);
        let mut errors = Vec::new();
        for (field, is, of) in [("name", name, "name"), ("namespace", namespace, "namespace")] {
            let given = metadata.entry(field).or_insert_with(|| is.into());
            if given != is && given != "" {
                let detail = format!("must match the service account {of} if specified");
                errors.push(FieldError::invalid(&Path::new("metadata").child(field), given.clone(), detail));
            }
        }
        if !errors.is_empty() {
            return Err(Status::invalid(GROUP, KIND, name, errors));
        }
        let uid = metadata.entry("uid").or_insert_with(|| account.uid.to_string().into());
        if uid == "" {
            *uid = account.uid.to_string().into();
        }
        if *uid != *account.uid {
            let why = format!(
                "the UID in the token request ({}) does not match the UID of the service account ({})",
                uid.as_str().unwrap_or_default(),
                account.uid
            );
            return Err(Status::conflict(GROUP, KIND, name, why));
        }
        metadata.insert("creationTimestamp".to_owned(), machinery::time::now().into());
        let spec = Spec::read(request, &self.audiences)?;
        request["apiVersion"] = json!("authentication.k8s.io/v1");
        request["kind"] = json!(KIND);
        let members = meta::member(request, "spec");
        members.insert("audiences".to_owned(), json!(spec.audiences));
        members.insert("expirationSeconds".to_owned(), json!(spec.seconds));
        request["status"] = json!({"token": "", "expirationTimestamp": null});
        Ok(())
    }

    /// Serves a TokenRequest for a service account, completed and admitted: the request with its status filled in.
    pub(crate) async fn request(&self, namespace: &str, name: &str, mut request: Value) -> Result<Value, Status> {
        let account = self.storage.kind("", "serviceaccounts")?.find(namespace, name)?;
        if let Some(ty) = Schema::builtin().kind("authentication.k8s.io", "v1", "TokenRequest") {
            machinery::schema::check(&mut request, ty)?;
        }
        let spec = Spec::read(&request, &self.audiences)?;
        let bound = self.bind(namespace, name, &spec)?;
        let now = jiff::Timestamp::now().as_second();
        let extended = spec.seconds == LIFE_SECONDS_OF_PODS
            && bound.pod.is_some()
            && spec.audiences.iter().all(|audience| self.audiences.contains(audience));
        let seconds = if extended { LIFE_SECONDS_EXTENDED } else { spec.seconds };
        let claims = Claims {
            aud: spec.audiences.clone(),
            exp: now + seconds,
            iat: now,
            nbf: now,
            iss: self.issuer.clone(),
            jti: uuid::Uuid::new_v4().to_string(),
            sub: format!("system:serviceaccount:{namespace}:{name}"),
            kubernetes: Kubernetes {
                namespace: namespace.to_owned(),
                serviceaccount: Bound { name: name.to_owned(), uid: account.uid.to_string() },
                warnafter: extended.then_some(now + spec.seconds),
                ..bound
            },
        };
        let key = self.pki.service_account_key().await.map_err(Status::internal)?;
        let token = sign(&key, &claims)?;
        // The kubelet renews by this time, not by the longer life of an extended token.
        let expires = jiff::Timestamp::from_second(now + spec.seconds).map_err(Status::internal)?;
        request["status"] = json!({"token": token, "expirationTimestamp": machinery::time::format(expires)});
        Ok(request)
    }

    /// Looks up what a token shall be bound to.
    fn bind(&self, namespace: &str, account: &str, spec: &Spec) -> Result<Kubernetes, Status> {
        let mut bound = Kubernetes::default();
        let Some((kind, name, uid)) = &spec.bound else { return Ok(bound) };
        let (resource, of) = match kind.as_str() {
            "Pod" => ("pods", namespace),
            "Secret" => ("secrets", namespace),
            "Node" => ("nodes", ""),
            other => {
                return Err(Status::bad_request(format!(
                    "cannot bind token for serviceaccount {account:?} to type {other:?}"
                )));
            }
        };
        let entry = self.storage.kind("", resource)?.find(of, name)?;
        if !uid.is_empty() && *entry.uid != **uid {
            let why = format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
            );
            return Err(Status::conflict("", resource, name, why));
        }
        let found = Bound { name: name.clone(), uid: entry.uid.to_string() };
        match resource {
            "pods" => {
                let pod = entry.value();
                let used = meta::text_at(&pod, &["spec", "serviceAccountName"]);
                if used != account {
                    let why = format!(
                        "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
                    );
                    return Err(Status::bad_request(why));
                }
                bound.node = self.node_of(meta::text_at(&pod, &["spec", "nodeName"]))?;
                bound.pod = Some(found);
            }
            "secrets" => bound.secret = Some(found),
            _ => bound.node = Some(found),
        }
        Ok(bound)
    }

    fn node_of(&self, name: &str) -> Result<Option<Bound>, Status> {
        if name.is_empty() {
            return Ok(None);
        }
        let uid = self.storage.kind("", "nodes")?.get("", name).map(|node| node.uid.to_string()).unwrap_or_default();
        Ok(Some(Bound { name: name.to_owned(), uid }))
    }

    /// The document behind `/.well-known/openid-configuration`.
    pub fn discovery(&self) -> Value {
        json!({
            "issuer": self.issuer,
            "jwks_uri": self.jwks_uri,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
        })
    }

    /// The document behind `/openid/v1/jwks`.
    pub async fn keys(&self) -> Result<Value, Status> {
        let key = self.pki.service_account_key().await.map_err(Status::internal)?;
        let public = key.public();
        let (n, e) = (URL_SAFE_NO_PAD.encode(&public.modulus), URL_SAFE_NO_PAD.encode(&public.exponent));
        Ok(json!({"keys": [{"use": "sig", "kty": "RSA", "kid": public.id, "alg": "RS256", "n": n, "e": e}]}))
    }

    /// This cluster's issuer.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }
}

/// What a TokenRequest asks for.
struct Spec {
    audiences: Vec<String>,
    seconds: i64,
    bound: Option<(String, String, String)>,
}

impl Spec {
    fn read(request: &Value, audiences: &[String]) -> Result<Self, Status> {
        let spec = request.get("spec").unwrap_or(&Value::Null);
        let path = Path::new("spec");
        let named: Vec<String> = spec["audiences"]
            .as_array()
            .map(|list| list.iter().filter_map(Value::as_str).map(str::to_owned).collect())
            .unwrap_or_default();
        let seconds = spec["expirationSeconds"].as_i64().unwrap_or(LIFE_SECONDS_DEFAULT);
        let field = path.child("expirationSeconds");
        let mut errors = Vec::new();
        if seconds < LIFE_SECONDS_MIN {
            errors.push(FieldError::invalid(&field, seconds, "may not specify a duration less than 10 minutes"));
        }
        if seconds > LIFE_SECONDS_MAX {
            errors.push(FieldError::invalid(&field, seconds, "may not specify a duration larger than 2^32 seconds"));
        }
        if !errors.is_empty() {
            return Err(Status::invalid(GROUP, KIND, "", errors));
        }
        let reference = &spec["boundObjectRef"];
        let text = |field: &str| reference[field].as_str().unwrap_or_default().to_owned();
        let bound = reference.is_object().then(|| (text("kind"), text("name"), text("uid")));
        Ok(Self { audiences: if named.is_empty() { audiences.to_vec() } else { named }, seconds, bound })
    }
}

fn user(claims: &Claims) -> UserInfo {
    let kubernetes = &claims.kubernetes;
    let mut extra = BTreeMap::new();
    let mut add = |key: &str, value: &str| {
        if !value.is_empty() {
            extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
        }
    };
    if !claims.jti.is_empty() {
        add("credential-id", &format!("JTI={}", claims.jti));
    }
    for (kind, bound) in [("pod", &kubernetes.pod), ("node", &kubernetes.node)] {
        if let Some(bound) = bound {
            add(&format!("{kind}-name"), &bound.name);
            add(&format!("{kind}-uid"), &bound.uid);
        }
    }
    UserInfo {
        name: claims.sub.clone(),
        uid: kubernetes.serviceaccount.uid.clone(),
        groups: vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{}", kubernetes.namespace)],
        extra,
    }
}

fn sign(key: &pki::ServiceAccountKey, claims: &Claims) -> Result<String, Status> {
    key.token(&serde_json::to_vec(claims).map_err(Status::internal)?).map_err(Status::internal)
}

/// The claims of a token with a good signature. Nothing is believed before the signature has been checked, and the
/// header chooses neither key nor algorithm.
fn verify(key: &pki::VerifyingKey, token: &str) -> Result<Verified, TokenError> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(TokenError::Malformed("too long"));
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed("not a JWT"))?;
    let (header, claims) = signed.split_once('.').ok_or(TokenError::Malformed("not a JWT"))?;
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed("not base64url"));
    let header: Value =
        serde_json::from_slice(&decode(header)?).map_err(|_| TokenError::Malformed("its header is not JSON"))?;
    if header["alg"] != "RS256" {
        return Err(TokenError::Malformed("not signed with RS256"));
    }
    if !key.verify(signed.as_bytes(), &decode(signature)?) {
        return Err(TokenError::Signature);
    }
    let claims = decode(claims)?;
    if let Some(legacy) = legacy::Claims::read(&claims) {
        return Ok(Verified::Legacy(legacy));
    }
    let claims: Claims =
        serde_json::from_slice(&claims).map_err(|_| TokenError::Malformed("its claims are not ours"))?;
    let (namespace, name) = (&claims.kubernetes.namespace, &claims.kubernetes.serviceaccount.name);
    if claims.sub != format!("system:serviceaccount:{namespace}:{name}") {
        return Err(TokenError::Malformed("its subject is not its service account"));
    }
    Ok(Verified::Bound(Box::new(claims)))
}

/// What a good signature is under.
#[derive(Debug, PartialEq)]
enum Verified {
    /// A token of TokenRequest.
    Bound(Box<Claims>),
    /// One that lies in a Secret.
    Legacy(legacy::Claims),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::OnceLock;

    fn key() -> &'static pki::ServiceAccountKey {
        static KEY: OnceLock<pki::ServiceAccountKey> = OnceLock::new();
        KEY.get_or_init(|| pki::ServiceAccountKey::generate().unwrap().0)
    }

    fn claims() -> Claims {
        Claims {
            aud: vec!["a".into()],
            exp: 10,
            iat: 0,
            nbf: 0,
            iss: "i".into(),
            jti: "j".into(),
            sub: "system:serviceaccount:ns:sa".into(),
            kubernetes: Kubernetes {
                namespace: "ns".into(),
                serviceaccount: Bound { name: "sa".into(), uid: "u".into() },
                ..Kubernetes::default()
            },
        }
    }

    fn forged(header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = key().sign(signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    #[test]
    fn a_token_comes_back() {
        let token = sign(key(), &claims()).unwrap();
        assert_eq!(verify(key().public(), &token), Ok(Verified::Bound(Box::new(claims()))));
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        let good = json!(claims());
        let mut other_subject = good.clone();
        other_subject["sub"] = json!("system:serviceaccount:kube-system:root");
        let rs256 = json!({"alg": "RS256"});
        let token = sign(key(), &claims()).unwrap();
        let none = format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), token.split('.').nth(1).unwrap());
        let other = sign(key(), &Claims { jti: "k".into(), ..claims() }).unwrap();
        let swapped = format!("{}.{}", token.rsplit_once('.').unwrap().0, other.rsplit_once('.').unwrap().1);
        let cases = [
            (forged(&json!({"alg": "HS256"}), &good), "not signed with RS256"),
            (none, "not signed with RS256"),
            (forged(&rs256, &other_subject), "its subject is not its service account"),
            (forged(&rs256, &json!({"sub": "x"})), "its claims are not ours"),
            (token.replacen('.', "..", 1), "not"),
            (format!("{token}x"), "base64url"),
            (swapped, "signature does not match"),
            ("x".repeat(20_000), "too long"),
            (String::new(), "not a JWT"),
        ];
        for (token, expected) in cases {
            let error = verify(key().public(), &token).unwrap_err().to_string();
            assert!(error.contains(expected), "{error} / {expected}");
        }
    }

    proptest! {
        #[test]
        fn no_changed_byte_is_accepted(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let token = sign(key(), &claims()).unwrap();
            let mut bytes = token.clone().into_bytes();
            let at = at.index(bytes.len());
            prop_assume!(bytes[at] != byte);
            bytes[at] = byte;
            if let Ok(changed) = String::from_utf8(bytes) {
                prop_assert!(verify(key().public(), &changed).is_err());
            }
        }

        #[test]
        fn noise_is_refused(noise in "[A-Za-z0-9_.-]{0,300}") {
            prop_assert!(verify(key().public(), &noise).is_err());
        }
    }
}
