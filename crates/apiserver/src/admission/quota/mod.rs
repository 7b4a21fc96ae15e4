//! ResourceQuota: what a namespace may take together.
//!
//! A request that takes something is charged to every quota that is about it before its object is stored, by a guarded write of
//! the quota's status: requests that come together can never take more than there is. What is no longer taken is given back by
//! the quota controller's recount. Requests to one namespace that wait for the same write are charged together ([`ledger`]).

mod account;
mod ledger;
mod scope;
mod usage;

use crate::context::{AdmissionPlugin, AdmissionRequest, Operation};
use crate::storage::KindStore;
use account::Demand;
use async_trait::async_trait;
use machinery::Status;
use scope::Facts;
use serde_json::Value;
use std::sync::Arc;
use usage::Source;

pub(super) struct ResourceQuota {
    ledger: Arc<ledger::Ledger>,
}

impl ResourceQuota {
    pub(super) fn new(quotas: Arc<KindStore>) -> Self {
        Self { ledger: Arc::new(ledger::Ledger::new(quotas)) }
    }
}

#[async_trait]
impl AdmissionPlugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<(), Status> {
        let attributes = request.attributes;
        let (group, resource) = (&*attributes.group, &*attributes.resource);
        if attributes.namespace.is_empty() || (group, resource) == ("", "namespaces") || resource == "events" {
            return Ok(());
        }
        let source = Source::of(group, resource);
        let Some(object) = request.object.as_deref().filter(|object| concerns(request, &source, object)) else {
            return Ok(());
        };
        if !self.ledger.has_any(&attributes.namespace) {
            return Ok(());
        }
        let demand = Demand::new(source, object, request);
        let refused = |why| Status::forbidden(group, resource, &attributes.name, why);
        self.ledger.charge(&attributes.namespace, demand, request.dry_run).await?.map_err(refused)
    }
}

/// Whether a write can change what is taken.
fn concerns(request: &AdmissionRequest<'_>, source: &Source, object: &Value) -> bool {
    let old = request.old_object;
    match (source, &*request.attributes.subresource, request.operation) {
        (_, "", Operation::Create) => true,
        (Source::Pods, "", Operation::Update) => {
            old.is_some_and(|old| scope::is_terminating(old) != scope::is_terminating(object))
        }
        (Source::Pods, "resize", Operation::Update) => true,
        (Source::Services | Source::Claims | Source::ResourceClaims, "", Operation::Update) => true,
        (Source::Claims, "status", Operation::Update) => old.is_some_and(|old| {
            Facts::of_claim(old) != Facts::of_claim(object)
                || old.pointer("/status/allocatedResources") != object.pointer("/status/allocatedResources")
        }),
        _ => false,
    }
}
