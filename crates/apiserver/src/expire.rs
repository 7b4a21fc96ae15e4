//! Events go away an hour after they were written last.

use crate::storage::{EventType, KindStore};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// When an object goes, unless it is written again.
struct Due {
    at: Instant,
    key: Box<str>,
    revision: u64,
}

/// Removes what expires, and sleeps until something does. Costs a few words for each write of the last `ttl`.
pub(crate) async fn run(kind: Arc<KindStore>, ttl: Duration, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let (entries, mut changes) = kind.subscribe();
        let now = Instant::now();
        let age = |created: i64| {
            Duration::from_secs(jiff::Timestamp::now().as_second().saturating_sub(created).try_into().unwrap_or(0))
        };
        let due = entries.iter().map(|entry| Due {
            at: now + ttl.saturating_sub(age(entry.created)),
            key: entry.key.clone(),
            revision: entry.object.revision,
        });
        let mut due: Vec<Due> = due.collect();
        due.sort_by_key(|due| due.at);
        let mut due: VecDeque<Due> = due.into();
        loop {
            let next = due.front().map_or_else(|| Instant::now() + ttl, |due| due.at);
            tokio::select! {
                change = changes.recv() => {
                    let Some(event) = change else { break };
                    if event.kind != EventType::Deleted {
                        due.push_back(Due { at: Instant::now() + ttl, key: event.entry.key.clone(), revision: event.revision() });
                    }
                }
                () = sleep_until(next) => sweep(&kind, &mut due).await,
                () = stop.cancelled() => return,
            }
        }
    }
}

async fn sweep(kind: &KindStore, due: &mut VecDeque<Due>) {
    while due.front().is_some_and(|due| due.at <= Instant::now()) {
        let Some(due) = due.pop_front() else { break };
        let (namespace, name) = due.key.split_once('/').unwrap_or(("", &due.key));
        let current = kind.get(namespace, name).filter(|entry| entry.object.revision == due.revision);
        if let Some(entry) = current
            && let Err(status) = kind.remove(&entry).await
        {
            tracing::warn!(key = %due.key, %status, "an expired event could not be removed");
        }
    }
}
