//! The server: sockets, and the task that keeps the index.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use client::{Delta, Informer, Informers};
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::RwLock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::forward::{Forwarder, Upstreams};
use crate::index::Index;
use crate::wire::{Question, Received, Way, answer, fit, receive};
use crate::zone::{Answer, TTL, Zone};

/// How many TCP connections are served at once; others wait in the kernel.
const CONNECTIONS_MAX: usize = 200;
/// How long a TCP connection may be silent.
const IDLE: Duration = Duration::from_secs(10);
/// How many aliases are followed.
const ALIASES_MAX: usize = 8;

/// What the DNS server needs.
pub struct Config {
    /// Where Services and EndpointSlices come from; shared with others, above all the service proxy.
    pub informers: Arc<Informers>,
    /// The cluster domain, as `cluster.local`.
    pub domain: String,
    /// The addresses to listen at, UDP and TCP. Port 0 lets the kernel choose.
    pub listen: Vec<SocketAddr>,
    /// Where other names are asked.
    pub upstreams: Upstreams,
    /// Addresses that lead back here besides `listen`, above all that of the DNS Service: never asked.
    pub own_addresses: Vec<std::net::IpAddr>,
}

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// The domain is no domain name.
    #[error("cluster domain {domain:?} is not a domain name")]
    Domain {
        /// What was given.
        domain: String,
        /// Why not.
        source: hickory_proto::ProtoError,
    },
    /// An address cannot be listened at.
    #[error("cannot listen for DNS at {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// A server that holds its sockets and does not answer yet.
pub struct Server {
    sockets: Vec<(UdpSocket, TcpListener)>,
    informers: Arc<Informers>,
    shared: Arc<Shared>,
}

struct Shared {
    zone: Zone,
    index: RwLock<Index>,
    synced: AtomicBool,
    forwarder: Forwarder,
    turn: AtomicUsize,
}

/// Binds and serves until the token is cancelled.
pub async fn run(config: Config, token: CancellationToken) -> Result<(), DnsError> {
    Server::bind(config).await?.run(token).await;
    Ok(())
}

impl Server {
    /// Binds the sockets, in the calling thread's network namespace.
    pub async fn bind(config: Config) -> Result<Server, DnsError> {
        let zone =
            Zone::new(&config.domain).map_err(|source| DnsError::Domain { domain: config.domain.clone(), source })?;
        let mut sockets = Vec::new();
        for address in config.listen {
            let pair = bind(address).await.map_err(|source| DnsError::Listen { address, source })?;
            sockets.push(pair);
        }
        let own = sockets.iter().filter_map(|(udp, _)| Some(udp.local_addr().ok()?.ip()));
        let own = own.chain(config.own_addresses).filter(|own| !own.is_unspecified()).collect();
        let shared = Shared {
            zone,
            index: RwLock::default(),
            synced: AtomicBool::new(false),
            forwarder: Forwarder::new(config.upstreams, own),
            turn: AtomicUsize::new(0),
        };
        Ok(Server { sockets, informers: config.informers, shared: Arc::new(shared) })
    }

    /// The addresses it listens at, with the ports the kernel chose.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().filter_map(|(udp, _)| udp.local_addr().ok()).collect()
    }

    /// Serves until the token is cancelled.
    pub async fn run(self, token: CancellationToken) {
        let mut tasks = JoinSet::new();
        for (udp, tcp) in self.sockets {
            tasks.spawn(serve_udp(Arc::new(udp), Arc::clone(&self.shared)));
            tasks.spawn(serve_tcp(tcp, Arc::clone(&self.shared)));
        }
        tasks.spawn(follow(self.informers.all(), self.informers.all(), self.shared));
        token.cancelled().await;
        tasks.shutdown().await;
    }
}

/// UDP and TCP on one port.
async fn bind(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let udp = UdpSocket::bind(address).await?;
    let tcp = TcpListener::bind(udp.local_addr()?).await?;
    Ok((udp, tcp))
}

