//! Services with a real kernel: who reaches whom, as whom, through every front a Service has.
#![allow(clippy::unwrap_used)] // helpers of tests, where a panic is the failure

mod api;
#[path = "../../network/tests/world/mod.rs"]
mod world;

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use network::{Config, PodNetwork, netns};
use proxy::NodeInfo;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use world::{NODE, OUTSIDE, PATIENCE, World};

const TARGET: u16 = 8080;
const NODE_PORT: u16 = 30080;
const CLUSTER: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 7);
const EXTERNAL: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);
const BALANCER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
const REFUSED: Result<String, ErrorKind> = Err(ErrorKind::ConnectionRefused);
const SILENT: Result<String, ErrorKind> = Err(ErrorKind::TimedOut);

/// A node with a pod network, an API, and a proxy between them.
struct Cluster {
    objects: Arc<api::Objects>,
    network: PodNetwork,
    proxy: Option<Proxy>,
    world: World,
}

struct Proxy(CancellationToken, Option<JoinHandle<()>>);

impl Drop for Proxy {
    fn drop(&mut self) {
        self.0.cancel();
        let _ = self.1.take().unwrap().join();
    }
}

impl Cluster {
    fn new(name: &str) -> Cluster {
        let world = World::new(name);
        let config = Config {
            data_dir: world.folder.join("data"),
            instance: "test".to_owned(),
            mtu: 1500,
            cluster_cidr: "10.42.0.0/16".parse().unwrap(),
            service_cidr: Some("10.43.0.0/16".parse().unwrap()),
            pod_cidr: Some("10.42.0.0/24".parse().unwrap()),
        };
        let network = world.on_node(|| PodNetwork::open(config).unwrap());
        world.inside("outside", || {
            world::ip(&format!("route add {EXTERNAL} via {NODE}"));
            world::ip(&format!("route add {BALANCER} via {NODE}"));
            world::ip(&format!("route add {CLUSTER} via {NODE}"));
        });
        let objects = api::Objects::new();
        let mut cluster = Cluster { objects, network, proxy: None, world };
        cluster.start();
        cluster
    }

    fn start(&mut self) {
        let token = CancellationToken::new();
        let (objects, stop) = (Arc::clone(&self.objects), token.clone());
        let (path, table) = (self.world.path("node"), self.network.names().services.clone());
        let thread = std::thread::spawn(move || netns::run(&path, || serve(&objects, table, stop)).unwrap());
        self.proxy = Some(Proxy(token, Some(thread)));
    }

    /// Attaches pods that answer with their names.
    fn pods<const N: usize>(&self, names: [&str; N]) -> [Ipv4Addr; N] {
        names.map(|name| {
            let path = self.world.netns(name);
            let addresses = self.network.attach(name, &path, &[]).unwrap();
            self.world.serve(name, TARGET);
            match addresses[..] {
                [IpAddr::V4(address)] => address,
                _ => panic!("{addresses:?}"),
            }
        })
    }

    fn service(&self, spec: Value) {
        let mut all = json!({
            "clusterIP": CLUSTER, "type": "NodePort",
            "ports": [
                {"name": "t", "port": 80, "targetPort": TARGET, "nodePort": NODE_PORT, "protocol": "TCP"},
                {"name": "u", "port": 80, "targetPort": TARGET, "nodePort": NODE_PORT, "protocol": "UDP"},
            ],
        });
        all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        self.objects.put(
            "services",
            json!({
                "metadata": {"namespace": "ns", "name": "web"}, "spec": all,
                "status": {"loadBalancer": {"ingress": [{"ip": BALANCER}]}},
            }),
        );
    }

    fn endpoints(&self, endpoints: Value) {
        self.objects.put(
            "endpointslices",
            json!({
                "metadata": {
                    "namespace": "ns", "name": "web-1",
                    "labels": {"kubernetes.io/service-name": "web"},
                },
                "addressType": "IPv4", "endpoints": endpoints,
                "ports": [
                    {"name": "t", "port": TARGET, "protocol": "TCP"},
                    {"name": "u", "port": TARGET, "protocol": "UDP"},
                ],
            }),
        );
    }

