//! Tests of [`super::plan`]: whole rollouts, step by step, against a cluster that only counts.

use super::*;
use crate::testing::{at, object, time};
use serde_json::{Value, json};

/// A Deployment, its ReplicaSets, and pods that become available one step after they are asked for.
struct World {
    d: Deployment,
    sets: Vec<ReplicaSet>,
    now: i64,
    /// Pods of these images never become available.
    sick: Vec<&'static str>,
    /// Most and fewest pods seen: all, and available.
    most: i32,
    fewest: i32,
}

fn image(template: &k8s_openapi::api::core::v1::PodTemplateSpec) -> String {
    template.spec.as_ref().and_then(|s| s.containers[0].image.clone()).unwrap_or_default()
}

impl World {
    fn new(replicas: i32, strategy: Value) -> World {
        let d = object(json!({
            "metadata": {"name": "web", "namespace": "a", "uid": "d", "generation": 1},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "strategy": strategy,
                "progressDeadlineSeconds": 600, "revisionHistoryLimit": 2,
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "v1"}]}}},
        }));
        World { d, sets: Vec::new(), now: 100, sick: Vec::new(), most: 0, fewest: i32::MAX }
    }

    fn set_image(&mut self, image: &str) {
        if let Some(spec) = &mut self.d.spec.template.spec {
            spec.containers[0].image = Some(image.to_owned());
        }
        *self.d.metadata.generation.get_or_insert_default() += 1;
    }

    /// The plan for now, carried out.
    fn step(&mut self) -> Plan {
        self.now += 1;
        let sets: Vec<_> = self.sets.iter().cloned().map(Arc::new).collect();
        let running = |s: &ReplicaSet| s.status.as_ref().map_or(0, |s| s.replicas) > 0;
        let current = |s: &ReplicaSet| s.spec.template.as_ref().map(image) == Some(image(&self.d.spec.template));
        let old_running = self.sets.iter().any(|s| running(s) && !current(s));
        let plan = plan(&self.d, &sets, old_running, at(self.now));
        for action in plan.actions.clone() {
            match action {
                Action::Create(set) => {
                    let mut set = *set;
                    set.metadata.uid = set.metadata.name.clone();
                    set.metadata.creation_timestamp = Some(time(self.now));
                    self.sets.push(set);
                }
                Action::Update { set, .. } => {
                    let i = self.sets.iter().position(|s| s.metadata.uid == set.metadata.uid).expect("it exists");
                    self.sets[i] = *set;
                }
                Action::Delete(name) => self.sets.retain(|s| s.metadata.name.as_ref() != Some(&name)),
            }
        }
        self.d.status = Some(plan.status.clone());
        if let Some(revision) = plan.revision {
            let annotations = self.d.metadata.annotations.get_or_insert_default();
            annotations.insert(revision::REVISION.to_owned(), revision.to_string());
        }
        plan
    }

    /// Pods follow the ReplicaSets: first those asked for exist, a step later they are available.
    fn pods_follow(&mut self) {
        for set in &mut self.sets {
            let wanted = size(set);
            let healthy = !self.sick.contains(&set.spec.template.as_ref().map(image).unwrap_or_default().as_str());
            let status = set.status.get_or_insert_default();
            let up = if healthy { status.replicas.min(wanted) } else { 0 };
            status.available_replicas = Some(up);
            status.ready_replicas = Some(up);
            status.replicas = wanted;
            status.observed_generation = set.metadata.generation;
        }
        let pods: i32 = self.sets.iter().map(|s| s.status.as_ref().map_or(0, |s| s.replicas)).sum();
        self.most = self.most.max(pods);
        self.fewest = self.fewest.min(self.sets.iter().map(available).sum());
    }

    /// Steps until nothing changes any more.
    fn settle(&mut self) {
        (self.most, self.fewest) = (0, i32::MAX);
        for _ in 0..200 {
            let before = (self.sets.clone(), self.d.clone());
            self.step();
            self.pods_follow();
            if before == (self.sets.clone(), self.d.clone()) {
                return;
            }
        }
        panic!("it never settles: {:#?}", self.d.status);
    }

    fn sizes(&self) -> Vec<(String, i32)> {
        self.sets.iter().map(|s| (image(s.spec.template.as_ref().expect("it has one")), size(s))).collect()
    }

    fn condition(&self, kind: &str) -> (String, String) {
        let status = self.d.status.as_ref().expect("it has one");
        let found = status.conditions.iter().flatten().find(|c| c.type_.as_deref() == Some(kind));
        let text = |s: &Option<String>| s.clone().unwrap_or_default();
        found.map(|c| (text(&c.status), text(&c.reason))).unwrap_or_default()
    }
}

