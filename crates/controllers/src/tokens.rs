//! Secrets of type `kubernetes.io/service-account-token`: filled with a token of their account, gone when the account is.

use std::sync::Arc;

use client::{Delta, Informer};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::{DeleteParams, PostParams, Preconditions};
use pki::Pki;
use serde_json::json;

use crate::control::{Controller, Error, Loop, Queue, Shared, Step, code};

const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

struct Tokens {
    shared: Arc<Shared>,
    pki: Arc<Pki>,
    secrets: Informer<Secret>,
    accounts: Informer<ServiceAccount>,
}

/// Starts the controller.
pub(crate) fn start(shared: &Arc<Shared>, pki: &Arc<Pki>) {
    let controller = Tokens {
        shared: Arc::clone(shared),
        pki: Arc::clone(pki),
        secrets: shared.informers.with_fields(&format!("type={TYPE}")),
        accounts: shared.informers.all(),
    };
    let (secrets, accounts) = (controller.secrets.clone(), controller.accounts.clone());
    Loop::new(shared, controller, Arc::new(Queue::new()))
        .on_own(&secrets)
        .on(&accounts, Tokens::account_changed)
        .start(2);
}

fn annotation<'a>(secret: &'a Secret, key: &str) -> &'a str {
    secret.metadata.annotations.as_ref().and_then(|all| all.get(key)).map(String::as_str).unwrap_or_default()
}

/// Whether the secret is one of the account with this name and uid.
fn is_of(secret: &Secret, account: &ServiceAccount) -> bool {
    let uid = annotation(secret, ACCOUNT_UID);
    account.metadata.name.as_deref() == Some(annotation(secret, ACCOUNT_NAME))
        && (uid.is_empty() || account.metadata.uid.as_deref() == Some(uid))
}

/// What is missing in a secret: authority, namespace, token.
fn missing(secret: &Secret, root_ca: &str) -> [bool; 3] {
    let held = |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.as_slice());
    let empty = |key: &str| held(key).is_none_or(<[u8]>::is_empty);
    [held("ca.crt") != Some(root_ca.as_bytes()), empty("namespace"), empty("token")]
}

/// What the token says. It has no end: it is good while its secret and its account are.
fn claims(account: &ServiceAccount, namespace: &str, secret: &str) -> Vec<u8> {
    let name = account.metadata.name.as_deref().unwrap_or_default();
    let claims = json!({
        "iss": "kubernetes/serviceaccount",
        "kubernetes.io/serviceaccount/namespace": namespace,
        "kubernetes.io/serviceaccount/secret.name": secret,
        "kubernetes.io/serviceaccount/service-account.name": name,
        "kubernetes.io/serviceaccount/service-account.uid": account.metadata.uid,
        "sub": format!("system:serviceaccount:{namespace}:{name}"),
    });
    claims.to_string().into_bytes()
}

impl Tokens {
    /// The secrets of an account that is gone (or new again) are looked at.
    fn account_changed(&self, queue: &Queue, delta: &Delta<ServiceAccount>) {
        if matches!(delta, Delta::Applied { old: Some(_), .. }) {
            return;
        }
        let account = delta.object();
        let namespace = account.metadata.namespace.as_deref().unwrap_or_default();
        let of_account =
            |secret: &Arc<Secret>| account.metadata.name.as_deref() == Some(annotation(secret, ACCOUNT_NAME));
        let secrets = self.secrets.list_in(namespace).into_iter().filter(of_account);
        secrets.for_each(|secret| queue.add(client::key(&*secret)));
    }

    /// The account a secret names. The cache may not know a new one yet.
    async fn account(&self, secret: &Secret, namespace: &str) -> Result<Option<Arc<ServiceAccount>>, Error> {
        let name = annotation(secret, ACCOUNT_NAME);
        if let Some(account) = self.accounts.get(&format!("{namespace}/{name}")).filter(|a| is_of(secret, a)) {
            return Ok(Some(account));
        }
        let api = self.shared.api::<ServiceAccount>(namespace);
        let found = api.get(name).await.unless_gone("look up service account", name)?;
        Ok(found.filter(|account| is_of(secret, account)).map(Arc::new))
    }

