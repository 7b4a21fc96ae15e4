//! The server by its sockets: UDP and TCP, sizes, denials, upstreams, and what is no query.
#![allow(clippy::unwrap_used)] // helpers of tests, where a panic is the failure

#[path = "../../proxy/tests/api/mod.rs"]
mod api;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dns::{Config, Server, Upstreams};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(5);

struct Dns {
    address: SocketAddr,
    objects: Arc<api::Objects>,
    token: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.token.cancel();
        let _ = self.thread.take().unwrap().join();
    }
}

impl Dns {
    fn new(upstreams: Vec<SocketAddr>) -> Dns {
        let objects = api::Objects::new();
        let token = CancellationToken::new();
        let (known, addresses) = mpsc::sync_channel(1);
        let (objects_of_server, stop) = (Arc::clone(&objects), token.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let informers = client::Informers::new(objects_of_server.client(), stop.clone());
                let config = Config {
                    informers: Arc::new(informers),
                    domain: "cluster.local".to_owned(),
                    listen: vec!["127.0.0.1:0".parse().unwrap()],
                    upstreams: Upstreams::Fixed(upstreams),
                    own_addresses: Vec::new(),
                };
                let server = Server::bind(config).await.unwrap();
                known.send(server.addresses()[0]).unwrap();
                server.run(stop).await;
            });
        });
        let address = addresses.recv().unwrap();
        Dns { address, objects, token, thread: Some(thread) }
    }

    fn service(&self, name: &str, spec: Value) {
        self.objects.put("services", json!({"metadata": {"namespace": "ns", "name": name}, "spec": spec}));
    }

    fn endpoints(&self, service: &str, count: u8) {
        let endpoints: Vec<Value> =
            (1..=count).map(|number| json!({"addresses": [format!("10.42.0.{number}")]})).collect();
        let labels = json!({"kubernetes.io/service-name": service});
        self.objects.put(
            "endpointslices",
            json!({
                "metadata": {"namespace": "ns", "name": service, "labels": labels},
                "addressType": "IPv4", "endpoints": endpoints,
            }),
        );
    }

    fn raw_udp(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(bytes, self.address).unwrap();
        let mut buffer = vec![0; 65536];
        let length = socket.recv(&mut buffer).ok()?;
        buffer.truncate(length);
        Some(buffer)
    }

    fn udp(&self, query: &Message) -> Message {
        let bytes = self.raw_udp(&query.to_vec().unwrap()).expect("no answer");
        let answer = Message::from_vec(&bytes).unwrap();
        assert_eq!(answer.metadata.id, query.metadata.id);
        assert_eq!(answer.queries, query.queries);
        answer
    }

    fn tcp(&self, queries: &[Message]) -> Vec<Message> {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let ask = |query: &Message| {
            let bytes = query.to_vec().unwrap();
            stream.write_all(&(bytes.len() as u16).to_be_bytes()).unwrap();
            stream.write_all(&bytes).unwrap();
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut answer).unwrap();
            Message::from_vec(&answer).unwrap()
        };
        queries.iter().map(ask).collect()
    }

    /// Asks until the answer is as expected: informers take a moment.
    #[track_caller]
    fn expect(&self, name: &str, kind: &str, expected: &str) {
        let start = Instant::now();
        loop {
            let answer = text(&self.udp(&query(name, kind)));
            if answer == expected {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{name} {kind}: {answer}, not {expected}");
        }
    }
}

fn query(name: &str, kind: &str) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    let name = Name::from_ascii(format!("{name}.")).unwrap();
    message.queries.push(Query::query(name, RecordType::from_str(kind).unwrap()));
    message
}

fn text(message: &Message) -> String {
    let records = message.answers.iter().map(|record| record.data.to_string());
    let words = [format!("{:?}", message.metadata.response_code)].into_iter().chain(records);
    words.collect::<Vec<_>>().join(" ")
}

