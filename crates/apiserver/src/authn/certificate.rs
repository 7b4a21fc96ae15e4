//! Client certificates: the common name is the user, the organizations are its groups.

use crate::context::{Authenticator, Peer, UserInfo};
use async_trait::async_trait;
use http::request::Parts;
use machinery::Status;
use std::collections::BTreeMap;

pub(super) struct Certificates;

#[async_trait]
impl Authenticator for Certificates {
    async fn authenticate(&self, _: &Parts, peer: &Peer) -> Result<Option<UserInfo>, Status> {
        let Some(der) = &peer.certificate else { return Ok(None) };
        let subject = pki::Subject::of(der).map_err(|_| Status::unauthorized())?;
        if subject.common_name.is_empty() {
            return Ok(None);
        }
        let id = format!("X509SHA256={}", subject.fingerprint);
        let extra = BTreeMap::from([("authentication.kubernetes.io/credential-id".to_owned(), vec![id])]);
        let user = UserInfo { name: subject.common_name, uid: String::new(), groups: subject.organizations, extra };
        Ok(Some(super::authenticated(user)))
    }
}
