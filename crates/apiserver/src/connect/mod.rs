//! What reaches through the API server to something else: logs, exec, attach, port-forward, and the proxies.
//!
//! Requests to kubelets carry the API server's client certificate and check the kubelet's; upgraded connections are passed
//! on byte for byte. What a client sent to prove who it is never goes on.

mod exec;
mod forward;
mod kubelet;
mod logs;
mod options;
mod proxy;

pub(crate) use forward::{percent_decode, percent_encode, require_upgrade};
pub(crate) use options::admit;

use crate::context::Attributes;
use crate::endpoint::Endpoints;
use crate::meta;
use crate::storage::{Entry, Storage};
use machinery::Status;
use serde_json::Value;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What all of them share.
pub struct Connect {
    storage: Arc<Storage>,
    /// Towards kubelets.
    kubelets: serve::client::Client,
    /// Towards pods and services, whose certificates are nobody's.
    others: serve::client::Client,
    tunnels: TaskTracker,
    stop: CancellationToken,
}

impl Connect {
    /// `kubelets` shows the API server's client certificate and trusts the cluster's authority. Tunnels end when `stop` is
    /// cancelled.
    pub fn new(
        storage: Arc<Storage>,
        kubelets: rustls::ClientConfig,
        stop: CancellationToken,
    ) -> Result<Arc<Self>, rustls::Error> {
        Ok(Arc::new(Self {
            storage,
            kubelets: serve::client::Client::new(kubelets),
            others: serve::client::Client::without_verification()?,
            tunnels: TaskTracker::new(),
            stop,
        }))
    }

    /// Hangs the endpoints at their places.
    pub fn endpoints(self: &Arc<Self>, endpoints: &mut Endpoints) {
        use exec::{Exec, What};
        endpoints.insert(("", "pods", "log"), Arc::new(logs::Logs(self.clone())));
        let streams = [("exec", What::Exec), ("attach", What::Attach), ("portforward", What::PortForward)];
        for (subresource, what) in streams {
            endpoints.insert(("", "pods", subresource), Arc::new(Exec(self.clone(), what)));
        }
        for resource in ["pods", "services", "nodes"] {
            endpoints.insert(("", resource, "proxy"), Arc::new(proxy::Proxy(self.clone())));
        }
    }

    fn pod(&self, attributes: &Attributes) -> Result<Arc<Entry>, Status> {
        self.storage.kind("", "pods")?.find(&attributes.namespace, &attributes.name)
    }
}

/// The container meant: the one named, or the only one.
fn container(pod: &Value, asked: &str) -> Result<String, Status> {
    let names = |field: &str| -> Vec<&str> {
        let list = meta::at(pod, &["spec", field]).and_then(Value::as_array);
        list.into_iter().flatten().map(|container| meta::text_at(container, &["name"])).collect()
    };
    let (regular, init, ephemeral) = (names("containers"), names("initContainers"), names("ephemeralContainers"));
    let pod_name = meta::name(pod);
    if !asked.is_empty() {
        let known = regular.iter().chain(&init).chain(&ephemeral).any(|name| *name == asked);
        let refusal = || Status::bad_request(format!("container {asked} is not valid for pod {pod_name}"));
        return if known { Ok(asked.to_owned()) } else { Err(refusal()) };
    }
    if let [only] = regular.as_slice() {
        return Ok((*only).to_owned());
    }
    let mut text = format!("a container name must be specified for pod {pod_name}");
    let lists = [(", choose one of", regular), (" or one of the init containers", init)];
    for (words, names) in lists.into_iter().filter(|(_, names)| !names.is_empty()) {
        text.push_str(&format!("{words}: [{}]", names.join(" ")));
    }
    Err(Status::bad_request(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn which_container_is_meant() {
        let pod = |regular: &[&str], init: &[&str]| {
            let list = |names: &[&str]| names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>();
            json!({"metadata": {"name": "p"}, "spec": {"containers": list(regular), "initContainers": list(init)}})
        };
        let cases = [
            (pod(&["a"], &[]), "", Ok("a")),
            (pod(&["a"], &["i"]), "", Ok("a")),
            (pod(&["a", "b"], &[]), "b", Ok("b")),
            (pod(&["a"], &["i"]), "i", Ok("i")),
            (pod(&["a"], &[]), "x", Err("container x is not valid for pod p")),
            (pod(&["a", "b"], &[]), "", Err("a container name must be specified for pod p, choose one of: [a b]")),
            (
                pod(&["a", "b"], &["i", "j"]),
                "",
                Err(
                    "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i j]",
                ),
            ),
        ];
        for (pod, asked, expected) in cases {
            let found = container(&pod, asked).map_err(|status| status.message);
            assert_eq!(found, expected.map(str::to_owned).map_err(str::to_owned));
        }
    }
}
