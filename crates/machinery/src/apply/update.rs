//! Who owns what after a write: by anything but apply, and by apply.

use super::compare::{Change, compare};
use super::element::Element;
use super::extract::{check, extract};
use super::managers::{Manager, Managers, Operation};
use super::merge::{item_place, merge, remove, with_named};
use super::place::{Form, Place};
use super::set::{FieldPath, Set};
use crate::schema::ListType;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// Who owns what was there before anybody applied.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// The versions of a kind.
pub trait Versions<'s> {
    /// A place in their schemas.
    type Place: Place<'s>;

    /// The schema of a version; none when the kind does not have it.
    fn place(&self, version: &str) -> Option<Self::Place>;

    /// An object in another version; none when there is no such version.
    fn convert<'v>(&self, object: &'v Value, version: &str) -> Option<Cow<'v, Value>>;

    /// Leaves out the fields that a write like this one cannot change, as seen in a version.
    fn writable(&self, fields: Set, version: &str) -> Set;
}

/// A write of an object, in one version.
pub struct Write<'a, V> {
    /// The versions of its kind.
    pub versions: &'a V,
    /// The version of `live` and of what is written.
    pub version: &'a str,
    /// The object as it is; as Go's zero value when there is none yet.
    pub live: &'a Value,
    /// Who writes; its fields do not matter.
    pub manager: Manager,
}

/// One field that an applier and somebody else want to have differently.
#[derive(Clone, Debug, PartialEq)]
pub struct Conflict {
    /// Who owns it.
    pub manager: Manager,
    /// Which field.
    pub path: FieldPath,
}

/// Why an apply failed.
#[derive(Clone, Debug, PartialEq)]
pub enum ApplyError {
    /// The applied object is not what its schema demands.
    Invalid(String),
    /// Others own fields with other values. Sorted by manager.
    Conflicts(Vec<Conflict>),
}

/// What an apply makes.
pub struct Applied {
    /// The new object; none when nothing changed.
    pub object: Option<Value>,
    /// Who owns what now.
    pub managers: Managers,
}

/// Fields that nobody ever owns.
fn unowned() -> &'static Set {
    static UNOWNED: OnceLock<Set> = OnceLock::new();
    UNOWNED.get_or_init(|| {
        let own = [
            "creationTimestamp",
            "generation",
            "managedFields",
            "name",
            "namespace",
            "resourceVersion",
            "selfLink",
            "uid",
        ];
        let below = own.iter().map(|field| Set::of(&["metadata", field]));
        ["apiVersion", "kind", "metadata"]
            .iter()
            .map(|field| Set::of(&[field]))
            .chain(below)
            .fold(Set::default(), |all, one| all.union(&one))
    })
}

