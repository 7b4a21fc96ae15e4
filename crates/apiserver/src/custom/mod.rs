//! Custom resources: definitions come to life here.
//!
//! One task follows the CustomResourceDefinitions in the watch cache. For each it decides on names ([`names`]), lets the storage
//! follow its objects, puts its versions into the catalogue (from then on it is served, in discovery and in OpenAPI), and says so in
//! the definition's status. A definition that is deleted waits for its instances ([`cleanup`]). Schemas are compiled when a request
//! first needs them, from the definition in the watch cache, and are kept nowhere else.
//!
//! Costs about 3 kB a version beside the definition itself, and the compiled schema once it is used.

mod cleanup;
mod conversion;
mod definition;
mod names;
mod order;
pub(crate) mod rules;
mod status;
mod strategy;
mod version;

pub(crate) use definition::{CLEANUP, Scale};
pub(crate) use order::compare_versions;
pub(crate) use version::{Version, nested};

use crate::cache::entry::SelectableFields;
use crate::served::{InForce, Served};
use crate::storage::{Entry, EventType, KindInfo, KindStore, Storage, Subscription};
use crate::typing::Typing;
use api::catalogue::{Resource, Subresource};
use conversion::Converter;
use definition::{Definition, Names};
use machinery::Status;
use machinery::jsonpath::JsonPath;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};
use strategy::CustomStrategy;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use version::Family;

const GROUP: &str = "apiextensions.k8s.io";
const RESOURCE: &str = "customresourcedefinitions";
/// What clients may do with custom resources.
const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// And while the definition is being deleted.
const VERBS_TERMINATING: [&str; 5] = ["delete", "deletecollection", "get", "list", "watch"];

/// What makes an installed definition out of date when it changes.
#[derive(PartialEq, Eq)]
struct Key {
    uid: String,
    generation: i64,
    names: Names,
    terminating: bool,
}

/// What makes the cache of its objects out of date.
#[derive(PartialEq, Eq)]
struct StoreKey {
    uid: String,
    plural: String,
    kind: String,
    namespaced: bool,
    storage: String,
    fields: Vec<String>,
}

impl StoreKey {
    fn of(definition: &Definition) -> StoreKey {
        let names = &definition.status.accepted_names;
        let fields = definition.spec.versions.iter().flat_map(|version| &version.selectable_fields);
        StoreKey {
            uid: definition.metadata.uid.clone(),
            plural: names.plural.clone(),
            kind: names.kind.clone(),
            namespaced: definition.namespaced(),
            storage: definition.storage_version().to_owned(),
            fields: fields.map(|field| field.json_path.clone()).collect(),
        }
    }
}

/// A definition as the task knows it.
struct Known {
    group: String,
    accepted: Names,
    /// It wants other names than it has.
    waits: bool,
    installed: Option<Installed>,
    /// Its instances are being deleted.
    cleaning: bool,
}

/// The definitions of a group.
#[derive(Default)]
struct Group {
    /// The names they have.
    claimed: names::Claimed,
    /// Those that wait for other names, by their own.
    waiting: BTreeSet<String>,
    count: usize,
}

struct Installed {
    key: Key,
    store_key: StoreKey,
    store: Arc<KindStore>,
}

/// The task's state.
struct Definitions {
    storage: Arc<Storage>,
    in_force: Arc<InForce>,
    definitions: Arc<KindStore>,
    known: HashMap<String, Known>,
    groups: HashMap<String, Group>,
    cleanups: JoinSet<()>,
}

/// Follows the definitions until `stop`.
pub(crate) async fn run(storage: Arc<Storage>, in_force: Arc<InForce>, stop: CancellationToken) {
    let Ok(definitions) = storage.kind(GROUP, RESOURCE) else {
        in_force.set_ready();
        return;
    };
    let (known, groups, cleanups) = Default::default();
    let mut task = Definitions { storage, in_force, definitions, known, groups, cleanups };
    while !stop.is_cancelled() {
        let (entries, changes) = task.definitions.subscribe();
        task.catch_up(&entries).await;
        task.in_force.set_ready();
        task.follow(changes, &stop).await;
    }
}

impl Definitions {
    async fn catch_up(&mut self, entries: &[Arc<Entry>]) {
        let present: BTreeSet<&str> = entries.iter().map(|entry| entry.name()).collect();
        let gone: Vec<String> = self.known.keys().filter(|name| !present.contains(&***name)).cloned().collect();
        for name in gone {
            self.remove(&name).await;
        }
        for entry in entries {
            self.apply(entry).await;
        }
    }