/// Keeps the index.
async fn follow(services: Informer<Service>, slices: Informer<EndpointSlice>, shared: Arc<Shared>) {
    let mut changes = (services.subscribe(), slices.subscribe());
    tokio::join!(services.synced(), slices.synced());
    loop {
        read_all(&services, &slices, &shared);
        shared.synced.store(true, Ordering::Release);
        if !follow_changes(&mut changes, &shared).await {
            return;
        }
    }
}

/// Starts over from the informers' caches.
fn read_all(services: &Informer<Service>, slices: &Informer<EndpointSlice>, shared: &Shared) {
    let mut index = Index::default();
    services.list().iter().for_each(|service| index.put_service(service));
    slices.list().iter().for_each(|slice| index.put_slice(slice));
    *shared.index.write() = index;
}

/// Takes in changes until some were lost (true) or there will be none any more (false).
async fn follow_changes(
    changes: &mut (Receiver<Delta<Service>>, Receiver<Delta<EndpointSlice>>),
    shared: &Shared,
) -> bool {
    loop {
        let lost = tokio::select! {
            delta = changes.0.recv() => delta.map(|delta| match delta {
                Delta::Applied { new, .. } => shared.index.write().put_service(&new),
                Delta::Deleted(old) => shared.index.write().remove_service(&client::key(&*old)),
            }),
            delta = changes.1.recv() => delta.map(|delta| match delta {
                Delta::Applied { old, new } => {
                    let mut index = shared.index.write();
                    if let Some(old) = old {
                        index.remove_slice(&old);
                    }
                    index.put_slice(&new);
                }
                Delta::Deleted(old) => shared.index.write().remove_slice(&old),
            }),
        };
        match lost {
            Ok(()) => {}
            Err(RecvError::Lagged(_)) => return true,
            Err(RecvError::Closed) => return false,
        }
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, shared: Arc<Shared>) {
    let mut forwards = JoinSet::new();
    let mut buffer = vec![0; 4096];
    loop {
        while forwards.try_join_next().is_some() {}
        let (length, peer) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                // One client's trouble (a port that closed meanwhile) must not end the service.
                tracing::debug!(%error, "cannot receive a DNS query");
                continue;
            }
        };
        match receive(&buffer[..length], Way::Udp) {
            Received::Ignore => {}
            Received::Reject(bytes) => send(&socket, &bytes, peer).await,
            Received::Question(question) => match shared.at_once(&question) {
                Some(message) => send(&socket, &fit(&question, message), peer).await,
                None => {
                    let (socket, shared) = (Arc::clone(&socket), Arc::clone(&shared));
                    forwards.spawn(async move {
                        let message = shared.answer(&question).await;
                        send(&socket, &fit(&question, message), peer).await;
                    });
                }
            },
        }
    }
}

async fn send(socket: &UdpSocket, bytes: &[u8], peer: SocketAddr) {
    if let Err(error) = socket.send_to(bytes, peer).await {
        tracing::debug!(%peer, %error, "cannot send a DNS answer");
    }
}

