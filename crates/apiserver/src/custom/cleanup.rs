//! The end of a definition: its instances go first.

use super::definition::CLEANUP;
use super::status::{condition, set_condition};
use crate::meta;
use crate::storage::{Entry, EventType, KindStore};
use futures::StreamExt;
use machinery::Status;
use serde_json::{Value, json};
use std::sync::Arc;

/// Instances deleted at one time.
const AT_ONCE: usize = 64;

/// Deletes all instances, waits until the last is gone, and takes the finalizer off the definition.
pub(super) async fn run(definitions: Arc<KindStore>, store: Option<Arc<KindStore>>, name: String) {
    let end = match &store {
        None => condition("Terminating", false, "NeverEstablished", "resource was never established"),
        Some(store) => {
            let begin =
                condition("Terminating", true, "InstanceDeletionInProgress", "CustomResource deletion is in progress");
            let told = definitions.update("", &name, |object| {
                set_condition(object, &begin);
                Ok(())
            });
            if let Err(status) = told.await {
                tracing::warn!(definition = name, error = %status.message, "a definition's status cannot be written");
            }
            empty(store).await;
            condition("Terminating", false, "InstanceDeletionCompleted", "removed all instances")
        }
    };
    let finish = |object: &mut Value| {
        set_condition(object, &end);
        let finalizers = meta::finalizers(object).into_iter().filter(|finalizer| finalizer != CLEANUP);
        let finalizers: Vec<String> = finalizers.collect();
        meta::set(meta::metadata(object), "finalizers", (!finalizers.is_empty()).then(|| json!(finalizers)));
    };
    if let Err(status) = complete(&definitions, &name, &finish).await {
        tracing::warn!(definition = name, error = %status.message, "a definition cannot be let go");
    }
}

/// Deletes every instance and waits until none is left.
async fn empty(store: &KindStore) {
    loop {
        let (entries, mut changes) = store.subscribe();
        if entries.is_empty() {
            return;
        }
        futures::stream::iter(&entries).for_each_concurrent(AT_ONCE, |entry| delete(store, entry)).await;
        while store.cache().len() > 0 {
            match changes.recv().await {
                Some(change) if change.kind == EventType::Added => delete(store, &change.entry).await,
                Some(_) => {}
                None => break,
            }
        }
    }
}

/// Removes an object, or marks it when finalizers hold it.
async fn delete(store: &KindStore, entry: &Entry) {
    let mark = |object: &mut Value| {
        let metadata = meta::metadata(object);
        metadata.entry("deletionTimestamp").or_insert_with(|| json!(machinery::time::now()));
        metadata.entry("deletionGracePeriodSeconds").or_insert_with(|| json!(0));
    };
    let result = loop {
        let Some(entry) = store.get(entry.namespace(), entry.name()) else { return };
        let mut object = entry.value();
        let done = if meta::finalizers(&object).is_empty() {
            store.remove(&entry).await
        } else if meta::deleting(&object) {
            return;
        } else {
            mark(&mut object);
            store.replace(&entry, &object).await
        };
        match done {
            Ok(None) => {}
            other => break other,
        }
    };
    if let Err(status) = result {
        tracing::warn!(object = &*entry.key, error = %status.message, "an instance cannot be deleted");
    }
}

/// Changes an object that is being deleted; when nothing holds it any more, it goes.
async fn complete(store: &KindStore, name: &str, change: &(dyn Fn(&mut Value) + Sync)) -> Result<(), Status> {
    loop {
        let Some(entry) = store.get("", name) else { return Ok(()) };
        let mut object = entry.value();
        change(&mut object);
        let ends = meta::deleting(&object) && meta::finalizers(&object).is_empty();
        let done = if ends { store.remove(&entry).await? } else { store.replace(&entry, &object).await? };
        if done.is_some() {
            return Ok(());
        }
    }
}