/// A resolver that knows every name at a domain, and counts how often it is asked.
fn upstream(address: &str) -> (SocketAddr, Arc<AtomicUsize>) {
    let socket = UdpSocket::bind((address, 0)).unwrap();
    let (address, count) = (socket.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counter = Arc::clone(&count);
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            let query = Message::from_vec(&buffer[..length]).unwrap();
            counter.fetch_add(1, Ordering::SeqCst);
            let mut answer = Message::response(query.metadata.id, OpCode::Query);
            answer.queries.clone_from(&query.queries);
            let name = query.queries[0].name().clone();
            if name.to_ascii().ends_with("missing.example.") {
                answer.metadata.response_code = ResponseCode::NXDomain;
            } else if query.queries[0].query_type() == RecordType::A {
                answer.answers.push(Record::from_rdata(name, 60, RData::A(A::new(192, 0, 2, 77))));
            }
            socket.send_to(&answer.to_vec().unwrap(), peer).unwrap();
        }
    });
    (address, count)
}

#[test]
fn names_follow_the_api() {
    let dns = Dns::new(Vec::new());
    dns.expect("web.ns.svc.cluster.local", "A", "NXDomain");
    dns.service("web", json!({"clusterIP": "10.43.0.7"}));
    dns.expect("web.ns.svc.cluster.local", "A", "NoError 10.43.0.7");
    dns.service("db", json!({"clusterIP": "None"}));
    dns.endpoints("db", 1);
    dns.expect("db.ns.svc.cluster.local", "A", "NoError 10.42.0.1");
    dns.expect("10-42-0-1.db.ns.svc.cluster.local", "A", "NoError 10.42.0.1");
    dns.expect("1.0.42.10.in-addr.arpa", "PTR", "NoError 10-42-0-1.db.ns.svc.cluster.local.");
    dns.objects.delete("endpointslices", "ns/db");
    dns.expect("db.ns.svc.cluster.local", "A", "NoError");
    dns.objects.delete("services", "ns/db");
    dns.expect("db.ns.svc.cluster.local", "A", "NXDomain");

    let denial = dns.udp(&query("web.ns.svc.cluster.local", "AAAA"));
    assert_eq!(text(&denial), "NoError");
    assert!(denial.metadata.authoritative && denial.metadata.recursion_available);
    assert_eq!(denial.authorities.len(), 1, "a denial says how long it holds: {denial}");
    let answers = dns.tcp(&[query("web.ns.svc.cluster.local", "A"), query("Web.NS.svc.cluster.local", "A")]);
    assert_eq!(answers.iter().map(text).collect::<Vec<_>>(), ["NoError 10.43.0.7"; 2]);
    assert_eq!(answers[1].answers[0].name.to_ascii(), "Web.NS.svc.cluster.local.");
}

#[test]
fn answers_fit() {
    let dns = Dns::new(Vec::new());
    dns.service("db", json!({"clusterIP": "None"}));
    dns.endpoints("db", 200);
    let plain = query("db.ns.svc.cluster.local", "A");
    let start = Instant::now();
    while dns.udp(&plain).answers.is_empty() {
        assert!(start.elapsed() < PATIENCE);
    }
    let length = |query: &Message| dns.raw_udp(&query.to_vec().unwrap()).unwrap().len();
    let truncated = dns.udp(&plain);
    let sizes = (truncated.answers.len(), length(&plain));
    assert!(truncated.metadata.truncation && sizes.0 > 25, "{sizes:?}");
    assert!(length(&plain) <= 512);
    let mut roomy = plain.clone();
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    roomy.edns = Some(edns);
    let answer = dns.udp(&roomy);
    assert!(answer.metadata.truncation && answer.edns.is_some() && answer.answers.len() > 60);
    assert!((512..=1232).contains(&length(&roomy)));
    let [whole] = &dns.tcp(&[plain])[..] else { panic!() };
    assert!(!whole.metadata.truncation);
    assert_eq!(whole.answers.len(), 200);
}

