//! Wires authentication, authorization, admission, allocation and the endpoints into the server's chain.

use crate::admission;
use crate::aggregate::Aggregator;
use crate::alloc::{Allocator, ServiceRange};
use crate::authn;
use crate::authz::{NodeAuthorizer, Rbac, RoleGuard, Union};
use crate::chain::Chain;
use crate::connect::Connect;
use crate::context::Authorizer;
use crate::endpoint::Endpoints;
use crate::flow::FlowControl;
use crate::review::Reviews;
use crate::storage::Storage;
use crate::token::Tokens;
use machinery::Status;
use pki::{Leaf, Pki};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// What security needs to know of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecurityConfig {
    /// Who issues service-account tokens: `https://kubernetes.default.svc.cluster.local`.
    pub issuer: String,
    /// Where clients reach the API server: `host:port`.
    pub address: String,
    /// Where requests without credentials are let in.
    pub anonymous: authn::Anonymous,
    /// Where Services get their addresses and node ports.
    pub services: ServiceRange,
}

/// The chain of a server whose certificates and token key are `pki`'s. Tunnels to kubelets end with `stop`.
pub fn chain(
    storage: &Arc<Storage>,
    pki: &Arc<Pki>,
    config: &SecurityConfig,
    stop: CancellationToken,
) -> Result<Chain, Status> {
    let rbac = Arc::new(Rbac::new(storage)?);
    let authorizer = Arc::new(Union::new(vec![Arc::new(NodeAuthorizer::new(storage)?), rbac.clone()]));
    let tokens = Arc::new(Tokens::new(pki.clone(), storage.clone(), &config.issuer, &config.address));
    let kubelets = pki::client_config(pki.authority(), Some(pki.swap(Leaf::ApiServerKubeletClient)));
    let connect = Connect::new(storage.clone(), kubelets.map_err(Status::internal)?, stop).map_err(Status::internal)?;
    let aggregator = Aggregator::new(storage, &connect, pki.swap(Leaf::FrontProxyClient))?;
    let reviews = Arc::new(Reviews {
        authorizer: authorizer.clone() as Arc<dyn Authorizer>,
        rbac: rbac.clone(),
        tokens: tokens.clone(),
    });
    let mut endpoints = Endpoints::new();
    connect.endpoints(&mut endpoints);
    reviews.endpoints(&mut endpoints);
    let mut plugins = admission::plugins(storage, &(authorizer.clone() as Arc<dyn Authorizer>))?;
    plugins.push(Arc::new(RoleGuard::new(rbac, authorizer.clone())));
    plugins.extend(admission::configured(storage)?);
    plugins.push(admission::resource_quota(storage)?);
    Ok(Chain {
        authenticator: Arc::new(authn::Chain::new(pki, tokens.clone(), authorizer.clone(), config.anonymous)),
        authorizer,
        admission: plugins,
        endpoints,
        tokens: Some(tokens.clone()),
        flow: Some(FlowControl::new(storage)?),
        aggregator: Some(aggregator),
        allocators: vec![Arc::new(Allocator::new(storage.clone(), config.services))],
    })
}
