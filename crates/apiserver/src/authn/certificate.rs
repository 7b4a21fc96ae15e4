//! Client certificates: the common name is the user, the organizations are its groups.

use crate::context::{Authenticator, Peer, UserInfo};
use async_trait::async_trait;
use http::request::Parts;
use machinery::Status;
use parking_lot::RwLock;
use pki::Pki;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Certificates whose users are remembered; a connection shows the same one with each request. About 1 KiB each.
const CACHED_MAX: usize = 256;

/// A user, and when its certificate ceases to be valid (seconds since 1970).
type Known = (UserInfo, i64);

pub(super) struct Certificates {
    /// Whose signature counts: TLS lets in what the front proxies' authority signed, too.
    pki: Arc<Pki>,
    known: RwLock<HashMap<Arc<[u8]>, Known>>,
}

impl Certificates {
    pub(super) fn new(pki: Arc<Pki>) -> Self {
        Self { pki, known: RwLock::default() }
    }

    fn known(&self, der: &Arc<[u8]>) -> Result<Known, Status> {
        if let Some(known) = self.known.read().get(der) {
            return Ok(known.clone());
        }
        if !self.pki.authority().signed(der).unwrap_or(false) {
            return Err(Status::unauthorized());
        }
        let known = read(der)?;
        let mut cache = self.known.write();
        if cache.len() >= CACHED_MAX {
            cache.clear();
        }
        cache.insert(der.clone(), known.clone());
        Ok(known)
    }
}

fn read(der: &[u8]) -> Result<Known, Status> {
    let subject = pki::Subject::of(der).map_err(|_| Status::unauthorized())?;
    let id = format!("X509SHA256={}", subject.fingerprint);
    let extra = BTreeMap::from([("authentication.kubernetes.io/credential-id".to_owned(), vec![id])]);
    let user = UserInfo { name: subject.common_name, uid: subject.uid, groups: subject.organizations, extra };
    Ok((super::authenticated(user), subject.not_after))
}

#[async_trait]
impl Authenticator for Certificates {
    async fn authenticate(&self, _: &Parts, peer: &Peer) -> Result<Option<UserInfo>, Status> {
        let Some(der) = &peer.certificate else { return Ok(None) };
        let (user, not_after) = self.known(der)?;
        // TLS looked at its validity once; the connection may be older than that.
        if jiff::Timestamp::now().as_second() > not_after {
            return Err(Status::unauthorized());
        }
        Ok(Some(user).filter(|user| !user.name.is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    #[tokio::test]
    async fn a_certificate_ends_while_its_connection_goes_on() {
        let now = SystemTime::now();
        let (_folder, pki) = crate::authn::tests::pki();
        let certificates = Certificates::new(Arc::clone(&pki));
        let authority = pki.authority();
        let (head, ()) = http::Request::new(()).into_parts();
        let year = Duration::from_secs(366 * 86_400);
        for (issued, good) in [(now, true), (now - year, false)] {
            let identity = authority.issue(&pki::Profile::client("jane", &["devs"]), issued).unwrap();
            let certificate = Some(Arc::from(identity.certificate().unwrap().as_ref()));
            let peer = Peer { certificate, ..Peer::default() };
            for _ in 0..2 {
                let user = certificates.authenticate(&head, &peer).await;
                assert_eq!(user.is_ok(), good);
                let groups = user.ok().flatten().map(|user| user.groups);
                assert_eq!(groups, good.then(|| vec!["devs".to_owned(), "system:authenticated".to_owned()]));
            }
        }
    }
}
