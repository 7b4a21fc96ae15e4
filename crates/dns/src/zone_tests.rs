//! Names and what they lead to.

use std::str::FromStr;

use serde_json::{Value, json};

use super::*;

fn index() -> Index {
    let mut index = Index::default();
    let service = |name: &str, spec: Value| {
        serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": name}, "spec": spec})).unwrap()
    };
    index.put_service(&service(
        "web",
        json!({
            "clusterIP": "10.43.0.7", "clusterIPs": ["10.43.0.7", "fd00::7"],
            "ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}],
        }),
    ));
    index.put_service(&service("db", json!({"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]})));
    index.put_service(&service("empty", json!({"clusterIP": "None"})));
    index.put_service(&service("out", json!({"type": "ExternalName", "externalName": "example.com"})));
    index.put_service(&service("lit", json!({"type": "ExternalName", "externalName": "192.0.2.9"})));
    index.put_slice(
        &serde_json::from_value(json!({
            "metadata": {
                "namespace": "ns", "name": "db-1", "labels": {"kubernetes.io/service-name": "db"},
            },
            "addressType": "IPv4", "ports": [{"name": "sql", "port": 15432}],
            "endpoints": [
                {"addresses": ["10.42.0.5"], "hostname": "db-0", "conditions": {"ready": true}},
                {"addresses": ["10.42.0.6"], "conditions": {}},
                {"addresses": ["10.42.0.7"], "hostname": "db-2", "conditions": {"ready": false}},
            ],
        }))
        .unwrap(),
    );
    index
}

/// What the zone says, as text: `-` is no such name, `>` another name, `^` upstream.
fn ask(index: &Index, name: &str, kind: &str) -> String {
    let zone = Zone::new("cluster.local").unwrap();
    let name = Name::from_ascii(format!("{name}.")).unwrap();
    let kind = RecordType::from_str(kind).unwrap();
    match zone.resolve(index, &name, kind) {
        Answer::Elsewhere => "^".to_owned(),
        Answer::NoName => "-".to_owned(),
        Answer::Alias(name) => format!("> {name}"),
        Answer::Records(records, glue) => {
            let records: Vec<String> = records.iter().map(RData::to_string).collect();
            let glue: Vec<String> = glue.iter().map(|glue| format!("+ {} {}", glue.name, glue.data)).collect();
            [records, glue].concat().join(", ")
        }
    }
}

#[test]
fn names() {
    let index = index();
    for (name, kind, expected) in [
        ("web.ns.svc.cluster.local", "A", "10.43.0.7"),
        ("WEB.ns.SVC.cluster.LOCAL", "A", "10.43.0.7"),
        ("web.ns.svc.cluster.local", "AAAA", "fd00::7"),
        ("web.ns.svc.cluster.local", "TXT", ""),
        ("web.other.svc.cluster.local", "A", "-"),
        ("none.ns.svc.cluster.local", "A", "-"),
        ("x.web.ns.svc.cluster.local", "A", "-"),
        (
            "_http._tcp.web.ns.svc.cluster.local",
            "SRV",
            "0 50 80 web.ns.svc.cluster.local., + web.ns.svc.cluster.local. 10.43.0.7, \
             + web.ns.svc.cluster.local. fd00::7",
        ),
        ("_http._tcp.web.ns.svc.cluster.local", "A", ""),
        ("_http._udp.web.ns.svc.cluster.local", "SRV", "-"),
        ("http._tcp.web.ns.svc.cluster.local", "SRV", "-"),
        ("_tcp.web.ns.svc.cluster.local", "SRV", ""),
        ("_sctp.web.ns.svc.cluster.local", "SRV", "-"),
        // Headless: endpoints that are ready, by address and by host name.
        ("db.ns.svc.cluster.local", "A", "10.42.0.5, 10.42.0.6"),
        ("db.ns.svc.cluster.local", "AAAA", ""),
        ("db-0.db.ns.svc.cluster.local", "A", "10.42.0.5"),
        ("10-42-0-6.db.ns.svc.cluster.local", "A", "10.42.0.6"),
        ("10-42-0-5.db.ns.svc.cluster.local", "A", "-"),
        ("db-2.db.ns.svc.cluster.local", "A", "-"),
        (
            "_sql._tcp.db.ns.svc.cluster.local",
            "SRV",
            "0 50 15432 db-0.db.ns.svc.cluster.local., 0 50 15432 10-42-0-6.db.ns.svc.cluster.local., \
             + db-0.db.ns.svc.cluster.local. 10.42.0.5, + 10-42-0-6.db.ns.svc.cluster.local. 10.42.0.6",
        ),
        ("empty.ns.svc.cluster.local", "A", ""),
        ("out.ns.svc.cluster.local", "A", "> example.com."),
        ("lit.ns.svc.cluster.local", "A", "192.0.2.9"),
        ("lit.ns.svc.cluster.local", "AAAA", ""),
        // Pods.
        ("10-42-0-9.ns.pod.cluster.local", "A", "10.42.0.9"),
        ("10-42-0-9.ns.pod.cluster.local", "AAAA", ""),
        ("10-42-0.ns.pod.cluster.local", "A", "-"),
        // What is between names exists, without records.
        ("cluster.local", "A", ""),
        ("cluster.local", "NS", "ns.dns.cluster.local."),
        ("cluster.local", "SOA", "ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5"),
        ("svc.cluster.local", "A", ""),
        ("ns.svc.cluster.local", "A", ""),
        ("other.svc.cluster.local", "A", "-"),
        ("ns.pod.cluster.local", "A", ""),
        ("dns-version.cluster.local", "TXT", "1.1.0"),
        ("svc", "A", "^"),
        ("local", "A", "^"),
        ("example.com", "A", "^"),
        ("web.ns.svc.cluster.local.example.com", "A", "^"),
        // Addresses.
        ("7.0.43.10.in-addr.arpa", "PTR", "web.ns.svc.cluster.local."),
        ("5.0.42.10.in-addr.arpa", "PTR", "db-0.db.ns.svc.cluster.local."),
        ("5.0.42.10.in-addr.arpa", "A", ""),
        ("7.0.42.10.in-addr.arpa", "PTR", "^"),
        ("42.10.in-addr.arpa", "PTR", "^"),
        (
            "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa",
            "PTR",
            "web.ns.svc.cluster.local.",
        ),
    ] {
        assert_eq!(ask(&index, name, kind), expected, "{name} {kind}");
    }
}

#[test]
fn what_goes_is_forgotten() {
    let mut index = index();
    index.remove_service("ns/web");
    let slice = json!({
        "metadata": {"namespace": "ns", "name": "db-1", "labels": {"kubernetes.io/service-name": "db"}},
        "addressType": "IPv4",
    });
    index.remove_slice(&serde_json::from_value(slice).unwrap());
    for (name, kind, expected) in [
        ("web.ns.svc.cluster.local", "A", "-"),
        ("7.0.43.10.in-addr.arpa", "PTR", "^"),
        ("db.ns.svc.cluster.local", "A", ""),
        ("5.0.42.10.in-addr.arpa", "PTR", "^"),
    ] {
        assert_eq!(ask(&index, name, kind), expected, "{name} {kind}");
    }
}
