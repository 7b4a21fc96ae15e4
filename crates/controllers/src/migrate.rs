//! StorageVersionMigrations: each object of a resource is written once more, so that it is stored in the present version.

use std::sync::Arc;

use client::Informer;
use jiff::Timestamp;
use k8s_openapi::api::storagemigration::v1::{StorageVersionMigration as Migration, StorageVersionMigrationStatus};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::control::{Controller, Error, Loop, Queue, Shared, Step, code, message};
use crate::discover::{self, Resource};

/// Objects asked for at a time.
const PAGE: u32 = 500;
/// A resource that is not served is waited for so long: its definition may be new.
const PATIENCE_SECONDS: i64 = 60;
const SUCCEEDED: (&str, &str) = ("Succeeded", "StorageVersionMigrationSucceeded");
const FAILED: (&str, &str) = ("Failed", "StorageVersionMigrationFailed");
const RUNNING: (&str, &str) = ("Running", "MigrationRunning");

struct Migrations {
    shared: Arc<Shared>,
    migrations: Informer<Migration>,
}

/// Starts the controller.
pub(crate) fn start(shared: &Arc<Shared>) {
    let migrations: Informer<Migration> = shared.informers.all();
    let controller = Migrations { shared: Arc::clone(shared), migrations: migrations.clone() };
    Loop::new(shared, controller, Arc::new(Queue::new())).on_own(&migrations).start(2);
}

fn has_ended(migration: &Migration) -> bool {
    let conditions = migration.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|c| (c.type_ == SUCCEEDED.0 || c.type_ == FAILED.0) && c.status == "True")
}

/// The status of a migration that has come to an end.
fn ended(status: &StorageVersionMigrationStatus, how: (&str, &str), message: &str) -> StorageVersionMigrationStatus {
    let stopped = with(status, (RUNNING.0, "MigrationCompleted"), "False", message);
    with(&stopped, how, "True", message)
}

/// The status with a condition more, or changed.
fn with(
    status: &StorageVersionMigrationStatus,
    (kind, reason): (&str, &str),
    state: &str,
    message: &str,
) -> StorageVersionMigrationStatus {
    let mut status = status.clone();
    let conditions = status.conditions.get_or_insert_default();
    let same = conditions.iter().find(|c| c.type_ == kind && c.status == state);
    let since = same.map(|condition| condition.last_transition_time.clone());
    conditions.retain(|condition| condition.type_ != kind);
    conditions.push(Condition {
        type_: kind.to_owned(),
        status: state.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: since.unwrap_or_else(|| Time(Timestamp::now())),
        observed_generation: None,
    });
    status
}

impl Migrations {
    async fn write(&self, migration: &Migration, status: StorageVersionMigrationStatus) -> Result<Migration, Error> {
        let name = client::key(migration);
        let changed = Migration { status: Some(status), ..migration.clone() };
        let api = self.shared.cluster::<Migration>();
        api.replace_status(&name, &PostParams::default(), &changed).await.step("tell how goes migration", &name)
    }

    async fn fail(&self, migration: &Migration, why: &str) -> Result<(), Error> {
        let status = migration.status.clone().unwrap_or_default();
        self.write(migration, ended(&status, FAILED, why)).await.map(drop)
    }

    async fn resource(&self, migration: &Migration) -> Result<Option<Resource>, Error> {
        let Some(wanted) = migration.spec.as_ref().map(|spec| &spec.resource) else { return Ok(None) };
        let all = discover::resources(&self.shared.client).await.map_err(|e| Error::Unusable(e.to_string()))?;
        Ok(all.iter().find(|r| r.api.group == wanted.group && r.api.plural == wanted.resource).cloned())
    }

    /// Notes from when on objects are written in the present version anyway.
    async fn begin(&self, migration: &Migration, resource: &Resource) -> Result<Migration, Error> {
        let name = client::key(migration);
        let page = resource.metadata(&self.shared.client).list_metadata(&ListParams::default().limit(1)).await;
        let mut status = migration.status.clone().unwrap_or_default();
        status.resource_version = page.step("list for migration", &name)?.metadata.resource_version;
        self.write(migration, with(&status, RUNNING, "True", "The migration is running")).await
    }

