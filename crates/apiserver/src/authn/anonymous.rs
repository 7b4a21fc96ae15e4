//! Nobody: may ask for health and version, and is a stranger everywhere else.

use crate::context::{Authenticator, Peer, UserInfo};
use async_trait::async_trait;
use http::request::Parts;
use machinery::Status;

/// Where requests without credentials are let in, as [`super::ANONYMOUS`]; what they may do there is the authorizers' matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Anonymous {
    /// Nowhere: they get 401.
    Nowhere,
    /// At health and version.
    #[default]
    Health,
    /// Everywhere: they get 403 where nothing is allowed to them.
    Everywhere,
}

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
        let allowed = match self {
            Anonymous::Nowhere => false,
            Anonymous::Health => OPEN_PATHS.into_iter().any(below),
            Anonymous::Everywhere => true,
        };
        Ok(allowed.then(nobody))
    }
}
