//! Names that are not the cluster's: upstream resolvers, and a small cache of what they said.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::wire::Way;

/// How many queries may wait for upstreams at once.
pub const FORWARDS_MAX: usize = 1000;
/// How long one upstream may take, and how many times the list is gone through.
const PATIENCE: Duration = Duration::from_secs(2);
const ROUNDS: usize = 2;
/// The longest an answer is kept, and how many are.
const CACHE_SECONDS: u32 = 30;
const CACHE_ENTRIES: usize = 1000;
/// A resolver's usual port.
const PORT: u16 = 53;
/// How many upstreams are used, as the C library does.
const UPSTREAMS_MAX: usize = 3;

/// Where other names are asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upstreams {
    /// These resolvers.
    Fixed(Vec<SocketAddr>),
    /// The `nameserver` lines of a file such as `/etc/resolv.conf`, read again when it changes.
    ResolvConf(PathBuf),
}

/// Asks upstreams.
pub(crate) struct Forwarder {
    upstreams: Upstreams,
    /// Addresses that lead back here.
    own: Vec<IpAddr>,
    file: Mutex<Option<(SystemTime, Vec<SocketAddr>)>>,
    cache: Mutex<HashMap<Key, Entry>>,
    waiting: Semaphore,
}

type Key = (String, RecordType, bool);

struct Entry {
    message: Message,
    stored: Instant,
    seconds: u32,
}

/// Why nobody answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForwardError {
    #[error("there is no upstream resolver")]
    NoUpstream,
    #[error("{FORWARDS_MAX} queries wait for upstream resolvers already")]
    Busy,
    #[error("no upstream resolver answered")]
    Silent,
}

impl Forwarder {
    pub(crate) fn new(upstreams: Upstreams, own: Vec<IpAddr>) -> Forwarder {
        Forwarder {
            upstreams,
            own,
            file: Mutex::default(),
            cache: Mutex::default(),
            waiting: Semaphore::new(FORWARDS_MAX),
        }
    }

    /// The answer to a query: from the cache or the first upstream that gives one. Its id is that of the query.
    pub(crate) async fn ask(&self, query: &Message, way: Way) -> Result<Message, ForwardError> {
        let key = key(query);
        if let Some(mut known) = key.as_ref().and_then(|key| self.cached(key)) {
            known.metadata.id = query.metadata.id;
            // Case may be how a client knows its answer.
            known.queries.clone_from(&query.queries);
            return Ok(known);
        }
        let upstreams = self.upstreams();
        if upstreams.is_empty() {
            return Err(ForwardError::NoUpstream);
        }
        let _place = self.waiting.try_acquire().map_err(|_| ForwardError::Busy)?;
        for upstream in upstreams.iter().cycle().take(ROUNDS * upstreams.len()) {
            match timeout(PATIENCE, exchange(*upstream, query, way)).await {
                Ok(Ok(answer)) if answer.metadata.response_code != ResponseCode::ServFail => {
                    if let Some(key) = key {
                        self.store(key, &answer);
                    }
                    return Ok(answer);
                }
                Ok(Ok(_)) => tracing::debug!(%upstream, "an upstream resolver failed"),
                Ok(Err(error)) => tracing::debug!(%upstream, %error, "an upstream resolver cannot be asked"),
                Err(_) => tracing::debug!(%upstream, "an upstream resolver is silent"),
            }
        }
        Err(ForwardError::Silent)
    }

    /// The resolvers, without those that are this one.
    fn upstreams(&self) -> Vec<SocketAddr> {
        let mut list = match &self.upstreams {
            Upstreams::Fixed(list) => list.clone(),
            Upstreams::ResolvConf(path) => {
                let modified = std::fs::metadata(path).and_then(|meta| meta.modified());
                let modified = modified.unwrap_or(SystemTime::UNIX_EPOCH);
                let mut known = self.file.lock();
                match &*known {
                    Some((at, list)) if *at == modified => list.clone(),
                    _ => {
                        let list = parse(&std::fs::read_to_string(path).unwrap_or_default());
                        *known = Some((modified, list.clone()));
                        list
                    }
                }
            }
        };
        list.retain(|upstream| !self.own.contains(&upstream.ip()));
        list
    }

