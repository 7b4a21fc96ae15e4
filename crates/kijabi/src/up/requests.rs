//! What the control socket answers.

use super::api::{Identity, client};
use super::engines::Engines;
use super::{Api, images};
use crate::control::{json, refusal};
use crate::parts::{PartStatus, Parts};
use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use k8s_openapi::api::core::v1::Node;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Pieces of an archive that may wait for the importer.
const PIECES: usize = 16;

/// How the program is asked to end.
#[derive(Clone, Default)]
pub(super) struct Stop {
    pub(super) token: CancellationToken,
    pods: Arc<AtomicBool>,
}

impl Stop {
    /// Whether the pods shall stop too.
    pub(super) fn with_pods(&self) -> bool {
        self.pods.load(Ordering::Acquire)
    }
}

/// Answers requests of the control socket.
#[derive(Clone)]
pub(super) struct Requests {
    parts: Parts,
    engines: Engines,
    api: Api,
    node_name: String,
    stop: Stop,
}

impl Requests {
    pub(super) fn new(parts: &Parts, engines: &Engines, api: &Api, node_name: &str, stop: &Stop) -> Requests {
        let (parts, engines, api, stop) = (parts.clone(), engines.clone(), Arc::clone(api), stop.clone());
        Requests { parts, engines, api, node_name: node_name.to_owned(), stop }
    }

    pub(super) async fn answer(self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let argument = request.uri().query().unwrap_or_default().to_owned();
        let images = &self.engines.images;
        let result = match (request.method().clone(), request.uri().path()) {
            (Method::GET, "/status") => Ok(json(&self.status().await)),
            (Method::POST, "/stop") => {
                self.stop.pods.store(argument == "pods", Ordering::Release);
                self.stop.token.cancel();
                Ok(json(&true))
            }
            (Method::GET, "/images") => images::list(images).await.map(|rows| json(&rows)),
            (Method::POST, "/images/import") => {
                self.import(&argument, request.into_body()).await.map(|names| json(&names))
            }
            (Method::POST, "/images/pull") => images::pull(images, &argument).await.map(|name| json(&[name])),
            (Method::DELETE, "/images") => images::remove(images, &argument).await.map(|()| json(&[argument])),
            (method, path) => {
                return refusal(StatusCode::NOT_FOUND, format!("this version does not know {method} {path}"));
            }
        };
        result.unwrap_or_else(|error| refusal(StatusCode::BAD_REQUEST, format!("{error:#}")))
    }

    /// Imports the folder that the argument names, or the archive in the body as it arrives.
    async fn import(&self, folder: &str, body: Incoming) -> Result<Vec<String>> {
        if !folder.is_empty() {
            let path = PathBuf::from(std::ffi::OsString::from_vec(hex::decode(folder).context("a bad path")?));
            return images::import_path(&self.engines.images, &path).await;
        }
        let (pieces, received) = mpsc::channel(PIECES);
        let feeding = tokio::spawn(feed(body, pieces));
        let imported = images::import(&self.engines.images, Pieces { received, rest: Bytes::new() }).await;
        feeding.abort();
        imported
    }

    /// The parts, and what only a look can tell: the store by a write's twin, the node by its condition.
    async fn status(&self) -> Vec<PartStatus> {
        let mut all = self.parts.statuses();
        let nodes: kube::Api<Node> = kube::Api::all(client(&self.api, Identity::Admin));
        let (healthy, message) = match nodes.get(&self.node_name).await {
            Ok(node) => ready(&node),
            Err(error) => (false, error.to_string()),
        };
        all.push(PartStatus { name: "node".to_owned(), healthy, message });
        let network = self.engines.network.status();
        let range = network.pod_cidr.map_or("no range yet".to_owned(), |c| c.to_string());
        let forwarding = if network.forwarding { "" } else { "; net.ipv4.ip_forward is off" };
        let blockers = match network.forward_blockers.as_slice() {
            [] => String::new(),
            chains => {
                format!("; others drop forwarded packets, which rules of ours cannot overrule: {}", chains.join(", "))
            }
        };
        let message = format!("{range}, {} pods attached{forwarding}{blockers}", network.pods);
        all.push(PartStatus {
            name: "network".to_owned(),
            healthy: network.forwarding && network.pod_cidr.is_some(),
            message,
        });
        all
    }
}

fn ready(node: &Node) -> (bool, String) {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    match conditions.and_then(|all| all.iter().find(|c| c.type_ == "Ready")) {
        Some(condition) => {
            let message = condition.message.clone().unwrap_or_else(|| condition.reason.clone().unwrap_or_default());
            (condition.status == "True", message)
        }
        None => (false, "the kubelet has not reported yet".to_owned()),
    }
}

async fn feed(mut body: Incoming, pieces: mpsc::Sender<std::io::Result<Bytes>>) {
    while let Some(frame) = body.frame().await {
        let piece = match frame {
            Ok(frame) => frame.into_data().map_or(Bytes::new(), |d| d),
            Err(error) => {
                let _ = pieces.send(Err(std::io::Error::other(error))).await;
                return;
            }
        };
        if pieces.send(Ok(piece)).await.is_err() {
            return;
        }
    }
}

/// A body as something to read, for a thread that may block.
struct Pieces {
    received: mpsc::Receiver<std::io::Result<Bytes>>,
    rest: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.rest.is_empty() {
            match self.received.blocking_recv() {
                Some(piece) => self.rest = piece?,
                None => return Ok(0),
            }
        }
        let length = self.rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.rest.split_to(length));
        Ok(length)
    }
}
