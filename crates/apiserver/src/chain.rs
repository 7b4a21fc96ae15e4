//! The links that a server is made of: who may come in, who may do what, what is changed or refused on the way.

use crate::aggregate::Aggregator;
use crate::context::{AdmissionPlugin, Attributes, Authenticator, Authorizer, Decision, Peer, UserInfo};
use crate::endpoint::Endpoints;
use crate::flow::FlowControl;
use crate::token::Tokens;
use async_trait::async_trait;
use http::request::Parts;
use machinery::Status;
use serde_json::Value;
use std::sync::Arc;

/// Something scarce that objects of a kind hold: cluster addresses, node ports.
#[async_trait]
pub trait Allocator: Send + Sync {
    /// Group and resource of the objects that hold it.
    fn resource(&self) -> (&'static str, &'static str);

    /// Takes what a new or changed object asks for or needs, and writes it into the object. 422 when it cannot be had. In a dry
    /// run the object is changed and nothing stays taken.
    async fn reserve(&self, object: &mut Value, old: Option<&Value>, dry_run: bool) -> Result<(), Status>;

    /// Frees what `dropped` holds and `kept` does not: after a write (the new object is kept, the old dropped), a failed write (the
    /// other way round), or a deletion (nothing is kept).
    async fn settle(&self, kept: Option<&Value>, dropped: Option<&Value>);
}

/// The links, in their order.
pub struct Chain {
    /// Says who makes a request.
    pub authenticator: Arc<dyn Authenticator>,
    /// Says whether it is allowed.
    pub authorizer: Arc<dyn Authorizer>,
    /// All asked, in this order.
    pub admission: Vec<Arc<dyn AdmissionPlugin>>,
    /// What is no stored object.
    pub endpoints: Endpoints,
    /// What is scarce.
    pub allocators: Vec<Arc<dyn Allocator>>,
    /// Issues tokens; none when there are none.
    pub tokens: Option<Arc<Tokens>>,
    /// Who may run now; none when everybody may.
    pub flow: Option<Arc<FlowControl>>,
    /// What other servers serve; none when there can be none.
    pub aggregator: Option<Arc<Aggregator>>,
}

impl Chain {
    /// Who makes the request; 401 when nobody knows.
    pub(crate) async fn authenticate(&self, parts: &Parts, peer: &Peer) -> Result<Arc<UserInfo>, Status> {
        let user = self.authenticator.authenticate(parts, peer).await?;
        user.map(Arc::new).ok_or_else(Status::unauthorized)
    }

    /// 403 unless it is allowed; 401 for the anonymous.
    pub(crate) fn authorize(&self, attributes: &Attributes) -> Result<(), Status> {
        match self.authorizer.authorize(attributes) {
            Decision::Allow(_) => Ok(()),
            _ if attributes.user.name == "system:anonymous" => Err(Status::unauthorized()),
            Decision::Deny(reason) | Decision::NoOpinion(reason) => Err(refusal(attributes, &reason)),
        }
    }

    fn allocators(&self, group: &str, resource: &str) -> impl Iterator<Item = &Arc<dyn Allocator>> {
        self.allocators.iter().filter(move |allocator| allocator.resource() == (group, resource))
    }

    /// Takes what an object needs of everything scarce; when one thing cannot be had, nothing is taken.
    pub(crate) async fn reserve(
        &self,
        (group, resource): (&str, &str),
        object: &mut Value,
        old: Option<&Value>,
        dry_run: bool,
    ) -> Result<(), Status> {
        let mut failure = None;
        for allocator in self.allocators(group, resource) {
            if let Err(status) = allocator.reserve(object, old, dry_run).await {
                failure = Some(status);
                break;
            }
        }
        let Some(status) = failure else { return Ok(()) };
        if !dry_run {
            self.settle((group, resource), old, Some(object)).await;
        }
        Err(status)
    }

    /// Frees what `dropped` holds and `kept` does not.
    pub(crate) async fn settle(&self, (group, resource): (&str, &str), kept: Option<&Value>, dropped: Option<&Value>) {
        for allocator in self.allocators(group, resource) {
            allocator.settle(kept, dropped).await;
        }
    }
}

/// Upstream's words for what a user may not do.
pub(crate) fn refusal(attributes: &Attributes, reason: &str) -> Status {
    let user = &attributes.user.name;
    let because = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    if !attributes.resource_request {
        let why = format!("User {user:?} cannot {} path {:?}{because}", attributes.verb, attributes.path);
        return Status::forbidden("", "", "", why);
    }
    let subresource =
        if attributes.subresource.is_empty() { String::new() } else { format!("/{}", attributes.subresource) };
    let resource = format!("{}{subresource}", attributes.resource);
    let scope = if attributes.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {:?}", attributes.namespace)
    };
    let why = format!(
        "User {user:?} cannot {} resource {resource:?} in API group {:?} {scope}{because}",
        attributes.verb, attributes.group
    );
    Status::forbidden(&attributes.group, &attributes.resource, &attributes.name, why)
}
