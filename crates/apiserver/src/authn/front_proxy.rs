//! Authenticating proxies: who shows a certificate of the front proxies' authority says in headers whom it speaks for.

use crate::connect::percent_decode;
use crate::context::{Authenticator, Peer, UserInfo};
use async_trait::async_trait;
use http::HeaderMap;
use http::request::Parts;
use machinery::Status;
use parking_lot::RwLock;
use pki::Pki;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

/// Names that a proxy's certificate may have, as `extension-apiserver-authentication` tells API servers behind this one.
const ALLOWED: [&str; 1] = ["front-proxy-client"];
const USER: &str = "x-remote-user";
const UID: &str = "x-remote-uid";
const GROUP: &str = "x-remote-group";
const EXTRA: &str = "x-remote-extra-";
/// Certificates that are remembered.
const CACHED_MAX: usize = 64;

pub(super) struct FrontProxy {
    pki: Arc<Pki>,
    /// Until when (seconds since 1970) a certificate is a proxy's; none: it is not.
    known: RwLock<HashMap<Arc<[u8]>, Option<i64>>>,
}

impl FrontProxy {
    pub(super) fn new(pki: Arc<Pki>) -> Self {
        Self { pki, known: RwLock::default() }
    }

    fn is_proxy(&self, der: &Arc<[u8]>) -> bool {
        let good = |until: Option<i64>| until.is_some_and(|until| jiff::Timestamp::now().as_second() <= until);
        if let Some(until) = self.known.read().get(der) {
            return good(*until);
        }
        let subject = pki::verified_peer(self.pki.front_proxy_authority(), der, SystemTime::now()).ok();
        let until = subject.filter(|subject| ALLOWED.contains(&subject.common_name.as_str())).map(|s| s.not_after);
        let mut known = self.known.write();
        if known.len() >= CACHED_MAX {
            known.clear();
        }
        known.insert(Arc::clone(der), until);
        good(until)
    }
}

/// The user that the headers name, if they do.
fn user(headers: &HeaderMap) -> Option<UserInfo> {
    let text =
        |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().trim().to_owned();
    let name = text(USER);
    let groups = headers.get_all(GROUP).iter().filter_map(|value| value.to_str().ok()).map(str::to_owned);
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (header, value) in headers {
        if let (Some(key), Ok(value)) = (header.as_str().strip_prefix(EXTRA), value.to_str()) {
            let key = percent_decode(key).unwrap_or_else(|| key.to_owned());
            extra.entry(key).or_default().push(value.to_owned());
        }
    }
    let groups = groups.collect();
    (!name.is_empty()).then(|| UserInfo { name, uid: text(UID), groups, extra })
}

#[async_trait]
impl Authenticator for FrontProxy {
    async fn authenticate(&self, head: &Parts, peer: &Peer) -> Result<Option<UserInfo>, Status> {
        // Most requests say nothing about others, and no certificate need be looked at.
        let Some(user) = user(&head.headers) else { return Ok(None) };
        let proxy = peer.certificate.as_ref().is_some_and(|der| self.is_proxy(der));
        Ok(proxy.then(|| super::authenticated(user)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::tests::pki;
    use pki::{Leaf, Profile};

    #[tokio::test]
    async fn only_a_proxy_speaks_for_others() {
        let (_folder, pki) = pki();
        let link = FrontProxy::new(Arc::clone(&pki));
        let now = SystemTime::now();
        let peer = |identity: &pki::Identity| Peer {
            certificate: Some(Arc::from(identity.certificate().unwrap().as_ref())),
            ..Peer::default()
        };
        let named = |authority: &pki::Authority| authority.issue(&Profile::client(ALLOWED[0], &[]), now).unwrap();
        let other = pki.front_proxy_authority().issue(&Profile::client("other", &["system:masters"]), now).unwrap();
        let head = |user: &str| {
            let request = http::Request::builder().header(USER, user).header(UID, "u1").header(GROUP, "a");
            let request = request.header(GROUP, "b").header("X-Remote-Extra-Acme.org%2Fproject", "p");
            request.body(()).unwrap().into_parts().0
        };
        for (identity, user, expected) in [
            (pki.identity(Leaf::FrontProxyClient), "jane", true),
            (named(pki.front_proxy_authority()), "jane", true),
            (pki.identity(Leaf::FrontProxyClient), "", false),
            (named(pki.authority()), "jane", false),
            (other, "jane", false),
            (pki.identity(Leaf::Admin), "jane", false),
        ] {
            for _ in 0..2 {
                let found = link.authenticate(&head(user), &peer(&identity)).await.unwrap();
                assert_eq!(found.is_some(), expected, "{:?} {user}", identity.subject());
                let Some(found) = found else { continue };
                assert_eq!((found.name.as_str(), found.uid.as_str()), ("jane", "u1"));
                assert_eq!(found.groups, ["a", "b", "system:authenticated"]);
                assert_eq!(found.extra, BTreeMap::from([("acme.org/project".to_owned(), vec!["p".to_owned()])]));
            }
        }
        let nobody = link.authenticate(&head("jane"), &Peer::default()).await.unwrap();
        assert_eq!(nobody, None);
    }
}
