//! The pod network with real namespaces: who reaches whom, as whom, and what is left afterwards.
#![allow(clippy::unwrap_used)] // helpers of tests, where a panic is the failure

mod world;

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use network::nft::{Chain, Hook, HookPoint, Skeleton, Table};
use network::{Cidr, Config, PodNetwork, PortMapping, Transport};
use world::{NODE, OUTSIDE, World, ip};

const PORT: u16 = 8080;

fn config(world: &World, instance: &str, range: &str) -> Config {
    Config {
        data_dir: world.folder.join(instance),
        instance: instance.to_owned(),
        mtu: 1500,
        cluster_cidr: "10.42.0.0/16".parse().unwrap(),
        service_cidr: Some("10.43.0.0/16".parse().unwrap()),
        pod_cidr: Some(range.parse().unwrap()),
    }
}

fn open(world: &World) -> PodNetwork {
    world.on_node(|| PodNetwork::open(config(world, "test", "10.42.0.0/24")).unwrap())
}

fn attach(world: &World, network: &PodNetwork, name: &str, ports: &[PortMapping]) -> Ipv4Addr {
    let path = world.netns(name);
    let addresses = network.attach(name, &path, ports).unwrap();
    world.serve(name, PORT);
    match addresses[..] {
        [IpAddr::V4(address)] => address,
        _ => panic!("{addresses:?}"),
    }
}

fn host_port(protocol: Transport, host_port: u16, host_address: Option<Ipv4Addr>) -> PortMapping {
    PortMapping { protocol, pod_port: PORT, host_port, host_address }
}

#[test]
fn pods_reach_pods_node_and_outside() {
    let world = World::new("reach");
    world.on_node(|| std::fs::write("/proc/sys/net/ipv4/conf/all/arp_ignore", "1").unwrap());
    let network = open(&world);
    let a = attach(&world, &network, "a", &[]);
    let b = attach(&world, &network, "b", &[]);
    let gateway = network.gateway().unwrap();
    world.serve("node", PORT);
    world.serve("outside", PORT);
    for (from, to, answer) in [
        ("a", b, format!("b {a}")),
        ("b", a, format!("a {b}")),
        ("a", a, format!("a {a}")),
        ("a", Ipv4Addr::LOCALHOST, "a 127.0.0.1".to_owned()),
        ("a", gateway, format!("node {a}")),
        ("a", NODE, format!("node {a}")),
        ("node", a, format!("a {gateway}")),
        // The outside knows nothing of pods: it sees the node.
        ("a", OUTSIDE, format!("outside {NODE}")),
    ] {
        assert_eq!(world.ask(from, to, PORT), Ok(answer.clone()), "{from} to {to} by TCP");
        // A server on all addresses answers a datagram from the one nearest to the asker, which is the gateway.
        if (from, to) != ("a", NODE) {
            assert_eq!(world.ask_udp(from, to, PORT), Ok(answer), "{from} to {to} by UDP");
        }
    }
    // Nobody had to ask for a hardware address, which some machines do not answer on other links.
    let neighbors = world.inside("a", || ip("neigh")) + &world.on_node(|| ip(&format!("neigh show {a}")));
    assert_eq!(neighbors.matches("PERMANENT").count(), 2, "{neighbors}");
    // What listens on the node's loopback only stays out of reach for pods, though the bridge routes loopback.
    world.serve_at("node", (Ipv4Addr::LOCALHOST, 9999).into());
    world.inside("a", || {
        ip("route add 127.0.0.1 via 10.42.0.1 dev eth0 onlink table 7");
        ip("rule add pref 1 ipproto tcp dport 9999 table 7");
        ip("rule del pref 0");
        ip("rule add pref 2 table local");
        std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap();
    });
    let refused = world.ask("a", Ipv4Addr::LOCALHOST, 9999);
    assert_eq!(refused, Err(ErrorKind::TimedOut), "a pod reached the node's loopback");
}

#[test]
fn host_ports() {
    let world = World::new("hostports");
    let network = open(&world);
    let ports = [
        host_port(Transport::Tcp, 80, None),
        host_port(Transport::Udp, 80, None),
        host_port(Transport::Tcp, 81, Some(NODE)),
    ];
    let gateway = network.gateway().unwrap();
    let a = attach(&world, &network, "a", &ports);
    let b = attach(&world, &network, "b", &[]);
    for (from, to, port, answer) in [
        ("outside", NODE, 80, Ok(format!("a {OUTSIDE}"))),
        ("outside", NODE, 81, Ok(format!("a {OUTSIDE}"))),
        ("b", NODE, 80, Ok(format!("a {b}"))),
        ("b", gateway, 80, Ok(format!("a {b}"))),
        ("b", gateway, 81, Err(ErrorKind::ConnectionRefused)),
        ("a", NODE, 80, Ok(format!("a {gateway}"))),
        ("node", NODE, 80, Ok(format!("a {NODE}"))),
        ("node", Ipv4Addr::LOCALHOST, 80, Ok(format!("a {gateway}"))),
        ("outside", NODE, 82, Err(ErrorKind::ConnectionRefused)),
    ] {
        assert_eq!(world.ask(from, to, port), answer, "{from} to {to}:{port}");
    }
    assert_eq!(world.ask_udp("outside", NODE, 80), Ok(format!("a {OUTSIDE}")));
    network.detach("a").unwrap();
    assert_eq!(world.ask("outside", NODE, 80), Err(ErrorKind::ConnectionRefused));
    assert_ne!(a, b);
}

