//! What is served: each resource at each version, with its kind, strategy and storage.

use crate::convert::Conversion;
use crate::storage::{KindInfo, KindStore, Object, Storage};
use crate::strategy::{self, Strategy};
use api::catalogue::{self, Resource};
use bytes::Bytes;
use machinery::Status;
use machinery::schema::{Schema, TypeRef};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;

/// A resource at a version.
pub(crate) struct Served {
    /// Its entry in the catalogue.
    pub(crate) resource: &'static Resource,
    /// `v1`, `apps/v1`.
    pub(crate) api_version: String,
    /// What its fields are.
    pub(crate) schema: TypeRef<'static>,
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
            .ok_or_else(|| Status::method_not_allowed(self.resource.group, self.resource.plural, "the request"))
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
        Status::not_found(self.resource.group, self.resource.plural, name)
    }

    /// 409: somebody else wrote.
    pub(crate) fn modified(&self, name: &str) -> Status {
        Status::modified(self.resource.group, self.resource.plural, name)
    }
}

/// Everything that is served.
pub(crate) struct Catalogue {
    by_path: HashMap<(&'static str, &'static str, &'static str), Arc<Served>>,
}

impl Catalogue {
    /// All built-in resources on their storage.
    pub(crate) fn builtin(storage: &Storage) -> Catalogue {
        let served = catalogue::all().iter().filter_map(|resource| {
            let schema = Schema::builtin().kind(resource.group, resource.version, resource.kind)?;
            let (group, version) = resource.storage_group();
            let store = resource.is_stored().then(|| storage.kind(group, resource.plural).ok().cloned()).flatten();
            let has_status = resource.subresource("status").is_some();
            let served = Served {
                resource,
                api_version: resource.api_version(),
                schema,
                strategy: strategy::builtin(group, resource.plural, has_status),
                store,
                conversion: Conversion::between((resource.group, resource.version), (group, version), resource.plural),
            };
            Some(((resource.group, resource.version, resource.plural), Arc::new(served)))
        });
        Catalogue { by_path: served.collect() }
    }

    /// The resource of a path; 404 when there is none.
    pub(crate) fn find(&self, group: &str, version: &str, resource: &str) -> Result<&Arc<Served>, Status> {
        let resource = catalogue::find(group, version, resource).ok_or_else(Status::no_such_path)?;
        self.by_path.get(&(resource.group, resource.version, resource.plural)).ok_or_else(Status::no_such_path)
    }
}

/// What is stored of all built-in resources.
pub(crate) fn stored_kinds() -> Vec<KindInfo> {
    let stored = catalogue::all().iter().filter(|resource| resource.is_stored());
    let own = stored.filter(|resource| resource.storage_group() == (resource.group, resource.version));
    own.map(|resource| {
        let (group, kind) = (resource.group, resource.kind);
        let names = api::fields::selectable(group, kind, &Value::Null);
        let more = names.iter().any(|(name, _)| !matches!(*name, "metadata.name" | "metadata.namespace"));
        KindInfo {
            group: group.to_owned(),
            version: resource.version.to_owned(),
            resource: resource.plural.to_owned(),
            kind: kind.to_owned(),
            namespaced: resource.namespaced,
            relaxed: matches!((group, resource.plural), ("coordination.k8s.io", "leases") | ("", "events")),
            fields: more.then(|| -> Box<crate::cache::entry::SelectableFields> {
                Box::new(move |object| api::fields::selectable(group, kind, object))
            }),
        }
    })
    .collect()
}