    /// A definition's objects are all stored in its storage version now.
    async fn forget_versions(&self, resource: &Resource) -> Result<(), Error> {
        let api = self.shared.cluster::<CustomResourceDefinition>();
        let name = resource.name();
        let found =
            if resource.api.group.is_empty() { None } else { api.get(&name).await.unless_gone("look up", &name)? };
        let Some(mut definition) = found else { return Ok(()) };
        let stored = definition.spec.versions.iter().find(|version| version.storage).map(|v| vec![v.name.clone()]);
        let status = definition.status.get_or_insert_default();
        if status.stored_versions == stored {
            return Ok(());
        }
        status.stored_versions = stored;
        api.replace_status(&name, &PostParams::default(), &definition)
            .await
            .step("tell stored versions of", &name)
            .map(drop)
    }

    /// Writes every object once more.
    async fn rewrite(&self, migration: &Migration, resource: &Resource) -> Result<(), kube::Error> {
        let (client, mut next, mut count) = (&self.shared.client, None::<String>, 0);
        loop {
            let mut params = ListParams::default().limit(PAGE);
            params.continue_token = next.take();
            let page = resource.metadata(client).list_metadata(&params).await?;
            count += page.items.len();
            for object in &page.items {
                let meta = &object.metadata;
                let (Some(name), namespace) = (&meta.name, meta.namespace.as_deref().unwrap_or_default()) else {
                    continue;
                };
                let patch = json!({
                    "apiVersion": resource.api.api_version, "kind": resource.api.kind,
                    "metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version},
                });
                let api = resource.objects(client, namespace);
                match api.patch_metadata(name, &PatchParams::default(), &Patch::Merge(patch)).await {
                    // Gone, or written by somebody else meanwhile: both in the present version.
                    Err(error) if matches!(code(&error), 404 | 409) => {}
                    Err(error) => return Err(error),
                    Ok(_) => {}
                }
            }
            next = page.metadata.continue_.filter(|token| !token.is_empty());
            if next.is_none() {
                tracing::debug!(migration = client::key(migration), count, "migrated");
                return Ok(());
            }
        }
    }
}

impl Controller for Migrations {
    const NAME: &'static str = "storage-version-migrator-controller";

    fn all(&self) -> Vec<String> {
        self.migrations.list().iter().map(|migration| client::key(&**migration)).collect()
    }

    async fn reconcile(&self, key: &str) -> Result<(), Error> {
        let Some(migration) = self.migrations.get(key).filter(|migration| !has_ended(migration)) else { return Ok(()) };
        let Some(resource) = self.resource(&migration).await? else {
            let created = migration.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second());
            return match created + PATIENCE_SECONDS > Timestamp::now().as_second() {
                true => Err(Error::NotYet(format!("the resource of migration {key}"))),
                false => self.fail(&migration, "unable to obtain GVR from discovery").await,
            };
        };
        let begun = migration.status.as_ref().is_some_and(|status| status.resource_version.is_some());
        let migration = if begun { (*migration).clone() } else { self.begin(&migration, &resource).await? };
        match self.rewrite(&migration, &resource).await {
            Ok(()) => {
                self.forget_versions(&resource).await?;
                let status = migration.status.clone().unwrap_or_default();
                self.write(&migration, ended(&status, SUCCEEDED, "Migration completed")).await.map(drop)
            }
            // What the API refuses once it refuses again; what is wrong with the API itself passes.
            Err(error) if matches!(code(&error), 400..=428) => self.fail(&migration, &message(&error)).await,
            Err(error) => Err(error).step("migrate", key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::object;

    #[test]
    fn a_migration_ends_once() {
        let status = StorageVersionMigrationStatus::default();
        let running = with(&status, RUNNING, "True", "The migration is running");
        let migration = |status| Migration {
            status: Some(status),
            ..object(json!({"metadata": {"name": "m"}, "spec": {"resource": {"group": "", "resource": "secrets"}}}))
        };
        assert!(!has_ended(&migration(running.clone())));
        for kind in [SUCCEEDED, FAILED] {
            let done = ended(&running, kind, "");
            assert!(has_ended(&migration(done.clone())));
            assert_eq!(ended(&done, kind, ""), done, "said again, nothing changes");
            let states = done.conditions.iter().flatten().map(|c| (c.type_.as_str(), c.status.as_str()));
            assert_eq!(states.collect::<Vec<_>>(), [("Running", "False"), (kind.0, "True")]);
        }
    }
}
