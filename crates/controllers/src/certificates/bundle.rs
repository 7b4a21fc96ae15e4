//! The ClusterTrustBundle that clients check the API server against.

use std::sync::Arc;

use client::{Informer, key};
use k8s_openapi::api::certificates::v1::{ClusterTrustBundle, ClusterTrustBundleSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PostParams};
use sha2::{Digest, Sha256};

use crate::control::{Controller, Error, Loop, Queue, Shared, Step};

const SIGNER: &str = "kubernetes.io/kube-apiserver-serving";

struct Bundle {
    shared: Arc<Shared>,
    wanted: ClusterTrustBundle,
    bundles: Informer<ClusterTrustBundle>,
}

/// Starts the controller. `root_ca` is the certificate in PEM.
pub(super) fn start(shared: &Arc<Shared>, root_ca: &str) {
    let bundles: Informer<ClusterTrustBundle> = shared.informers.with_fields(&format!("spec.signerName={SIGNER}"));
    let controller = Bundle { shared: Arc::clone(shared), wanted: wanted(root_ca), bundles: bundles.clone() };
    Loop::new(shared, controller, Arc::new(Queue::new())).on(&bundles, |_, queue, _| queue.add(String::new())).start(1);
}

/// The bundle, named after its signer and what it holds.
fn wanted(root_ca: &str) -> ClusterTrustBundle {
    let hash = hex::encode(&Sha256::digest(root_ca.as_bytes())[..12]);
    ClusterTrustBundle {
        metadata: ObjectMeta { name: Some(format!("{}:{hash}", SIGNER.replace('/', ":"))), ..ObjectMeta::default() },
        spec: ClusterTrustBundleSpec { signer_name: Some(SIGNER.to_owned()), trust_bundle: root_ca.to_owned() },
    }
}

impl Controller for Bundle {
    const NAME: &'static str = "kube-apiserver-serving-clustertrustbundle-publisher-controller";

    fn all(&self) -> Vec<String> {
        vec![String::new()]
    }

    async fn reconcile(&self, _: &str) -> Result<(), Error> {
        let name = key(&self.wanted);
        let api = self.shared.cluster::<ClusterTrustBundle>();
        match self.bundles.get(&name) {
            None => drop(api.create(&PostParams::default(), &self.wanted).await.step("publish trust bundle", &name)?),
            Some(bundle) if bundle.spec.trust_bundle != self.wanted.spec.trust_bundle => {
                let mut bundle = (*bundle).clone();
                bundle.spec.trust_bundle.clone_from(&self.wanted.spec.trust_bundle);
                api.replace(&name, &PostParams::default(), &bundle).await.step("repair trust bundle", &name)?;
            }
            Some(_) => {}
        }
        for other in self.bundles.list().iter().map(|bundle| key(&**bundle)).filter(|other| *other != name) {
            api.delete(&other, &DeleteParams::default()).await.unless_gone("delete old trust bundle", &other)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_bundle_is_named_after_its_content() {
        let name = super::wanted("PEM").metadata.name;
        assert_eq!(name.as_deref(), Some("kubernetes.io:kube-apiserver-serving:384fb9a44fabe158be2757b9"));
    }
}