impl<'s, V: Versions<'s>> Write<'_, V> {
    /// The managers after the object became `new`.
    pub fn update(&self, new: &Value, managers: Managers, now: &str) -> Managers {
        let Some(place) = self.versions.place(self.version) else { return managers };
        self.record(&compare(self.live, new, place), new, managers, now)
    }

    /// The same, when what changed is known.
    pub fn record(&self, change: &Change, new: &Value, mut managers: Managers, now: &str) -> Managers {
        self.reconcile(&mut managers);
        let own = self.versions.writable(change.set.clone(), self.version).difference(unowned());
        self.take(new, change, &mut managers, None);
        if !own.is_empty() {
            self.give(&mut managers, own, now);
        }
        managers.cap();
        managers
    }

    /// Of what the schema has made one value since, a manager of some of it owns the whole.
    fn reconcile(&self, managers: &mut Managers) {
        for manager in &mut managers.0 {
            let place = self.versions.place(&manager.api_version);
            if let Some(place) = place.filter(|place| splits(&manager.fields, *place)) {
                manager.fields = whole(&manager.fields, place);
            }
        }
    }

    fn give(&self, managers: &mut Managers, own: Set, now: &str) {
        let time = Some(now.to_owned());
        match managers.position(&self.manager) {
            Some(at) => {
                let known = &mut managers.0[at];
                known.fields = known.fields.union(&own);
                known.time = time;
            }
            None => managers.0.push(Manager { fields: own, time, ..self.manager.clone() }),
        }
    }

    /// Takes changed and removed fields from all managers, but for one; returns what changed ones they lost.
    fn take(&self, new: &Value, change: &Change, managers: &mut Managers, but: Option<&Manager>) -> Vec<Manager> {
        let mut seen: BTreeMap<String, Option<Change>> = BTreeMap::new();
        let (mut lost, mut gone) = (Vec::new(), Vec::new());
        for (at, manager) in managers.0.iter_mut().enumerate() {
            if but.is_some_and(|but| but.is(manager)) {
                continue;
            }
            let version = manager.api_version.clone();
            let seen = seen.entry(version).or_insert_with_key(|version| self.seen(new, change, version));
            let Some(seen) = seen else {
                gone.push(at);
                continue;
            };
            if manager.fields.intersects(&seen.set) {
                let fields = manager.fields.intersection(&seen.set);
                manager.fields = std::mem::take(&mut manager.fields).difference(&seen.set);
                lost.push(Manager { fields, ..manager.clone() });
            }
            if manager.fields.intersects(&seen.removed) {
                manager.fields = std::mem::take(&mut manager.fields).difference(&seen.removed);
            }
        }
        for at in gone.into_iter().rev() {
            managers.0.remove(at);
        }
        managers.drop_empty();
        lost
    }

    /// A change as it is in a version.
    fn seen(&self, new: &Value, change: &Change, version: &str) -> Option<Change> {
        let change = if version == self.version {
            change.clone()
        } else {
            let (old, new) = (self.versions.convert(self.live, version)?, self.versions.convert(new, version)?);
            compare(&old, &new, self.versions.place(version)?)
        };
        Some(Change {
            set: self.versions.writable(change.set, version),
            removed: self.versions.writable(change.removed, version),
        })
    }

    /// Applies an object. Fields that others own with other values are conflicts, unless taken by force.
    pub fn apply(&self, config: &Value, managers: Managers, force: bool, now: &str) -> Result<Applied, ApplyError> {
        let Some(place) = self.versions.place(self.version) else {
            return Err(ApplyError::Invalid("no corresponding type".to_owned()));
        };
        check(config, place).map_err(ApplyError::Invalid)?;
        let mut managers = managers;
        self.reconcile(&mut managers);
        let mut merged = self.live.clone();
        merge(&mut merged, config, place);
        let last = managers.position(&self.manager).map(|at| managers.0.remove(at));
        let fields = self.versions.writable(extract(config, place), self.version);
        managers.0.push(Manager {
            fields,
            time: last.as_ref().and_then(|last| last.time.clone()),
            ..self.manager.clone()
        });
        let object = match &last {
            Some(last) if !last.fields.is_empty() => self.prune(merged, &managers, last),
            _ => merged,
        };
        let change = compare(self.live, &object, place);
        let mut after = managers;
        let lost = self.take(&object, &change, &mut after, Some(&self.manager));
        if !force && !lost.is_empty() {
            return Err(ApplyError::Conflicts(conflicts(lost)));
        }
        let changed = !super::element::same(self.live, &object);
        if let Some(at) = after.position(&self.manager) {
            let own = &mut after.0[at];
            own.fields = std::mem::take(&mut own.fields).difference(unowned());
            if changed {
                own.time = Some(now.to_owned());
            }
        }
        after.drop_empty();
        Ok(Applied { object: changed.then_some(object), managers: after })
    }

    /// The managers of an object that nobody has applied to yet: all of it is owned by what was before.
    pub fn before_first_apply(&self, zero: &Value, now: &str) -> Managers {
        let manager =
            Manager { name: BEFORE_FIRST_APPLY.to_owned(), operation: Operation::Update, ..self.manager.clone() };
        Write { live: zero, manager, versions: self.versions, version: self.version }.update(
            self.live,
            Managers::default(),
            now,
        )
    }

    /// Takes out what this manager applied before, applies no more, and nobody else owns.
    fn prune(&self, merged: Value, managers: &Managers, last: &Manager) -> Value {
        let own = managers.0.iter().find(|manager| manager.is(&self.manager));
        if own.is_some_and(|own| own.api_version == last.api_version && last.fields.is_within(&own.fields)) {
            // It still applies all of that.
            return merged;
        }
        self.pruned(&merged, managers, last).unwrap_or(merged)
    }

    fn pruned(&self, merged: &Value, managers: &Managers, last: &Manager) -> Option<Value> {
        let place = self.versions.place(&last.api_version)?;
        let converted = self.versions.convert(merged, &last.api_version)?;
        let last_fields = with_named(&last.fields, Some(place));
        let mut pruned = remove(&converted, &last_fields, place).unwrap_or_default();
        let mut by_version: BTreeMap<&str, Set> = BTreeMap::new();
        for manager in &managers.0 {
            let all = by_version.entry(&manager.api_version).or_default();
            *all = all.union(&manager.fields);
        }
        // What others own comes back, in the version last applied first.
        let first = by_version.remove_entry(&*last.api_version);
        let mut at = last.api_version.clone();
        for (version, owned) in first.into_iter().chain(by_version) {
            let (Some(place), Some(whole)) = (self.versions.place(version), self.versions.convert(merged, version))
            else {
                continue;
            };
            let left = self.versions.convert(&pruned, version)?.into_owned();
            let kept = with_named(&extract(&left, place), Some(place)).union(&with_named(&owned, Some(place)));
            let gone = with_named(&extract(&whole, place), Some(place)).difference(&kept);
            pruned = remove(&whole, &gone, place).unwrap_or_default();
            version.clone_into(&mut at);
        }
        let left = self.versions.convert(&pruned, &last.api_version)?;
        // So does what was never applied.
        let whole = with_named(&extract(&converted, place), Some(place));
        let gone = whole.difference(&with_named(&extract(&left, place), Some(place))).intersection(&last_fields);
        let pruned = remove(&converted, &gone, place).unwrap_or_default();
        self.versions.convert(&pruned, self.version).map(Cow::into_owned)
    }
}

