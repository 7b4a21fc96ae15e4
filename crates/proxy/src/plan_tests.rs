//! Services, and where their rules lead.

use network::Cidr;
use serde_json::{Value, json};

use super::*;

fn node() -> NodeInfo {
    let cidr = |text: &str| -> Cidr { text.parse().unwrap() };
    NodeInfo { name: "here".to_owned(), cluster_cidr: cidr("10.42.0.0/16"), service_cidr: cidr("10.43.0.0/16") }
}

fn plan_of(spec: Value, endpoints: Value) -> Plan {
    let mut all = json!({"clusterIP": "10.43.0.7", "ports": [{"port": 80}]});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let status = json!({"loadBalancer": {"ingress": [{"ip": "198.51.100.10"}, {"hostname": "x"}]}});
    let service = json!({"metadata": {"namespace": "ns", "name": "web"}, "spec": all, "status": status});
    let slice = json!({
        "metadata": {}, "addressType": "IPv4", "endpoints": endpoints, "ports": [{"port": 8080, "name": ""}],
    });
    let other = json!({"metadata": {}, "addressType": "IPv6", "endpoints": [{"addresses": ["fd00::1"]}], "ports": []});
    let (service, slices) = (
        serde_json::from_value(service).unwrap(),
        [slice, other].map(|slice| serde_json::from_value::<EndpointSlice>(slice).unwrap()),
    );
    plan(&service, slices.iter(), &node())
}

/// The elements as text: the set, the key's parts and what it leads to.
fn elements(plan: &Plan) -> Vec<String> {
    let fields = |bytes: &[u8]| {
        let words = bytes.chunks(4).map(|chunk| match chunk {
            [protocol @ (6 | 17 | 132), 0, 0, 0] => format!("proto{protocol}"),
            [high, low, 0, 0] => u16::from_be_bytes([*high, *low]).to_string(),
            [a, b, c, d] => Ipv4Addr::new(*a, *b, *c, *d).to_string(),
            other => format!("{other:?}"),
        });
        words.collect::<Vec<_>>().join(" ")
    };
    let element = |element: &Element| {
        let data = match element.data.as_ref().unwrap() {
            Data::Verdict(Verdict::Goto(chain)) => format!("goto {chain}"),
            Data::Verdict(verdict) => format!("{verdict:?}"),
            Data::Value(bytes) => fields(bytes),
        };
        format!("{}: {} → {data}", element.set, fields(&element.key))
    };
    plan.fragment.elements.iter().map(element).collect()
}

#[track_caller]
fn check(spec: Value, endpoints: Value, expected: &[&str], chains: &[&str]) {
    let plan = plan_of(spec, endpoints);
    assert_eq!(elements(&plan), expected);
    let names: Vec<&str> = plan.fragment.chains.iter().map(|chain| &*chain.name).collect();
    assert_eq!(names, chains);
    // Whatever a fragment's rules and elements lead to is there, in it or in the fixed part.
    let skeleton = crate::skeleton(&node());
    let fixed = skeleton.chains.iter().map(|(_, chain)| &*chain.name);
    let known: BTreeSet<&str> = fixed.chain(names).collect();
    let verdicts = plan.fragment.elements.iter().filter_map(|element| match &element.data {
        Some(Data::Verdict(Verdict::Goto(chain))) => Some(chain),
        _ => None,
    });
    verdicts.for_each(|chain| assert!(known.contains(&**chain), "{chain} is missing"));
}

fn ready(address: &str, node: &str) -> Value {
    json!({"addresses": [address], "nodeName": node})
}

#[test]
fn plain_services() {
    let two = json!([ready("10.42.0.2", "here"), ready("10.42.1.3", "there")]);
    check(
        json!({}),
        two.clone(),
        &[
            "service-addresses: 10.43.0.7 proto6 80 → goto spread/2",
            "endpoints: 10.43.0.7 proto6 80 0 → 10.42.0.2 8080",
            "endpoints: 10.43.0.7 proto6 80 0.0.0.1 → 10.42.1.3 8080",
            "service-addresses: 198.51.100.10 proto6 80 → goto spread/2",
            "endpoints: 198.51.100.10 proto6 80 0 → 10.42.0.2 8080",
            "endpoints: 198.51.100.10 proto6 80 0.0.0.1 → 10.42.1.3 8080",
            "masquerade-addresses: 198.51.100.10 proto6 80 → goto masquerade",
        ]
        .map(|line| if cfg!(target_endian = "little") { line.replace("0.0.0.1", "256") } else { line.to_owned() })
        .each_ref()
        .map(String::as_str),
        &[],
    );
    check(json!({"clusterIP": "None"}), two.clone(), &[], &[]);
    check(json!({"type": "ExternalName", "externalName": "x"}), two.clone(), &[], &[]);
    check(json!({"clusterIP": "fd00::7"}), two, &[], &[]);
    let many: Vec<Value> = (1..=17).map(|end| ready(&format!("10.42.0.{end}"), "here")).collect();
    check(
        json!({"ports": [{"port": 80, "nodePort": 30080}]}),
        json!(many),
        &[
            "service-addresses: 10.43.0.7 proto6 80 → goto all/ns/web/tcp/80",
            "service-addresses: 198.51.100.10 proto6 80 → goto all/ns/web/tcp/80",
            "masquerade-addresses: 198.51.100.10 proto6 80 → goto masquerade",
            "service-node-ports: proto6 30080 → goto all/ns/web/tcp/80",
            "masquerade-node-ports: proto6 30080 → goto masquerade",
        ],
        &["all/ns/web/tcp/80"],
    );
}

