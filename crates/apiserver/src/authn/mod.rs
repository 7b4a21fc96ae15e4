//! Who makes a request: the chain of authenticators, then impersonation.

mod anonymous;
mod certificate;
mod front_proxy;
mod impersonate;
mod in_process;
mod service_account;

pub use anonymous::Anonymous;
pub use service_account::bearer_token;

use crate::context::{Authenticator, Authorizer, Peer, UserInfo};
use crate::token::Tokens;
use async_trait::async_trait;
use http::request::Parts;
use machinery::Status;
use pki::Pki;
use std::sync::Arc;

/// Group of everyone with a name.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Group of everyone without.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// User without a name.
pub const ANONYMOUS: &str = "system:anonymous";

/// Authenticators in order: the first that has something to say decides. Then the user may take another's place, when
/// the authorizer lets it.
pub struct Chain {
    links: Vec<Box<dyn Authenticator>>,
    authorizer: Arc<dyn Authorizer>,
}

impl Chain {
    /// In-process user, front proxy, client certificate, service-account token, and nobody where that is allowed. (Bootstrap tokens,
    /// OpenID Connect and webhooks have their place between service accounts and nobody.)
    pub fn new(pki: &Arc<Pki>, tokens: Arc<Tokens>, authorizer: Arc<dyn Authorizer>, anonymous: Anonymous) -> Self {
        let links: Vec<Box<dyn Authenticator>> = vec![
            Box::new(in_process::InProcess),
            Box::new(front_proxy::FrontProxy::new(Arc::clone(pki))),
            Box::new(certificate::Certificates::new(Arc::clone(pki))),
            Box::new(service_account::BearerTokens(tokens)),
            Box::new(anonymous),
        ];
        Self { links, authorizer }
    }
}

#[async_trait]
impl Authenticator for Chain {
    async fn authenticate(&self, head: &Parts, peer: &Peer) -> Result<Option<UserInfo>, Status> {
        for link in &self.links {
            if let Some(user) = link.authenticate(head, peer).await? {
                return impersonate::impersonate(user, &head.headers, &*self.authorizer).map(Some);
            }
        }
        Err(Status::unauthorized())
    }
}

/// Adds the group of everyone with a name.
fn authenticated(mut user: UserInfo) -> UserInfo {
    if user.name != ANONYMOUS && !user.groups.iter().any(|group| group == AUTHENTICATED || group == UNAUTHENTICATED) {
        user.groups.push(AUTHENTICATED.to_owned());
    }
    user
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Certificates of a cluster of its own, with the folder they lie in.
    pub(super) fn pki() -> (tempfile::TempDir, Arc<Pki>) {
        let folder = tempfile::tempdir().unwrap();
        let names = pki::Names {
            node: "n1".into(),
            cluster_domain: "cluster.local".into(),
            service_ip: "10.96.0.1".parse().unwrap(),
            node_ips: vec![],
            extra: vec![],
        };
        let pki = Pki::open_or_create(folder.path(), &names).unwrap();
        (folder, Arc::new(pki))
    }
}