    #[track_caller]
    fn check(&self, from: &str, to: Ipv4Addr, port: u16, answer: Result<String, ErrorKind>) {
        let start = Instant::now();
        loop {
            let now = self.world.ask(from, to, port);
            if now == answer {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{from} to {to}:{port}: {now:?}, not {answer:?}");
        }
    }

    /// The names of those that answer many requests.
    fn answerers(&self, from: &str, to: Ipv4Addr, port: u16) -> BTreeSet<String> {
        let asked = (0..40).map(|_| self.world.ask(from, to, port).unwrap());
        asked.map(|answer| answer.split(' ').next().unwrap().to_owned()).collect()
    }
}

fn serve(objects: &Arc<api::Objects>, table: String, token: CancellationToken) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let informers = client::Informers::new(objects.client(), token.clone());
        let node = NodeInfo {
            name: "here".to_owned(),
            cluster_cidr: "10.42.0.0/16".parse().unwrap(),
            service_cidr: "10.43.0.0/16".parse().unwrap(),
        };
        let config = proxy::Config { informers: Arc::new(informers), node, table };
        proxy::run(config, token).await.unwrap();
    });
}

fn here(address: Ipv4Addr) -> Value {
    json!({"addresses": [address], "nodeName": "here", "conditions": {"ready": true}})
}

fn elsewhere(address: Ipv4Addr) -> Value {
    json!({"addresses": [address], "nodeName": "there", "conditions": {"ready": true}})
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn every_front_from_everywhere() {
    let cluster = Cluster::new("fronts");
    let [a, b] = cluster.pods(["a", "b"]);
    let gateway = cluster.network.gateway().unwrap();
    let world = &cluster.world;
    cluster.service(json!({"externalIPs": [EXTERNAL]}));
    cluster.endpoints(json!([here(a)]));
    let (by_b, by_gateway) = (Ok(format!("a {b}")), Ok(format!("a {gateway}")));
    cluster.check("b", CLUSTER, 80, by_b.clone());
    for (from, to, port, answer) in [
        ("a", CLUSTER, 81, REFUSED),
        ("node", CLUSTER, 81, REFUSED),
        ("b", Ipv4Addr::new(10, 43, 9, 9), 80, REFUSED),
        ("node", CLUSTER, 80, by_gateway.clone()),
        // Through its own Service a pod sees the gateway as its peer.
        ("a", CLUSTER, 80, by_gateway.clone()),
    ] {
        assert_eq!(world.ask(from, to, port), answer, "{from} to {to}:{port}");
        // The kernel tells the node's own UDP sockets of a refusal by failing the system call.
        let dead = (from, port) == ("node", 81);
        let answer = if dead { Err(ErrorKind::PermissionDenied) } else { answer };
        assert_eq!(world.ask_udp(from, to, port), answer, "{from} to {to}:{port} by UDP");
    }
    for (from, to, port) in [
        ("outside", NODE, NODE_PORT),
        ("outside", EXTERNAL, 80),
        ("outside", BALANCER, 80),
        ("outside", CLUSTER, 80),
        ("b", NODE, NODE_PORT),
        ("b", gateway, NODE_PORT),
        ("b", EXTERNAL, 80),
        ("a", NODE, NODE_PORT),
        ("node", NODE, NODE_PORT),
        ("node", Ipv4Addr::LOCALHOST, NODE_PORT),
    ] {
        for answer in [world.ask(from, to, port), world.ask_udp(from, to, port)] {
            let answer = answer.unwrap_or_else(|error| panic!("{from} to {to}:{port}: {error}"));
            let seen: Ipv4Addr = answer.strip_prefix("a ").unwrap().parse().unwrap();
            assert!([NODE, gateway].contains(&seen), "{from} to {to}:{port} as {seen}");
        }
    }
    list_rules(world, "goto spread/1");
}

/// Where `nft` is installed it must be able to list our rules: a table it cannot read makes it useless for all others.
fn list_rules(world: &World, expected: &str) {
    let listed = world.on_node(|| std::process::Command::new("nft").args(["list", "ruleset"]).output());
    if let Ok(output) = listed {
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains(expected), "{output:?}");
    }
}