#[test]
fn a_restart_keeps_pods_and_a_reset_removes_everything() {
    let world = World::new("restart");
    let before = world.on_node(|| (ip("link"), ip("-4 addr"), ip("route")));
    let network = open(&world);
    let ports = [host_port(Transport::Tcp, 80, None)];
    let a = attach(&world, &network, "a", &ports);
    let b = attach(&world, &network, "b", &[]);
    drop(network);
    // Nobody is there, and pods go on.
    assert_eq!(world.ask("a", b, PORT), Ok(format!("b {a}")));
    assert_eq!(world.ask("outside", NODE, 80), Ok(format!("a {OUTSIDE}")));
    // Someone else's clean-up took b's link: its address is free again.
    world.on_node(|| {
        let links = ip("-o link");
        let alias = "kijabi/test/b";
        let line = links.lines().find(|line| line.contains(alias)).unwrap();
        let name = line.split([':', '@']).nth(1).unwrap().trim();
        ip(&format!("link del {name}"));
    });
    let network = open(&world);
    assert_eq!(network.sandboxes(), ["a"]);
    let again = network.attach("a", &world.path("a"), &ports).unwrap();
    assert_eq!(again, [IpAddr::V4(a)]);
    assert_eq!(world.ask("outside", NODE, 80), Ok(format!("a {OUTSIDE}")));
    let c = attach(&world, &network, "c", &[]);
    assert_eq!(world.ask("c", a, PORT), Ok(format!("a {c}")));

    // A link whose record is gone belongs to nobody: the next run removes it, and the address is free.
    let lost = attach(&world, &network, "lost", &[]);
    let links = || world.on_node(|| ip("-o link")).matches("kijabi/test/lost").count();
    assert_eq!(links(), 1);
    std::fs::remove_file(world.folder.join("test/pods").join(lost.to_string())).unwrap();
    drop(network);
    let network = open(&world);
    assert_eq!(links(), 0);
    assert_eq!(world.ask("c", a, PORT), Ok(format!("a {c}")));

    network.retain(|sandbox| sandbox == "c").unwrap();
    network.detach("never there").unwrap();
    assert_eq!(network.sandboxes(), ["c"]);
    network.reset().unwrap();
    assert!(!world.path("c").exists());
    world.on_node(|| assert_eq!((ip("link"), ip("-4 addr"), ip("route")), before));
    assert_eq!(std::fs::read_dir(world.folder.join("test/pods")).unwrap().count(), 0);
}

#[test]
fn two_instances_side_by_side() {
    let world = World::new("two");
    let first = open(&world);
    let other = |range| {
        let mut config = config(&world, "an-instance-with-a-long-name", range);
        config.cluster_cidr = range.parse().unwrap();
        config.service_cidr = None;
        world.on_node(move || PodNetwork::open(config))
    };
    let error = other("10.42.0.128/25").err().unwrap().to_string();
    assert!(error.contains("10.42.0.128/25 overlaps the address 10.42.0.0"), "{error}");
    let second = other("10.52.0.0/24").unwrap();
    let a = attach(&world, &first, "a", &[host_port(Transport::Tcp, 80, None)]);
    let b = attach(&world, &second, "b", &[host_port(Transport::Tcp, 81, None)]);
    assert_ne!(a, b);
    assert_eq!(world.ask("outside", NODE, 80), Ok(format!("a {OUTSIDE}")));
    assert_eq!(world.ask("outside", NODE, 81), Ok(format!("b {OUTSIDE}")));
    second.reset().unwrap();
    assert_eq!(world.ask("outside", NODE, 80), Ok(format!("a {OUTSIDE}")));
    assert_eq!(world.ask("outside", NODE, 81), Err(ErrorKind::ConnectionRefused));
}

