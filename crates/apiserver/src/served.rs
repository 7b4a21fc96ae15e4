//! What is served: each resource at each version, with its kind, strategy and storage.

use crate::cache::entry::SelectableFields;
use crate::convert::Conversion;
use crate::storage::{KindInfo, KindStore, Object, Storage};
use crate::strategy::{self, Strategy};
use crate::typing::Typing;
use api::catalogue::{self, Resource};
use bytes::Bytes;
use machinery::Status;
use machinery::schema::Schema;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;

/// A resource at a version.
pub(crate) struct Served {
    /// Its entry in the catalogue.
    pub(crate) resource: Arc<Resource>,
    /// `v1`, `apps/v1`.
    pub(crate) api_version: String,
    /// What its fields are.
    pub(crate) typing: Typing,
    /// Its kind's behaviour.
    pub(crate) strategy: Arc<dyn Strategy>,
    /// Its objects; none for what is only asked, as reviews.
    pub(crate) store: Option<Arc<KindStore>>,
    /// How it differs from what is stored.
    pub(crate) conversion: Option<Conversion>,
}

impl Served {
    /// Its objects; 405 when it has none.
    pub(crate) fn store(&self) -> Result<&Arc<KindStore>, Status> {
        self.store
            .as_ref()
            .ok_or_else(|| Status::method_not_allowed(&self.resource.group, &self.resource.plural, "the request"))
    }

    /// From the stored form to this version.
    pub(crate) fn served_form(&self, mut stored: Value) -> Value {
        if let Some(conversion) = self.conversion {
            conversion.serve(&mut stored);
            stored["apiVersion"] = json!(self.api_version);
        }
        stored
    }

    /// From this version to the stored form.
    pub(crate) fn stored_form(&self, mut served: Value) -> Value {
        if let (Some(conversion), Some(store)) = (self.conversion, &self.store) {
            conversion.store(&mut served);
            served["apiVersion"] = json!(store.info().api_version());
        }
        served
    }

    /// A stored object's bytes in this version.
    pub(crate) fn body(&self, object: &Object) -> Bytes {
        if self.conversion.is_none() {
            return object.body.clone();
        }
        serde_json::to_vec(&self.served_form(object.value())).unwrap_or_default().into()
    }

    /// A stored object in this version.
    pub(crate) fn value(&self, object: &Object) -> Value {
        self.served_form(object.value())
    }

    /// 404 about one of its objects.
    pub(crate) fn not_found(&self, name: &str) -> Status {
        Status::not_found(&self.resource.group, &self.resource.plural, name)
    }

    /// 409: somebody else wrote.
    pub(crate) fn modified(&self, name: &str) -> Status {
        Status::modified(&self.resource.group, &self.resource.plural, name)
    }
}

/// Everything that is served, as it is at one time. A change makes a new one that shares what stays.
#[derive(Clone, Default)]
pub(crate) struct Catalogue {
    groups: HashMap<Arc<str>, Arc<Versions>>,
}

/// The versions of a group, with their resources by plural.
type Versions = Vec<(Arc<str>, HashMap<Arc<str>, Arc<Served>>)>;

impl Catalogue {
    /// All built-in resources on their storage.
    pub(crate) fn builtin(storage: &Storage) -> Catalogue {
        let mut catalogue = Catalogue::default();
        for resource in catalogue::all() {
            let served = Served::builtin(storage, resource);
            catalogue.insert(served);
        }
        catalogue
    }

    fn insert(&mut self, served: Option<Served>) {
        let Some(served) = served else { return };
        let resource = Arc::clone(&served.resource);
        let versions = Arc::make_mut(self.groups.entry((&*resource.group).into()).or_default());
        let at = versions.iter().position(|(version, _)| **version == *resource.version).unwrap_or_else(|| {
            versions.push(((&*resource.version).into(), HashMap::new()));
            versions.len() - 1
        });
        versions[at].1.insert((&*resource.plural).into(), Arc::new(served));
    }

    /// The other versions in which a resource's objects are served, in other groups too (`events`).
    pub(crate) fn equivalents(&self, served: &Served) -> Vec<Arc<Served>> {
        let Some(store) = &served.store else { return Vec::new() };
        let groups = [&*served.resource.group, &*store.info().group, "", "events.k8s.io"];
        let mut found: Vec<Arc<Served>> = Vec::new();
        for group in
            groups.iter().enumerate().filter(|(at, group)| !groups[..*at].contains(group)).map(|(_, group)| group)
        {
            let versions = self.groups.get(*group).into_iter().flat_map(|versions| versions.iter());
            let same = versions.filter_map(|(_, resources)| resources.get(&*served.resource.plural));
            let same = same.filter(|other| other.store.as_ref().is_some_and(|other| Arc::ptr_eq(other, store)));
            found.extend(same.filter(|other| other.api_version != served.api_version).cloned());
        }
        found
    }

    /// The resource of a path; 404 when there is none.
    pub(crate) fn find(&self, group: &str, version: &str, resource: &str) -> Result<Arc<Served>, Status> {
        let versions = self.groups.get(group).into_iter().flat_map(|versions| versions.iter());
        let mut resources = versions.filter(|(name, _)| **name == *version).map(|(_, resources)| resources);
        resources.next().and_then(|resources| resources.get(resource)).cloned().ok_or_else(Status::no_such_path)
    }
}

impl Served {
    /// A built-in resource on its storage.
    fn builtin(storage: &Storage, resource: &Arc<Resource>) -> Option<Served> {
        let schema = Schema::builtin().kind(&resource.group, &resource.version, &resource.kind)?;
        let (group, version) = resource.storage_group();
        let stored = Schema::builtin().kind(group, version, &resource.kind).unwrap_or(schema);
        let store = resource.is_stored().then(|| storage.kind(group, &resource.plural).ok()).flatten();
        let has_status = resource.subresource("status").is_some();
        Some(Served {
            resource: Arc::clone(resource),
            api_version: resource.api_version(),
            typing: Typing::Builtin(schema),
            strategy: strategy::builtin(group, &resource.plural, has_status, stored),
            store,
            conversion: Conversion::between((&resource.group, &resource.version), (group, version), &resource.plural),
        })
    }
}

/// What is stored of all built-in resources.
pub(crate) fn stored_kinds() -> Vec<KindInfo> {
    let stored = catalogue::all().iter().filter(|resource| resource.is_stored());
    let own = stored.filter(|resource| resource.storage_group() == (&*resource.group, &*resource.version));
    own.map(|resource| {
        let (group, kind) = (&*resource.group, &*resource.kind);
        KindInfo {
            group: group.to_owned(),
            version: resource.version.to_string(),
            resource: resource.plural.to_string(),
            kind: kind.to_owned(),
            namespaced: resource.namespaced,
            relaxed: matches!((group, &*resource.plural), ("coordination.k8s.io", "leases") | ("", "events")),
            fields: selectable_fields(group, kind),
        }
    })
    .collect()
}

fn selectable_fields(group: &'static str, kind: &'static str) -> Option<SelectableFields> {
    let names = api::fields::names(group, kind);
    (!names.is_empty()).then(|| SelectableFields {
        names: names.iter().map(|name| (*name).into()).collect(),
        values: Box::new(move |object| api::fields::values(group, kind, object)),
    })
}
