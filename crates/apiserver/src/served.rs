//! What is served: each resource at each version, with its kind, strategy and storage.

use crate::cache::entry::SelectableFields;
use crate::convert::Conversion;
use crate::custom;
use crate::discovery::Documents;
use crate::ownership::Live;
use crate::storage::{KindInfo, KindStore, Object, Storage};
use crate::strategy::{self, Strategy};
use crate::typing::Typing;
use api::catalogue::{self, Resource};
use bytes::Bytes;
use machinery::Status;
use machinery::schema::{Schema, TypeRef};
use parking_lot::RwLock;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::watch;

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

    /// The form that admission, strategy and validation work on: the stored one of built-in kinds, the served one of custom kinds,
    /// whose versions have schemas of their own.
    pub(crate) fn working_form(&self, mut served: Value) -> Value {
        if let (Some(conversion), Some(store)) = (self.conversion, &self.store) {
            conversion.store(&mut served);
            served["apiVersion"] = json!(store.info().api_version());
        }
        served
    }

    /// From the working form to this version.
    pub(crate) fn served_form(&self, mut working: Value) -> Value {
        if let Some(conversion) = self.conversion {
            conversion.serve(&mut working);
        }
        if self.conversion.is_some() || (self.custom().is_some() && working["apiVersion"] != *self.api_version) {
            working["apiVersion"] = json!(self.api_version);
        }
        working
    }

    /// A stored object in the working form.
    pub(crate) async fn working(&self, object: &Object) -> Result<Value, Status> {
        match &self.typing {
            Typing::Builtin(_) => Ok(object.value()),
            Typing::Custom(version) => version.read(object).await,
        }
    }

    /// A stored object in the working form, where that is not the stored one.
    pub(crate) async fn converted(&self, object: &Object) -> Result<Option<Value>, Status> {
        match &self.typing {
            Typing::Builtin(_) => Ok(None),
            Typing::Custom(version) => version.read(object).await.map(Some),
        }
    }

    /// A stored object in the working form, who owns its fields apart.
    pub(crate) async fn live(&self, object: &Object) -> Result<Live, Status> {
        let (mut value, managed) = object.split();
        if let Typing::Custom(version) = &self.typing {
            value = version.adapt(value, object.revision).await?;
        }
        Ok(Live { object: value, managed })
    }

    /// From the working form to the stored one.
    pub(crate) async fn stored_form<'v>(&self, working: &'v Value) -> Result<Cow<'v, Value>, Status> {
        match &self.typing {
            Typing::Builtin(_) => Ok(Cow::Borrowed(working)),
            Typing::Custom(version) => version.stored_form(working).await,
        }
    }

    /// The type whose protobuf messages are those of stored objects in this version too; none where the versions differ.
    pub(crate) fn message_type(&self) -> Option<TypeRef<'static>> {
        self.typing.builtin().filter(|_| self.conversion.is_none())
    }

    /// Whether a stored object's bytes are those of this version.
    pub(crate) fn is_plain(&self, object: &Object) -> bool {
        match &self.typing {
            Typing::Builtin(_) => self.conversion.is_none(),
            Typing::Custom(version) => version.is_plain(object),
        }
    }

    /// A stored object's bytes in this version.
    pub(crate) async fn body(&self, object: &Object) -> Result<Bytes, Status> {
        if self.is_plain(object) {
            return Ok(object.body.clone());
        }
        Ok(serde_json::to_vec(&self.value(object).await?).unwrap_or_default().into())
    }

    /// A stored object in this version.
    pub(crate) async fn value(&self, object: &Object) -> Result<Value, Status> {
        Ok(self.served_form(self.working(object).await?))
    }

    /// Stored objects in this version; all that need a conversion are converted at once.
    pub(crate) async fn values(&self, objects: &[&Object]) -> Result<Vec<Value>, Status> {
        match &self.typing {
            Typing::Builtin(_) => Ok(objects.iter().map(|object| self.served_form(object.value())).collect()),
            Typing::Custom(version) => version.read_all(objects).await,
        }
    }

    /// The version of a custom kind that it is, if it is one.
    pub(crate) fn custom(&self) -> Option<&Arc<custom::Version>> {
        match &self.typing {
            Typing::Builtin(_) => None,
            Typing::Custom(version) => Some(version),
        }
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
#[derive(Default)]
pub(crate) struct Catalogue {
    groups: HashMap<Arc<str>, Arc<Versions>>,
    /// What discovery says of it, once asked.
    pub(crate) documents: Documents,
}

/// The versions of a group, with their resources by plural.
type Versions = Vec<(Arc<str>, HashMap<Arc<str>, Arc<Served>>)>;

/// The catalogue in force; a change swaps it.
pub(crate) struct InForce {
    catalogue: RwLock<Arc<Catalogue>>,
    /// Custom kinds are in it.
    ready: watch::Sender<bool>,
}

impl InForce {
    pub(crate) fn new(catalogue: Catalogue) -> InForce {
        InForce { catalogue: RwLock::new(Arc::new(catalogue)), ready: watch::Sender::new(false) }
    }

    /// What is served now.
    pub(crate) fn load(&self) -> Arc<Catalogue> {
        Arc::clone(&self.catalogue.read())
    }

    /// Everything that was stored at the start is served from now on.
    pub(crate) fn set_ready(&self) {
        self.ready.send_replace(true);
    }

    /// Whether everything that was stored at the start is served.
    pub(crate) fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Waits until everything that was stored at the start is served.
    pub(crate) async fn ready(&self) {
        if !self.is_ready() {
            // The sender lives as long as we do.
            let _ = self.ready.subscribe().wait_for(|ready| *ready).await;
        }
    }

    /// Serves a custom resource in these versions and no others.
    pub(crate) fn replace(&self, group: &str, plural: &str, versions: Vec<Arc<Served>>) {
        let mut catalogue = self.catalogue.write();
        let mut next = Catalogue { groups: catalogue.groups.clone(), documents: Documents::default() };
        next.remove(group, plural);
        versions.into_iter().for_each(|served| next.insert(served));
        *catalogue = Arc::new(next);
    }

    /// Serves a custom resource no more.
    pub(crate) fn remove(&self, group: &str, plural: &str) {
        self.replace(group, plural, Vec::new());
    }
}

impl Catalogue {
    /// All built-in resources on their storage.
    pub(crate) fn builtin(storage: &Storage) -> Catalogue {
        let mut catalogue = Catalogue::default();
        for resource in catalogue::all() {
            if let Some(served) = Served::builtin(storage, resource) {
                catalogue.insert(Arc::new(served));
            }
        }
        catalogue
    }

    /// Adds a resource, unless there is one already at its place.
    fn insert(&mut self, served: Arc<Served>) {
        let resource = Arc::clone(&served.resource);
        let versions = Arc::make_mut(self.groups.entry((&*resource.group).into()).or_default());
        let at = versions.iter().position(|(version, _)| **version == *resource.version).unwrap_or_else(|| {
            versions.push(((&*resource.version).into(), HashMap::new()));
            versions.len() - 1
        });
        versions[at].1.entry((&*resource.plural).into()).or_insert(served);
    }

    /// Removes a custom resource.
    fn remove(&mut self, group: &str, plural: &str) {
        let Some(versions) = self.groups.get_mut(group) else { return };
        let list = Arc::make_mut(versions);
        for (_, resources) in list.iter_mut() {
            if resources.get(plural).is_some_and(|served| served.custom().is_some()) {
                resources.remove(plural);
            }
        }
        list.retain(|(_, resources)| !resources.is_empty());
        if list.is_empty() {
            self.groups.remove(group);
        }
    }

    /// The groups in the order of discovery: built-in ones, the core group first, then custom ones by name.
    pub(crate) fn group_names(&self) -> Vec<&str> {
        let builtin: Vec<&str> = catalogue::groups().iter().map(|group| group.name).collect();
        let mut custom: Vec<&str> =
            self.groups.keys().map(|name| &**name).filter(|name| !builtin.contains(name)).collect();
        custom.sort_unstable();
        builtin.into_iter().chain(custom).collect()
    }

    /// The versions of a group, the preferred one first.
    pub(crate) fn versions(&self, group: &str) -> Vec<&str> {
        let builtin = catalogue::groups().iter().find(|known| known.name == group);
        let mut versions: Vec<&str> = builtin.map_or_else(Vec::new, |group| group.versions.clone());
        let own = self.groups.get(group).into_iter().flat_map(|versions| versions.iter().map(|(name, _)| &**name));
        let mut more: Vec<&str> = own.filter(|name| !versions.contains(name)).collect();
        more.sort_by(|a, b| custom::compare_versions(a, b));
        versions.append(&mut more);
        versions
    }

    /// The resources of a group and version: built-in ones in their order, then custom ones by name.
    pub(crate) fn resources(&self, group: &str, version: &str) -> Vec<Arc<Resource>> {
        let mut resources: Vec<Arc<Resource>> = catalogue::in_version(group, version).cloned().collect();
        let mut more: Vec<Arc<Resource>> =
            self.custom(group, version).into_iter().map(|served| Arc::clone(&served.resource)).collect();
        resources.append(&mut more);
        resources
    }

    /// The custom resources of a group and version, by name.
    pub(crate) fn custom(&self, group: &str, version: &str) -> Vec<&Arc<Served>> {
        let versions = self.groups.get(group).into_iter().flat_map(|versions| versions.iter());
        let resources = versions.filter(|(name, _)| **name == *version).flat_map(|(_, resources)| resources.values());
        let mut custom: Vec<&Arc<Served>> = resources.filter(|served| served.custom().is_some()).collect();
        custom.sort_by(|a, b| a.resource.plural.cmp(&b.resource.plural));
        custom
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

    /// The resource of a kind, as `v1` and `ConfigMap` name it.
    pub(crate) fn of_kind(&self, api_version: &str, kind: &str) -> Option<Arc<Served>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let versions = self.groups.get(group)?.iter().filter(|(name, _)| **name == *version);
        let mut resources = versions.flat_map(|(_, resources)| resources.values());
        resources.find(|served| *served.resource.kind == *kind && served.store.is_some()).cloned()
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