    async fn follow(&mut self, mut changes: Subscription, stop: &CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(_) = self.cleanups.join_next(), if !self.cleanups.is_empty() => {}
                change = changes.recv() => match change {
                    Some(change) if change.kind == EventType::Deleted => self.remove(change.entry.name()).await,
                    Some(change) => self.apply(&change.entry).await,
                    None => return,
                },
            }
        }
    }

    async fn apply(&mut self, entry: &Entry) {
        let Some(definition) = Definition::read(&entry.object.body) else { return };
        if let Err(status) = self.sync(entry.object.revision, definition).await {
            tracing::warn!(definition = entry.name(), error = %status.message, "a custom resource cannot be served");
        }
    }

    /// Brings what is served in line with a definition, then its status with what is served.
    async fn sync(&mut self, revision: u64, mut definition: Definition) -> Result<(), Status> {
        let name = definition.metadata.name.clone();
        self.remember(&name, &definition);
        if !definition.deleting() && self.undecided(&definition) {
            let verdict = self.judge(&definition);
            definition.status.accepted_names.clone_from(&verdict.names);
            self.remember(&name, &definition);
            let freed = verdict.accepted.status == "True";
            if verdict.established.status == "True" {
                self.install(revision, &definition).await?;
            }
            status::tell(&self.definitions, &definition, &verdict).await?;
            if freed {
                Box::pin(self.reconsider(&definition.spec.group, &name)).await;
            }
            return Ok(());
        }
        if definition.is("Established") {
            self.install(revision, &definition).await?;
        }
        if definition.deleting() && definition.metadata.finalizers.iter().any(|finalizer| finalizer == CLEANUP) {
            self.clean(&name);
        }
        Ok(())
    }

    /// Whether the status does not say yet what becomes of the names that the definition wants.
    fn undecided(&self, definition: &Definition) -> bool {
        if let Some(approval) = status::approval(definition)
            && definition.condition(status::APPROVED) != Some(&approval)
        {
            return true;
        }
        if definition.spec.names == definition.status.accepted_names {
            return definition.condition("Established").is_none() || definition.condition("NamesAccepted").is_none();
        }
        let verdict = self.judge(definition);
        verdict.names != definition.status.accepted_names
            || definition.condition("NamesAccepted") != Some(&verdict.accepted)
    }

    fn judge(&self, definition: &Definition) -> names::Verdict {
        let nobody = names::Claimed::default();
        names::judge(definition, self.groups.get(&definition.spec.group).map_or(&nobody, |group| &group.claimed))
    }

    fn remember(&mut self, name: &str, definition: &Definition) {
        let group = self.groups.entry(definition.spec.group.clone()).or_default();
        let known = self.known.entry(name.to_owned()).or_insert_with(|| {
            group.count += 1;
            let group = definition.spec.group.clone();
            Known { group, accepted: Names::default(), waits: false, installed: None, cleaning: false }
        });
        if known.accepted != definition.status.accepted_names {
            group.claimed.remove(&known.accepted);
            known.accepted.clone_from(&definition.status.accepted_names);
            group.claimed.add(&known.accepted);
        }
        let waits = definition.spec.names != definition.status.accepted_names;
        if waits != known.waits {
            known.waits = waits;
            if waits {
                group.waiting.insert(name.to_owned());
            } else {
                group.waiting.remove(name);
            }
        }
    }

    /// Looks anew at the definitions of a group that want names they did not get: some may be free now.
    async fn reconsider(&mut self, group: &str, except: &str) {
        let waiting: Vec<String> =
            self.groups.get(group).into_iter().flat_map(|group| &group.waiting).cloned().collect();
        for name in waiting.iter().filter(|name| *name != except) {
            if let Some(entry) = self.definitions.get("", name) {
                self.apply(&entry).await;
            }
        }
    }

    /// Serves a definition as it is now.
    async fn install(&mut self, revision: u64, definition: &Definition) -> Result<(), Status> {
        let key = Key {
            uid: definition.metadata.uid.clone(),
            generation: definition.metadata.generation,
            names: definition.status.accepted_names.clone(),
            terminating: definition.terminating(),
        };
        let name = &definition.metadata.name;
        let before = self.known.get_mut(name).and_then(|known| known.installed.take());
        let store_key = StoreKey::of(definition);
        let store = match before {
            Some(before) if before.key == key => {
                self.set_installed(name, before);
                return Ok(());
            }
            Some(before) if before.store_key == store_key => before.store,
            before => {
                if let Some(before) = before.filter(|before| before.store_key.plural != store_key.plural) {
                    self.in_force.remove(&definition.spec.group, &before.store_key.plural);
                    self.storage.leave(&before.store);
                }
                self.storage.join(kind_info(definition)).await?
            }
        };
        let served = serve(definition, revision, &store, (&self.storage, &self.definitions));
        self.in_force.replace(&definition.spec.group, &key.names.plural, served);
        // Whoever watches is to see the objects as they are served now.
        store.cache().drop_watchers();
        self.set_installed(name, Installed { key, store_key, store });
        Ok(())
    }

    fn set_installed(&mut self, name: &str, installed: Installed) {
        if let Some(known) = self.known.get_mut(name) {
            known.installed = Some(installed);
        }
    }

    /// Deletes the instances of a definition, and then lets it go.
    fn clean(&mut self, name: &str) {
        let Some(known) = self.known.get_mut(name).filter(|known| !known.cleaning) else { return };
        known.cleaning = true;
        let store = known.installed.as_ref().map(|installed| Arc::clone(&installed.store));
        self.cleanups.spawn(cleanup::run(Arc::clone(&self.definitions), store, name.to_owned()));
    }

    async fn remove(&mut self, name: &str) {
        let Some(known) = self.known.remove(name) else { return };
        if let Some(group) = self.groups.get_mut(&known.group) {
            group.claimed.remove(&known.accepted);
            group.waiting.remove(name);
            group.count -= 1;
            if group.count == 0 {
                self.groups.remove(&known.group);
            }
        }
        if let Some(installed) = known.installed {
            self.in_force.remove(&known.group, &installed.key.names.plural);
            self.storage.leave(&installed.store);
        }
        self.reconsider(&known.group, name).await;
    }
}

