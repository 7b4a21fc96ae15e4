//! Charges requests to the quotas of their namespaces: those that wait for the same namespace together, in one write a quota.

use super::account::{Account, Demand};
use crate::storage::{Entry, KindStore};
use machinery::Status;
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long a request waits to be charged.
const WAIT: Duration = Duration::from_secs(10);
/// How often a write of a quota is tried when others write it too.
const TRIES: usize = 100;
/// Requests charged together, at most.
const BATCH: usize = 256;

/// Charged, or why not; the outer error is our own failure.
type Outcome = Result<Result<(), String>, Status>;

struct Waiter {
    demand: Demand,
    dry_run: bool,
    done: oneshot::Sender<Outcome>,
}

pub(super) struct Ledger {
    quotas: Arc<KindStore>,
    /// Who waits, by namespace; a namespace is here as long as a task works for it.
    waiting: Mutex<HashMap<String, Vec<Waiter>>>,
}

impl Ledger {
    pub(super) fn new(quotas: Arc<KindStore>) -> Ledger {
        Ledger { quotas, waiting: Mutex::default() }
    }

    /// Whether a namespace has quotas.
    pub(super) fn has_any(&self, namespace: &str) -> bool {
        self.quotas.last_change() > 0 && !self.quotas.list(Some(namespace)).is_empty()
    }

    /// Charges a demand to all quotas of a namespace that it concerns, or to none.
    pub(super) async fn charge(self: &Arc<Self>, namespace: &str, demand: Demand, dry_run: bool) -> Outcome {
        let (done, outcome) = oneshot::channel();
        let waiter = Waiter { demand, dry_run, done };
        let starts = {
            let mut waiting = self.waiting.lock();
            match waiting.get_mut(namespace) {
                Some(waiters) => {
                    waiters.push(waiter);
                    false
                }
                None => waiting.insert(namespace.to_owned(), vec![waiter]).is_none(),
            }
        };
        if starts {
            // A task of its own: a client that goes away must not take the others of its batch along.
            tokio::spawn(Arc::clone(self).work(namespace.to_owned()));
        }
        match tokio::time::timeout(WAIT, outcome).await {
            Ok(Ok(outcome)) => outcome,
            _ => Err(Status::internal("resource quota evaluation timed out")),
        }
    }

    async fn work(self: Arc<Self>, namespace: String) {
        loop {
            let batch = {
                let mut waiting = self.waiting.lock();
                let waiters = waiting.entry(namespace.clone()).or_default();
                if waiters.is_empty() {
                    waiting.remove(&namespace);
                    return;
                }
                waiters.drain(..waiters.len().min(BATCH)).collect()
            };
            self.settle(&namespace, batch).await;
        }
    }

    /// Charges a batch. A quota that somebody else wrote meanwhile is read and charged again; those already written stay so.
    async fn settle(&self, namespace: &str, batch: Vec<Waiter>) {
        let mut pending = batch;
        let mut only: Option<BTreeSet<Box<str>>> = None;
        for _ in 0..TRIES {
            let entries = self.quotas.list(Some(namespace));
            let entries =
                entries.into_iter().filter(|entry| only.as_ref().is_none_or(|keys| keys.contains(&entry.key)));
            let mut accounts: Vec<(Arc<Entry>, Account)> =
                entries.map(|entry| (Arc::clone(&entry), Account::read(&entry.value()))).collect();
            pending = pending.into_iter().filter_map(|waiter| waiter.charge(&mut accounts)).collect();
            match self.write(&accounts).await {
                Ok(lost) if lost.is_empty() => return answer(pending, || Ok(Ok(()))),
                Ok(lost) => only = Some(lost),
                Err(status) => return answer(pending, || Err(status.clone())),
            }
        }
        let status = Status::internal("the quotas of the namespace change too fast to be charged");
        answer(pending, || Err(status.clone()));
    }

    /// Writes what was charged; the keys of those that somebody else wrote.
    async fn write(&self, accounts: &[(Arc<Entry>, Account)]) -> Result<BTreeSet<Box<str>>, Status> {
        let mut lost = BTreeSet::new();
        for (entry, account) in accounts.iter().filter(|(_, account)| account.changed) {
            let mut quota = entry.value();
            account.write(&mut quota);
            if self.quotas.replace(entry, &quota).await?.is_none() {
                lost.insert(entry.key.clone());
            }
        }
        Ok(lost)
    }
}

fn answer(waiters: Vec<Waiter>, outcome: impl Fn() -> Outcome) {
    for waiter in waiters {
        // A client that has gone needs no answer.
        let _ = waiter.done.send(outcome());
    }
}

impl Waiter {
    /// Charges the accounts; itself when it must wait for their writes, none when it has its answer.
    fn charge(self, accounts: &mut [(Arc<Entry>, Account)]) -> Option<Waiter> {
        let checked: Result<Vec<_>, String> = accounts.iter().map(|(_, account)| account.check(&self.demand)).collect();
        let deltas = match checked {
            Ok(deltas) => deltas,
            Err(why) => {
                let _ = self.done.send(Ok(Err(why)));
                return None;
            }
        };
        if self.dry_run || deltas.iter().all(Option::is_none) {
            let _ = self.done.send(Ok(Ok(())));
            return None;
        }
        let charged = accounts.iter_mut().zip(deltas).filter_map(|((_, account), delta)| Some((account, delta?)));
        charged.for_each(|(account, delta)| account.charge(&delta));
        Some(self)
    }
}