fn pairs(list: &[(&str, i32)]) -> Vec<(String, i32)> {
    list.iter().map(|(image, n)| ((*image).to_owned(), *n)).collect()
}

fn yes(reason: &str) -> (String, String) {
    ("True".to_owned(), reason.to_owned())
}

#[test]
fn rollouts_keep_their_bounds() {
    // Replicas, strategy, most pods, fewest available.
    let rolling = |surge: Value, unavailable: Value| json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}});
    let rows = [
        (3, rolling(json!("25%"), json!("25%")), 4, 3),
        (10, rolling(json!(3), json!(2)), 13, 8),
        (5, rolling(json!(0), json!(1)), 5, 4),
        (4, rolling(json!("100%"), json!(0)), 8, 4),
        (3, json!({"type": "Recreate"}), 3, 0),
    ];
    for (replicas, strategy, most, fewest) in rows {
        let mut w = World::new(replicas, strategy.clone());
        w.settle();
        assert_eq!(w.sizes(), pairs(&[("v1", replicas)]), "{strategy}");
        w.set_image("v2");
        w.settle();
        assert_eq!(w.sizes(), pairs(&[("v1", 0), ("v2", replicas)]), "{strategy}");
        assert!(w.most <= most && w.fewest >= fewest, "{strategy}: {} pods, {} available", w.most, w.fewest);
        assert_eq!(w.condition("Progressing"), yes("NewReplicaSetAvailable"));
        assert_eq!(w.condition("Available"), yes("MinimumReplicasAvailable"));
        assert_eq!(revision::revision(w.d.metadata.annotations.as_ref()), 2);
    }
}

#[test]
fn a_bad_revision_stops_and_is_undone() {
    let mut w = World::new(4, json!({}));
    w.settle();
    w.sick = vec!["bad"];
    w.set_image("bad");
    w.settle();
    assert_eq!(w.sizes(), pairs(&[("v1", 3), ("bad", 2)]), "as many as the bounds allow, no more");
    assert!(w.fewest >= 3);
    w.now += 700;
    w.step();
    assert_eq!(w.condition("Progressing"), ("False".to_owned(), "ProgressDeadlineExceeded".to_owned()));
    w.set_image("v1");
    w.settle();
    assert_eq!(w.sizes(), pairs(&[("v1", 4), ("bad", 0)]));
    let annotations = w.sets[0].metadata.annotations.as_ref().expect("it has some");
    assert_eq!(annotations.get(revision::REVISION).map(String::as_str), Some("3"), "what was undone to is the newest");
    assert_eq!(annotations.get(revision::REVISION_HISTORY).map(String::as_str), Some("1"));
}

#[test]
fn scaling_in_mid_rollout_is_proportional() {
    let mut w = World::new(10, json!({"rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}}));
    w.settle();
    w.sick = vec!["bad"];
    w.set_image("bad");
    w.settle();
    assert_eq!(w.sizes(), pairs(&[("v1", 8), ("bad", 5)]));
    w.d.spec.replicas = Some(15);
    w.step();
    assert_eq!(w.sizes(), pairs(&[("v1", 11), ("bad", 7)]), "of 18 pods, in the proportion of 8 to 5");
}

#[test]
fn pausing_holds_the_template_but_not_the_size() {
    let mut w = World::new(2, json!({}));
    w.settle();
    w.d.spec.paused = Some(true);
    w.set_image("v2");
    w.settle();
    assert_eq!(w.sizes(), pairs(&[("v1", 2)]));
    assert_eq!(w.condition("Progressing"), ("Unknown".to_owned(), "DeploymentPaused".to_owned()));
    w.d.spec.replicas = Some(5);
    w.settle();
    assert_eq!(w.sizes(), pairs(&[("v1", 5)]));
    w.d.spec.paused = None;
    w.settle();
    assert_eq!(w.sizes(), pairs(&[("v1", 0), ("v2", 5)]));
}

#[test]
fn old_revisions_beyond_the_limit_go() {
    let mut w = World::new(1, json!({}));
    for version in ["v1", "v2", "v3", "v4", "v5"] {
        w.set_image(version);
        w.settle();
    }
    assert_eq!(w.sizes(), pairs(&[("v3", 0), ("v4", 0), ("v5", 1)]));
}