    fn cached(&self, key: &Key) -> Option<Message> {
        let mut cache = self.cache.lock();
        let entry = cache.get(key)?;
        let age = entry.stored.elapsed().as_secs() as u32;
        if age >= entry.seconds {
            cache.remove(key);
            return None;
        }
        let mut message = entry.message.clone();
        let records = message.answers.iter_mut().chain(&mut message.authorities);
        for record in records.chain(&mut message.additionals) {
            record.decrement_ttl(age);
        }
        Some(message)
    }

    fn store(&self, key: Key, answer: &Message) {
        let code = answer.metadata.response_code;
        if answer.metadata.truncation || !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) {
            return;
        }
        let records = || answer.answers.iter().chain(&answer.authorities);
        let Some(seconds) = records().map(|record| record.ttl).min() else { return };
        let seconds = seconds.min(CACHE_SECONDS);
        if seconds == 0 {
            return;
        }
        let mut cache = self.cache.lock();
        if cache.len() >= CACHE_ENTRIES {
            cache.retain(|_, entry| entry.stored.elapsed().as_secs() < u64::from(entry.seconds));
        }
        if cache.len() < CACHE_ENTRIES {
            let entry = Entry { message: answer.clone(), stored: Instant::now(), seconds };
            cache.insert(key, entry);
        }
    }
}

/// What an answer depends on. Queries that ask for anything unusual are not cached.
fn key(query: &Message) -> Option<Key> {
    let [asked] = &query.queries[..] else { return None };
    let plain = query.metadata.recursion_desired && !query.metadata.checking_disabled;
    let secure = query.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok);
    plain.then(|| (asked.name().to_lowercase().to_ascii(), asked.query_type(), secure))
}

/// The `nameserver` lines of a resolver's configuration.
fn parse(text: &str) -> Vec<SocketAddr> {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = (words.next() == Some("nameserver")).then(|| words.next())??;
        Some(SocketAddr::new(address.parse().ok()?, PORT))
    });
    lines.take(UPSTREAMS_MAX).collect()
}

async fn exchange(upstream: SocketAddr, query: &Message, way: Way) -> io::Result<Message> {
    let mut query = query.clone();
    let id = std::mem::replace(&mut query.metadata.id, fastrand::u16(..));
    let bytes = query.to_vec().map_err(io::Error::other)?;
    let mut answer = match way {
        Way::Udp => by_udp(upstream, &query, &bytes).await?,
        Way::Tcp => by_tcp(upstream, &query, &bytes).await?,
    };
    answer.metadata.id = id;
    Ok(answer)
}

/// A socket of its own for each query: its port is hard to guess, and only the upstream can answer.
async fn by_udp(upstream: SocketAddr, query: &Message, bytes: &[u8]) -> io::Result<Message> {
    let any: IpAddr = match upstream {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(upstream).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(answer) = matching(query, &buffer[..length]) {
            return Ok(answer);
        }
    }
}

async fn by_tcp(upstream: SocketAddr, query: &Message, bytes: &[u8]) -> io::Result<Message> {
    let mut stream = TcpStream::connect(upstream).await?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], bytes].concat()).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    matching(query, &answer).ok_or_else(|| io::Error::other("an answer to another question"))
}

/// The answer, if it is one to this query.
fn matching(query: &Message, bytes: &[u8]) -> Option<Message> {
    let answer = Message::from_vec(bytes).ok()?;
    let same = answer.metadata.id == query.metadata.id && answer.queries == query.queries;
    same.then_some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolver_files() {
        for (text, expected) in [
            ("", &[][..]),
            ("nameserver 10.0.0.1\nsearch a b\n", &["10.0.0.1:53"]),
            ("# nameserver 1.1.1.1\n\tnameserver\t9.9.9.9 # x\nnameserver fd00::1\n", &["9.9.9.9:53", "[fd00::1]:53"]),
            (
                "nameserver a\nnameserver 1.0.0.1\nnameserver 1.0.0.2\nnameserver 1.0.0.3\nnameserver 1.0.0.4",
                &["1.0.0.1:53", "1.0.0.2:53", "1.0.0.3:53"],
            ),
            ("nameserver", &[]),
        ] {
            let parsed: Vec<String> = parse(text).iter().map(SocketAddr::to_string).collect();
            assert_eq!(parsed, expected, "{text:?}");
        }
    }
}
