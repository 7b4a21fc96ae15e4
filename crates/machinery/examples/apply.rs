//! What tracking owners and applying cost, in microseconds for one write of a Deployment.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark")]

use machinery::apply::{Builtin, Manager, Managers, Operation, Set, Versions, Write};
use machinery::schema::{Schema, TypeRef, check};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::hint::black_box;
use std::time::Instant;

struct One(TypeRef<'static>);

impl Versions<'static> for One {
    type Place = Builtin<'static>;

    fn place(&self, _: &str) -> Option<Builtin<'static>> {
        Some(Builtin::new(self.0))
    }

    fn convert<'v>(&self, object: &'v Value, _: &str) -> Option<Cow<'v, Value>> {
        Some(Cow::Borrowed(object))
    }

    fn writable(&self, fields: Set, _: &str) -> Set {
        fields.without(&Set::of(&["status"]))
    }
}

fn manager(name: &str, operation: Operation) -> Manager {
    Manager {
        name: name.to_owned(),
        operation,
        api_version: "apps/v1".to_owned(),
        subresource: String::new(),
        time: None,
        fields: Set::default(),
    }
}

fn measure(what: &str, mut work: impl FnMut()) {
    const TIMES: u32 = 20_000;
    for _ in 0..TIMES / 10 {
        work();
    }
    let started = Instant::now();
    for _ in 0..TIMES {
        work();
    }
    println!("{what:40} {:8.2} µs", started.elapsed().as_secs_f64() * 1e6 / f64::from(TIMES));
}

fn config() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "labels": {"app": "web", "tier": "front"}},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": "nginx:1", "ports": [{"containerPort": 80}, {"containerPort": 443}],
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}], "resources": {"limits": {"cpu": "500m"}},
                "volumeMounts": [{"name": "v", "mountPath": "/v"}]}], "volumes": [{"name": "v", "emptyDir": {}}]},
        }},
    })
}

fn main() {
    let kind = Schema::builtin().kind("apps", "v1", "Deployment").unwrap();
    let config = config();
    let mut object = config.clone();
    check(&mut object, kind).unwrap();
    let zero = Schema::zero(kind);
    let (versions, version, now) = (One(kind), "apps/v1", "2026-01-01T00:00:00Z");
    let write = |live, manager| Write { versions: &versions, version, live, manager };

    measure("owners of a new object, encoded", || {
        let owners = write(&zero, manager("a", Operation::Update)).update(&object, Managers::default(), now);
        black_box(owners.to_json());
    });
    let owners = write(&zero, manager("a", Operation::Update)).update(&object, Managers::default(), now);
    let text = owners.to_json();
    println!("{:40} {:8} bytes", "  their text", text.len());
    let mut changed = object.clone();
    changed["spec"]["replicas"] = json!(5);
    measure("owners of a changed object, from text", || {
        let owners = Managers::from_json(&text).unwrap();
        let owners = write(&object, manager("b", Operation::Update)).update(&changed, owners, now);
        black_box(owners.to_json());
    });
    measure("comparison of equal objects", || {
        black_box(machinery::apply::compare(&object, &object, Builtin::new(kind)));
    });
    let applied = write(&zero, manager("a", Operation::Apply)).apply(&config, Managers::default(), false, now);
    let applied = applied.ok().unwrap();
    let (live, text) = (applied.object.unwrap(), applied.managers.to_json());
    let mut next = config.clone();
    next["spec"]["template"]["spec"]["containers"][0]["image"] = json!("nginx:2");
    for (what, config) in [("apply of the same", &config), ("apply of another image", &next)] {
        measure(what, || {
            let owners = Managers::from_json(&text).unwrap();
            let applied = write(&live, manager("a", Operation::Apply)).apply(config, owners, false, now);
            black_box(applied.ok().unwrap().managers.to_json());
        });
    }
    next["spec"]["template"]["spec"]["containers"][0]["env"] = json!([{"name": "A", "value": "1"}]);
    measure("apply that leaves something out", || {
        let owners = Managers::from_json(&text).unwrap();
        let applied = write(&live, manager("a", Operation::Apply)).apply(&next, owners, false, now);
        black_box(applied.ok().unwrap().managers.to_json());
    });
    let bytes = serde_json::to_vec(&object).unwrap();
    measure("for comparison: decoding it", || {
        black_box(serde_json::from_slice::<Value>(&bytes).unwrap());
    });
}
