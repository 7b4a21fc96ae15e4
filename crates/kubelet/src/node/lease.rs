//! The heartbeat: a Lease in `kube-node-lease`, renewed every ten seconds.

use crate::context::Shared;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use kube::api::{Api, PostParams};
use std::time::Duration;

const NAMESPACE: &str = "kube-node-lease";
const DURATION_S: i32 = 40;
const EVERY: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(1);

/// Renews until the kubelet ends.
pub async fn run(context: Shared) {
    let api = Api::<Lease>::namespaced(context.config.client.clone(), NAMESPACE);
    let mut known: Option<Lease> = None;
    loop {
        let wait = match renew(&context, &api, known.take()).await {
            Ok(lease) => {
                known = Some(lease);
                EVERY
            }
            Err(error) => {
                tracing::debug!(%error, "the node's lease could not be renewed; it is tried again");
                RETRY
            }
        };
        tokio::select! {
            () = context.token.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn renew(context: &Shared, api: &Api<Lease>, known: Option<Lease>) -> Result<Lease, kube::Error> {
    let name = &context.config.node_name;
    let known = match known {
        Some(lease) => Some(lease),
        None => api.get_opt(name).await?,
    };
    let mut lease = known.clone().unwrap_or_default();
    lease.metadata.name = Some(name.clone());
    lease.metadata.namespace = Some(NAMESPACE.into());
    if let Some(node) = context.node.get(name).filter(|_| lease.metadata.owner_references.is_none()) {
        lease.metadata.owner_references = Some(vec![OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: name.clone(),
            uid: node.metadata.uid.clone().unwrap_or_default(),
            ..OwnerReference::default()
        }]);
    }
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(name.clone()),
        lease_duration_seconds: Some(DURATION_S),
        renew_time: Some(MicroTime(k8s_openapi::jiff::Timestamp::now())),
        ..lease.spec.unwrap_or_default()
    });
    match known {
        Some(_) => api.replace(name, &PostParams::default(), &lease).await,
        None => api.create(&PostParams::default(), &lease).await,
    }
}
