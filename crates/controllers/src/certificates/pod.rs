//! PodCertificateRequests go after a quarter of an hour: by then they have served, or never will.

use std::sync::Arc;
use std::time::Duration;

use client::Informer;
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::PodCertificateRequest;
use kube::api::{DeleteParams, Preconditions};

use crate::control::{Controller, Error, Loop, Queue, Shared, Step};

const LIFE_SECONDS: i64 = 15 * 60;

struct PodCertificates {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    requests: Informer<PodCertificateRequest>,
}

/// Starts the controller.
pub(super) fn start(shared: &Arc<Shared>) {
    let queue = Arc::new(Queue::new());
    let requests: Informer<PodCertificateRequest> = shared.informers.all();
    let (shared_too, queue_too) = (Arc::clone(shared), Arc::clone(&queue));
    let controller = PodCertificates { shared: shared_too, queue: queue_too, requests: requests.clone() };
    Loop::new(shared, controller, queue).on_own(&requests).start(1);
}

/// How long the request may still live.
fn left(request: &PodCertificateRequest, now: i64) -> Duration {
    let created = request.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0.as_second());
    Duration::from_secs(u64::try_from(created + LIFE_SECONDS - now).unwrap_or(0))
}

impl Controller for PodCertificates {
    const NAME: &'static str = "podcertificaterequest-cleaner-controller";

    fn all(&self) -> Vec<String> {
        self.requests.list().iter().map(|request| client::key(&**request)).collect()
    }

    async fn reconcile(&self, key: &str) -> Result<(), Error> {
        let Some(request) = self.requests.get(key) else { return Ok(()) };
        let left = left(&request, Timestamp::now().as_second());
        if !left.is_zero() {
            self.queue.add_after(key.to_owned(), left);
            return Ok(());
        }
        let (namespace, name) = client::split_key(key);
        let exactly = Preconditions { uid: request.metadata.uid.clone(), resource_version: None };
        let how = DeleteParams::default().preconditions(exactly);
        let api = self.shared.api::<PodCertificateRequest>(namespace);
        api.delete(name, &how).await.unless_gone("delete pod certificate request", key).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::object;
    use serde_json::json;

    #[test]
    fn a_request_lives_a_quarter_of_an_hour() {
        let request: PodCertificateRequest = object(json!({
            "metadata": {"name": "r", "creationTimestamp": "1970-01-01T00:00:10Z"},
            "spec": {"signerName": "s", "podName": "p", "podUID": "u", "serviceAccountName": "a", "serviceAccountUID": "u",
                "nodeName": "n", "nodeUID": "u"},
        }));
        for (now, seconds) in [(10, 900), (909, 1), (910, 0), (9_999, 0)] {
            assert_eq!(left(&request, now), Duration::from_secs(seconds));
        }
    }
}
