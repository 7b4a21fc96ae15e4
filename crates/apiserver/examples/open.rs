//! The API server alone on plain HTTP, open to everybody on loopback: for benchmarks and for trying clients.
//!
//! `cargo run --release -p apiserver --example open -- FOLDER PORT`
#![expect(clippy::print_stdout, reason = "a command")]

use apiserver::context::{Attributes, Authenticator, Authorizer, Decision, Peer, UserInfo};
use apiserver::{ApiServer, Chain, Config, open_storage};
use std::sync::Arc;
use store::embedded;
use tokio_util::sync::CancellationToken;

struct Everybody;

#[async_trait::async_trait]
impl Authenticator for Everybody {
    async fn authenticate(&self, _: &http::request::Parts, _: &Peer) -> Result<Option<UserInfo>, machinery::Status> {
        Ok(Some(UserInfo { name: "everybody".to_owned(), ..UserInfo::default() }))
    }
}

impl Authorizer for Everybody {
    fn authorize(&self, _: &Attributes) -> Decision {
        Decision::Allow(String::new())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (folder, port) = (args.next().ok_or("a folder")?, args.next().ok_or("a port")?.parse::<u16>()?);
    let stop = CancellationToken::new();
    let store = embedded::Embedded::open(embedded::Config::new(folder))?;
    let storage = open_storage(Arc::new(store), stop.clone()).await?;
    let chain = Chain {
        authenticator: Arc::new(Everybody),
        authorizer: Arc::new(Everybody),
        admission: Vec::new(),
        endpoints: apiserver::endpoint::Endpoints::new(),
        allocators: Vec::new(),
        flow: None,
        tokens: None,
        aggregator: None,
    };
    let api = ApiServer::new(Config::default(), storage, chain, stop.clone());
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("http://{}", listener.local_addr()?);
    api.serve(listener, None, serve::Limits::default(), stop).await;
    Ok(())
}
