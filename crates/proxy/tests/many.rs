//! Thousands of Services: what a change costs, and that it holds only what changed.
#![allow(clippy::unwrap_used)] // helpers of tests, where a panic is the failure

#[path = "../../network/tests/world/mod.rs"]
mod world;

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use network::nft::{Fragment, Table};
use proxy::{NodeInfo, plan, skeleton};
use serde_json::{Value, json};
use world::World;

fn node() -> NodeInfo {
    NodeInfo {
        name: "here".to_owned(),
        cluster_cidr: "10.42.0.0/16".parse().unwrap(),
        service_cidr: "10.43.0.0/16".parse().unwrap(),
    }
}

/// The rules of the Service of a number; `generation` changes its endpoints.
fn fragment(number: u32, generation: u32) -> (Arc<str>, Option<Fragment>) {
    let service: Service = serde_json::from_value(json!({
        "metadata": {"namespace": "ns", "name": format!("s{number}")},
        "spec": {
            "clusterIP": format!("10.43.{}.{}", number / 250, 1 + number % 250),
            "ports": [{"name": "http", "port": 80}],
        },
    }))
    .unwrap();
    let endpoints: Vec<Value> = (1..=3)
        .map(|end| json!({"addresses": [format!("10.42.{}.{}", (number + generation) % 250, 1 + end)]}))
        .collect();
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": {}, "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080}],
    }))
    .unwrap();
    (format!("ns/s{number}").into(), Some(plan(&service, std::iter::once(&slice), &node()).fragment))
}

fn measure(table: &mut Table, changes: Vec<(Arc<str>, Option<Fragment>)>) -> Duration {
    let start = Instant::now();
    table.apply(changes).unwrap();
    start.elapsed()
}

#[test]
fn a_change_costs_what_changed() {
    let world = World::new("many");
    world.on_node(|| {
        let mut table = Table::open("kijabi-many-services", skeleton(&node())).unwrap();
        for count in [1, 5000] {
            table.invalidate();
            let all = measure(&mut table, (0..count).map(|number| fragment(number, 0)).collect());
            let rewrite = table.stats();
            let mut times: Vec<Duration> =
                (1..=20).map(|generation| measure(&mut table, vec![fragment(0, generation)])).collect();
            times.sort();
            let one = table.stats();
            assert_eq!(one.updates - rewrite.updates, 20);
            assert_eq!(one.rewrites, rewrite.rewrites, "a change rewrote the table");
            // The endpoints that go, those that come.
            assert_eq!(one.last_operations, 2);
            let (new, gone) = (fragment(count, 0), (Arc::from(format!("ns/s{count}")), None));
            let (come, go) = (measure(&mut table, vec![new]), measure(&mut table, vec![gone]));
            println!(
                "{count} services: all {all:?} ({} operations), one changed median {:?} worst {:?}, \
                 one more {come:?}, one less {go:?}",
                rewrite.last_operations, times[10], times[19],
            );
        }
        // Nothing changed: nothing is sent.
        let before = table.stats();
        table.apply([fragment(0, 20)]).unwrap();
        assert_eq!(table.stats(), before);
    });
}

#[test]
fn what_is_not_as_it_should_be_is_written_anew() {
    let world = World::new("anew");
    world.on_node(|| {
        let mut table = Table::open("kijabi-anew-services", skeleton(&node())).unwrap();
        table.apply((0..10).map(|number| fragment(number, 0))).unwrap();
        assert!(table.check().unwrap());
        // Someone else removes the table, as `nft flush ruleset` does.
        Table::open("kijabi-anew-services", skeleton(&node())).unwrap().destroy().unwrap();
        assert!(!table.check().unwrap());
        table.apply([fragment(3, 1)]).unwrap();
        assert_eq!(table.stats().rewrites, 2);
        assert!(table.check().unwrap());
        // Two claim one address: the first by name has it, and the other when the first goes.
        let (_, same) = fragment(3, 2);
        let name = |name: &str| -> Arc<str> { name.into() };
        table.apply([(name("ns/z"), same)]).unwrap();
        table.apply([(name("ns/s3"), None)]).unwrap();
        table.apply([(name("ns/z"), None), fragment(3, 0)]).unwrap();
        assert_eq!(table.stats().rewrites, 2, "a difference was refused");
    });
}
