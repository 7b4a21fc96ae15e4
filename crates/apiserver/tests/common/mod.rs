//! A server in this process on a fresh store, asked as clients ask on the wire.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used, reason = "each test uses its part")]

use apiserver::context::{Attributes, Authenticator, Authorizer, Decision, Peer, UserInfo};
use apiserver::storage::Storage;
use apiserver::transport::InProcess;
use apiserver::{ApiServer, Chain, Config, open_storage};
use bytes::Bytes;
use futures::future::LocalBoxFuture;
use futures::{FutureExt, StreamExt};
use http::{HeaderMap, Request};
use http_body::Frame;
use http_body_util::{BodyExt, BodyStream, Full, StreamBody};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use store::embedded;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

struct PeerUser;

#[async_trait::async_trait]
impl Authenticator for PeerUser {
    async fn authenticate(&self, _: &http::request::Parts, peer: &Peer) -> Result<Option<UserInfo>, machinery::Status> {
        let stranger = || UserInfo { name: "stranger".to_owned(), ..UserInfo::default() };
        Ok(Some(peer.user.as_deref().cloned().unwrap_or_else(stranger)))
    }
}

/// Everything, except to the user `nobody`.
struct AllButNobody;

impl Authorizer for AllButNobody {
    fn authorize(&self, attributes: &Attributes) -> Decision {
        match &*attributes.user.name {
            "nobody" => Decision::NoOpinion(String::new()),
            _ => Decision::Allow(String::new()),
        }
    }
}

pub struct Server {
    pub api: Arc<ApiServer>,
    client: InProcess,
    /// Ends the server, and not yet its storage.
    pub stop: CancellationToken,
    storage_stop: CancellationToken,
    _folder: tempfile::TempDir,
}

pub struct Answer {
    pub code: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    pub fn ok(self) -> Value {
        assert!(self.code < 300, "{} {:?}", self.code, self.body);
        self.json()
    }
}

pub async fn start() -> Server {
    start_with(|_| {}).await
}

pub async fn start_with(change: impl FnOnce(&mut Chain)) -> Server {
    start_configured(Config::default(), change).await
}

pub async fn start_configured(config: Config, change: impl FnOnce(&mut Chain)) -> Server {
    start_on(config, |_, chain| change(chain)).await
}

/// With links that need the storage.
pub async fn start_on(config: Config, change: impl FnOnce(&Arc<Storage>, &mut Chain)) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let store = embedded::Embedded::open(embedded::Config::new(folder.path())).unwrap();
    let stop = CancellationToken::new();
    let storage_stop = CancellationToken::new();
    let storage = open_storage(Arc::new(store), storage_stop.clone()).await.unwrap();
    let mut chain = Chain {
        authenticator: Arc::new(PeerUser),
        authorizer: Arc::new(AllButNobody),
        admission: Vec::new(),
        endpoints: Default::default(),
        allocators: Vec::new(),
        tokens: None,
        flow: None,
        aggregator: None,
    };
    change(&storage, &mut chain);
    let api = ApiServer::new(config, storage, chain, stop.clone());
    let client = api.service(UserInfo { name: "tester".to_owned(), ..UserInfo::default() });
    Server { api, client, stop, storage_stop, _folder: folder }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        self.storage_stop.cancel();
    }
}

/// Asks until the answer is good, and gives that; panics with the last one after a while.
pub async fn until<F: Future<Output = Answer>>(ask: impl Fn() -> F, good: impl Fn(&Answer) -> bool) -> Answer {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        let answer = ask().await;
        if good(&answer) {
            return answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "{} {:?}", answer.code, answer.body);
        // What is waited for happens beside the server's answers: nothing tells of it.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl Server {
    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        let response = self.client.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = tokio::time::timeout(Duration::from_secs(20), body.collect()).await.expect("an answer in time");
        Answer { code: parts.status.as_u16(), headers: parts.headers, body: body.unwrap().to_bytes() }
    }

    /// Sends a request whose body comes when it is wanted to.
    pub fn begin(&self, method: &str, path: &str) -> (LocalBoxFuture<'static, Answer>, oneshot::Sender<String>) {
        let (send, sent) = oneshot::channel::<String>();
        let frame =
            async move { Ok::<_, std::convert::Infallible>(Frame::data(sent.await.unwrap_or_default().into())) };
        let body = StreamBody::new(futures::stream::once(frame).boxed());
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        let response = self.client.clone().oneshot(request.body(body).unwrap());
        let answer = async move {
            let (parts, body) = response.await.unwrap().into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            Answer { code: parts.status.as_u16(), headers: parts.headers, body }
        };
        (answer.boxed_local(), send)
    }

    pub async fn as_user(&self, user: &str, method: &str, path: &str) -> Answer {
        let client = self.api.service(UserInfo { name: user.to_owned(), ..UserInfo::default() });
        let request = Request::builder().method(method).uri(path).body(Full::new(Bytes::new())).unwrap();
        let (parts, body) = client.oneshot(request).await.unwrap().into_parts();
        Answer { code: parts.status.as_u16(), headers: parts.headers, body: body.collect().await.unwrap().to_bytes() }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send("POST", path, &[("content-type", "application/json")], body.to_string()).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.send("PUT", path, &[("content-type", "application/json")], body.to_string()).await
    }

    pub async fn patch(&self, path: &str, kind: &str, body: Value) -> Answer {
        let media_type = format!("application/{kind}-patch+json");
        self.send("PATCH", path, &[("content-type", &media_type)], body.to_string()).await
    }

    pub async fn delete(&self, path: &str, options: Value) -> Answer {
        let body = if options.is_null() { String::new() } else { options.to_string() };
        self.send("DELETE", path, &[("content-type", "application/json")], body).await
    }

    pub async fn watch(&self, path: &str) -> Lines {
        self.watch_as(path, "application/json").await
    }

    pub async fn watch_as(&self, path: &str, accept: &str) -> Lines {
        let request = Request::builder().uri(path).header("accept", accept).body(Full::new(Bytes::new())).unwrap();
        let response = self.client.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        Lines { body: Box::pin(BodyStream::new(response.into_body())), buffer: Vec::new() }
    }
}

pub struct Lines {
    body: std::pin::Pin<Box<BodyStream<apiserver::body::Body>>>,
    buffer: Vec<u8>,
}

impl Lines {
    /// The next event; none at the end of the stream.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame =
                tokio::time::timeout(Duration::from_secs(20), self.body.next()).await.expect("an event in time")?;
            self.buffer.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
    }

    /// The next event, however long it takes.
    pub async fn patient(&mut self) -> Option<Value> {
        let frame = self.body.next().await?;
        self.buffer.extend_from_slice(&frame.unwrap().into_data().unwrap());
        self.next().await
    }

    /// The next event as `TYPE name`.
    pub async fn brief(&mut self) -> String {
        let Some(event) = self.next().await else { return "end".to_owned() };
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or("-");
        format!("{} {name}", event["type"].as_str().unwrap())
    }
}