#[test]
fn nobody_to_serve() {
    let unready = json!({"addresses": ["10.42.0.2"], "conditions": {"ready": false}});
    for endpoints in [json!([]), json!([unready])] {
        check(
            json!({"ports": [{"port": 80, "nodePort": 30080}], "externalTrafficPolicy": "Local"}),
            endpoints,
            &[
                "no-endpoint-addresses: 10.43.0.7 proto6 80 → goto refuse",
                "no-endpoint-addresses: 198.51.100.10 proto6 80 → goto refuse",
                "masquerade-addresses: 198.51.100.10 proto6 80 → goto masquerade-own",
                "no-endpoint-node-ports: proto6 30080 → goto refuse",
                "masquerade-node-ports: proto6 30080 → goto masquerade-own",
            ],
            &[],
        );
    }
}

#[test]
fn policies() {
    let (here, there) = (ready("10.42.0.2", "here"), ready("10.42.1.3", "there"));
    check(
        json!({"internalTrafficPolicy": "Local"}),
        json!([there]),
        &[
            "no-endpoint-addresses: 10.43.0.7 proto6 80 → Drop",
            "service-addresses: 198.51.100.10 proto6 80 → goto all/ns/web/tcp/80",
            "masquerade-addresses: 198.51.100.10 proto6 80 → goto masquerade",
        ],
        &["all/ns/web/tcp/80"],
    );
    check(
        json!({
            "internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local",
            "loadBalancerSourceRanges": ["192.0.2.0/24"], "externalIPs": ["203.0.113.1", "198.51.100.10"],
        }),
        json!([here, there]),
        &[
            "service-addresses: 10.43.0.7 proto6 80 → goto own/ns/web/tcp/80",
            "service-addresses: 198.51.100.10 proto6 80 → goto external/ns/web/tcp/80",
            "masquerade-addresses: 198.51.100.10 proto6 80 → goto masquerade-own",
            "service-addresses: 203.0.113.1 proto6 80 → goto external/ns/web/tcp/80",
            "masquerade-addresses: 203.0.113.1 proto6 80 → goto masquerade-own",
        ],
        &["all/ns/web/tcp/80", "own/ns/web/tcp/80", "external/ns/web/tcp/80"],
    );
    check(
        json!({"sessionAffinity": "ClientIP"}),
        json!([here]),
        &[
            "service-addresses: 10.43.0.7 proto6 80 → goto all/ns/web/tcp/80",
            "service-addresses: 198.51.100.10 proto6 80 → goto all/ns/web/tcp/80",
            "masquerade-addresses: 198.51.100.10 proto6 80 → goto masquerade",
        ],
        &["affinity/ns/web/tcp/80/10.42.0.2/8080", "all/ns/web/tcp/80"],
    );
}

#[test]
fn leaving_endpoints_serve_when_no_other_does() {
    let condition = |address: &str, node: &str, ready: bool, serving: bool, terminating: bool| {
        json!({
            "addresses": [address], "nodeName": node,
            "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
        })
    };
    let leaving = condition("10.42.0.2", "here", false, true, true);
    let gone = condition("10.42.0.3", "here", false, false, true);
    let good = condition("10.42.1.4", "there", true, true, false);
    let sick = condition("10.42.0.5", "here", false, true, false);
    for (endpoints, cluster, local) in [
        (json!([leaving, gone, sick]), &["10.42.0.2"][..], &["10.42.0.2"][..]),
        // The choice is made for the cluster and the node separately.
        (json!([leaving, gone, good]), &["10.42.1.4"], &["10.42.0.2"]),
        (json!([gone, sick]), &[], &[]),
        (json!([good, good]), &["10.42.1.4"], &[]),
    ] {
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {}, "addressType": "IPv4", "endpoints": endpoints, "ports": [{"port": 8080}],
        }))
        .unwrap();
        let found = select(&ServicePort { port: 80, ..ServicePort::default() }, std::iter::once(&slice), "here");
        let text = |list: &[Endpoint]| list.iter().map(|(address, _)| address.to_string()).collect::<Vec<_>>();
        assert_eq!((text(&found.cluster), text(&found.local)), (owned(cluster), owned(local)), "{endpoints}");
    }
}

fn owned(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}