/// Says in a definition that its end has begun.
pub(crate) fn mark_terminating(definition: &mut serde_json::Value) {
    let message = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
    status::set_condition(definition, &status::condition("Terminating", true, "InstanceDeletionPending", message));
}

/// What is stored of a custom kind.
fn kind_info(definition: &Definition) -> KindInfo {
    let fields = definition.spec.versions.iter().flat_map(|version| &version.selectable_fields);
    let mut paths: Vec<(String, JsonPath)> = Vec::new();
    for field in fields {
        let name = field.json_path.strip_prefix('.').unwrap_or(&field.json_path);
        if let Ok(path) = JsonPath::parse(&field.json_path)
            && paths.iter().all(|(known, _)| known != name)
        {
            paths.push((name.to_owned(), path));
        }
    }
    let fields = (!paths.is_empty()).then(|| SelectableFields {
        names: paths.iter().map(|(name, _)| name.clone().into()).collect(),
        values: Box::new(move |object| paths.iter().map(|(_, path)| version::field_text(path.first(object))).collect()),
    });
    KindInfo {
        group: definition.spec.group.clone(),
        version: definition.storage_version().to_owned(),
        resource: definition.status.accepted_names.plural.clone(),
        kind: definition.status.accepted_names.kind.clone(),
        namespaced: definition.namespaced(),
        relaxed: false,
        fields,
    }
}

/// The served versions of a definition.
fn serve(
    definition: &Definition,
    revision: u64,
    store: &Arc<KindStore>,
    (storage, definitions): (&Arc<Storage>, &Arc<KindStore>),
) -> Vec<Arc<Served>> {
    let spec = &definition.spec;
    let family = Arc::new(Family {
        group: spec.group.clone(),
        kind: definition.status.accepted_names.kind.clone(),
        definition: definition.metadata.name.clone(),
        generation: definition.metadata.generation,
        uid: definition.metadata.uid.clone(),
        since: revision,
        storage: definition.storage_version().to_owned(),
        preserve: spec.preserve_unknown_fields,
        terminating: definition.terminating(),
        converter: match &spec.conversion {
            Some(conversion) => Converter::new(&conversion.strategy, &conversion.webhook, storage),
            None => Converter::Name,
        },
        schemas: spec.versions.iter().map(|version| (version.name.clone(), OnceLock::new())).collect(),
        definitions: Arc::clone(definitions),
    });
    let served = spec.versions.iter().enumerate().filter(|(_, version)| version.served);
    served
        .map(|(at, version_spec)| {
            let version = Arc::new(Version::new(&family, definition, at));
            let resource = resource(definition, at);
            let strategy = CustomStrategy::new(&version, version_spec.subresources.status.is_some());
            Arc::new(Served {
                api_version: resource.api_version(),
                resource: Arc::new(resource),
                typing: Typing::Custom(version),
                strategy: Arc::new(strategy),
                store: Some(Arc::clone(store)),
                conversion: None,
            })
        })
        .collect()
}

/// The catalogue's entry of a version.
fn resource(definition: &Definition, at: usize) -> Resource {
    let (spec, names) = (&definition.spec, &definition.status.accepted_names);
    let version = &spec.versions[at];
    let own = |name: &'static str, group: &str, version: &str, kind: &str| Subresource {
        name,
        group: group.to_owned().into(),
        version: version.to_owned().into(),
        kind: kind.to_owned().into(),
        verbs: vec!["get", "patch", "update"],
    };
    let status = version.subresources.status.as_ref().map(|_| own("status", &spec.group, &version.name, &names.kind));
    let scale = version.subresources.scale.as_ref().map(|_| own("scale", "autoscaling", "v1", "Scale"));
    let texts = |list: &[String]| list.iter().map(|text| text.clone().into()).collect();
    Resource {
        group: spec.group.clone().into(),
        version: version.name.clone().into(),
        plural: names.plural.clone().into(),
        singular: names.singular.clone().into(),
        kind: names.kind.clone().into(),
        list_kind: names.list_kind.clone().into(),
        short_names: texts(&names.short_names),
        categories: texts(&names.categories),
        namespaced: definition.namespaced(),
        verbs: if definition.terminating() { VERBS_TERMINATING.to_vec() } else { VERBS.to_vec() },
        subresources: status.into_iter().chain(scale).collect(),
        storage_version_hash: status::storage_version_hash(&spec.group, definition.storage_version(), &names.kind)
            .into(),
    }
}