#[test]
fn endpoints_come_go_and_are_none() {
    let cluster = Cluster::new("endpoints");
    let [a, b, c] = cluster.pods(["a", "b", "c"]);
    cluster.service(json!({}));
    for (from, to, port) in
        [("c", CLUSTER, 80), ("node", CLUSTER, 80), ("outside", NODE, NODE_PORT), ("c", NODE, NODE_PORT)]
    {
        cluster.check(from, to, port, REFUSED);
    }
    assert_eq!(cluster.world.ask_udp("c", CLUSTER, 80), REFUSED);
    let not_ready = json!({"addresses": [b], "conditions": {"ready": false}});
    cluster.endpoints(json!([here(a), not_ready]));
    cluster.check("c", CLUSTER, 80, Ok(format!("a {c}")));
    assert_eq!(cluster.answerers("c", CLUSTER, 80), names(&["a"]));
    cluster.endpoints(json!([here(a), elsewhere(b)]));
    let start = Instant::now();
    while cluster.answerers("c", CLUSTER, 80) != names(&["a", "b"]) {
        assert!(start.elapsed() < PATIENCE);
    }
    assert_eq!(cluster.answerers("outside", NODE, NODE_PORT), names(&["a", "b"]));
    // Only those that still serve while they leave.
    let leaving = json!({"ready": false, "serving": true, "terminating": true});
    let gone = json!({"ready": false, "serving": false, "terminating": true});
    cluster.endpoints(json!([
        {"addresses": [a], "conditions": gone}, {"addresses": [b], "conditions": leaving},
    ]));
    let start = Instant::now();
    while cluster.answerers("c", CLUSTER, 80) != names(&["b"]) {
        assert!(start.elapsed() < PATIENCE);
    }
    cluster.objects.delete("endpointslices", "ns/web-1");
    cluster.check("c", CLUSTER, 80, REFUSED);
    cluster.endpoints(json!([here(a)]));
    cluster.check("c", CLUSTER, 80, Ok(format!("a {c}")));
    cluster.objects.delete("services", "ns/web");
    cluster.check("outside", NODE, NODE_PORT, REFUSED);
    cluster.check("c", CLUSTER, 80, REFUSED);
}

/// DNS listens at the gateway's address, the API server at the node's.
#[test]
fn endpoints_on_the_node_itself() {
    let cluster = Cluster::new("node");
    let [a] = cluster.pods(["a"]);
    let gateway = cluster.network.gateway().unwrap();
    cluster.service(json!({}));
    for address in [gateway, NODE] {
        cluster.world.serve_at("node", (address, TARGET).into());
        cluster.endpoints(json!([here(address)]));
        let ask = |from, to, port| [cluster.world.ask(from, to, port), cluster.world.ask_udp(from, to, port)];
        cluster.check("a", CLUSTER, 80, Ok(format!("node {a}")));
        let start = Instant::now();
        while cluster.world.ask_udp("a", CLUSTER, 80) != Ok(format!("node {a}")) {
            assert!(start.elapsed() < PATIENCE);
        }
        for (from, to, port) in [("node", CLUSTER, 80), ("outside", NODE, NODE_PORT), ("a", NODE, NODE_PORT)] {
            for answer in ask(from, to, port) {
                assert!(answer.as_ref().is_ok_and(|answer| answer.starts_with("node ")), "{from} to {to}: {answer:?}");
            }
        }
    }
}

#[test]
fn policies_that_stay_on_the_node() {
    let cluster = Cluster::new("local");
    let [a, b, c] = cluster.pods(["a", "b", "c"]);
    cluster.service(json!({
        "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local", "type": "LoadBalancer",
        "loadBalancerSourceRanges": ["192.0.2.0/25"],
    }));
    cluster.endpoints(json!([here(a), elsewhere(b)]));
    // The source is kept, and only this node's endpoint answers.
    cluster.check("outside", NODE, NODE_PORT, Ok(format!("a {OUTSIDE}")));
    assert_eq!(cluster.world.ask("outside", BALANCER, 80), Ok(format!("a {OUTSIDE}")));
    assert_eq!(cluster.answerers("outside", NODE, NODE_PORT), names(&["a"]));
    assert_eq!(cluster.answerers("c", CLUSTER, 80), names(&["a"]));
    // Pods and the node are inside: node ports lead them everywhere.
    assert_eq!(cluster.answerers("c", NODE, NODE_PORT), names(&["a", "b"]));
    assert_eq!(cluster.answerers("node", Ipv4Addr::LOCALHOST, NODE_PORT), names(&["a", "b"]));
    // Nobody here but somebody there: silence, so that a load balancer's other nodes take over.
    cluster.endpoints(json!([elsewhere(b)]));
    cluster.check("outside", NODE, NODE_PORT, SILENT);
    assert_eq!(cluster.world.ask("c", CLUSTER, 80), SILENT);
    assert_eq!(cluster.world.ask("c", NODE, NODE_PORT), Ok(format!("b {c}")));
    cluster.service(json!({
        "type": "LoadBalancer", "loadBalancerSourceRanges": ["203.0.113.0/24"],
    }));
    cluster.check("outside", BALANCER, 80, SILENT);
    assert_eq!(cluster.answerers("outside", NODE, NODE_PORT), names(&["b"]));
}

