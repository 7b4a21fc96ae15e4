//! Roles and bindings, parsed, indexed by subject, and brought up to date when one of them has changed.
//!
//! Costs: about 300 bytes a rule and 200 a binding; a decision reads the bindings of the user and its groups; a change of
//! any role or binding costs one pass over the list of that kind at the next decision, parsing only what changed.

use super::rules::Rule;
use crate::context::{Attributes, Authorizer, Decision, UserInfo};
use crate::meta;
use crate::storage::{Entry, KindStore, Storage};
use machinery::Status;
use machinery::selector::LabelSelector;
use parking_lot::{Mutex, RwLock};
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

const GROUP: &str = "rbac.authorization.k8s.io";

struct Role {
    rules: Vec<Rule>,
    labels: Vec<(Box<str>, Box<str>)>,
    /// Selectors of the roles whose rules this one has; empty for ordinary roles.
    aggregates: Vec<LabelSelector>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Subject {
    User(Box<str>),
    Group(Box<str>),
}

struct Binding {
    /// `NAMESPACE/NAME` for a role, `NAME` for a cluster role.
    role: Box<str>,
    of_cluster: bool,
    subjects: Vec<Subject>,
    /// For reasons in audit and answers.
    description: Box<str>,
}

/// Parsed objects by key, with the revision they were parsed at.
struct Parsed<T> {
    by_key: HashMap<Box<str>, (u64, Arc<T>)>,
    last_change: u64,
}

impl<T> Default for Parsed<T> {
    fn default() -> Self {
        Self { by_key: HashMap::new(), last_change: u64::MAX }
    }
}

impl<T> Parsed<T> {
    /// Brings it up to date; whether anything changed.
    fn refresh(&mut self, kind: &KindStore, parse: impl Fn(&Entry) -> T) -> bool {
        let last_change = kind.last_change();
        if last_change == self.last_change {
            return false;
        }
        let mut before = std::mem::take(&mut self.by_key);
        for entry in kind.list(None) {
            let revision = entry.object.revision;
            let kept = before.remove(&entry.key).filter(|(parsed_at, _)| *parsed_at == revision);
            let parsed = kept.unwrap_or_else(|| (revision, Arc::new(parse(&entry))));
            self.by_key.insert(entry.key.clone(), parsed);
        }
        self.last_change = last_change;
        true
    }
}

#[derive(Default)]
struct Objects {
    roles: Parsed<Role>,
    cluster_roles: Parsed<Role>,
    bindings: Parsed<Binding>,
    cluster_bindings: Parsed<Binding>,
}

/// What decisions read.
#[derive(Default)]
struct Index {
    changes: [u64; 4],
    roles: HashMap<Box<str>, Arc<Role>>,
    cluster_roles: HashMap<Box<str>, Arc<Role>>,
    /// Rules of roles that aggregate, collected.
    aggregated: HashMap<Box<str>, Vec<Rule>>,
    /// Bindings of the whole cluster (namespace empty) and of each namespace, by subject.
    bindings: HashMap<Subject, HashMap<Box<str>, Vec<Arc<Binding>>>>,
}

/// The RBAC authorizer.
pub struct Rbac {
    kinds: [Arc<KindStore>; 4],
    objects: Mutex<Objects>,
    index: RwLock<Arc<Index>>,
}

impl Rbac {
    /// Reads roles and bindings from `storage`, now and at every change.
    pub fn new(storage: &Storage) -> Result<Self, Status> {
        let kind = |resource: &str| storage.kind(GROUP, resource);
        let kinds = [kind("roles")?, kind("clusterroles")?, kind("rolebindings")?, kind("clusterrolebindings")?];
        let index = Index { changes: [u64::MAX; 4], ..Index::default() };
        Ok(Self { kinds, objects: Mutex::default(), index: RwLock::new(Arc::new(index)) })
    }

    fn index(&self) -> Arc<Index> {
        let changes = || self.kinds.each_ref().map(|kind| kind.last_change());
        let index = self.index.read().clone();
        if index.changes == changes() {
            return index;
        }
        let mut objects = self.objects.lock();
        let now = changes();
        let index = self.index.read().clone();
        if index.changes == now {
            return index;
        }
        let [roles, cluster_roles, bindings, cluster_bindings] = &self.kinds;
        objects.roles.refresh(roles, parse_role);
        objects.cluster_roles.refresh(cluster_roles, parse_role);
        objects.bindings.refresh(bindings, parse_binding);
        objects.cluster_bindings.refresh(cluster_bindings, parse_binding);
        let index = Arc::new(Index::build(&objects, now));
        *self.index.write() = index.clone();
        index
    }

    /// All rules a user has in a namespace (of the whole cluster only, when it is empty).
    pub fn rules_of(&self, user: &UserInfo, namespace: &str) -> Vec<Rule> {
        let index = self.index();
        let mut rules = Vec::new();
        index.visit(user, namespace, |rule, _| {
            rules.push(rule.clone());
            false
        });
        rules
    }