#[test]
fn other_names_go_upstream() {
    let (good, count) = upstream("127.0.0.2");
    // The first upstream is a port where nobody is; the server's own address is never asked.
    let dead = UdpSocket::bind("127.0.0.3:0").unwrap().local_addr().unwrap();
    let dns = Dns::new(vec!["127.0.0.1:1".parse().unwrap(), dead, good]);
    dns.expect("a.example", "A", "NoError 192.0.2.77");
    let asked = count.load(Ordering::SeqCst);
    let again = dns.udp(&query("A.example", "A"));
    assert_eq!((text(&again).as_str(), count.load(Ordering::SeqCst)), ("NoError 192.0.2.77", asked));
    assert!(again.answers[0].ttl <= 60);
    dns.expect("missing.example", "A", "NXDomain");
    // Names of the domain stay here.
    let asked = count.load(Ordering::SeqCst);
    dns.expect("nothing.ns.svc.cluster.local", "A", "NXDomain");
    assert_eq!(count.load(Ordering::SeqCst), asked);
    // An alias comes with what it leads to.
    dns.service("out", json!({"type": "ExternalName", "externalName": "b.example"}));
    dns.expect("out.ns.svc.cluster.local", "A", "NoError b.example. 192.0.2.77");
    dns.expect("out.ns.svc.cluster.local", "CNAME", "NoError b.example.");
    dns.service("web", json!({"clusterIP": "10.43.0.7"}));
    dns.service("out", json!({"type": "ExternalName", "externalName": "web.ns.svc.cluster.local"}));
    dns.expect("out.ns.svc.cluster.local", "A", "NoError web.ns.svc.cluster.local. 10.43.0.7");
    // A loop of aliases ends.
    dns.service("web", json!({"type": "ExternalName", "externalName": "out.ns.svc.cluster.local"}));
    let start = Instant::now();
    while dns.udp(&query("out.ns.svc.cluster.local", "A")).answers.len() < 8 {
        assert!(start.elapsed() < PATIENCE);
    }
}

#[test]
fn without_upstreams_it_fails_at_once() {
    let dns = Dns::new(Vec::new());
    let start = Instant::now();
    assert_eq!(text(&dns.udp(&query("example.com", "A"))), "ServFail");
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[test]
fn what_is_no_query() {
    let dns = Dns::new(Vec::new());
    let good = query("web.ns.svc.cluster.local", "A");
    let code = |message: &Message| dns.udp(message).metadata.response_code;
    let mut update = good.clone();
    update.metadata.op_code = OpCode::Update;
    assert_eq!(code(&update), ResponseCode::NotImp);
    let mut two = good.clone();
    two.queries.push(two.queries[0].clone());
    assert_eq!(code(&two), ResponseCode::FormErr);
    let mut newer = good.clone();
    let mut edns = Edns::new();
    edns.set_version(1);
    newer.edns = Some(edns);
    let answer = dns.udp(&newer);
    // 16 is BADVERS here; with a signature it would be BADSIG.
    assert_eq!(u16::from(answer.metadata.response_code), 16);
    // A header that promises a question that does not come.
    let torn = &good.to_vec().unwrap()[..20];
    let answer = Message::from_vec(&dns.raw_udp(torn).unwrap()).unwrap();
    assert_eq!((answer.metadata.id, answer.metadata.response_code), (good.metadata.id, ResponseCode::FormErr));
    // Answers and noise are not answered: the next query is.
    let mut reply = good.clone();
    reply.metadata.message_type = MessageType::Response;
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    for bytes in [&reply.to_vec().unwrap()[..], b"", b"noise", &good.to_vec().unwrap()] {
        socket.send_to(bytes, dns.address).unwrap();
    }
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).unwrap();
    assert_eq!(Message::from_vec(&buffer[..length]).unwrap().queries, good.queries);
    // A connection that says nothing, or half a message, disturbs nobody.
    let mut half = TcpStream::connect(dns.address).unwrap();
    half.write_all(&[0, 200, 1]).unwrap();
    assert_eq!(dns.tcp(&[good]).len(), 1);
}