async fn serve_tcp(listener: TcpListener, shared: Arc<Shared>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let shared = Arc::clone(&shared);
                connections.spawn(async move {
                    if let Err(error) = serve_connection(stream, &shared).await {
                        tracing::debug!(%peer, %error, "a DNS connection ended");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: others will close theirs.
                tracing::warn!(%error, "cannot accept a DNS connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_connection(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    loop {
        let read = async {
            let length = stream.read_u16().await?;
            let mut bytes = vec![0; usize::from(length)];
            stream.read_exact(&mut bytes).await?;
            Ok::<_, io::Error>(bytes)
        };
        let bytes = match timeout(IDLE, read).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Ok(()),
        };
        let answer = match receive(&bytes, Way::Tcp) {
            Received::Ignore => return Ok(()),
            Received::Reject(bytes) => bytes,
            Received::Question(question) => {
                let message = shared.answer(&question).await;
                fit(&question, message)
            }
        };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        timeout(IDLE, stream.write_all(&[&length.to_be_bytes()[..], &answer].concat())).await??;
    }
}

impl Shared {
    /// The answer, when it needs no one else.
    fn at_once(&self, question: &Question) -> Option<Message> {
        let name = question.query.name();
        if self.zone.contains(name) && !self.synced.load(Ordering::Acquire) {
            return Some(answer(question, ResponseCode::ServFail, Vec::new()));
        }
        match self.look_up(name, question.query.query_type()) {
            Answer::Elsewhere | Answer::Alias(_) => None,
            Answer::NoName => Some(self.denial(question, ResponseCode::NXDomain, Vec::new())),
            Answer::Records(data, _) if data.is_empty() => {
                Some(self.denial(question, ResponseCode::NoError, Vec::new()))
            }
            Answer::Records(data, glue) => {
                let mut message = answer(question, ResponseCode::NoError, self.records(name, data));
                message.metadata.authoritative = true;
                message.additionals = glue;
                Some(message)
            }
        }
    }

    /// The answer, with whatever it takes.
    async fn answer(&self, question: &Question) -> Message {
        if let Some(message) = self.at_once(question) {
            return message;
        }
        let (mut name, kind) = (question.query.name().clone(), question.query.query_type());
        let mut records: Vec<Record> = Vec::new();
        for _ in 0..ALIASES_MAX {
            match self.look_up(&name, kind) {
                Answer::Alias(other) => {
                    let alias = Record::from_rdata(name, TTL, RData::CNAME(CNAME(other.clone())));
                    records.push(alias);
                    if kind == RecordType::CNAME {
                        break;
                    }
                    name = other;
                }
                Answer::Records(data, _) => {
                    records.extend(self.records(&name, data));
                    break;
                }
                Answer::NoName => break,
                Answer::Elsewhere if records.is_empty() => return self.forward(question).await,
                Answer::Elsewhere => {
                    records.extend(self.forward_alias(question, name, kind).await);
                    break;
                }
            }
        }
        answer(question, ResponseCode::NoError, records)
    }

    fn look_up(&self, name: &Name, kind: RecordType) -> Answer {
        self.zone.resolve(&self.index.read(), name, kind)
    }

    /// Records of a name. Their order turns, for clients that take the first.
    fn records(&self, name: &Name, mut data: Vec<RData>) -> Vec<Record> {
        if data.len() > 1 {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % data.len();
            data.rotate_left(turn);
        }
        data.into_iter().map(|data| Record::from_rdata(name.clone(), TTL, data)).collect()
    }

    fn denial(&self, question: &Question, code: ResponseCode, records: Vec<Record>) -> Message {
        let mut message = answer(question, code, records);
        message.metadata.authoritative = true;
        // A reverse name is not below the domain, whose SOA says nothing of it.
        if self.zone.contains(question.query.name()) {
            message.authorities.push(self.zone.soa());
        }
        message
    }

    async fn forward(&self, question: &Question) -> Message {
        match self.forwarder.ask(&question.message, question.way).await {
            Ok(message) => message,
            Err(error) => {
                tracing::debug!(name = %question.query.name(), %error, "cannot forward a DNS query");
                answer(question, ResponseCode::ServFail, Vec::new())
            }
        }
    }

    /// What upstreams say of the name that an alias leads to; without them the client has the alias at least.
    async fn forward_alias(&self, question: &Question, name: Name, kind: RecordType) -> Vec<Record> {
        let mut query = Message::query();
        query.metadata.recursion_desired = true;
        query.queries.push(Query::query(name, kind));
        match self.forwarder.ask(&query, question.way).await {
            Ok(message) => message.answers,
            Err(error) => {
                tracing::debug!(name = %question.query.name(), %error, "cannot follow an alias");
                Vec::new()
            }
        }
    }
}
