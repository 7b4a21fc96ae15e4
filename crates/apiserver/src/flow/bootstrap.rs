//! The flow schemas and priority levels every cluster has.

use serde_json::{Value, json};

/// Says whether the server keeps an object as it made it.
pub(super) const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";
/// A level: name, shares of the server's concurrency, percent lendable, and queues, hand size of a flow; no queues: refuse.
type Level = (&'static str, u32, u32, Option<(u32, u32)>);

const LEVELS: [Level; 7] = [
    ("catch-all", 5, 0, None),
    ("system", 30, 33, Some((64, 6))),
    ("node-high", 40, 25, Some((64, 6))),
    ("leader-election", 10, 0, Some((16, 4))),
    ("workload-high", 40, 50, Some((128, 6))),
    ("workload-low", 100, 90, Some((128, 6))),
    ("global-default", 20, 50, Some((128, 6))),
];
const QUEUE_LENGTH_MAX: u32 = 50;

fn object(kind: &str, name: &str, spec: Value) -> Value {
    let metadata = json!({"name": name, "annotations": {AUTO_UPDATE: "true"}, "generation": 1});
    json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": kind, "metadata": metadata, "spec": spec, "status": {}})
}

/// The priority levels.
pub(crate) fn levels() -> Vec<Value> {
    let exempt = json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}});
    let limited = LEVELS.iter().map(|(name, shares, lendable, queues)| {
        let response = match queues {
            None => json!({"type": "Reject"}),
            Some((queues, hand_size)) => json!({"type": "Queue", "queuing": {
                "queues": queues, "handSize": hand_size, "queueLengthLimit": QUEUE_LENGTH_MAX}}),
        };
        let limited =
            json!({"nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response});
        object("PriorityLevelConfiguration", name, json!({"type": "Limited", "limited": limited}))
    });
    std::iter::once(object("PriorityLevelConfiguration", "exempt", exempt)).chain(limited).collect()
}

fn groups(names: &[&str]) -> Value {
    names.iter().map(|name| json!({"kind": "Group", "group": {"name": name}})).collect()
}

fn users(names: &[&str]) -> Value {
    names.iter().map(|name| json!({"kind": "User", "user": {"name": name}})).collect()
}

fn system_accounts() -> Value {
    json!([{"kind": "ServiceAccount", "serviceAccount": {"name": "*", "namespace": "kube-system"}}])
}

fn resources(verbs: &[&str], group: &str, resources: &[&str], cluster: bool) -> Value {
    let mut rule = json!({"verbs": verbs, "apiGroups": [group], "resources": resources, "namespaces": ["*"]});
    if cluster {
        rule["clusterScope"] = true.into();
    }
    rule
}

/// Everything these subjects do.
fn everything(subjects: Value) -> Value {
    json!({
        "subjects": subjects,
        "resourceRules": [resources(&["*"], "*", &["*"], true)],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    })
}

/// The flow schemas.
pub(crate) fn schemas() -> Vec<Value> {
    let schema = |name: &str, level: &str, precedence: u32, distinguisher: &str, rule: Value| {
        let mut spec = json!({
            "priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence, "rules": [rule],
        });
        if !distinguisher.is_empty() {
            spec["distinguisherMethod"] = json!({"type": distinguisher});
        }
        let mut schema = object("FlowSchema", name, spec);
        schema["status"] = json!({"conditions": [super::maintain::dangling(level, true)]});
        schema
    };
    let everyone = || groups(&["system:unauthenticated", "system:authenticated"]);
    let probes = json!({"subjects": everyone(), "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}]});
    let mut electing = users(&["system:kube-controller-manager", "system:kube-scheduler"]);
    if let (Some(all), Value::Array(accounts)) = (electing.as_array_mut(), system_accounts()) {
        all.extend(accounts);
    }
    let leases = |verbs: &[&str]| resources(verbs, "coordination.k8s.io", &["leases"], false);
    let election = json!({"subjects": electing, "resourceRules": [leases(&["get", "create", "update"])]});
    let nodes = || groups(&["system:nodes"]);
    let own = json!({"subjects": nodes(), "resourceRules": [resources(&["*"], "", &["nodes", "nodes/status"], true), leases(&["*"])]});
    vec![
        schema("exempt", "exempt", 1, "", everything(groups(&["system:masters"]))),
        schema("probes", "exempt", 2, "", probes),
        schema("system-leader-election", "leader-election", 100, "ByUser", election),
        schema("system-node-high", "node-high", 400, "ByUser", own),
        schema("system-nodes", "system", 500, "ByUser", everything(nodes())),
        schema(
            "kube-controller-manager",
            "workload-high",
            800,
            "ByNamespace",
            everything(users(&["system:kube-controller-manager"])),
        ),
        schema("kube-scheduler", "workload-high", 800, "ByNamespace", everything(users(&["system:kube-scheduler"]))),
        schema("kube-system-service-accounts", "workload-high", 900, "ByNamespace", everything(system_accounts())),
        schema("service-accounts", "workload-low", 9000, "ByUser", everything(groups(&["system:serviceaccounts"]))),
        schema("global-default", "global-default", 9900, "ByUser", everything(everyone())),
        schema("catch-all", "catch-all", 10_000, "ByUser", everything(everyone())),
    ]
}
