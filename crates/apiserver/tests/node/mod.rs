//! A whole API server on the wire, with a node whose kubelet runs processes of this machine.
#![allow(dead_code, clippy::unwrap_used, unreachable_pub, missing_docs, reason = "each test uses its part")]

#[path = "../secured/mod.rs"]
mod secured;

use apiserver::ApiServer;
use apiserver::context::Peer;
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use pki::{Leaf, Pki};
use serde_json::{Value, json};
use serve::remote::{Process, Wanted};
use serve::{Body, Duplex, Limits};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

pub struct Cluster {
    pub api: Arc<ApiServer>,
    pub pki: Arc<Pki>,
    pub address: SocketAddr,
    pub stop: CancellationToken,
    _secured: secured::Secured,
}

/// The kubelet's answers: who asks must be the API server.
async fn kubelet(peer: serve::Peer, request: Request<Incoming>) -> Response<Body> {
    let user = peer.certificate.and_then(|der| pki::Subject::of(&der).ok()).unwrap_or_default().common_name;
    if user != "kube-apiserver-kubelet-client" {
        return serve::websocket::refusal(http::StatusCode::UNAUTHORIZED, "Unauthorized");
    }
    let path: Vec<String> = request.uri().path().split('/').map(str::to_owned).collect();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let (response, session) = match path[1].as_str() {
        "containerLogs" if path[4] == "broken" => {
            return serve::websocket::refusal(http::StatusCode::NOT_FOUND, "no such container here");
        }
        "containerLogs" => return Response::new(serve::full(format!("log of {}?{query}\n", path[2..].join("/")))),
        "exec" | "attach" => serve::remote::exec(request, Wanted::from_query(&query), async move { run(&query) }),
        "redirect" => {
            let answer = Response::builder().status(302).header("location", "http://169.254.169.254/latest");
            return answer.body(serve::empty()).unwrap();
        }
        "headers" => {
            let headers = request.headers().iter().map(|(name, value)| format!("{name}: {value:?}\n"));
            return Response::new(serve::full(headers.collect::<String>()));
        }
        "portForward" => serve::remote::port_forward(request, connect),
        _ => return Response::new(serve::full(format!("{} {}", request.method(), request.uri()))),
    };
    tokio::spawn(session);
    response
}

async fn connect(port: u16) -> Result<Box<dyn Duplex>, String> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(|e| e.to_string())?;
    Ok(Box::new(stream))
}

fn run(query: &str) -> Result<Process, String> {
    let decode = |text: &str| {
        let url: http::Uri = format!("/{text}").parse().unwrap();
        percent_decode(&url.path()[1..])
    };
    let command: Vec<String> = query.split('&').filter_map(|pair| pair.strip_prefix("command=")).map(decode).collect();
    let mut child = tokio::process::Command::new(command.first().ok_or("no command")?)
        .args(&command[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| format!("exec {:?}: {e}", command[0]))?;
    Ok(Process {
        stdin: child.stdin.take().map(|pipe| Box::pin(pipe) as _),
        stdout: child.stdout.take().map(|pipe| Box::pin(pipe) as _),
        stderr: child.stderr.take().map(|pipe| Box::pin(pipe) as _),
        resize: Box::new(|_, _| {}),
        exit: Box::pin(async move {
            let status = child.wait().await.map_err(|e| e.to_string())?;
            status.code().ok_or_else(|| "killed".to_owned())
        }),
    })
}

fn percent_decode(text: &str) -> String {
    let (mut out, mut bytes) = (Vec::new(), text.bytes());
    while let Some(byte) = bytes.next() {
        let digits = |bytes: &mut std::str::Bytes<'_>| [bytes.next().unwrap(), bytes.next().unwrap()];
        out.push(match byte {
            b'%' => u8::from_str_radix(std::str::from_utf8(&digits(&mut bytes)).unwrap(), 16).unwrap(),
            byte => byte,
        });
    }
    String::from_utf8(out).unwrap()
}

async fn listen<H, F, B>(config: rustls::ServerConfig, handler: H, stop: &CancellationToken) -> SocketAddr
where
    H: Fn(serve::Peer, Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<serve::BoxError>,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve::serve(listener, Some(Arc::new(config)), Limits::default(), handler, stop.clone()));
    address
}

pub async fn start() -> Cluster {
    let secured = secured::start().await;
    let (api, pki, stop) = (secured.api.clone(), secured.pki.clone(), secured.stop.clone());
    let tls = |leaf| pki::server_config(pki.swap(leaf), pki.authority()).unwrap();
    let kubelet = listen(tls(Leaf::Kubelet), kubelet, &stop).await;
    let handler = {
        let api = api.clone();
        move |peer: serve::Peer, request: Request<Incoming>| {
            let peer = Peer { address: Some(peer.address), certificate: peer.certificate, user: None };
            let api = api.clone();
            async move { api.handle(request, peer).await }
        }
    };
    let address = listen(tls(Leaf::ApiServer), handler, &stop).await;
    let cluster = Cluster { api, pki, address, stop, _secured: secured };
    cluster.fill(kubelet.port()).await;
    cluster
}

impl Cluster {
    /// A node with that kubelet, and two pods on it.
    async fn fill(&self, kubelet_port: u16) {
        let storage = self.api.storage();
        let put = |group: &'static str, resource: &'static str, object: Value| async move {
            storage.kind(group, resource).unwrap().create(object).await.unwrap();
        };
        let status = json!({
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet_port}},
        });
        put("", "nodes", json!({"metadata": {"name": "n1"}, "status": status})).await;
        for (name, containers) in [("one", &["a"][..]), ("two", &["a", "b", "broken"])] {
            let containers: Vec<Value> = containers.iter().map(|c| json!({"name": c, "image": "x"})).collect();
            let spec = json!({"nodeName": "n1", "containers": containers});
            let status = json!({"phase": "Running", "podIP": "192.0.2.9"});
            put(
                "",
                "pods",
                json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec, "status": status}),
            )
            .await;
        }
    }

    pub fn client(&self) -> serve::client::Client {
        let config = pki::client_config(self.pki.authority(), Some(self.pki.swap(Leaf::Admin))).unwrap();
        serve::client::Client::new(config)
    }

    pub fn kubeconfig(&self) -> String {
        self.pki.admin_kubeconfig("test", &format!("https://{}", self.address))
    }

    /// Headers by name, of an answer.
    pub fn headers(response: &Response<Incoming>) -> HashMap<String, String> {
        let text = |v: &http::HeaderValue| v.to_str().unwrap().to_owned();
        response.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect()
    }
}