#[test]
fn the_same_client_gets_the_same_endpoint() {
    let cluster = Cluster::new("affinity");
    let pods = cluster.pods(["a", "b", "c", "d"]);
    cluster.service(json!({
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 1}},
    }));
    cluster.endpoints(json!(pods.map(here)));
    let start = Instant::now();
    while cluster.world.ask("d", CLUSTER, 80).is_err() {
        assert!(start.elapsed() < PATIENCE);
    }
    let first = cluster.answerers("d", CLUSTER, 80);
    assert_eq!(first.len(), 1, "{first:?}");
    // Another endpoint going does not matter; the chosen one going does.
    list_rules(&cluster.world, "update @affinity/ns/web/tcp/80/");
    let chosen = ["a", "b", "c", "d"].iter().position(|name| first.contains(*name)).unwrap();
    let rest: Vec<Ipv4Addr> = pods.iter().copied().filter(|pod| *pod != pods[chosen]).collect();
    cluster.endpoints(json!([here(pods[chosen]), here(rest[0])]));
    assert_eq!(cluster.answerers("d", CLUSTER, 80), first);
    cluster.endpoints(json!(rest.iter().map(|pod| here(*pod)).collect::<Vec<_>>()));
    let start = Instant::now();
    while cluster.answerers("d", CLUSTER, 80) == first {
        assert!(start.elapsed() < PATIENCE);
    }
    assert_eq!(cluster.answerers("d", CLUSTER, 80).len(), 1);
    // It ends a second after the last new connection: then others are chosen, too.
    let mut seen = BTreeSet::new();
    let start = Instant::now();
    while seen.len() < 2 {
        assert!(start.elapsed() < 10 * PATIENCE, "always {seen:?}");
        // Time itself is what is waited for.
        std::thread::sleep(Duration::from_millis(1100));
        let answer = cluster.world.ask("d", CLUSTER, 80).unwrap();
        seen.insert(answer[..1].to_owned());
    }
}

#[test]
fn udp_clients_are_led_to_endpoints_that_are_there() {
    let cluster = Cluster::new("udp");
    let [a, b, _] = cluster.pods(["a", "b", "c"]);
    cluster.service(json!({}));
    cluster.endpoints(json!([here(a)]));
    let client = cluster.world.inside("c", || UdpSocket::bind("0.0.0.0:0").unwrap());
    client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    client.connect((CLUSTER, 80)).unwrap();
    let ask = || -> io::Result<String> {
        client.send(b"?")?;
        let mut buffer = [0; 64];
        let length = client.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    let answers = |name: &str| {
        let start = Instant::now();
        while !ask().is_ok_and(|answer| answer.starts_with(name)) {
            assert!(start.elapsed() < PATIENCE, "{name} never answered");
        }
    };
    answers("a");
    // The client keeps its port, and connection tracking would keep sending it to a.
    cluster.endpoints(json!([here(b)]));
    answers("b");
    assert!((0..20).all(|_| ask().is_ok_and(|answer| answer.starts_with("b"))));
}

#[test]
fn rules_outlive_the_program_and_are_taken_over() {
    let mut cluster = Cluster::new("takeover");
    let [a, b] = cluster.pods(["a", "b"]);
    cluster.service(json!({}));
    cluster.endpoints(json!([here(a)]));
    cluster.check("b", CLUSTER, 80, Ok(format!("a {b}")));
    cluster.proxy = None;
    assert_eq!(cluster.world.ask("b", CLUSTER, 80), Ok(format!("a {b}")));
    // While nobody looks, everything changes; requests go on throughout the take-over.
    cluster.objects.delete("services", "ns/web");
    cluster.endpoints(json!([here(a)]));
    cluster.service(json!({"externalIPs": [EXTERNAL]}));
    let stop = CancellationToken::new();
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut count = 0;
            while !stop.is_cancelled() {
                assert_eq!(cluster_ask(&cluster.world), Ok(format!("a {b}")));
                count += 1;
            }
            count
        });
        let mut other = None;
        let start = Instant::now();
        while cluster.world.ask("outside", EXTERNAL, 80).is_err() {
            other.get_or_insert_with(|| second(&cluster));
            assert!(start.elapsed() < 2 * PATIENCE);
        }
        stop.cancel();
        assert!(asking.join().unwrap() > 0);
    });
}

fn cluster_ask(world: &World) -> Result<String, ErrorKind> {
    world.ask("b", CLUSTER, 80)
}

fn second(cluster: &Cluster) -> Proxy {
    let token = CancellationToken::new();
    let (objects, stop) = (Arc::clone(&cluster.objects), token.clone());
    let (path, table) = (cluster.world.path("node"), cluster.network.names().services.clone());
    let thread = std::thread::spawn(move || netns::run(&path, || serve(&objects, table, stop)).unwrap());
    Proxy(token, Some(thread))
}