#[test]
fn others_who_drop_what_is_forwarded_are_named() {
    let world = World::new("blockers");
    let network = open(&world);
    assert_eq!(world.on_node(|| network.status().forward_blockers), [""; 0]);
    let mut theirs = Skeleton::default();
    let hook = Hook { point: HookPoint::Forward, priority: 0, nat: false };
    theirs.chains.push((Some(hook), Chain { name: "forward".into(), rules: Vec::new() }));
    world.on_node(|| {
        // A policy of accept is no obstacle.
        Table::open("theirs", theirs).unwrap().apply([]).unwrap();
        assert_eq!(network.status().forward_blockers, [""; 0]);
        if let Ok(output) = std::process::Command::new("nft")
            .args(["add", "chain", "ip", "theirs", "forward", "{ policy drop; }"])
            .output()
        {
            assert!(output.status.success(), "{output:?}");
            assert_eq!(network.status().forward_blockers, ["ip theirs forward"]);
        }
    });
}

#[test]
fn rules_that_somebody_removed_come_back() {
    let world = World::new("removed");
    let network = open(&world);
    attach(&world, &network, "a", &[host_port(Transport::Tcp, 80, None)]);
    network.check().unwrap();
    world.on_node(|| Table::open("kijabi-test", Skeleton::default()).unwrap().destroy().unwrap());
    assert_eq!(world.ask("outside", NODE, 80), Err(ErrorKind::ConnectionRefused));
    network.check().unwrap();
    assert_eq!(world.ask("outside", NODE, 80), Ok(format!("a {OUTSIDE}")));
}

#[test]
fn attaching_takes_milliseconds() {
    let world = World::new("time");
    let network = open(&world);
    let names: Vec<String> = (0..50).map(|number| format!("p{number}")).collect();
    let time = |work: &mut dyn FnMut(&String)| {
        let mut times: Vec<Duration> = Vec::new();
        for name in &names {
            let start = Instant::now();
            work(name);
            times.push(start.elapsed());
        }
        times.sort();
        (times[0], times[25], times[49])
    };
    let make = time(&mut |name| drop(world.netns(name)));
    let attach = time(&mut |name| drop(network.attach(name, &world.path(name), &[]).unwrap()));
    let detach = time(&mut |name| network.detach(name).unwrap());
    println!("best, median and worst: namespace {make:?}, attach {attach:?}, detach {detach:?}");
    assert!(attach.1 < Duration::from_millis(50), "{attach:?}");
}

#[test]
fn many_at_once() {
    let world = World::new("many");
    let network = open(&world);
    let names: Vec<String> = (0..40).map(|number| format!("p{number}")).collect();
    for name in &names {
        world.netns(name);
    }
    let mut times = Vec::new();
    let addresses: HashSet<IpAddr> = std::thread::scope(|scope| {
        let threads: Vec<_> = names
            .chunks(10)
            .map(|names| {
                scope.spawn(|| {
                    let attach = |name: &String| {
                        let start = Instant::now();
                        let address = network.attach(name, &world.path(name), &[]).unwrap()[0];
                        (address, start.elapsed())
                    };
                    names.iter().map(attach).collect::<Vec<_>>()
                })
            })
            .collect();
        let results = threads.into_iter().flat_map(|thread| thread.join().unwrap());
        results.inspect(|(_, time)| times.push(*time)).map(|(address, _)| address).collect()
    });
    times.sort();
    println!("attach, 4 at once: median {:?}, worst {:?}", times[20], times[39]);
    assert_eq!(addresses.len(), 40);
    let start = Instant::now();
    names.iter().for_each(|name| network.detach(name).unwrap());
    println!("detach: {:?} each", start.elapsed() / 40);
    assert!(network.sandboxes().is_empty());
}

#[test]
fn a_range_comes_late_and_stays() {
    let world = World::new("late");
    let mut config = config(&world, "test", "10.42.0.0/24");
    config.pod_cidr = None;
    let network = world.on_node(|| PodNetwork::open(config).unwrap());
    let path = world.netns("a");
    assert!(network.attach("a", &path, &[]).is_err());
    assert!(network.sandboxes().is_empty());
    let range: Cidr = "10.42.7.0/24".parse().unwrap();
    network.set_pod_cidr(range).unwrap();
    let address = network.attach("a", &path, &[]).unwrap();
    assert!(matches!(address[..], [IpAddr::V4(address)] if range.contains(address)));
    assert!(network.set_pod_cidr("10.42.8.0/24".parse().unwrap()).is_err());
    network.detach("a").unwrap();
    network.set_pod_cidr("10.42.8.0/24".parse().unwrap()).unwrap();
    assert_eq!(network.gateway(), Some(Ipv4Addr::new(10, 42, 8, 1)));
    // A namespace that is not there leaves nothing behind.
    assert!(network.attach("b", &world.path("missing"), &[]).is_err());
    assert!(network.sandboxes().is_empty());
}