/// The place that a node of a set stands for.
fn below<'s, P: Place<'s>>(place: P, element: &Element) -> Option<P> {
    match element {
        Element::Field(name) => place.member(name).map(|member| member.place),
        _ => item_place(place),
    }
}

fn is_atomic<'s, P: Place<'s>>(place: P) -> bool {
    matches!(place.form(&Value::Null), Form::Map { atomic: true } | Form::List { kind: ListType::Atomic, .. })
}

/// Whether a set goes into what is one value.
fn splits<'s, P: Place<'s>>(set: &Set, place: P) -> bool {
    set.nodes()
        .iter()
        .filter(|node| !node.children.is_empty())
        .any(|node| below(place, &node.element).is_some_and(|next| is_atomic(next) || splits(&node.children, next)))
}

/// The set with such values whole.
fn whole<'s, P: Place<'s>>(set: &Set, place: P) -> Set {
    let mut out = Set::default();
    for node in set.nodes() {
        let (owned, children) = match below(place, &node.element) {
            Some(next) if is_atomic(next) => (true, Set::default()),
            Some(next) => (node.owned, whole(&node.children, next)),
            None => (node.owned, node.children.clone()),
        };
        out.push(|| node.element.clone(), owned, children);
    }
    out
}

fn conflicts(lost: Vec<Manager>) -> Vec<Conflict> {
    let mut sorted: Vec<(String, Manager)> = lost.into_iter().map(|manager| (manager.identity(), manager)).collect();
    sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
    let all = sorted.into_iter().flat_map(|(_, manager)| {
        let paths = manager.fields.paths();
        paths
            .into_iter()
            .map(move |path| Conflict { manager: Manager { fields: Set::default(), ..manager.clone() }, path })
    });
    all.collect()
}

impl ApplyError {
    /// The message of conflicts, as upstream words it.
    pub fn message(&self) -> String {
        let conflicts = match self {
            ApplyError::Invalid(why) => return why.clone(),
            ApplyError::Conflicts(conflicts) => conflicts,
        };
        if let [one] = conflicts.as_slice() {
            return format!("Apply failed with 1 conflict: conflict with {}: {}", one.manager.describe(), one.path);
        }
        let mut groups: Vec<(&Manager, Vec<&FieldPath>)> = Vec::new();
        for conflict in conflicts {
            match groups.last_mut().filter(|(manager, _)| manager.is(&conflict.manager)) {
                Some((_, paths)) => paths.push(&conflict.path),
                None => groups.push((&conflict.manager, vec![&conflict.path])),
            }
        }
        let told = groups.iter().map(|(manager, paths)| {
            let lines = paths.iter().map(|path| format!("\n- {path}")).collect::<String>();
            format!("conflicts with {}:{lines}", manager.describe())
        });
        format!("Apply failed with {} conflicts: {}", conflicts.len(), told.collect::<Vec<_>>().join("\n"))
    }
}

impl Conflict {
    /// Whether the path is in a set.
    pub fn is_in(&self, set: &Set) -> bool {
        let path: &[Element] = &self.path.0;
        set.has(path)
    }
}

#[cfg(test)]
mod tests {
    use super::super::place::Builtin;
    use super::*;
    use crate::schema::Schema;

    #[test]
    fn what_became_one_value_is_owned_as_one() {
        let service = Builtin::new(Schema::builtin().kind("", "v1", "Service").unwrap());
        for (before, after) in [
            // The selector of a Service was a map of single fields once.
            (r#"{"f:spec":{"f:selector":{"f:a":{}},"f:type":{}}}"#, r#"{"f:spec":{"f:selector":{},"f:type":{}}}"#),
            (r#"{"f:spec":{"f:selector":{".":{},"f:a":{}}}}"#, r#"{"f:spec":{"f:selector":{}}}"#),
            (r#"{"f:spec":{"f:selector":{}}}"#, r#"{"f:spec":{"f:selector":{}}}"#),
            (r#"{"f:spec":{"f:ports":{"k:{\"port\":1}":{}}}}"#, r#"{"f:spec":{"f:ports":{"k:{\"port\":1}":{}}}}"#),
            (r#"{"f:nothing":{"f:a":{}}}"#, r#"{"f:nothing":{"f:a":{}}}"#),
        ] {
            let set = Set::from_json(before).unwrap();
            assert_eq!(whole(&set, service).to_json(), after);
            assert_eq!(splits(&set, service), before != after);
        }
    }
}
