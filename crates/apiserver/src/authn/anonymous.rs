//! Nobody: may ask for health and version, and is a stranger everywhere else.

use crate::context::{Authenticator, Peer, UserInfo};
use async_trait::async_trait;
use http::request::Parts;
use machinery::Status;

pub(super) struct Anonymous;

/// What anyone may see. What is below `/healthz`, `/livez` and `/readyz` counts with it.
const OPEN_PATHS: [&str; 4] = ["/healthz", "/livez", "/readyz", "/version"];

#[async_trait]
impl Authenticator for Anonymous {
    async fn authenticate(&self, head: &Parts, _: &Peer) -> Result<Option<UserInfo>, Status> {
        let path = head.uri.path();
        let below = |open: &str| path.strip_prefix(open).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let nobody = || UserInfo {
            name: super::ANONYMOUS.to_owned(),
            groups: vec![super::UNAUTHENTICATED.to_owned()],
            ..UserInfo::default()
        };
        Ok(OPEN_PATHS.into_iter().any(below).then(nobody))
    }
}