    /// The rules of a role: a cluster role when the namespace is empty. None when there is no such role.
    pub fn rules_of_role(&self, namespace: &str, name: &str) -> Option<Vec<Rule>> {
        let index = self.index();
        if namespace.is_empty() {
            return index.cluster_roles.contains_key(name).then(|| index.cluster_rules(name).cloned().collect());
        }
        index.roles.get(format!("{namespace}/{name}").as_str()).map(|role| role.rules.clone())
    }
}

impl Authorizer for Rbac {
    fn authorize(&self, attributes: &Attributes) -> Decision {
        let mut reason = None;
        self.index().visit(&attributes.user, &attributes.namespace, |rule, binding| {
            if rule.allows(attributes) {
                reason = Some(format!("RBAC: allowed by {}", binding.description));
            }
            reason.is_some()
        });
        reason.map_or_else(|| Decision::NoOpinion(String::new()), Decision::Allow)
    }
}

impl Index {
    fn build(objects: &Objects, changes: [u64; 4]) -> Self {
        let plain = |parsed: &Parsed<Role>| -> HashMap<Box<str>, Arc<Role>> {
            parsed.by_key.iter().map(|(key, (_, role))| (key.clone(), role.clone())).collect()
        };
        let mut index = Self {
            changes,
            roles: plain(&objects.roles),
            cluster_roles: plain(&objects.cluster_roles),
            ..Self::default()
        };
        for (name, role) in &index.cluster_roles {
            if !role.aggregates.is_empty() {
                let mut rules = Vec::new();
                index.collect(role, &mut HashSet::from([name.clone()]), &mut rules);
                index.aggregated.insert(name.clone(), rules);
            }
        }
        for (key, (_, binding)) in &objects.bindings.by_key {
            let namespace = key.split_once('/').map_or("", |(namespace, _)| namespace);
            index.add_binding(namespace, binding);
        }
        for (_, binding) in objects.cluster_bindings.by_key.values() {
            index.add_binding("", binding);
        }
        index
    }

    /// Rules of all roles that `role` selects, and of those that they select.
    fn collect(&self, role: &Role, seen: &mut HashSet<Box<str>>, rules: &mut Vec<Rule>) {
        for (name, other) in &self.cluster_roles {
            let label = |key: &str| other.labels.iter().find(|(k, _)| **k == *key).map(|(_, value)| &**value);
            if !role.aggregates.iter().any(|selector| selector.matches(label)) || !seen.insert(name.clone()) {
                continue;
            }
            match other.aggregates.is_empty() {
                true => {
                    rules.extend(other.rules.iter().filter(|rule| !rules.contains(rule)).cloned().collect::<Vec<_>>())
                }
                false => self.collect(other, seen, rules),
            }
        }
    }

    fn add_binding(&mut self, namespace: &str, binding: &Arc<Binding>) {
        for subject in &binding.subjects {
            let by_namespace = self.bindings.entry(subject.clone()).or_default();
            by_namespace.entry(namespace.into()).or_default().push(binding.clone());
        }
    }

    fn cluster_rules(&self, name: &str) -> impl Iterator<Item = &Rule> {
        let own =
            self.cluster_roles.get(name).filter(|role| role.aggregates.is_empty()).map(|role| role.rules.as_slice());
        let collected = self.aggregated.get(name).map(Vec::as_slice);
        own.or(collected).unwrap_or_default().iter()
    }

    /// Shows every rule that holds for the user in the namespace, those of the whole cluster first, until `stop` says so.
    fn visit(&self, user: &UserInfo, namespace: &str, mut stop: impl FnMut(&Rule, &Binding) -> bool) {
        let subjects = std::iter::once(Subject::User(user.name.as_str().into()))
            .chain(user.groups.iter().map(|group| Subject::Group(group.as_str().into())));
        let found: Vec<_> = subjects.filter_map(|subject| self.bindings.get(&subject)).collect();
        let scopes = [Some(""), Some(namespace).filter(|namespace| !namespace.is_empty())];
        for scope in scopes.into_iter().flatten() {
            for binding in found.iter().filter_map(|by_namespace| by_namespace.get(scope)).flatten() {
                let role = self.roles.get(&binding.role).filter(|_| !binding.of_cluster);
                let own = role.map(|role| role.rules.as_slice()).unwrap_or_default().iter();
                let cluster = binding.of_cluster.then(|| self.cluster_rules(&binding.role)).into_iter().flatten();
                for rule in own.chain(cluster) {
                    if stop(rule, binding) {
                        return;
                    }
                }
            }
        }
    }
}

fn parse_role(entry: &Entry) -> Role {
    let role = entry.value();
    let selectors = meta::at(&role, &["aggregationRule", "clusterRoleSelectors"]).and_then(Value::as_array);
    let aggregates = selectors.into_iter().flatten().filter_map(|s| LabelSelector::from_value(s).ok()).collect();
    Role { rules: Rule::parse_all(&role), labels: entry.labels.to_vec(), aggregates }
}

fn parse_binding(entry: &Entry) -> Binding {
    let binding = entry.value();
    let namespace = entry.namespace();
    let of_cluster = meta::text_at(&binding, &["roleRef", "kind"]) == "ClusterRole";
    let name = meta::text_at(&binding, &["roleRef", "name"]);
    let kind = if namespace.is_empty() { "ClusterRoleBinding" } else { "RoleBinding" };
    let role = if of_cluster { "ClusterRole" } else { "Role" };
    let subjects = binding.get("subjects").and_then(Value::as_array);
    Binding {
        role: if of_cluster { name.into() } else { format!("{namespace}/{name}").into() },
        of_cluster,
        subjects: subjects.into_iter().flatten().filter_map(|subject| parse_subject(subject, namespace)).collect(),
        description: format!("{kind} {:?} of {role} {name:?}", &*entry.key).into(),
    }
}

fn parse_subject(subject: &Value, namespace: &str) -> Option<Subject> {
    let name = meta::text_at(subject, &["name"]);
    match meta::text_at(subject, &["kind"]) {
        "User" => Some(Subject::User(name.into())),
        "Group" => Some(Subject::Group(name.into())),
        "ServiceAccount" => {
            let own = meta::text_at(subject, &["namespace"]);
            let namespace = if own.is_empty() { namespace } else { own };
            Some(Subject::User(format!("system:serviceaccount:{namespace}:{name}").into()))
        }
        _ => None,
    }
}
