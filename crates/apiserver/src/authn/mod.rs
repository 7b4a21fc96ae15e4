//! Who makes a request: the chain of authenticators, then impersonation.

mod anonymous;
mod certificate;
mod impersonate;
mod in_process;
mod service_account;

pub use service_account::bearer_token;

use crate::context::{Authenticator, Authorizer, Peer, UserInfo};
use crate::token::Tokens;
use async_trait::async_trait;
use http::request::Parts;
use machinery::Status;
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
    /// In-process user, client certificate, service-account token, and nobody for health and version.
    pub fn new(tokens: Arc<Tokens>, authorizer: Arc<dyn Authorizer>) -> Self {
        let links: Vec<Box<dyn Authenticator>> = vec![
            Box::new(in_process::InProcess),
            Box::new(certificate::Certificates::default()),
            Box::new(service_account::BearerTokens(tokens)),
            Box::new(anonymous::Anonymous),
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