    async fn fill(&self, secret: &Secret, account: &ServiceAccount, key: &str) -> Result<(), Error> {
        let root_ca = self.pki.authority().certificate_pem();
        let [ca, of, token] = missing(secret, root_ca);
        if !(ca || of || token) {
            return Ok(());
        }
        let (namespace, name) = client::split_key(key);
        let mut secret = secret.clone();
        let data = secret.data.get_or_insert_default();
        let mut put = |key: &str, bytes: &[u8]| data.insert(key.to_owned(), ByteString(bytes.to_vec()));
        if ca {
            put("ca.crt", root_ca.as_bytes());
        }
        if of {
            put("namespace", namespace.as_bytes());
        }
        if token {
            let unusable = |error: &dyn std::fmt::Display| Error::Unusable(error.to_string());
            let signing = self.pki.service_account_key().await.map_err(|e| unusable(&e))?;
            put("token", signing.token(&claims(account, namespace, name)).map_err(|e| unusable(&e))?.as_bytes());
        }
        let annotations = secret.metadata.annotations.get_or_insert_default();
        for (key, value) in [(ACCOUNT_NAME, &account.metadata.name), (ACCOUNT_UID, &account.metadata.uid)] {
            annotations.insert(key.to_owned(), value.clone().unwrap_or_default());
        }
        match self.shared.api::<Secret>(namespace).replace(name, &PostParams::default(), &secret).await {
            // Somebody else wrote: the change will be told.
            Err(e) if matches!(code(&e), 404 | 409) => Ok(()),
            other => other.step("fill token secret", key).map(drop),
        }
    }

    /// Takes a secret that is gone out of the list of its account.
    async fn forget(&self, key: &str) -> Result<(), Error> {
        let (namespace, name) = client::split_key(key);
        for account in self.accounts.list_in(namespace) {
            let named = |secrets: &Vec<_>| {
                secrets.iter().any(|s: &k8s_openapi::api::core::v1::ObjectReference| s.name.as_deref() == Some(name))
            };
            if !account.secrets.as_ref().is_some_and(named) {
                continue;
            }
            let mut account = (*account).clone();
            account.secrets.iter_mut().for_each(|secrets| secrets.retain(|s| s.name.as_deref() != Some(name)));
            let of = client::key(&account);
            let (_, account_name) = client::split_key(&of);
            let api = self.shared.api::<ServiceAccount>(namespace);
            let written = api.replace(account_name, &PostParams::default(), &account).await;
            written.unless_gone("take a secret from service account", &of)?;
        }
        Ok(())
    }
}

impl Controller for Tokens {
    const NAME: &'static str = "serviceaccount-token-controller";

    fn all(&self) -> Vec<String> {
        self.secrets.list().iter().map(|secret| client::key(&**secret)).collect()
    }

    async fn reconcile(&self, key: &str) -> Result<(), Error> {
        let Some(secret) = self.secrets.get(key) else { return self.forget(key).await };
        let (namespace, name) = client::split_key(key);
        if secret.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        if let Some(account) = self.account(&secret, namespace).await? {
            return self.fill(&secret, &account, key).await;
        }
        let exactly = Preconditions { uid: secret.metadata.uid.clone(), resource_version: None };
        let how = DeleteParams::default().preconditions(exactly);
        match self.shared.api::<Secret>(namespace).delete(name, &how).await {
            Err(e) if code(&e) == 409 => Ok(()),
            other => other.unless_gone("delete token secret", key).map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::object;

    #[test]
    fn what_a_secret_lacks_and_whose_it_is() {
        let secret = |uid: &str, data: serde_json::Value| -> Secret {
            let annotations = json!({ACCOUNT_NAME: "a", ACCOUNT_UID: uid});
            object(
                json!({"metadata": {"name": "s", "namespace": "n", "annotations": annotations}, "type": TYPE, "data": data}),
            )
        };
        let account: ServiceAccount = object(json!({"metadata": {"name": "a", "namespace": "n", "uid": "u"}}));
        for (data, expected) in [
            (json!({}), [true, true, true]),
            (json!({"ca.crt": "UEVN", "namespace": "bg==", "token": "dA=="}), [false, false, false]),
            (json!({"ca.crt": "eA==", "namespace": "bg==", "token": "dA=="}), [true, false, false]),
        ] {
            assert_eq!(missing(&secret("", data), "PEM"), expected);
        }
        for (uid, of) in [("", true), ("u", true), ("other", false)] {
            assert_eq!(is_of(&secret(uid, json!({})), &account), of);
        }
        let told: serde_json::Value = serde_json::from_slice(&claims(&account, "n", "s")).expect("claims are JSON");
        assert_eq!(told["sub"], "system:serviceaccount:n:a");
        assert_eq!(told["kubernetes.io/serviceaccount/service-account.uid"], "u");
    }
}
